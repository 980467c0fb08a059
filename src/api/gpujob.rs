//! `GpuJob`: what a user asks of the federation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::template::PodTemplate;

mod checkpoint;
mod status;

pub use checkpoint::{
    AfterLease, CheckpointSpec, DuplicatePolicy, FailoverSpec, LastCheckpoint, ReplicaCheckpoint,
};
pub use status::{
    Allocation, Attempt, Evictions, GpuJobStatus, Phase, RanSeconds, ReplicaCounts, Summary,
};

/// Work that runs as ordinary pods on idle GPUs of the federation's members.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "GpuJob",
    plural = "gpujobs",
    namespaced,
    status = "GpuJobStatus",
    derive = "PartialEq",
    shortname = "gj",
    category = "idlewild",
    doc = "Work that runs as ordinary pods on idle GPUs of the federation's members.",
    printcolumn(name = "Queue", type_ = "string", json_path = ".status.summary.queue"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.summary.gpus"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.summary.clusters"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.summary.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Priority",
        type_ = "string",
        json_path = ".spec.priorityClassName",
        priority = 1
    ),
    printcolumn(
        name = "Epoch",
        type_ = "string",
        json_path = ".status.summary.epoch",
        priority = 1
    ),
    printcolumn(
        name = "Checkpoint",
        type_ = "date",
        json_path = ".status.lastCheckpoint.time",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == oldSelf.type").message(
        "type cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("has(self.queueName) == has(oldSelf.queueName) && (!has(self.queueName) || self.queueName == oldSelf.queueName)").message(
        "queueName cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("self.preemptibility == oldSelf.preemptibility").message(
        "preemptibility cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("self.completions == oldSelf.completions").message(
        "completions cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("self.size == oldSelf.size").message(
        "size cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("self.backoffLimit == oldSelf.backoffLimit").message(
        "backoffLimit cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("has(self.podFailurePolicy) == has(oldSelf.podFailurePolicy) && (!has(self.podFailurePolicy) || self.podFailurePolicy == oldSelf.podFailurePolicy)").message(
        "podFailurePolicy cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("self.gpu == oldSelf.gpu").message(
        "gpu cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("has(self.data) == has(oldSelf.data) && (!has(self.data) || self.data == oldSelf.data)").message(
        "data cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("has(self.checkpoint) == has(oldSelf.checkpoint) && (!has(self.checkpoint) || self.checkpoint == oldSelf.checkpoint)").message(
        "checkpoint cannot be changed after creation; delete the job and apply it again"
    ),
    validation = Rule::new("self.template == oldSelf.template").message(
        "template cannot be changed after creation; delete the job and apply it again"
    )
)]
pub struct GpuJobSpec {
    /// What kind of work it is. Batch (the default): pods that run to completion. Immutable.
    #[serde(rename = "type", default)]
    pub type_: JobType,
    /// True stops the job, gives its GPUs back and keeps the object; false (the default) runs it.
    #[serde(default)]
    pub suspend: bool,
    /// The `GpuQueue` it waits in. Default: the one whose namespaceSelector takes this namespace,
    /// else `default`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 253").message(
        "queueName must be 1 to 253 characters: the name of a GpuQueue (kubectl get gpuqueues)"))]
    #[schemars(length(max = 1024))]
    pub queue_name: Option<String>,
    /// A `scheduling.k8s.io` `PriorityClass` on the hub; orders jobs inside the queue.
    /// Default: the class with `globalDefault`, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 253").message(
        "priorityClassName must be 1 to 253 characters: the name of a PriorityClass (kubectl get priorityclasses)"))]
    #[schemars(length(max = 1024))]
    pub priority_class_name: Option<String>,
    /// Whether other guests may take its place: those of higher priority in its own queue, or in one
    /// that has less of its share. Preemptible (the default) or `NonPreemptible`. Owners of GPUs
    /// always may. Immutable.
    #[serde(default)]
    pub preemptibility: Preemptibility,
    /// Replicas that must succeed, 1 to 100000; default 1. Immutable.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100000").message(
        "completions must be 1 to 100000: the number of replicas that must succeed"))]
    pub completions: i32,
    /// Replicas that may run at once, 1 to 100000; default: completions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100000").message(
        "parallelism must be 1 to 100000; to pause a job set suspend: true"))]
    pub parallelism: Option<i32>,
    /// Pods per replica, 1 to 1024, started together in one pool or not at all; default 1.
    /// Immutable.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1024").message(
        "size must be 1 to 1024: the number of pods of one replica that start together"))]
    pub size: i32,
    /// Failures of user code, over all replicas, before the job fails; evictions never count.
    /// 0 to 1000000; default 3. Immutable.
    #[serde(default = "three")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000000").message(
        "backoffLimit must be 0 to 1000000: the number of failures before the job fails"))]
    pub backoff_limit: i32,
    /// Rules, in the shape of batch/v1, on what a failed pod means. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_failure_policy: Option<PodFailurePolicy>,
    /// Seconds that a replica may run, summed over its attempts; default: no limit but the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 315360000").message(
        "maxRunningSeconds must be 1 to 315360000 (ten years); leave it out for no limit"))]
    pub max_running_seconds: Option<i64>,
    /// Seconds after its end at which the job is deleted; default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 315360000").message(
        "ttlSecondsAfterFinished must be 0 to 315360000 (ten years); leave it out to keep the job"))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// GPUs of each pod. Immutable.
    pub gpu: GpuRequest,
    /// Where it may run; a change affects the next placement only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementSpec>,
    /// Where its data may go. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    /// How the program saves its work; absent: an eviction loses all of it. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSpec>,
    /// What happens when it is interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverSpec>,
    /// The pod that each replica runs: a v1 `PodTemplateSpec`. Immutable. The hub's admission policy
    /// `idlewild-gpujob-template` says what it may hold, and names what it may not. Its annotations,
    /// and labels with a prefix other than `app.kubernetes.io/`, stay here: they would steer what
    /// runs in a member's cluster. Images are always pulled, whatever `imagePullPolicy` says.
    pub template: PodTemplate,
}

const fn one() -> i32 {
    1
}

const fn three() -> i32 {
    3
}

/// Whether other guests may take a job's place.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema,
)]
pub enum Preemptibility {
    /// Those of higher priority may.
    #[default]
    Preemptible,
    /// None may.
    NonPreemptible,
}

/// Kinds of work.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Deserialize,
    Serialize,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    schemars::JsonSchema,
)]
pub enum JobType {
    /// Pods that run to completion.
    #[default]
    Batch,
}

/// GPUs of each pod, by model; resource names are the agent's business.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuRequest {
    /// Whole GPUs per pod, 1 to 16.
    #[x_kube(validation = Rule::new("self >= 1 && self <= 16").message(
        "gpu.count must be 1 to 16 GPUs per pod; for more GPUs raise size or completions"))]
    pub count: i32,
    /// Acceptable models in order of preference, at most 16; absent = any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub any_of: Vec<GpuChoice>,
}

/// One acceptable GPU model.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuChoice {
    /// Model as `kubectl get gpupools -A` shows it, such as `A100`, `H100` or `A100/1g.10gb`.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9 ./_-]*$')").message(
        "gpu.anyOf.model must be a model name such as A100 or H100 (kubectl get gpupools -A lists them)"))]
    #[schemars(length(min = 1, max = 63))]
    pub model: String,
    /// Least memory per GPU as a Kubernetes quantity, such as `80Gi`; default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$')").message(
        "gpu.anyOf.minMemory must be a whole quantity of bytes such as 40Gi or 80Gi"))]
    #[schemars(length(min = 1, max = 20))]
    pub min_memory: Option<String>,
}

/// Rules on what a failed pod means; the first that matches decides, none = Count.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct PodFailurePolicy {
    /// At most 20 rules, tried in order.
    #[schemars(length(min = 1, max = 20))]
    pub rules: Vec<PodFailureRule>,
}

/// One rule of a pod failure policy.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.onExitCodes) != has(self.onPodConditions)").message(
    "a rule of podFailurePolicy needs exactly one of onExitCodes and onPodConditions"))]
pub struct PodFailureRule {
    /// Ignore: run again, uncounted. Count: a failure. `FailJob`: the job fails at once.
    pub action: FailureAction,
    /// Matches exit codes of containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_exit_codes: Option<OnExitCodes>,
    /// Matches conditions of the pod; any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub on_pod_conditions: Option<Vec<OnPodCondition>>,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum FailureAction {
    /// Run again without counting.
    Ignore,
    /// Count against backoffLimit.
    Count,
    /// Fail the whole job.
    FailJob,
}

/// A requirement on exit codes.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnExitCodes {
    /// Only this container; absent = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub container_name: Option<String>,
    /// `In` or `NotIn`.
    pub operator: ExitCodeOperator,
    /// 1 to 255 exit codes.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.all(v, v >= 0 && v <= 255)").message(
        "podFailurePolicy exit codes must be 0 to 255"))]
    pub values: Vec<i32>,
}

/// How exit codes are compared.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ExitCodeOperator {
    /// The code is among the values.
    In,
    /// The code is none of the values, and not 0.
    NotIn,
}

/// A requirement on one pod condition.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct OnPodCondition {
    /// Type of the condition, such as `DisruptionTarget`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 253))]
    pub type_: String,
    /// `True`, the default and the only one: members report the conditions that are true.
    #[serde(default = "condition_true")]
    #[x_kube(validation = Rule::new("self == 'True'").message(
        "podFailurePolicy onPodConditions.status must be True; leave it out"))]
    #[schemars(length(max = 16))]
    pub status: String,
}

fn condition_true() -> String {
    "True".into()
}

/// Where a job may run.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementSpec {
    /// Which members and pools are acceptable; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_affinity: Option<ClusterAffinity>,
    /// Taints of members that the job tolerates, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub cluster_tolerations: Vec<ClusterToleration>,
}

/// Which members and pools are acceptable.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAffinity {
    /// Only these members, at most 256; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub cluster_names: Vec<String>,
    /// None of these members, at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub exclude: Vec<String>,
    /// Labels of pool and member together; the pool's win where both have a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::selectors::label_selector")]
    pub label_selector: Option<LabelSelector>,
}

/// Tolerates taints of members, as tolerations of pods do for nodes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[x_kube(validation = Rule::new("self.operator == 'Exists' || (has(self.key) && self.key != '')").message(
    "a clusterToleration needs a key, or operator: Exists"))]
pub struct ClusterToleration {
    /// Key of the taint; absent with `Exists` = every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// `Equal` (default) or `Exists`.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value that `Equal` compares; default empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect that is tolerated; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<super::member::TaintEffect>,
}

/// How a toleration compares values.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema,
)]
pub enum TolerationOperator {
    /// Key and value are equal.
    #[default]
    Equal,
    /// The key exists.
    Exists,
}

/// Where a job's data may go.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct DataSpec {
    /// Jurisdictions where its pods may run, such as `EU`; at most 64, at least one.
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.size() >= 1").message(
        "data.residency needs at least one jurisdiction; leave data out to allow any"))]
    pub residency: Vec<String>,
}
