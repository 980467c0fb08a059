//! What users, owners and operators create, in short.

use serde_json::{Value, json};

use super::server::At;

const API: &str = "idlewild.dev/v1alpha1";

pub(super) fn at(plural: &str, namespace: &str, name: &str) -> At {
    (plural.to_owned(), namespace.to_owned(), name.to_owned())
}

/// Where the job of this name is.
pub(super) fn job_at(name: &str) -> At {
    at("gpujobs", "team", name)
}

/// A job of single pods with one GPU each.
pub(super) fn job(completions: u32) -> Value {
    let container = json!({"name": "train", "image": "registry.example.org/train:1"});
    json!({"apiVersion": API, "kind": "GpuJob", "metadata": {},
        "spec": {"completions": completions, "gpu": {"count": 1},
            "template": {"spec": {"containers": [container]}}}})
}

pub(super) fn queue() -> Value {
    json!({"apiVersion": API, "kind": "GpuQueue", "metadata": {},
        "spec": {"namespaceSelector": {}}})
}

pub(super) fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {}})
}

/// Where the hub's identity is.
pub(super) fn identity_at() -> At {
    at("configmaps", "idlewild-system", "idlewild-hub")
}

pub(super) fn identity(incarnation: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {},
        "data": {"id": "hub", "incarnation": incarnation.to_string()}})
}

/// An accepted member.
pub(super) fn member() -> Value {
    json!({"apiVersion": API, "kind": "MemberCluster",
        "metadata": {"finalizers": ["idlewild.dev/leave"]},
        "spec": {"accepted": true, "fingerprint": "f"}})
}

pub(super) fn heartbeat(member: &str, at: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"labels": {"idlewild.dev/member": member}},
        "spec": {"renewTime": at}})
}

/// A pool of nodes with one GPU each, or of one node with all of them.
pub(super) fn pool(serial: i64, gpus: i64, (free, one_node): (i64, bool), now: &str) -> Value {
    let (each, nodes) = if one_node { (free, 1) } else { (1, free) };
    let groups = json!([{"gpus": each, "nodes": nodes, "milliCpu": 64_000,
        "memoryBytes": 1_i64 << 40}]);
    let groups = if free == 0 { json!([]) } else { groups };
    let (each, nodes) = if one_node { (gpus, 1) } else { (1, gpus) };
    json!({"apiVersion": API, "kind": "GpuPool", "metadata": {}, "spec": {},
        "status": {
            "serial": serial,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                "lastTransitionTime": now}],
            "shapes": [{"model": "A100", "memory": "80Gi", "gpusPerNode": each, "nodes": nodes,
                "free": groups}],
            "gpus": {"offered": gpus, "free": free, "guests": gpus - free}}})
}
