//! Nodes of pods and tokens of service accounts.

use serde_json::{Value, json};

use super::call::Call;
use super::deleting::later;
use super::refusal::{Answer, Refusal};
use super::store::{At, Store};
use super::writing::seconds;

/// Gives a pod its node, as the scheduler does.
pub(super) fn bind(store: &mut Store, who: &str, call: &Call) -> Answer {
    let mut pod = Value::clone(store.named(call)?);
    let node = call.body["target"]["name"].as_str().unwrap_or("").to_owned();
    assert!(!node.is_empty(), "{call}: no node");
    let refused = |why: &str| {
        let mut refusal = Refusal::conflict(call.kind, &call.name, why);
        refusal.message = refusal.message.replacen("pods", "pods/binding", 1);
        refusal.details["kind"] = json!("pods/binding");
        Err(refusal)
    };
    if pod["metadata"].get("deletionTimestamp").is_some() {
        return refused(&format!(
            "pod {} is being deleted, cannot be assigned to a host",
            call.name
        ));
    }
    if let Some(other) = pod["spec"]["nodeName"].as_str() {
        return refused(&format!("pod {} is already assigned to node \"{other}\"", call.name));
    }
    pod["spec"]["nodeName"] = json!(node);
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": seconds(store)});
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|one| one["type"] != "PodScheduled");
    conditions.push(condition);
    pod["status"]["conditions"] = json!(conditions);
    store.put(who, At::of(call), pod);
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": 201});
    Ok((201, done))
}

/// A token of a service account, which says whose it is.
pub(super) fn token(store: &mut Store, call: &Call) -> Answer {
    let account = store.named(call)?["metadata"]["uid"].clone();
    let number = store.token();
    let mut answer = call.body.clone();
    let asked = answer["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    assert!(asked >= 600, "{call}: a server refuses tokens for less than ten minutes");
    answer["spec"]["expirationSeconds"] = json!(asked);
    answer["spec"]["audiences"] = json!(["https://kubernetes.default.svc"]);
    answer["spec"]["boundObjectRef"] = Value::Null;
    answer["metadata"]["uid"] = account;
    answer["metadata"]["name"] = json!(call.name);
    answer["metadata"]["namespace"] = json!(call.namespace);
    answer["metadata"]["creationTimestamp"] = json!(seconds(store));
    answer["status"] = json!({
        "token": format!("sim:{}:{}:{number}", call.namespace, call.name),
        "expirationTimestamp": later(store.now, asked),
    });
    Ok((201, answer))
}
