//! `GpuJobExplanation`: what a round would say of a job now. It is computed when asked, never stored.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use super::gpujob::{Phase, ReplicaCounts};

/// API group of what is computed on request.
pub const GATEWAY_GROUP: &str = "gateway.idlewild.dev";
/// Its version.
pub const GATEWAY_VERSION: &str = "v1alpha1";
/// Kind of an explanation.
pub const EXPLANATION_KIND: &str = "GpuJobExplanation";

/// Why a job waits, where it stands in line, and what would help.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuJobExplanation {
    /// `gateway.idlewild.dev/v1alpha1`.
    pub api_version: String,
    /// `GpuJobExplanation`.
    pub kind: String,
    /// Name, namespace, UID and generation of the job that this speaks of.
    pub metadata: ObjectMeta,
    /// When it was computed.
    pub time: Option<Time>,
    /// The job's state in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it waits or ended, in one word; empty if there is nothing to explain.
    #[serde(default)]
    pub reason: String,
    /// The same in a sentence.
    #[serde(default)]
    pub message: String,
    /// Replicas by state.
    #[serde(default)]
    pub replicas: ReplicaCounts,
    /// Its queue.
    #[serde(default)]
    pub queue: QueueStanding,
    /// Where it runs or is allocated.
    #[serde(default)]
    pub runs: Vec<Run>,
    /// What the next round gives it.
    #[serde(default)]
    pub next: Vec<NextPlace>,
    /// What every pool says to it, once those before it got theirs; empty if it wants nothing.
    #[serde(default)]
    pub pools: Vec<PoolAnswer>,
    /// Changes that would help, the most helpful first.
    #[serde(default)]
    pub changes: Vec<HelpfulChange>,
    /// When the next of its replicas could start, as far as limits of what runs tell and nobody else
    /// comes; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Time>,
    /// Not placed before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
}

/// A queue, and where the job stands in it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QueueStanding {
    /// Name of the queue.
    pub name: String,
    /// Whether it takes the job's namespace.
    pub takes: bool,
    /// Whether it is held: nothing new starts.
    pub held: bool,
    /// GPUs that its jobs may hold; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_gpus: Option<u64>,
    /// GPUs that its jobs hold.
    pub used_gpus: u64,
    /// Place among those that wait in it: by priority, then age, then UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Place among all that wait on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overall: Option<Position>,
}

/// A place in a line; the first is 1.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Position {
    /// The place.
    pub place: u32,
    /// Length of the line.
    pub of: u32,
}

/// A live attempt.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Run {
    /// Member that holds it.
    pub cluster: String,
    /// Pool of the member.
    pub pool: String,
    /// GPU model.
    pub model: String,
    /// Replica indexes it covers, as ranges.
    pub indexes: String,
    /// Number of the attempt.
    pub epoch: String,
}

/// Replicas that the next round gives to a pool.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct NextPlace {
    /// The member.
    pub cluster: String,
    /// Its pool.
    pub pool: String,
    /// GPU model.
    pub model: String,
    /// How many.
    pub replicas: u32,
}

/// What one pool says to the job.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct PoolAnswer {
    /// The member.
    pub cluster: String,
    /// Its pool.
    pub pool: String,
    /// Replicas that fit there now.
    pub fits: u32,
    /// Why it cannot take it, in one word; empty if it can.
    #[serde(default)]
    pub reason: String,
    /// The same in words.
    #[serde(default)]
    pub message: String,
    /// Whether that can pass without anybody changing the job or the offer.
    #[serde(default)]
    pub passing: bool,
}

/// A change of the job that would help.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct HelpfulChange {
    /// The change, in words.
    pub change: String,
    /// `Now`: it would be placed in the next round. `Later`: it would wait for GPUs.
    pub effect: Effect,
    /// Pools that could take it then, as `member/pool`.
    pub pools: Vec<String>,
}

/// How much a change helps.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Effect {
    /// It would be placed in the next round.
    Now,
    /// Pools could take it at another time.
    Later,
}
