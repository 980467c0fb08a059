//! How a job saves its work, and how often it may be interrupted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::SILENT_AFTER_SECONDS;

/// How the program saves its work, so that an eviction costs little of it. The guide for users says
/// what the program does for it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointSpec {
    /// Where it saves, such as `s3://bucket/name`. Each attempt gets a prefix of its own below it.
    #[x_kube(validation = Rule::new("self.matches('^[a-z][a-z0-9+.-]*:(//)?[^\\\\s]+[^/\\\\s]$')").message(
        "checkpoint.uri must be a URI without spaces that does not end in a slash, such as s3://bucket/name"))]
    #[schemars(length(min = 3, max = 1024))]
    pub uri: String,
    /// Seconds between two saves that the program intends, 1 to 604800 (a week); default 600. Places
    /// where owners come back often are worth more to whoever saves often.
    #[serde(default = "ten_minutes")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 604800").message(
        "checkpoint.intervalSeconds must be 1 to 604800 (a week)"))]
    pub interval_seconds: i64,
    /// Seconds that it needs to save after notice; only pools that give that much notice take it.
    /// Default: the template's terminationGracePeriodSeconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 86400").message(
        "checkpoint.graceSeconds must be 0 to 86400 (a day)"))]
    pub grace_seconds: Option<i64>,
}

const fn ten_minutes() -> i64 {
    600
}

/// Longest that a member may be silent before its work is run elsewhere, in seconds: a year.
const LONGEST: i64 = 31_536_000;

/// What guests do once their member has not reached the hub for the length of a lease.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema,
)]
pub enum AfterLease {
    /// They go on, on GPUs that stand idle.
    #[default]
    ContinueFenced,
    /// They get notice.
    Stop,
}

/// Whether a replica may run in two places at once.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema,
)]
pub enum DuplicatePolicy {
    /// It may for a while, where a member is cut off; only the newer one counts.
    #[default]
    Allow,
    /// Never: it is run elsewhere only once its pods have surely ended.
    Never,
}

/// What happens when a job is interrupted, or its member falls silent.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverSpec {
    /// Seconds for which the member may be silent before the replica is run elsewhere, 40 to 31536000
    /// (a year); default: never, as long as its pods could still run. With `Stop` no less than it takes
    /// until they surely stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(format!("self >= {SILENT_AFTER_SECONDS} && self <= {LONGEST}")).message(
        "failover.tolerationSeconds must be 40 to 31536000 (a year): a member is silent after 40 s; leave it out to wait as long as its pods could run"))]
    pub toleration_seconds: Option<i64>,
    /// What its pods do when the member has not reached the hub for the length of a lease (the
    /// operator's `leaseSeconds`, default 900): `ContinueFenced` (the default) or `Stop`. Counts for
    /// attempts that begin from now on.
    #[serde(default)]
    pub after_lease: AfterLease,
    /// Whether an old copy may still run when it is run elsewhere: `Allow` (the default) or `Never`, which
    /// waits for the kubelet's word or until its pods' time is over, also where the operator dismisses a
    /// member that is silent. A node that is away for five minutes is such a place, too.
    #[serde(default)]
    pub duplicate_policy: DuplicatePolicy,
    /// Evictions, over all replicas, after which the job fails; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000000").message(
        "failover.maxEvictions must be 0 to 1000000; leave it out for no limit"))]
    pub max_evictions: Option<i32>,
}

/// The newest save that the program told of.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct LastCheckpoint {
    /// When it was made, by the program's clock.
    pub time: Time,
    /// Where: below the job's `checkpoint.uri`.
    #[serde(rename = "ref")]
    #[schemars(length(max = crate::api::gpulease::MAX_REFERENCE))]
    pub reference: String,
}

/// The newest save of one unfinished replica.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct ReplicaCheckpoint {
    /// The replica.
    pub index: i64,
    /// When it was made, by the program's clock.
    pub time: Time,
    /// Where.
    #[serde(rename = "ref")]
    #[schemars(length(max = crate::api::gpulease::MAX_REFERENCE))]
    pub reference: String,
}
