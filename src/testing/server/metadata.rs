//! What every object has: names, labels, owners, finalizers, and the fields that the server keeps.

use serde_json::{Map, Value, json};

use super::call::Call;
use super::kinds::{Kind, Scope};
use super::refusal::{Cause, Refusal};

/// All there is; the rest is dropped, as a server drops it that reads into a typed structure. Who
/// wrote which field is not kept.
const FIELDS: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
];

/// What only the server writes.
const KEPT: &[&str] = &["creationTimestamp", "generation"];

/// Drops what no server keeps of an object's metadata.
pub(super) fn tidy(object: &mut Value) -> Result<(), Refusal> {
    let metadata = &mut object["metadata"];
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(fields) = metadata.as_object_mut() else {
        return Err(Refusal::bad_request("metadata must be an object"));
    };
    fields.retain(|key, value| FIELDS.contains(&key.as_str()) && !is_empty(value));
    for map in ["labels", "annotations"] {
        let Some(found) = fields.get(map) else { continue };
        let words = |map: &Map<String, Value>| map.values().all(Value::is_string);
        if !found.as_object().is_some_and(words) {
            return Err(Refusal::bad_request(format!("{map} must be strings")));
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Puts an object into the namespace that the request names.
pub(super) fn place(object: &mut Value, call: &Call) -> Result<(), Refusal> {
    let metadata = &mut object["metadata"];
    let given = metadata["namespace"].as_str().unwrap_or("");
    if call.kind.scope == Scope::Cluster {
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("namespace");
        }
        return Ok(());
    }
    if !given.is_empty() && given != call.namespace {
        return Err(Refusal::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the \
             request: {given} is not {}",
            call.namespace
        )));
    }
    metadata["namespace"] = json!(call.namespace);
    Ok(())
}

/// Takes over what a change cannot change.
pub(super) fn keep(new: &mut Value, old: &Value) {
    let (new, old) = (&mut new["metadata"], &old["metadata"]);
    for key in KEPT {
        match old.get(*key) {
            Some(value) => new[*key] = value.clone(),
            None => drop(new.as_object_mut().map(|fields| fields.remove(*key))),
        }
    }
    if new["uid"].is_null() {
        new["uid"] = old["uid"].clone();
    }
    if !old["deletionTimestamp"].is_null() {
        new["deletionTimestamp"] = old["deletionTimestamp"].clone();
    }
    if new["deletionGracePeriodSeconds"].is_null() && !old["deletionGracePeriodSeconds"].is_null() {
        new["deletionGracePeriodSeconds"] = old["deletionGracePeriodSeconds"].clone();
    }
    // Reading a key that is not there must leave none behind.
    if let Some(fields) = new.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}

/// What is wrong with the metadata of an object.
pub(super) fn wrong(kind: &Kind, object: &Value, causes: &mut Vec<Cause>) {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or("");
    let longest = if kind.plural == "namespaces" { 63 } else { 253 };
    // Names of roles and bindings may be almost anything.
    let free = kind.group == "rbac.authorization.k8s.io";
    if name.is_empty() {
        causes.push(Cause::required("metadata.name"));
    } else if !free && (!is_subdomain(name) || name.len() > longest) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                   characters, '-' or '.', and must start and end with an alphanumeric character";
        causes.push(Cause::invalid("metadata.name", &metadata["name"], why));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if !is_label(value.as_str().unwrap_or("")) {
            causes.push(Cause::invalid("metadata.labels", value, "a valid label must be short"));
        }
        let (prefix, short) = key.rsplit_once('/').unwrap_or(("", key));
        if short.is_empty() || !is_label(short) || !(prefix.is_empty() || is_subdomain(prefix)) {
            causes.push(Cause::invalid("metadata.labels", &json!(key), "no name of a label"));
        }
    }
    // Leases do not mind; of custom resources a short name is at least warned of.
    let minds = !kind.is_custom() && kind.plural != "leases";
    let finalizers = metadata["finalizers"].as_array().filter(|_| minds);
    for (index, finalizer) in finalizers.into_iter().flatten().enumerate() {
        let text = finalizer.as_str().unwrap_or("");
        if !text.contains('/') && !matches!(text, "foregroundDeletion" | "orphan") {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            let field = format!("metadata.finalizers[{index}]");
            causes.push(Cause::invalid(&field, finalizer, why));
        }
    }
}

/// What a change of metadata may not do.
pub(super) fn wrong_change(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    for key in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new[key] != old[key] {
            let field = format!("metadata.{key}");
            causes.push(Cause::invalid(&field, &new[key], "field is immutable"));
        }
    }
    if old["deletionTimestamp"].is_null() {
        return;
    }
    let held = finalizers(old);
    let added: Vec<&str> = finalizers(new).into_iter().filter(|one| !held.contains(one)).collect();
    if !added.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             {added:?}"
        );
        causes.push(Cause::forbidden("metadata.finalizers", &why));
    }
}

/// The finalizers in `metadata`.
pub(super) fn finalizers(metadata: &Value) -> Vec<&str> {
    let all = metadata["finalizers"].as_array();
    all.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn is_subdomain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|part| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            part.bytes().all(|byte| inner(byte) || byte == b'-')
                && part.bytes().next().is_some_and(inner)
                && part.bytes().last().is_some_and(inner)
        })
}

fn is_label(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_alphanumeric();
    text.is_empty()
        || text.len() <= 63
            && text.bytes().all(|byte| edge(byte) || matches!(byte, b'-' | b'_' | b'.'))
            && text.bytes().next().is_some_and(edge)
            && text.bytes().last().is_some_and(edge)
}
