//! `GpuQueue`: which namespaces wait where, and how many GPUs they may hold.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
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
#[x_kube(validation = Rule::new("has(self.cohort) || !has(self.quota) || self.quota.all(q, !has(q.borrowingLimit) && !has(q.lendingLimit))").message(
    "borrowingLimit and lendingLimit need a cohort: name the one whose queues lend each other"))]
pub struct GpuQueueSpec {
    /// Namespaces that it takes; absent = none, `{}` = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::selectors::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// None (default): works. Hold: admits nothing new. `HoldAndDrain`: also evicts what runs.
    #[serde(default)]
    pub stop_policy: StopPolicy,
    /// Limits; absent = no limit. At most one entry for each model, and one without a model for all
    /// together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, has(a.model) == has(b.model) && (!has(a.model) || a.model == b.model)))").message(
        "quota has two entries for one model, or two without a model: keep one of them"))]
    #[schemars(length(max = 16))]
    pub quota: Vec<GpuQuota>,
    /// Queues of one cohort lend each other the quota that they do not use; default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 63").message(
        "cohort must be 1 to 63 characters; queues with the same cohort lend each other quota"))]
    #[schemars(length(max = 1024))]
    pub cohort: Option<String>,
    /// How much it counts among queues when GPUs are short, 1 to 1000; default 1: a queue of weight
    /// 2 gets twice as many GPUs as one of weight 1.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1000").message(
        "weight must be 1 to 1000; to stop a queue set stopPolicy: Hold"))]
    pub weight: i32,
    /// Members that the queue's people lend: what they offer adds to its weight, by its part of all
    /// that is offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 56)))]
    pub contributors: Vec<String>,
    /// `PriorityClasses` that its jobs may name; absent = all, `[]` = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub allowed_priority_classes: Option<Vec<String>>,
}

const fn one() -> i32 {
    1
}

/// One limit of a queue.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.lendingLimit) || self.lendingLimit <= self.gpus").message(
    "quota.lendingLimit cannot be more than quota.gpus: a queue lends what is its own"))]
pub struct GpuQuota {
    /// For this GPU model, such as `A100`; absent = all models together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 63").message(
        "quota.model must be 1 to 63 characters, such as A100 (kubectl get gpupools -A)"))]
    #[schemars(length(max = 1024))]
    pub model: Option<String>,
    /// GPUs that the queue's jobs may hold at once.
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100000000").message(
        "quota.gpus must be 0 or more GPUs; leave quota out for no limit"))]
    pub gpus: i64,
    /// GPUs beyond those that it may borrow from its cohort; absent = all that others leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100000000").message(
        "quota.borrowingLimit must be 0 or more GPUs; leave it out to borrow all that others leave"))]
    pub borrowing_limit: Option<i64>,
    /// GPUs of its own that its cohort may use while it does not; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100000000").message(
        "quota.lendingLimit must be 0 or more GPUs; 0 lends nothing"))]
    pub lending_limit: Option<i64>,
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

/// GPUs of one model that a queue holds.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelUsage {
    /// The model.
    #[schemars(length(max = 63))]
    pub model: String,
    /// GPUs that its jobs hold.
    pub gpus: i64,
    /// Thousandths of GPUs that they held lately: a mean whose half-life is a day. It is written
    /// anew when it has changed by a twentieth.
    pub recent_milli_gpus: i64,
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
    /// The same by model, with what it used lately.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub usage: Vec<ModelUsage>,
    /// When `usage` was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_time: Option<Time>,
    /// What it has of the model that it has most of, in millionths of what is offered, divided by
    /// its weight, when `usage` was written: the queue with the least goes next.
    #[serde(default)]
    pub share_ppm: i64,
    /// Jobs with replicas that wait.
    #[serde(default)]
    pub pending: i64,
    /// Jobs whose replicas all hold GPUs.
    #[serde(default)]
    pub admitted: i64,
}
