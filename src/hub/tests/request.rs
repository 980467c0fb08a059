//! Requests as an API server reads them: paths, merge patches, preconditions, selectors.

use http::Request;
use kube::client::Body;
use serde_json::{Value, json};

use super::server::At;

pub(super) type Refusal = (u16, &'static str);

/// A request as it came in.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) verb: String,
    pub(super) at: At,
    pub(super) status: bool,
    pub(super) body: Value,
    pub(super) labels: Option<String>,
}

impl Call {
    /// Such as `PATCH gpujobs/status`.
    pub(super) fn short(&self) -> String {
        let status = if self.status { "/status" } else { "" };
        format!("{} {}{status}", self.verb, self.at.0)
    }

    pub(super) fn is_write_of_work(&self) -> bool {
        self.verb != "GET" && matches!(self.at.0.as_str(), "gpujobs" | "gpuleases")
    }
}

pub(super) async fn read(request: Request<Body>) -> Call {
    let (parts, body) = request.into_parts();
    let bytes = body.collect_bytes().await.unwrap();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let mut words: Vec<&str> = path.split('/').collect();
    words.drain(..if words[0] == "api" { 2 } else { 3 });
    let mut namespace = "";
    if words[0] == "namespaces" && words.len() > 2 {
        namespace = words[1];
        words.drain(..2);
    }
    let word = |n: usize| (*words.get(n).unwrap_or(&"")).to_owned();
    let query = parts.uri.query().unwrap_or("").split('&');
    let labels = query.filter_map(|pair| pair.strip_prefix("labelSelector=")).map(decoded).next();
    Call {
        verb: parts.method.to_string(),
        at: (word(0), namespace.to_owned(), word(1)),
        status: word(2) == "status",
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        labels,
    }
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or("").replace('+', " ");
    for part in parts {
        let byte = u8::from_str_radix(&part[..2], 16).unwrap();
        plain.push(char::from(byte));
        plain.push_str(&part[2..].replace('+', " "));
    }
    plain
}

/// Merges `patch` into `value` (RFC 7386).
pub(super) fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, change) in fields {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(key)),
            change => merge(&mut value[key], change),
        }
    }
}

pub(super) fn unchanged(object: &Value, preconditions: &Value) -> Result<(), Refusal> {
    let same = |key| preconditions.get(key).is_none_or(|value| *value == object["metadata"][key]);
    if same("uid") && same("resourceVersion") { Ok(()) } else { Err((409, "Conflict")) }
}

/// Whether an object is among those of `key in (a,b)`.
pub(super) fn selected(labels: Option<&str>, object: &Value) -> bool {
    let Some(labels) = labels else { return true };
    let (key, values) = labels.split_once(" in (").unwrap();
    let value = object["metadata"]["labels"][key].as_str();
    values.trim_end_matches(')').split(',').any(|one| Some(one) == value)
}
