//! Creating and changing objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, Part};
use super::kinds::{Kind, Scope, Trait};
use super::refusal::{Answer, Refusal};
use super::store::{At, Object, Store};
use super::{metadata, pods, validation};

const MERGE: &str = "application/merge-patch+json";

pub(super) fn create(store: &mut Store, who: &str, call: &Call) -> Answer {
    let kind = call.kind;
    let mut object = decoded(kind, call.body.clone())?;
    metadata::place(&mut object, call)?;
    assert!(object["metadata"].get("generateName").is_none(), "{call}: generateName");
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    namespace_of(store, call, &name)?;
    if kind.is(Trait::Status) {
        object.as_object_mut().map(|fields| fields.remove("status"));
    }
    match kind.plural.as_str() {
        "pods" => pods::fill(store, &mut object)?,
        "namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        "secrets" => secret(&mut object),
        "priorityclasses" => {
            if let Some(fields) = object.as_object_mut() {
                fields.entry("preemptionPolicy").or_insert_with(|| json!("PreemptLowerPriority"));
            }
        }
        _ => {}
    }
    let versioned = object["metadata"].get("resourceVersion").is_some();
    system_fields(store, kind, &mut object);
    let causes = validation::wrong(kind, &object, None);
    if !causes.is_empty() {
        return Err(Refusal::invalid(kind, &name, &causes));
    }
    if versioned {
        let why = "resourceVersion should not be set on objects to be created";
        return Err(Refusal::internal(why));
    }
    let at = At { plural: &kind.plural, namespace: call.namespace.clone(), name };
    if let Some(held) = store.objects.get(&at) {
        return Err(Refusal::exists(kind, &at.name, held));
    }
    Ok((201, Value::clone(&store.put(who, at, object))))
}

/// Whether the namespace of a request takes new objects.
fn namespace_of(store: &Store, call: &Call, name: &str) -> Result<(), Refusal> {
    if call.kind.scope == Scope::Cluster {
        return Ok(());
    }
    let Some(namespace) = store.get("namespaces", "", &call.namespace) else {
        return Err(Refusal::not_found(Kind::of("namespaces"), &call.namespace));
    };
    if namespace["metadata"].get("deletionTimestamp").is_some() {
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            call.namespace
        );
        return Err(Refusal::forbidden(call.kind, name, &why));
    }
    Ok(())
}

fn system_fields(store: &mut Store, kind: &Kind, object: &mut Value) {
    let metadata = object["metadata"].as_object_mut().expect("tidied");
    for key in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), json!(store.uid()));
    metadata.insert("creationTimestamp".to_owned(), json!(seconds(store)));
    if kind.is(Trait::Generation) {
        metadata.insert("generation".to_owned(), json!(1));
    }
}

/// The time as objects have it: in whole seconds.
pub(super) fn seconds(store: &Store) -> String {
    store.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn secret(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        assert!(!fields.contains_key("stringData"), "stringData of Secrets is not modelled");
        fields.entry("type").or_insert_with(|| json!("Opaque"));
    }
}

/// An object as the server reads it: of the right kind, without what nobody knows, with defaults.
fn decoded(kind: &Kind, mut object: Value) -> Result<Value, Refusal> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Refusal::bad_request("the body is no object"));
    };
    for (key, expected) in [("kind", kind.named.clone()), ("apiVersion", kind.api_version())] {
        match fields.get(key).and_then(Value::as_str).unwrap_or("") {
            "" if kind.is_custom() => {
                return Err(Refusal::bad_request(format!("Object '{key}' is missing")));
            }
            "" => drop(fields.insert(key.to_owned(), json!(expected))),
            given if given == expected => {}
            given => {
                let message = format!("{key} in the data ({given}) does not match {expected}");
                return Err(Refusal::bad_request(message));
            }
        }
    }
    metadata::tidy(&mut object)?;
    kind.drop_unknown(&mut object);
    if let Some(schema) = &kind.schema {
        schema.complete_root(&mut object);
    }
    if kind.plural == "pods" {
        pods::readable(&object)?;
    }
    Ok(object)
}

pub(super) fn update(store: &mut Store, who: &str, call: &Call) -> Answer {
    let new = decoded(call.kind, call.body.clone())?;
    named(call, &new)?;
    let upsert = call.kind.is(Trait::Upsert) && call.part == Part::Whole;
    let old = store.objects.get(&At::of(call)).cloned();
    if old.is_none() && !upsert {
        return Err(Refusal::not_found(call.kind, &call.name));
    }
    let held = old.as_ref().and_then(|old| old["metadata"]["uid"].as_str()).unwrap_or("");
    if let Some(uid) = new["metadata"]["uid"].as_str().filter(|uid| *uid != held) {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {held}");
        return Err(Refusal::conflict(call.kind, &call.name, &why));
    }
    let Some(old) = old else {
        // Which version there is none of is not asked.
        let mut made = call.clone();
        made.body["metadata"]["resourceVersion"] = Value::Null;
        return create(store, who, &made);
    };
    replace(store, who, call, (&old, new))
}

pub(super) fn patch(store: &mut Store, who: &str, call: &Call) -> Answer {
    if call.content != MERGE {
        return Err(Refusal::unsupported_patch(&call.content));
    }
    let old = Arc::clone(store.named(call)?);
    let mut new = Value::clone(&old);
    merge(&mut new, &call.body);
    let new = decoded(call.kind, new)?;
    replace(store, who, call, (&old, new))
}

/// Refuses if an object is not the one that a request names.
fn named(call: &Call, object: &Value) -> Result<(), Refusal> {
    let (given, name) = (object["metadata"]["name"].as_str().unwrap_or(""), &call.name);
    if given == name {
        return Ok(());
    }
    let message =
        format!("the name of the object ({given}) does not match the name on the URL ({name})");
    Err(Refusal::bad_request(message))
}

/// Merges `patch` into `value` (RFC 7386).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Value::Object(fields) = value else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

/// Puts a new version in the place of an old one, if all that a request must meet is met.
fn replace(store: &mut Store, who: &str, call: &Call, (old, mut new): (&Object, Value)) -> Answer {
    let (kind, name) = (call.kind, call.name.as_str());
    named(call, &new)?;
    match new["metadata"]["resourceVersion"].as_str() {
        Some(version) if Some(version) == old["metadata"]["resourceVersion"].as_str() => {}
        Some(_) => return Err(Refusal::modified(kind, name)),
        None if kind.is(Trait::Unconditional) => {}
        None => {
            return Err(Refusal::unversioned(kind, name));
        }
    }
    metadata::place(&mut new, call)?;
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    metadata::keep(&mut new, old);
    restrict(call, &mut new, old);
    let mut causes = validation::wrong(kind, &new, Some(old));
    metadata::wrong_change(&new, old, &mut causes);
    match call.part {
        Part::Whole => validation::wrong_change(kind, &new, old, &mut causes),
        _ if kind.plural == "pods" => pods::wrong_status(&new, old, &mut causes),
        _ => {}
    }
    if !causes.is_empty() {
        return Err(Refusal::invalid(kind, name, &causes));
    }
    if new == **old {
        return Ok((200, new));
    }
    let metadata = &new["metadata"];
    let leaves = metadata.get("deletionTimestamp").is_some()
        && metadata::finalizers(metadata).is_empty()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
    let at = At::of(call);
    if leaves {
        // The answer has the version before; the event of the end has that of the end.
        store.take(who, &at);
        return Ok((200, new));
    }
    Ok((200, Value::clone(&store.put(who, at, new))))
}

/// Undoes what this kind of request may not change, and counts the generation.
fn restrict(call: &Call, new: &mut Value, old: &Value) {
    let kind = call.kind;
    if call.part == Part::Status {
        assert!(kind.is(Trait::Status), "{call}: no such subresource");
        let status = new.get("status").cloned();
        // Of Kubernetes' own kinds labels and annotations may change along with the status.
        let metadata = new["metadata"].take();
        *new = old.clone();
        if !kind.is_custom() {
            new["metadata"] = metadata;
            put_or_remove(
                &mut new["metadata"],
                "ownerReferences",
                old["metadata"].get("ownerReferences"),
            );
        }
        put_or_remove(new, "status", status.as_ref());
        if kind.plural == "pods" {
            pods::keep_status(new, old);
        }
        return;
    }
    if kind.is(Trait::Status) {
        put_or_remove(new, "status", old.get("status"));
    }
    if kind.plural == "pods" {
        pods::tolerate(new);
    }
    if kind.is(Trait::Generation) && kind.plural != "priorityclasses" && differs(new, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + 1);
    }
}

fn put_or_remove(object: &mut Value, key: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(key.to_owned(), value.clone())),
        None => drop(fields.remove(key)),
    }
}

/// Whether anything but metadata and status is different.
fn differs(new: &Value, old: &Value) -> bool {
    fn rest(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
    }
    !rest(new).eq(rest(old))
}
