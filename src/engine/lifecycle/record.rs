//! What one job's life is made of: terms, record, and leases as they are seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::indexes::Indexes;
use crate::engine::model::{Epoch, PoolId};

/// Most saves of replicas that are kept: see `api::MAX_CHECKPOINTS`.
pub const CHECKPOINTS: usize = 256;
/// Most attempts before it that an attempt is told: see `api::gpulease::MAX_EARLIER`.
pub const EARLIER: usize = 10;

/// What the user asked, as far as the life of the replicas depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Replicas that must succeed.
    pub completions: u32,
    /// Replicas that may run at once.
    pub parallelism: u32,
    /// GPUs of one replica.
    pub gpus: u64,
    /// Failures that are forgiven.
    pub backoff_limit: u32,
    /// What a failure means; the first rule that matches decides, none = it counts.
    pub rules: Vec<FailureRule>,
    /// Seconds that a replica may run, over all its attempts.
    pub max_running_seconds: Option<u64>,
    /// Where it saves its work, if it does.
    pub checkpoint_uri: Option<String>,
    /// Seconds between two saves of its work, if it saves any.
    pub checkpoint_seconds: Option<u64>,
    /// Seconds between notice and kill of its pods.
    pub grace_seconds: u64,
    /// Seconds of its member's silence after which it is run elsewhere; `None` = never.
    pub toleration_seconds: Option<u64>,
    /// Whether it must never run in two places at once.
    pub never_twice: bool,
    /// Evictions that it bears.
    pub max_evictions: Option<u32>,
    /// Why nothing of it may run now, if so: the reason of the withdrawals.
    pub stopped: Option<&'static str>,
    /// True: nothing new is placed; what runs goes on.
    pub held: bool,
}

/// What a failure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRule {
    /// Which failures.
    pub pattern: FailurePattern,
    /// What they mean.
    pub action: FailureAction,
}

/// Which failures a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailurePattern {
    /// The exit code is (not) one of these, in this container if one is named.
    ExitCodes { container: Option<String>, codes: Vec<i32>, negated: bool },
    /// One of these conditions is true.
    Conditions(Vec<String>),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureAction {
    /// Run again, uncounted.
    Ignore,
    /// It counts against the limit.
    Count,
    /// The job fails.
    FailJob,
}

/// A live attempt: everything its lease is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Its number.
    pub epoch: Epoch,
    /// Where.
    pub pool: PoolId,
    /// The replicas.
    pub indexes: Indexes,
    /// Those that ended and were counted.
    pub ended: Indexes,
    /// GPU model.
    pub model: String,
    /// Generation of the job at allocation.
    pub generation: i64,
    /// Seconds that its pods may run.
    pub deadline_seconds: u64,
    /// Seconds without contact to the hub after which its pods stop; `None` = they go on.
    pub stop_after: Option<u64>,
    /// Seconds without contact to the hub after which it is expired while its pods go on.
    pub expires_after: Option<u64>,
    /// Whether an old copy must surely have ended before another begins.
    pub never_twice: bool,
    /// Attempts before it, newest first, if the job saves its work.
    pub earlier: Vec<Epoch>,
    /// When it was made, in milliseconds since 1970.
    pub at: i64,
}

impl Allocation {
    /// The replicas that have not ended.
    #[must_use]
    pub fn live(&self) -> Indexes {
        self.indexes.minus(&self.ended)
    }
}

/// An attempt that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Its number.
    pub epoch: Epoch,
    /// Where.
    pub pool: PoolId,
    /// The replicas.
    pub indexes: Indexes,
    /// When it started to run, in milliseconds since 1970.
    pub start: Option<i64>,
    /// When it ended.
    pub end: i64,
    /// Why.
    pub reason: String,
    /// GPUs times seconds.
    pub gpu_seconds: u64,
    /// Seconds of work that its eviction lost, over its replicas.
    pub lost_seconds: u64,
    /// What the member said of it; may be empty.
    pub message: String,
}

/// Work that a program saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// When, by the program's clock, in milliseconds since 1970.
    pub at: i64,
    /// Where.
    pub reference: String,
}

impl Attempt {
    /// Whether its owner wanted the GPUs, or closed the pool.
    #[must_use]
    pub fn is_reclaimed(&self) -> bool {
        ["OwnerReclaimed", "PoolClosed"].contains(&self.reason.as_str())
    }
}

/// Attempts that ended before their end, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// The owner wanted the GPUs.
    pub owner_reclaimed: u32,
    /// The member is gone.
    pub cluster_lost: u32,
    /// A more important job took its place.
    pub preempted: u32,
    /// Any other cause.
    pub other: u32,
}

/// How a job ended, or is about to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// `Succeeded`, `BackoffLimitExceeded`, `PodFailurePolicy`, `DeadlineExceeded` or
    /// `RequeuingLimitExceeded`.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// The reason of a job that did what it should.
pub const SUCCEEDED: &str = "Succeeded";

/// What the hub keeps of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Replicas that succeeded.
    pub completed: Indexes,
    /// Failures that counted.
    pub failures: u32,
    /// Live attempts; the authority on what may run where.
    pub allocations: Vec<Allocation>,
    /// The last attempts that ended.
    pub attempts: Vec<Attempt>,
    /// Evictions by cause.
    pub evictions: Evictions,
    /// The newest saves of unfinished replicas, at most [`CHECKPOINTS`].
    pub checkpoints: BTreeMap<u32, Checkpoint>,
    /// The newest save of all.
    pub last_checkpoint: Option<Checkpoint>,
    /// Seconds of work that evictions lost, over all replicas.
    pub lost_seconds: u64,
    /// Seconds that unfinished replicas have run.
    pub ran: BTreeMap<u32, u64>,
    /// Number of the next attempt; it only rises.
    pub next_attempt: u32,
    /// Not placed before this time, in milliseconds since 1970.
    pub requeue_at: Option<i64>,
    /// When it first ran, in milliseconds since 1970.
    pub started_at: Option<i64>,
    /// What it will end as once nothing of it runs.
    pub verdict: Option<Verdict>,
    /// When it ended, in milliseconds since 1970.
    pub finished_at: Option<i64>,
}

impl Record {
    /// The replicas that hold a lease and have not ended.
    #[must_use]
    pub fn live(&self) -> Indexes {
        self.allocations.iter().fold(Indexes::default(), |all, one| all.union(&one.live()))
    }

    /// Pools whose owners took GPUs back from it since that time, in milliseconds since 1970.
    #[must_use]
    pub fn reclaimed_since(&self, at: i64) -> BTreeSet<PoolId> {
        let lately = |attempt: &&Attempt| attempt.end >= at && attempt.is_reclaimed();
        self.attempts.iter().filter(lately).map(|attempt| attempt.pool.clone()).collect()
    }

    /// Attempts that could have saved something that `indexes` can go on from, newest first.
    #[must_use]
    pub fn earlier(&self, indexes: &Indexes) -> Vec<Epoch> {
        let own = |attempt: &&Attempt| !attempt.indexes.intersection(indexes).is_empty();
        let mut earlier: Vec<_> = self.attempts.iter().filter(own).map(|one| one.epoch).collect();
        let living = self.allocations.iter();
        let living = living.filter(|held| !held.ended.intersection(indexes).is_empty());
        earlier.extend(living.map(|held| held.epoch));
        earlier.sort_unstable_by(|a, b| b.cmp(a));
        earlier.truncate(EARLIER);
        earlier
    }

    /// Whether `epoch` was allocated once and is over: all it reported is on record.
    #[must_use]
    pub fn is_over(&self, epoch: Epoch) -> bool {
        epoch.attempt < self.next_attempt && !self.holds(epoch)
    }

    /// Whether it is allocated.
    #[must_use]
    pub fn holds(&self, epoch: Epoch) -> bool {
        self.allocations.iter().any(|allocation| allocation.epoch == epoch)
    }

    /// Whether all that `lease` reported is on record. One that only takes up again what its member
    /// held was allocated first, or made to end it.
    #[must_use]
    pub fn is_done_with(&self, lease: &Lease) -> bool {
        match lease.resumes {
            true => !self.holds(lease.epoch),
            false => self.is_over(lease.epoch),
        }
    }
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its member has not answered.
    #[default]
    Unanswered,
    /// Its member said no.
    Refused,
    /// Its member holds GPUs for it.
    Held,
    /// Nothing of it runs any more.
    Released,
}

/// Whether what a member says of a lease counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// It does.
    #[default]
    Open,
    /// Its hub was not heard for the length of a lease, and has not adopted it since.
    Closed,
}

/// Replicas that ended alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// `Succeeded`, `Failed`, `DeadlineExceeded`, or the cause of an eviction.
    pub reason: String,
    /// Exit code that decided.
    pub exit_code: Option<i32>,
    /// Container that decided.
    pub container: Option<String>,
    /// True conditions of the pod.
    pub conditions: Vec<String>,
    /// The replicas.
    pub indexes: Indexes,
    /// What the member says of it; may be empty.
    pub message: String,
    /// The newest save that the program told of.
    pub checkpoint: Option<Checkpoint>,
    /// Seconds of work that each of the replicas lost.
    pub lost_seconds: u64,
}

/// A lease as it is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Number of the attempt.
    pub epoch: Epoch,
    /// Where it stands.
    pub stage: Stage,
    /// Whether the hub has withdrawn it.
    pub withdrawn: bool,
    /// Whether what its member says counts.
    pub fence: Fence,
    /// Whether it only takes up again what its member holds: its number may be one that this record
    /// had forgotten.
    pub resumes: bool,
    /// Whether all its pods had started when its member was heard last: it makes no new ones.
    pub started: bool,
    /// When its first pod ran, in milliseconds since 1970.
    pub start: Option<i64>,
    /// When its last pod ended.
    pub end: Option<i64>,
    /// Why it ended.
    pub end_reason: String,
    /// What ended, grouped.
    pub ended: Vec<Ended>,
}
