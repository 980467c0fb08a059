//! What models read of pods and nodes, and how they write.

use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::super::server::{At, Call, Store};

/// The device plugin's resource.
pub(crate) const GPU: &str = "nvidia.com/gpu";

/// GPUs that a pod asks for.
pub(crate) fn gpus(pod: &Value) -> i64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|one| quantity(&one["resources"]["limits"][GPU])).sum()
}

/// A whole number, as resources are written.
pub(super) fn quantity(value: &Value) -> i64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or_else(|| value.as_i64()).unwrap_or(0)
}

/// Whether the kubelet wrote that a pod has ended.
pub(crate) fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

pub(super) fn is_leaving(pod: &Value) -> bool {
    pod["metadata"].get("deletionTimestamp").is_some()
}

pub(super) fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

pub(super) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// A condition of a pod.
pub(super) fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|one| one["type"] == type_)
}

/// The conditions of `object` with this one set; its time changes only if it does.
pub(super) fn with_condition(object: &Value, new: (&str, bool, &str), now: Timestamp) -> Value {
    let (type_, holds, reason) = new;
    let status = if holds { "True" } else { "False" };
    let mut all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let since = all.iter().find(|one| one["type"] == type_ && one["status"] == status);
    let since = since.map_or_else(|| json!(now), |one| one["lastTransitionTime"].clone());
    all.retain(|one| one["type"] != type_);
    let mut made = json!({"type": type_, "status": status, "lastTransitionTime": since});
    if !reason.is_empty() {
        made["reason"] = reason.into();
    }
    all.push(made);
    all.into()
}

/// Whether an object has a condition that holds, or not, for a reason.
pub(super) fn has(object: &Value, (type_, holds, reason): (&str, bool, &str)) -> bool {
    let status = if holds { "True" } else { "False" };
    condition(object, type_).is_some_and(|one| {
        one["status"] == status && one["reason"].as_str().unwrap_or_default() == reason
    })
}

/// Writes to a part of an object, as `who`; whether it was there.
pub(crate) fn patch(store: &mut Store, who: &str, (at, part): (&At, &str), body: &Value) -> bool {
    let path = format!("{}{part}", path(at));
    let body = body.to_string();
    let merge = "application/merge-patch+json".to_owned();
    let call = Call::parse(&Method::PATCH, &path, body.as_bytes(), merge);
    let (code, answer) = store.answer(who, &call);
    assert!(code < 400 || matches!(code, 404 | 409), "{who}: {path}: {answer}");
    code < 400
}

/// Deletes an object, as `who`, with `grace` seconds if it is a pod; whether it was there.
pub(crate) fn delete(store: &mut Store, who: &str, at: &At, grace: Option<i64>) -> bool {
    let body = json!({"gracePeriodSeconds": grace}).to_string();
    let call = Call::parse(&Method::DELETE, &path(at), body.as_bytes(), "application/json".into());
    let (code, answer) = store.answer(who, &call);
    assert!(code < 400 || code == 404, "{who}: {}: {answer}", at.name);
    code < 400
}

fn path(at: &At) -> String {
    let root = match at.plural {
        "pods" | "nodes" | "namespaces" | "configmaps" | "secrets" => "/api/v1",
        "leases" => "/apis/coordination.k8s.io/v1",
        "priorityclasses" => "/apis/scheduling.k8s.io/v1",
        _ => "/apis/idlewild.dev/v1alpha1",
    };
    let (plural, name) = (at.plural, &at.name);
    match at.namespace.as_str() {
        "" => format!("{root}/{plural}/{name}"),
        namespace => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
    }
}
