//! Deleting: at once, after a grace, or when the last finalizer goes.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::call::Call;
use super::kinds::{Kind, Trait};
use super::metadata::finalizers;
use super::refusal::{Answer, Refusal, deleted};
use super::selectors::Selector;
use super::store::{At, Object, Store};
use super::writing::seconds;
use super::{pods, reading};

/// How something is to be deleted.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) grace: Option<i64>,
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
}

/// What came of a deletion.
pub(super) enum Deleted {
    /// The object is gone; this was its last version.
    Gone(Value),
    /// Somebody else has to do something first.
    Pending(Value),
}

impl Options {
    fn read(call: &Call) -> Self {
        let (body, query) = (&call.body, &call.query);
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let told = if body.is_null() { &query.propagation } else { "" };
        let policy = body["propagationPolicy"].as_str().unwrap_or(told);
        let known = matches!(policy, "" | "Background");
        assert!(known && body.get("orphanDependents").is_none(), "{call}: {body} is not modelled");
        let preconditions = &body["preconditions"];
        Self {
            grace: if body.is_null() { query.grace } else { body["gracePeriodSeconds"].as_i64() },
            uid: word(&preconditions["uid"]),
            version: word(&preconditions["resourceVersion"]),
        }
    }

    /// Refuses if the object is not the one that was meant. Here the kind stands where otherwise
    /// its plural does.
    fn check(&self, kind: &Kind, name: &str, object: &Value) -> Result<(), Refusal> {
        let pairs = [
            ("UID", &self.uid, "uid", "deleted and then recreated"),
            ("ResourceVersion", &self.version, "resourceVersion", "modified"),
        ];
        for (word, wanted, key, happened) in pairs {
            let held = object["metadata"][key].as_str().unwrap_or("");
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != held) {
                let why = format!(
                    "the {word} in the precondition ({wanted}) does not match the {word} in \
                     record ({held}). The object might have been {happened}"
                );
                let mut refusal = Refusal::conflict(kind, name, &why);
                refusal.message = refusal.message.replacen(&kind.plural, &kind.named, 1);
                refusal.details["kind"] = json!(kind.named);
                return Err(refusal);
            }
        }
        Ok(())
    }
}

pub(super) fn delete(store: &mut Store, who: &str, call: &Call) -> Answer {
    store.named(call)?;
    let options = Options::read(call);
    let answer = match remove(store, who, &At::of(call), &options)? {
        Deleted::Pending(object) => object,
        Deleted::Gone(object) if call.kind.is(Trait::Returned) => object,
        Deleted::Gone(object) => deleted(call.kind, &call.name, &object["metadata"]["uid"]),
    };
    Ok((200, answer))
}

pub(super) fn delete_collection(store: &mut Store, who: &str, call: &Call) -> Answer {
    let selector = Selector::read(call.kind, &call.query.labels, &call.query.fields)?;
    let options = Options::read(call);
    assert!(call.query.limit == 0, "{call}: a limit is not modelled");
    let revision = store.revision();
    let chosen: Vec<(At, Object)> = store
        .of_kind(&call.kind.plural, &call.namespace)
        .filter(|(_, object)| selector.selects(object))
        .map(|(at, object)| (at.clone(), Arc::clone(object)))
        .collect();
    let mut items = Vec::new();
    for (at, object) in &chosen {
        remove(store, who, at, &options)?;
        items.push(reading::item(call.kind, object));
    }
    let kind = format!("{}List", call.kind.named);
    Ok((
        200,
        json!({"kind": kind, "apiVersion": call.kind.api_version(),
            "metadata": reading::list_metadata(call.kind, revision), "items": items}),
    ))
}

/// Deletes the object at a place where there is one.
pub(super) fn remove(
    store: &mut Store,
    who: &str,
    at: &At,
    options: &Options,
) -> Result<Deleted, Refusal> {
    let kind = Kind::of(at.plural);
    let old = Arc::clone(&store.objects[at]);
    options.check(kind, &at.name, &old)?;
    if kind.plural == "namespaces" {
        return Ok(Deleted::Pending(terminate(store, who, at, &old)));
    }
    let mut new = Value::clone(&old);
    if kind.plural == "pods" {
        match pods::shorten(&mut new, options.grace, store.now) {
            pods::Grace::Pending => return Ok(Deleted::Pending(new)),
            pods::Grace::Over => {}
            pods::Grace::Set => return Ok(set(store, who, at, new)),
        }
    }
    if finalizers(&new["metadata"]).is_empty() {
        return Ok(Deleted::Gone(store.take(who, at)));
    }
    mark(store, &mut new);
    if new == *old {
        return Ok(Deleted::Pending(new));
    }
    Ok(Deleted::Pending(Value::clone(&store.put(who, at.clone(), new))))
}

/// Writes a pod whose grace was set, and removes it if there is none: watches see both.
fn set(store: &mut Store, who: &str, at: &At, new: Value) -> Deleted {
    let metadata = &new["metadata"];
    let waits = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0
        || !finalizers(metadata).is_empty();
    let written = store.put(who, at.clone(), new);
    match waits {
        true => Deleted::Pending(Value::clone(&written)),
        false => Deleted::Gone(store.take(who, at)),
    }
}

/// Marks an object as being deleted, which its finalizers put off.
fn mark(store: &Store, object: &mut Value) {
    let now = seconds(store);
    let metadata = &mut object["metadata"];
    let count = metadata["generation"].as_i64().filter(|count| *count > 0);
    if let Some(count) = count.filter(|_| metadata.get("deletionGracePeriodSeconds").is_none()) {
        metadata["generation"] = json!(count + 1);
    }
    let since = metadata.get("deletionTimestamp").and_then(Value::as_str);
    if since.and_then(|at| at.parse::<Timestamp>().ok()).is_none_or(|at| at > store.now) {
        metadata["deletionTimestamp"] = json!(now);
    }
    metadata["deletionGracePeriodSeconds"] = json!(0);
}

/// A namespace ends when all in it is gone, see [`super::garbage`].
fn terminate(store: &mut Store, who: &str, at: &At, old: &Object) -> Value {
    let mut new = Value::clone(old);
    if new["metadata"].get("deletionTimestamp").is_none() {
        new["metadata"]["deletionTimestamp"] = json!(seconds(store));
        new["status"]["phase"] = json!("Terminating");
        return Value::clone(&store.put(who, at.clone(), new));
    }
    new
}

/// Text of a time some seconds after another.
pub(super) fn later(at: Timestamp, seconds: i64) -> String {
    let at = at.saturating_add(SignedDuration::from_secs(seconds)).expect("a span of seconds");
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
