//! A lease and the owner's policy → guests' pods.
//!
//! Invariant: a pod is a pure function of its arguments. It is built from typed fields and from
//! what the table of `api::template` allows; a template with anything else makes no pod.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::container;
use super::guest::Key;
use crate::api::gpupool::GpuPoolSpec;
use crate::api::{self, GuestLease, gpus, template};
use crate::planted::{Defect, planted};

/// User of guests whose template names none.
const USER: i64 = 65_532;
/// Volume that stands in for /dev/shm, whose default of 64 MiB breaks data loaders.
const SHM: &str = "idlewild-shm";

/// A pod whose grace is 0 is taken off the API server at once, while it may still run: nobody would
/// learn when its GPUs are free.
pub(super) const LEAST_GRACE: i64 = 1;

/// Which pod is built, and where.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Replica index and rank.
    pub key: Key,
    /// Node that it goes to.
    pub node: &'a str,
    /// Whether annotations of the sandbox pass.
    pub sandbox: bool,
    /// Seconds until the owner's window closes; `None` = it does not.
    pub closes_in: Option<i64>,
}

/// Name of the pod of `lease` at `key`.
#[must_use]
pub fn pod_name(lease: &GuestLease, key: Key) -> String {
    let name = lease.name_any();
    if lease.spec.size > 1 {
        return format!("{name}-{}-{}", key.index, key.rank);
    }
    format!("{name}-{}", key.index)
}

/// The guest that `plan` speaks of.
///
/// # Errors
/// Everything that the template may not hold, a sentence each.
pub fn pod(lease: &GuestLease, pool: &GpuPoolSpec, plan: Plan<'_>) -> Result<Value, Vec<String>> {
    let spec = &lease.spec;
    let violations = template::violations(&spec.template.value(), spec.gpu.count);
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(lease, plan.key),
            "namespace": lease.namespace(),
            "labels": labels(lease, plan.key),
            "annotations": annotations(lease, plan.sandbox),
            "ownerReferences": [owner(lease)],
        },
        "spec": pod_spec(lease, pool, plan),
    }))
}

/// The reference by which `lease` owns what it needs.
#[must_use]
pub fn owner(lease: &GuestLease) -> Value {
    json!({
        "apiVersion": "idlewild.dev/v1alpha1",
        "kind": "GuestLease",
        "name": lease.name_any(),
        "uid": lease.uid(),
        "controller": true,
        "blockOwnerDeletion": false,
    })
}

/// The `ConfigMap` that opens the gate of a gang: rank 0 is at `address`.
#[must_use]
pub fn gate(lease: &GuestLease, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": lease.name_any(),
            "namespace": lease.namespace(),
            "labels": {
                api::LABEL_GUEST_LEASE: lease.name_any(),
                "app.kubernetes.io/managed-by": "idlewild",
            },
            "ownerReferences": [owner(lease)],
        },
        "immutable": true,
        "data": { (container::GATE_KEY): address },
    })
}

fn labels(lease: &GuestLease, key: Key) -> BTreeMap<String, String> {
    let mut labels = template::guest_labels(&lease.spec.template.value());
    let mut ours = vec![
        (api::LABEL_JOB_UID, lease.spec.job.uid.clone()),
        (api::LABEL_GUEST_LEASE, lease.name_any()),
        (api::LABEL_POOL, lease.spec.pool.clone()),
        (api::LABEL_INDEX, key.index.to_string()),
        ("app.kubernetes.io/managed-by", "idlewild".into()),
    ];
    if let Some(hub) = lease.labels().get(api::LABEL_HUB) {
        ours.push((api::LABEL_HUB, hub.clone()));
    }
    if lease.spec.size > 1 {
        ours.push((api::LABEL_RANK, key.rank.to_string()));
    }
    labels.extend(ours.into_iter().map(|(name, value)| (name.into(), value)));
    labels
}

fn annotations(lease: &GuestLease, sandbox: bool) -> BTreeMap<String, String> {
    if !sandbox {
        return BTreeMap::new();
    }
    template::sandbox_annotations(&lease.spec.template.value())
}

fn pod_spec(lease: &GuestLease, pool: &GpuPoolSpec, plan: Plan<'_>) -> Value {
    let template = lease.spec.template.value();
    let given = template.get("spec").cloned().unwrap_or_default();
    let defaults = pool.pod_defaults.clone().unwrap_or_default();
    let gang = lease.spec.size > 1;
    let mut spec = Map::new();
    let mut put = |field: &str, value: Value| drop(spec.insert(field.into(), value));
    // Service links would tell a guest the owner's services by name.
    put("enableServiceLinks", false.into());
    put("restartPolicy", "Never".into());
    put("automountServiceAccountToken", false.into());
    let class = if gang { api::PRIORITY_CLASS_GANG } else { api::PRIORITY_CLASS };
    put("priorityClassName", class.into());
    // The owner may have lowered what the pool offers since the lease was answered.
    let longest = lease.spec.active_deadline_seconds.min(pool.offer.max_attempt_seconds);
    let longest = plan.closes_in.map_or(longest, |left| left.min(longest)).max(1);
    if !planted(Defect::NoDeadline) {
        put("activeDeadlineSeconds", longest.into());
    }
    let grace = lease.spec.grace_seconds.min(pool.offer.notice_seconds).max(LEAST_GRACE);
    put("terminationGracePeriodSeconds", grace.into());
    if !defaults.runtime_class_name.is_empty() {
        put("runtimeClassName", defaults.runtime_class_name.clone().into());
    }
    if planted(Defect::BoundBlindly) {
        put("nodeName", plan.node.into());
    }
    put("affinity", pinned(plan.node));
    put("tolerations", tolerations(&defaults.tolerations));
    put("securityContext", security(&given));
    put("volumes", volumes(&given));
    let gpus = template::gpu_limits(&template, lease.spec.gpu.count);
    let resource = gpus::resource_name(&lease.spec.gpu.model);
    let frame = container::Frame {
        variables: container::variables(lease, plan.key),
        shm: shm_mount(&given),
        resource: &resource,
    };
    let list =
        |field: &str| given.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let inits: Vec<_> = list("initContainers").iter().map(|one| frame.fill(one, 0)).collect();
    if !inits.is_empty() {
        put("initContainers", inits.into());
    }
    let containers = list("containers");
    let filled = containers.iter().zip(gpus).map(|(one, gpus)| frame.fill(one, gpus));
    put("containers", filled.collect());
    Value::Object(spec)
}

/// The scheduler's fast path: a pod that names its node is tried on that node alone.
fn pinned(node: &str) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [node]}]}]}}})
}

/// The pool's, and those of nodes that we lost sight of: losing the kubelet is not losing the work.
fn tolerations(pool: &[k8s_openapi::api::core::v1::Toleration]) -> Value {
    let mut all: Vec<Value> =
        pool.iter().filter_map(|one| serde_json::to_value(one).ok()).collect();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute"}));
    }
    all.into()
}

fn security(given: &Value) -> Value {
    let mut context = given.get("securityContext").cloned().filter(Value::is_object);
    let mut context = context.take().unwrap_or_else(|| json!({}));
    let user = context["runAsUser"].as_i64().filter(|user| *user > 0).unwrap_or(USER);
    context["runAsNonRoot"] = true.into();
    context["runAsUser"] = user.into();
    if context.get("fsGroup").is_none_or(Value::is_null) {
        context["fsGroup"] = user.into();
    }
    context["seccompProfile"] = json!({"type": "RuntimeDefault"});
    context
}

/// Whether the template leaves /dev/shm to us.
fn shm_mount(given: &Value) -> Option<Value> {
    let containers = ["initContainers", "containers"].into_iter();
    let containers = containers.filter_map(|field| given.get(field)?.as_array()).flatten();
    let mounts = containers.filter_map(|one| one.get("volumeMounts")?.as_array()).flatten();
    let paths = mounts.filter_map(|mount| mount.get("mountPath")?.as_str());
    let taken = paths.map(|path| path.trim_end_matches('/')).any(|path| path == "/dev/shm");
    (!taken).then(|| json!({"name": SHM, "mountPath": "/dev/shm"}))
}

fn volumes(given: &Value) -> Value {
    let mut volumes = given.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    volumes.retain(|volume| volume["name"] != SHM);
    volumes.push(json!({"name": SHM, "emptyDir": {"medium": "Memory"}}));
    volumes.into()
}

#[cfg(test)]
mod tests;
