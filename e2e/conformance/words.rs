//! What two servers said, without what must differ: UIDs, versions and times become their order of
//! appearance, and what only one of them keeps is left out.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

/// What one server has named so far.
#[derive(Default)]
pub(super) struct Names {
    versions: BTreeMap<u64, String>,
    uids: BTreeMap<String, String>,
}

impl Names {
    /// An answer as it is compared.
    pub(super) fn answer(&mut self, code: u16, body: &Value) -> Value {
        if body["kind"] == "Status" && body["status"] == "Failure" {
            return failure(code, body);
        }
        json!({ "code": code, "body": self.plain(body) })
    }

    /// An event as it is compared.
    pub(super) fn event(&mut self, event: &Value) -> Value {
        if event["type"] == "ERROR" {
            let code = event["object"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
            return json!({"type": "ERROR", "object": failure(code.unwrap_or(0), &event["object"])});
        }
        if event["type"] == "BOOKMARK" {
            let annotations = &event["object"]["metadata"]["annotations"];
            return json!({ "type": "BOOKMARK", "annotations": annotations });
        }
        json!({ "type": event["type"], "object": self.plain(&event["object"]) })
    }

    fn plain(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(self.fields(fields)),
            Value::Array(items) => items.iter().map(|item| self.plain(item)).collect(),
            Value::String(text) if is_now(text) => json!("<now>"),
            value => value.clone(),
        }
    }

    fn fields(&mut self, fields: &Map<String, Value>) -> Map<String, Value> {
        let mut plain = Map::new();
        let list = fields.contains_key("items");
        for (key, value) in fields {
            let value = match (key.as_str(), value) {
                // Who wrote which field is not kept by the simulated server.
                ("managedFields", _) => continue,
                // The whole server's version: a real one's own controllers write, too.
                ("metadata", value) if list => list_metadata(value),
                ("items", Value::Array(items)) => {
                    let ours = items.iter().filter(|item| !is_foreign(item));
                    ours.map(|item| self.plain(item)).collect()
                }
                ("resourceVersion", Value::String(version)) => json!(self.version(version)),
                ("uid", Value::String(uid)) => json!(self.uid(uid)),
                // Of a request for one.
                ("token", Value::String(_)) => json!("<token>"),
                (_, value) => self.plain(value),
            };
            plain.insert(key.clone(), value);
        }
        plain
    }

    /// Such as `v3+`: the third one seen, and newer than all before.
    fn version(&mut self, version: &str) -> String {
        let number: u64 = version.parse().unwrap();
        let (count, newest) = (self.versions.len(), self.versions.keys().next_back().copied());
        let newer = newest.is_none_or(|newest| number > newest);
        let mark = if newer { "+" } else { "-" };
        self.versions.entry(number).or_insert_with(|| format!("v{count}{mark}")).clone()
    }

    fn uid(&mut self, uid: &str) -> String {
        let count = self.uids.len();
        self.uids.entry(uid.to_owned()).or_insert_with(|| format!("u{count}")).clone()
    }
}

/// Whether an object is there whoever asks: a controller puts it into every namespace.
pub(super) fn is_foreign(object: &Value) -> bool {
    object["metadata"]["name"] == "kube-root-ca.crt"
}

fn list_metadata(metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    let fields = metadata.as_object_mut().unwrap();
    fields.remove("resourceVersion");
    if fields.get("continue").is_some_and(|token| *token != "") {
        fields.insert("continue".into(), json!("<more>"));
    }
    metadata
}

/// A refusal: of the text only what does not name UIDs and versions, or how a value is printed.
fn failure(code: u16, body: &Value) -> Value {
    let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
    let mut causes: Vec<String> =
        causes.iter().map(|cause| format!("{} {}", cause["reason"], cause["field"])).collect();
    causes.sort();
    // A real server says several things of one field; which it says first is its own affair.
    causes.dedup();
    let told = matches!(body["reason"].as_str(), Some("NotFound" | "AlreadyExists"));
    let details = |key: &str| body["details"][key].clone();
    json!({
        "code": code, "reason": body["reason"], "kind": details("kind"), "group": details("group"),
        "name": details("name"), "causes": causes,
        "message": if told { body["message"].clone() } else { Value::Null },
    })
}

fn is_now(text: &str) -> bool {
    let time: Option<Timestamp> = text.parse().ok();
    let days = SignedDuration::from_hours(48);
    time.is_some_and(|time| time.duration_since(Timestamp::now()).abs() < days)
}
