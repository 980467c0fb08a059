//! Jobs for the tests, and what the tests ask of them.

use std::collections::{BTreeMap, BTreeSet};

use idlewild::api::{GUEST_NAMESPACE, GpuJob, GpuLease, LABEL_JOB_UID, conditions};
use idlewild::sandbox::Federation;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// A job of `count` GPUs whose pods run for `run_for`.
pub(crate) fn job(name: &str, count: i32, run_for: &str) -> Value {
    json!({
        "apiVersion": "idlewild.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": { "name": name },
        "spec": {
            "gpu": { "count": count },
            "template": {
                "metadata": { "annotations": { "sandbox.idlewild.dev/run-for": run_for } },
                "spec": { "containers": [{ "name": "main", "image": "registry.example.org/work:1" }] },
            },
        },
    })
}

/// The same with `extra` merged into its spec.
pub(crate) fn job_with(name: &str, count: i32, run_for: &str, extra: Value) -> Value {
    let mut job = job(name, count, run_for);
    merge(&mut job["spec"], extra);
    job
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Creates `manifest`.
pub(crate) async fn create(api: &Api<GpuJob>, manifest: Value) -> GpuJob {
    let job = serde_json::from_value(manifest).expect("the test writes valid jobs");
    api.create(&PostParams::default(), &job).await.expect("the hub takes the job")
}

/// Status and reason of a condition.
pub(crate) fn condition(job: &GpuJob, type_: &str) -> Option<(String, String, String)> {
    let status = job.status.as_ref()?;
    let found = conditions::find(&status.conditions, type_)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

/// Guests of a job on every member, by member.
pub(crate) async fn guests(federation: &Federation, uid: &str) -> BTreeMap<String, Vec<Pod>> {
    let mut found = BTreeMap::new();
    for (name, member) in &federation.members {
        let api: Api<Pod> = Api::namespaced(member.cluster.admin.clone(), GUEST_NAMESPACE);
        let params = ListParams::default().labels(&format!("{LABEL_JOB_UID}={uid}"));
        let pods = api.list(&params).await.expect("the member answers").items;
        if !pods.is_empty() {
            found.insert(name.clone(), pods);
        }
    }
    found
}

/// Leases of a job, whatever the member.
pub(crate) async fn leases(federation: &Federation, uid: &str) -> Vec<GpuLease> {
    let api: Api<GpuLease> = Api::all(federation.hub.cluster.admin.clone());
    let params = ListParams::default().labels(&format!("{LABEL_JOB_UID}={uid}"));
    api.list(&params).await.expect("the hub answers").items
}

/// Pods that ever existed in a member's guest namespace, by replica: a watcher that runs until it
/// is dropped, for tests that must know that nothing ran twice.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Pod UIDs by (job UID, replica index, rank).
    pub(crate) pods: BTreeMap<(String, String, String), BTreeSet<String>>,
    /// Those of them that succeeded.
    pub(crate) succeeded: BTreeMap<(String, String, String), BTreeSet<String>>,
}

impl Starts {
    /// Takes in a pod.
    pub(crate) fn see(&mut self, pod: &Pod) {
        let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
        let key = (
            label(LABEL_JOB_UID),
            label(idlewild::api::LABEL_INDEX),
            label(idlewild::api::LABEL_RANK),
        );
        let uid = pod.uid().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Succeeded") {
            self.succeeded.entry(key.clone()).or_default().insert(uid.clone());
        }
        self.pods.entry(key).or_default().insert(uid);
    }
}
