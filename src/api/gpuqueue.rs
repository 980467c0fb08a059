//! `GpuQueue`: which namespaces wait where, and how many GPUs they may hold.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A line in which jobs of some namespaces wait.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "GpuQueue",
    plural = "gpuqueues",
    status = "GpuQueueStatus",
    derive = "PartialEq",
    shortname = "gq",
    category = "idlewild",
    doc = "A line in which jobs of some namespaces wait, with a quota of GPUs.",
    printcolumn(name = "Quota", type_ = "string", json_path = ".spec.quota[*].gpus"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.usedGpus"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Admitted", type_ = "integer", json_path = ".status.admitted"),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Active')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Active')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GpuQueueSpec {
    /// Namespaces that it takes; absent = none, `{}` = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::selectors::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// None (default): works. Hold: admits nothing new. `HoldAndDrain`: also evicts what runs.
    #[serde(default)]
    pub stop_policy: StopPolicy,
    /// Limits; absent = no limit. At most one entry, for GPUs of all models together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.size() <= 1").message(
        "quota takes one entry, gpus: the total over all models"))]
    #[schemars(length(max = 8))]
    pub quota: Vec<GpuQuota>,
}

/// One limit of a queue.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct GpuQuota {
    /// GPUs that the queue's jobs may hold at once.
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100000000").message(
        "quota.gpus must be 0 or more GPUs; leave quota out for no limit"))]
    pub gpus: i64,
}

/// Whether a queue works.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema,
)]
pub enum StopPolicy {
    /// It works.
    #[default]
    None,
    /// It admits nothing new.
    Hold,
    /// It admits nothing new, and what runs is evicted.
    HoldAndDrain,
}

/// What the hub knows of a queue.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuQueueStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Active`: whether it admits jobs.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// GPUs that its jobs hold.
    #[serde(default)]
    pub used_gpus: i64,
    /// Jobs with replicas that wait.
    #[serde(default)]
    pub pending: i64,
    /// Jobs whose replicas all hold GPUs.
    #[serde(default)]
    pub admitted: i64,
}
