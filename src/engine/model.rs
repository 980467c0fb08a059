//! The vocabulary of decisions, and its glossary.
//!
//! - **demand**: what one job wants placed now.
//! - **replica**: the unit of placement, `size` pods that start together in one pool or not at all.
//! - **gang**: a replica of more than one pod.
//! - **pool**: nodes of one member, offered under one policy.
//! - **shape**: nodes of a pool that are alike, with what is free on them.
//! - **lease**: the contract that lets one attempt of some replicas hold GPUs of a pool.
//! - **epoch**: the number of an attempt; among those that cover the same replica the higher wins.
//! - **round**: one serial pass that gives out capacity.
//! - **refusal**: why a pool cannot take a demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::guests::Guest;
use super::indexes::Indexes;
use super::preempt::Preemption;
use super::queues::Limit;
pub use super::queues::Queue;
use super::survival::Survival;

/// UID of a job on its hub: a new job of the same name is another job.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub String);

/// A pool of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// Name of the member on the hub.
    pub member: String,
    /// Name of the pool in the member.
    pub pool: String,
}

/// Number of an attempt, ordered by the hub's incarnation, then by attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Incarnation of the hub.
    pub incarnation: u32,
    /// Attempt within it.
    pub attempt: u32,
}

/// What one pod needs of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodNeed {
    /// Whole GPUs; 1 or more.
    pub gpus: u32,
    /// Thousandths of a core.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
}

/// Nodes with the same number of free GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Free {
    /// Free GPUs on each of them.
    pub gpus: u32,
    /// Number of nodes.
    pub nodes: u32,
    /// Least free CPU among them, in thousandths of a core.
    pub milli_cpu: u64,
    /// Least free memory among them, in bytes.
    pub memory: u64,
}

/// Nodes of a pool that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// GPU model, such as `A100`.
    pub model: String,
    /// Memory of one GPU in bytes; `None` = unknown, which satisfies no `min_memory`.
    pub gpu_memory: Option<u64>,
    /// GPUs of each of its nodes, free or not.
    pub gpus_per_node: u32,
    /// Nodes of the shape, free or not.
    pub nodes: u32,
    /// What is free on them.
    pub free: Vec<Free>,
}

/// One acceptable model, the first of a list preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelChoice {
    /// Model.
    pub model: String,
    /// Least memory of one GPU in bytes.
    pub min_memory: Option<u64>,
}

/// How one label must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabelRule {
    /// The value is one of these.
    In(String, BTreeSet<String>),
    /// The label is absent, or its value none of these.
    NotIn(String, BTreeSet<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    Absent(String),
}

impl LabelRule {
    /// Whether `labels` keep the rule.
    #[must_use]
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => {
                !labels.get(key).is_some_and(|value| values.contains(value))
            }
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
        }
    }
}

/// Tolerates taints of members.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Toleration {
    /// Key; `None` = every key (only with `value: None`).
    pub key: Option<String>,
    /// Value that must be equal; `None` = any (operator `Exists`).
    pub value: Option<String>,
    /// Effect that is tolerated; `None` = every effect.
    pub effect: Option<Effect>,
}

/// What a taint does to jobs that do not tolerate it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// They are not placed there.
    #[default]
    NoSchedule,
    /// They are not placed there, and what runs there goes.
    NoExecute,
}

/// A taint that keeps away jobs which do not tolerate it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// Everything about a request that decides which pools can take it. Equal requests get equal
/// verdicts, so a round decides each one once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Namespace of the job on the hub.
    pub namespace: String,
    /// Pods per replica.
    pub size: u32,
    /// What each pod needs.
    pub need: PodNeed,
    /// Acceptable models, most wanted first; empty = any.
    pub models: Vec<ModelChoice>,
    /// Only these members; empty = all.
    pub members: BTreeSet<String>,
    /// None of these members.
    pub excluded: BTreeSet<String>,
    /// Rules on the labels of pool and member together.
    pub labels: Vec<LabelRule>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// Jurisdictions where it may run; `None` = anywhere.
    pub residency: Option<BTreeSet<String>>,
    /// Images of all its containers.
    pub images: BTreeSet<String>,
    /// Seconds between notice and kill that it needs.
    pub grace_seconds: u64,
    /// Longest that it may run, in seconds; `None` = its user sets no limit.
    pub running_seconds: Option<u64>,
    /// Seconds between two saves of its work; 0 = it saves none.
    pub checkpoint_seconds: u64,
}

/// What one job wants placed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The job.
    pub job: JobId,
    /// Queue that it waits in.
    pub queue: String,
    /// Priority inside the queue; higher goes first.
    pub priority: i32,
    /// When it was first queued, in milliseconds since 1970; a requeued job keeps it.
    pub queued_at: i64,
    /// Replica indexes that want a lease, as many as may run now.
    pub wanted: Indexes,
    /// What each of them asks for.
    pub request: Arc<Request>,
    /// Pools that refused it lately: barred while the pool's serial is not above this one.
    pub barred: BTreeMap<PoolId, i64>,
    /// Pools whose owners took GPUs back from it lately: it goes there only if no other takes it.
    pub avoided: BTreeSet<PoolId>,
    /// Not before this time, in milliseconds since 1970.
    pub not_before: Option<i64>,
    /// Seconds that an attempt runs at most; `None` = as long as the pool lets it.
    pub longest_seconds: Option<u64>,
    /// Room that is made for it: it is first in the next rounds.
    pub hold: Option<Hold>,
}

/// Room that guests make for a demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Where.
    pub pool: PoolId,
    /// Leases that go or went for it: nobody else counts on what they give back.
    pub victims: BTreeSet<(JobId, Epoch)>,
    /// Of several, the lowest is first.
    pub turn: u64,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// When it was to start, as told first, in milliseconds since 1970: whoever passes ends before.
    pub at: Option<i64>,
}

impl Demand {
    /// Whether that pool refused it since its last picture.
    #[must_use]
    pub fn is_barred(&self, id: &PoolId, pool: &Pool) -> bool {
        self.barred.get(id).is_some_and(|serial| pool.serial <= *serial)
    }
}

/// A pool as a round sees it: what is free is free of everything promised already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Why it takes nothing at all now, if so.
    pub closed: Option<Closed>,
    /// Labels of pool and member together.
    pub labels: BTreeMap<String, String>,
    /// Taints of the member.
    pub taints: Vec<Taint>,
    /// Jurisdiction that the owner claims and the operator vouches for.
    pub jurisdiction: Option<String>,
    /// Namespaces that it takes; `None` = all.
    pub namespaces: Option<BTreeSet<String>>,
    /// Images that it takes, `*` at the end = any rest; `None` = any.
    pub images: Option<Vec<String>>,
    /// Whether it takes jobs of type Batch.
    pub takes_batch: bool,
    /// Seconds between notice and kill that it promises.
    pub notice_seconds: u64,
    /// Seconds that an attempt runs there at most; `None` = no limit.
    pub longest_seconds: Option<u64>,
    /// Serial of the member's books that `shapes` counts up to.
    pub serial: i64,
    /// GPUs that it lends when nothing is taken: those of its nodes, at most `maxGpus`.
    pub offered: u64,
    /// GPUs that guests may still take, by `maxGpus` and the reserve.
    pub lendable: u64,
    /// How long its idle GPUs stay idle.
    pub survival: Survival,
    /// What one GPU costs there for an hour, in millionths of the hub's currency: the same in every
    /// pool until owners name prices.
    pub ask: u64,
    /// What is free.
    pub shapes: Vec<Shape>,
}

/// Why a pool takes nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// Its owner paused it, or it is not ready.
    NotReady,
    /// Its member is silent.
    Silent,
    /// Its member is not accepted, cordoned, or leaving.
    Cordoned,
}

/// Everything that a round decides on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Milliseconds since 1970.
    pub now: i64,
    /// Pools, less what is promised but not yet in their picture.
    pub pools: BTreeMap<PoolId, Pool>,
    /// Queues.
    pub queues: BTreeMap<String, Queue>,
    /// Leases of a member that wait for its answer.
    pub unanswered: BTreeMap<String, u32>,
    /// What waits.
    pub demands: Vec<Demand>,
    /// What runs, by pool.
    pub guests: Arc<BTreeMap<PoolId, Vec<Guest>>>,
}

/// Some replicas of a job go to a pool: one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The pool.
    pub pool: PoolId,
    /// The one model that the attempt runs on.
    pub model: String,
    /// Replica indexes: at most 256, exactly one for a gang.
    pub indexes: Indexes,
}

/// Why a pool cannot take a request, most permanent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Not among the wanted members, or its labels do not match.
    NotInAffinity,
    /// Its taint is not tolerated.
    Tainted,
    /// Outside the wanted jurisdictions.
    OutsideResidency,
    /// Its owner does not lend to this namespace.
    NamespaceNotAllowed,
    /// Its owner does not allow an image.
    ImageNotAllowed,
    /// Its owner does not lend to this type of job.
    TypeNotAllowed,
    /// None of its GPUs is of a wanted model with enough memory.
    NoMatchingModel,
    /// It promises less notice than the job needs to stop.
    NoticeTooShort,
    /// Even empty, its nodes could not hold the replica.
    NeverFits,
    /// Its member is cordoned, leaving or not accepted.
    Cordoned,
    /// Its member is silent.
    Silent,
    /// Its owner paused it, or it is not ready.
    NotReady,
    /// It refused this job lately.
    Refused,
    /// Its member has too many leases to answer.
    TooManyUnanswered,
    /// GPUs are free, but beside them too little CPU or memory.
    TooLittleCpuOrMemory,
    /// Too few free GPUs per node now.
    TooFewFreeGpus,
    /// What is free there is kept for jobs that wait longer.
    KeptForOthers,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Its queue admits nothing new.
    QueueHeld,
    /// No such queue, or it does not take the namespace.
    QueueNotAllowed,
    /// Its queue's quota is in use.
    WaitingForQuota {
        /// What limits it.
        limit: Limit,
        /// GPUs that one more replica needs.
        need: u64,
    },
    /// One replica is larger than the queue's whole quota, with all that it may borrow.
    ExceedsMaxQuota {
        /// The model that the quota is for; `None` = all together.
        model: Option<String>,
        /// The quota, with all that may be borrowed.
        quota: u64,
        /// GPUs of one replica.
        need: u64,
    },
    /// It backs off.
    BackOff {
        /// Until this time, in milliseconds since 1970.
        until: i64,
    },
    /// Guests make room for it.
    Preempting {
        /// Where.
        pool: PoolId,
        /// Leases that this round told to go; 0 = those told before suffice.
        victims: u32,
    },
    /// No pool can take it now.
    NoPool {
        /// Number of pools by reason.
        refusals: BTreeMap<Refusal, u32>,
    },
}

/// What one round concluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Leases to create, in order.
    pub placements: Vec<Placement>,
    /// Leases to withdraw, in order.
    pub preemptions: Vec<Preemption>,
    /// Jobs that room is kept for, and where: they go first in the next rounds, else queues with less
    /// of their share would take that room again and again.
    pub kept: Vec<(JobId, Hold)>,
    /// Why each job that still wants something waits.
    pub waiting: BTreeMap<JobId, Waiting>,
    /// The next time at which time alone could change the plan, in milliseconds since 1970.
    pub wake_at: Option<i64>,
}
