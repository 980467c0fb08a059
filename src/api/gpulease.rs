//! `GpuLease` (on the hub) and `GuestLease` (in the member): one contract, two durable records.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::gpujob::DuplicatePolicy;
use super::template::PodTemplate;

mod adoption;
mod bounds;
mod checkpoint;
mod nodes;
mod standing;

pub use adoption::Adoption;
pub use bounds::{
    MAX_CONDITION, MAX_CONDITIONS, MAX_CONTAINER, MAX_GROUPS, MAX_MESSAGE, MAX_REASON,
    is_reference, shortened,
};

pub use checkpoint::{LeasedCheckpoint, MAX_EARLIER, MAX_REFERENCE, Resume, Saved};
pub use nodes::{MAX_NODES, NodePods, node_number};
pub use standing::conditions;

/// Number of an attempt: ordered by the hub's incarnation, then by attempt.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, KubeSchema,
)]
pub struct EpochRef {
    /// Incarnation of the hub; it only rises.
    pub incarnation: u32,
    /// Attempt within the incarnation; it only rises.
    pub attempt: u32,
}

impl std::fmt::Display for EpochRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.attempt)
    }
}

/// The job that a lease serves.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct JobReference {
    /// Namespace of the job on its hub.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the job on its hub.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID of the job: a new job of the same name is another job.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Generation of the job at allocation.
    pub generation: i64,
}

/// GPUs of each pod of a lease.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct LeasedGpu {
    /// Whole GPUs per pod.
    pub count: i32,
    /// The one model that the attempt runs on.
    #[schemars(length(max = 63))]
    pub model: String,
    /// Least memory of one GPU that the job asks of that model, as a quantity; absent = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub min_memory: Option<String>,
}

/// The hub wants an attempt ended.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Withdrawal {
    /// Why, such as `Suspended` or `JobDeleted`.
    #[schemars(length(max = MAX_REASON))]
    pub reason: String,
    /// Seconds between notice and kill, at most the lease's own grace.
    pub grace_seconds: i64,
}

/// The contract that lets one attempt of some replicas hold GPUs of a member's pool.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "GpuLease",
    plural = "gpuleases",
    namespaced,
    status = "GpuLeaseStatus",
    derive = "PartialEq",
    shortname = "gl",
    category = "idlewild",
    doc = "The contract that lets one attempt of some replicas hold GPUs of a member's pool.",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job.name"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Indexes", type_ = "string", json_path = ".spec.indexes"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.endReason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.digest == oldSelf.digest && self.hubId == oldSelf.hubId && self.job == oldSelf.job && self.pool == oldSelf.pool && self.epoch == oldSelf.epoch && self.indexes == oldSelf.indexes && self.size == oldSelf.size && self.gpu == oldSelf.gpu && self.graceSeconds == oldSelf.graceSeconds && self.activeDeadlineSeconds == oldSelf.activeDeadlineSeconds && has(self.residency) == has(oldSelf.residency) && (!has(self.residency) || self.residency == oldSelf.residency) && has(self.checkpoint) == has(oldSelf.checkpoint) && (!has(self.checkpoint) || self.checkpoint == oldSelf.checkpoint) && has(self.stopAfterSeconds) == has(oldSelf.stopAfterSeconds) && (!has(self.stopAfterSeconds) || self.stopAfterSeconds == oldSelf.stopAfterSeconds) && has(self.expiresAfterSeconds) == has(oldSelf.expiresAfterSeconds) && (!has(self.expiresAfterSeconds) || self.expiresAfterSeconds == oldSelf.expiresAfterSeconds) && has(self.duplicatePolicy) == has(oldSelf.duplicatePolicy) && (!has(self.duplicatePolicy) || self.duplicatePolicy == oldSelf.duplicatePolicy) && self.template == oldSelf.template").message(
        "a lease cannot be changed, only withdrawn and adopted"
    ),
    validation = Rule::new("!has(oldSelf.withdrawn) || has(self.withdrawn)").message(
        "withdrawn cannot be taken back; the hub makes a new lease instead"
    )
)]
pub struct GpuLeaseSpec {
    /// Configured ID of the hub that grants it.
    #[schemars(length(min = 1, max = 253))]
    pub hub_id: String,
    /// The job that it serves.
    pub job: JobReference,
    /// Pool of the member.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// Number of the attempt.
    pub epoch: EpochRef,
    /// Replica indexes it carries, as ranges, at most 256; one for a gang.
    #[schemars(length(min = 1, max = 4096))]
    pub indexes: String,
    /// Pods of each replica.
    pub size: i32,
    /// GPUs of each pod.
    pub gpu: LeasedGpu,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: i64,
    /// Seconds that its pods may run, enforced by the kubelet.
    pub active_deadline_seconds: i64,
    /// Jurisdictions where its pods may run; absent = anywhere. The member checks it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub residency: Option<Vec<String>>,
    /// Where its program saves, and what it goes on from; absent = it does not save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<LeasedCheckpoint>,
    /// Seconds without contact between member and hub after which its pods stop; absent = they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_seconds: Option<i64>,
    /// Seconds without contact between member and hub after which it is expired: its pods go on, and what
    /// they do counts once the hub adopted it; absent = it never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<i64>,
    /// `Never`: a replica has ended only once its pods surely have, whatever became of their node or
    /// their objects; absent = `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_policy: Option<DuplicatePolicy>,
    /// SHA-256 of template and typed fields as JSON with sorted keys: `sha256:<hex>`.
    #[schemars(length(min = 1, max = 71))]
    pub digest: String,
    /// A v1 `PodTemplateSpec`.
    pub template: PodTemplate,
    /// Set once by the hub when it wants the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Withdrawal>,
    /// Set by the hub for a lease that expired, once it made sure that it is the current attempt, and
    /// for one that it makes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adoption>,
}

/// Life of a lease, as its member reports it.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema,
)]
pub enum LeasePhase {
    /// The member's books hold GPUs for it; the hub has not been told yet (`GuestLease` only).
    Reserved,
    /// The member holds GPUs for it.
    Accepted,
    /// The member said no; final.
    Refused,
    /// Its pods exist, not all run.
    Starting,
    /// All its unended pods run.
    Running,
    /// Its pods were told to go.
    Releasing,
    /// Nothing of it runs any more; final.
    Released,
}

/// Why a member said no.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct LeaseRefusal {
    /// One word, such as `NotEnoughFree`.
    #[schemars(length(max = MAX_REASON))]
    pub reason: String,
    /// One sentence.
    #[schemars(length(max = MAX_MESSAGE))]
    pub message: String,
}

/// Pods of a lease by state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct PodCounts {
    /// Bound to a node.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub bound: i32,
    /// Running.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Ended with success.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub succeeded: i32,
    /// Ended without.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub failed: i32,
}

/// Replica indexes that ended alike, confirmed by the kubelet.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndedGroup {
    /// `Succeeded`, `Failed`, `DeadlineExceeded`, or the cause of an eviction.
    #[schemars(length(max = MAX_REASON))]
    pub reason: String,
    /// Exit code of the container that decided; absent if none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Container that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_CONTAINER))]
    pub container: Option<String>,
    /// Types of the true conditions of the pod, such as `DisruptionTarget`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_CONDITIONS), inner(length(max = MAX_CONDITION)))]
    pub conditions: Vec<String>,
    /// The newest save that the program told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Saved>,
    /// Seconds of work that each of the indexes lost, if it was evicted.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub lost_seconds: i64,
    /// The indexes, as ranges.
    #[schemars(length(max = 4096))]
    pub indexes: String,
    /// One sentence; at most 20 groups carry one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_MESSAGE))]
    pub message: Option<String>,
}

/// What the member reports.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuLeaseStatus {
    /// The generation of the spec that the member has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted` and `Ready`, from `phase`.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Life of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<LeasePhase>,
    /// Serial of the member's books when the lease entered them; never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub serial: Option<i64>,
    /// Why the member said no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<LeaseRefusal>,
    /// Pods by state.
    #[serde(default)]
    pub pods: PodCounts,
    /// Which of its pods share nodes, with each other and with those of other leases of the pool: so
    /// the hub knows what comes free together. At most 256 nodes; other pods are somewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NODES))]
    pub nodes: Vec<NodePods>,
    /// When its first pod ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its last pod ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_REASON))]
    pub end_reason: Option<String>,
    /// Since when its hub has not been heard for the length of a lease: what its pods do counts once the
    /// hub adopted it. Absent: it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<Time>,
    /// Indexes that ended, grouped; it only grows.
    #[serde(default)]
    #[schemars(length(max = MAX_GROUPS))]
    pub ended: Vec<EndedGroup>,
}

/// The member's own record of a lease: what a hub asked for, whether the owner's side accepted,
/// and what became of it. It owns its guests' pods.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "GuestLease",
    plural = "guestleases",
    namespaced,
    status = "GuestLeaseStatus",
    derive = "PartialEq",
    shortname = "gul",
    category = "idlewild",
    doc = "The member's own record of a lease: whose, what, since when and until when. It owns its guests' pods.",
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.hubId"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.job.namespace"),
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.job.name"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.endReason"),
    printcolumn(name = "Since", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.until", priority = 1),
    printcolumn(name = "Expired", type_ = "date", json_path = ".status.expiredAt", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.digest == oldSelf.digest && self.hubId == oldSelf.hubId && self.job == oldSelf.job && self.pool == oldSelf.pool && self.epoch == oldSelf.epoch && self.indexes == oldSelf.indexes && self.size == oldSelf.size && self.gpu == oldSelf.gpu && self.graceSeconds == oldSelf.graceSeconds && self.activeDeadlineSeconds == oldSelf.activeDeadlineSeconds && self.grant == oldSelf.grant && self.leaseName == oldSelf.leaseName && self.leaseUid == oldSelf.leaseUid && has(self.residency) == has(oldSelf.residency) && (!has(self.residency) || self.residency == oldSelf.residency) && has(self.checkpoint) == has(oldSelf.checkpoint) && (!has(self.checkpoint) || self.checkpoint == oldSelf.checkpoint) && has(self.stopAfterSeconds) == has(oldSelf.stopAfterSeconds) && (!has(self.stopAfterSeconds) || self.stopAfterSeconds == oldSelf.stopAfterSeconds) && has(self.expiresAfterSeconds) == has(oldSelf.expiresAfterSeconds) && (!has(self.expiresAfterSeconds) || self.expiresAfterSeconds == oldSelf.expiresAfterSeconds) && has(self.duplicatePolicy) == has(oldSelf.duplicatePolicy) && (!has(self.duplicatePolicy) || self.duplicatePolicy == oldSelf.duplicatePolicy) && (self.forgotten || self.template == oldSelf.template)").message(
        "a guest lease cannot be changed, only confirmed, withdrawn, adopted and forgotten"
    ),
    validation = Rule::new("!oldSelf.forgotten || self.forgotten").message(
        "forgotten cannot be taken back: the template may be gone"
    ),
    validation = Rule::new("!oldSelf.confirmed || self.confirmed").message(
        "confirmed cannot be taken back; withdraw the lease instead"
    )
)]
pub struct GuestLeaseSpec {
    /// Configured ID of the hub that granted it.
    #[schemars(length(min = 1, max = 253))]
    pub hub_id: String,
    /// Name of the owner's `HubGrant` for that hub.
    #[schemars(length(min = 1, max = 253))]
    pub grant: String,
    /// Name of the `GpuLease` on the hub.
    #[schemars(length(min = 1, max = 253))]
    pub lease_name: String,
    /// UID of the `GpuLease` on the hub.
    #[schemars(length(min = 1, max = 64))]
    pub lease_uid: String,
    /// The job that it serves.
    pub job: JobReference,
    /// Pool of the owner.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// Number of the attempt.
    pub epoch: EpochRef,
    /// Replica indexes, as ranges.
    #[schemars(length(min = 1, max = 4096))]
    pub indexes: String,
    /// Pods of each replica.
    pub size: i32,
    /// GPUs of each pod.
    pub gpu: LeasedGpu,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: i64,
    /// Seconds that its pods may run.
    pub active_deadline_seconds: i64,
    /// Jurisdictions where its pods may run; absent = anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub residency: Option<Vec<String>>,
    /// Where its program saves, and what it goes on from; absent = it does not save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<LeasedCheckpoint>,
    /// Seconds without contact between member and hub after which its pods stop; absent = they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_seconds: Option<i64>,
    /// Seconds without contact between member and hub after which it is expired: its pods go on, and what
    /// they do counts once the hub adopted it; absent = it never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<i64>,
    /// `Never`: a replica has ended only once its pods surely have, whatever became of their node or
    /// their objects; absent = `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_policy: Option<DuplicatePolicy>,
    /// Digest of the contract, as on the hub.
    #[schemars(length(min = 1, max = 71))]
    pub digest: String,
    /// A v1 `PodTemplateSpec`; dropped after the end.
    pub template: PodTemplate,
    /// True once the hub has seen the acceptance; only then pods exist.
    #[serde(default)]
    pub confirmed: bool,
    /// Set when the hub, or the owner's policy through the hub's grant, wants it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Withdrawal>,
    /// The hub's word that it is current although it expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adoption>,
    /// True once the hub's `GpuLease` is gone, so that this record may go after an hour.
    #[serde(default)]
    pub forgotten: bool,
}

/// What the executor decided and saw.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestLeaseStatus {
    /// The generation of the spec that was seen at the last change of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted` and `Ready`, from `phase`.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Life of the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<LeasePhase>,
    /// Serial of the books when the lease entered them; never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub serial: Option<i64>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<LeaseRefusal>,
    /// GPUs that it holds, for the owner's eyes.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub gpus: i64,
    /// Pods by state.
    #[serde(default)]
    pub pods: PodCounts,
    /// Which of its pods share nodes, by the numbers that its hub is told. At most 256 nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NODES))]
    pub nodes: Vec<NodePods>,
    /// When its first pod ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its last pod ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Latest time at which its pods are stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Why it ended, or why it is ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_REASON))]
    pub end_reason: Option<String>,
    /// Since when its hub has not been heard for the length of a lease: what its pods do counts once the
    /// hub adopted it. Absent: it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<Time>,
    /// Indexes that ended, grouped; it only grows.
    #[serde(default)]
    #[schemars(length(max = MAX_GROUPS))]
    pub ended: Vec<EndedGroup>,
}
