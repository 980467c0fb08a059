//! What the hub says of a job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::{DuplicatePolicy, LastCheckpoint, ReplicaCheckpoint};
use crate::api::gpulease::EpochRef;

/// What the hub knows of a job.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuJobStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions; a false one says why.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// One word for printing, derived from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Replicas by state; `failed` counts failures so far, as batch/v1 does.
    #[serde(default)]
    pub replicas: ReplicaCounts,
    /// Indexes that succeeded, as ranges such as `0-3,7`.
    #[serde(default)]
    pub completed_indexes: String,
    /// Members that hold a live lease of the job.
    #[serde(default)]
    pub clusters: Vec<String>,
    /// Live attempts: the authority on what may run where (at most one for each index).
    #[serde(default)]
    pub allocations: Vec<Allocation>,
    /// The last 10 attempts that ended.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// The hub's incarnation that made the latest attempt.
    #[serde(default)]
    pub incarnation: u32,
    /// Number of the next attempt; it only rises.
    #[serde(default)]
    pub next_attempt: u32,
    /// Attempts that ended before their end, by cause; never counted against backoffLimit.
    #[serde(default)]
    pub evictions: Evictions,
    /// Seconds of silence of a member after which what it holds is run elsewhere, the least of all that
    /// it holds; absent if it is nowhere, or stays where it is whatever happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_bound_seconds: Option<i64>,
    /// Not placed before this time: back-off after repeated evictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requeue_at: Option<Time>,
    /// Running time used up by ended attempts of unfinished indexes.
    #[serde(default)]
    pub ran: Vec<RanSeconds>,
    /// The newest save that the program told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<LastCheckpoint>,
    /// The newest saves of unfinished replicas, at most 256: what they go on from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = crate::api::MAX_CHECKPOINTS))]
    pub checkpoints: Vec<ReplicaCheckpoint>,
    /// Seconds of work that evictions lost, over all replicas: what ran since the last save.
    #[serde(default)]
    pub lost_seconds: i64,
    /// When the job first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What the columns print.
    #[serde(default)]
    pub summary: Summary,
}

/// One word for a job's state.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema,
)]
pub enum Phase {
    /// Stopped by `spec.suspend`.
    Suspended,
    /// Waits for quota or for GPUs.
    Queued,
    /// GPUs are allocated; the member has not started pods yet.
    Placed,
    /// Pods exist, not all of them run.
    Starting,
    /// Runs.
    Running,
    /// A member was told to stop it and has not confirmed yet.
    Reclaiming,
    /// Ended before its end and waits again.
    Requeued,
    /// A member of it is silent.
    Unknown,
    /// Done.
    Succeeded,
    /// Over without success.
    Failed,
}

/// Replicas by state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct ReplicaCounts {
    /// Without a lease.
    #[serde(default)]
    pub waiting: i32,
    /// With a lease, not all pods run.
    #[serde(default)]
    pub starting: i32,
    /// All pods run.
    #[serde(default)]
    pub running: i32,
    /// Done.
    #[serde(default)]
    pub succeeded: i32,
    /// Failures so far that count against backoffLimit.
    #[serde(default)]
    pub failed: i32,
}

/// A live attempt: everything its lease is made of.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// Number of the attempt.
    pub epoch: EpochRef,
    /// Member that holds it.
    pub cluster: String,
    /// Pool of the member.
    pub pool: String,
    /// Replica indexes it covers, as ranges.
    pub indexes: String,
    /// Those of them that ended and were counted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ended: String,
    /// GPU model.
    pub model: String,
    /// Generation of the job at allocation.
    pub generation: i64,
    /// Seconds its pods may run.
    pub active_deadline_seconds: i64,
    /// Seconds without contact to the hub after which its pods stop; absent = they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_seconds: Option<i64>,
    /// Seconds without contact to the hub after which it is expired while its pods go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<i64>,
    /// `Never`: an old copy of it must surely have ended before another begins; absent = `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_policy: Option<DuplicatePolicy>,
    /// Attempts before it, newest first, at most 10, if the job saves its work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EpochRef>,
    /// When it was allocated.
    pub time: Time,
}

/// An attempt that ended.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Number of the attempt.
    pub epoch: EpochRef,
    /// Member that held it.
    pub cluster: String,
    /// Pool of the member.
    pub pool: String,
    /// Replica indexes it covered.
    pub indexes: String,
    /// When it started to run, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Time>,
    /// When it ended.
    pub end: Time,
    /// Why it ended.
    pub reason: String,
    /// GPUs times seconds from start to end.
    #[serde(default)]
    pub gpu_seconds: i64,
    /// Seconds of work that its eviction lost, over its replicas.
    #[serde(default)]
    pub lost_seconds: i64,
    /// What the member said of it, if it said something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Attempts that ended before their end, by cause.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evictions {
    /// All of them.
    #[serde(default)]
    pub total: i32,
    /// The owner wanted the GPUs.
    #[serde(default)]
    pub owner_reclaimed: i32,
    /// The member is gone.
    #[serde(default)]
    pub cluster_lost: i32,
    /// A more important job took its place.
    #[serde(default)]
    pub preempted: i32,
    /// Any other cause.
    #[serde(default)]
    pub other: i32,
}

/// Running time that unfinished indexes have used up.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct RanSeconds {
    /// The indexes, as ranges.
    pub indexes: String,
    /// Seconds each of them has run, summed over ended attempts.
    pub seconds: i64,
}

/// What the columns print: `JSONPath` can neither multiply nor choose.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct Summary {
    /// GPUs of all replicas that may run at once.
    #[serde(default)]
    pub gpus: i64,
    /// Members that hold it.
    #[serde(default)]
    pub clusters: String,
    /// Queue it waits in.
    #[serde(default)]
    pub queue: String,
    /// The reason that matters most now.
    #[serde(default)]
    pub reason: String,
    /// Latest epoch.
    #[serde(default)]
    pub epoch: String,
}
