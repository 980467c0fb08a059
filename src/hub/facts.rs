//! What the hub's loop is told, and what it remembers of jobs and promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease as Heartbeat;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use crate::api::{GpuJob, GpuLease, GpuPool, GpuQueue, JoinRequest, MemberCluster};
use crate::cluster::Seen;
use crate::cluster::cache::Key;
use crate::engine::model::{Demand, Epoch, Hold, JobId, PodNeed, PoolId, Request};

/// What a watch or a finished write tells the loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A job.
    Job(Seen<GpuJob>),
    /// A lease.
    Lease(Seen<GpuLease>),
    /// A pool's copy.
    Pool(Seen<GpuPool>),
    /// A member.
    Member(Seen<MemberCluster>),
    /// A member's heartbeat.
    Heartbeat(Seen<Heartbeat>),
    /// A queue.
    Queue(Seen<GpuQueue>),
    /// A namespace.
    Namespace(Seen<Namespace>),
    /// A priority class.
    Priority(Seen<PriorityClass>),
    /// A request to join.
    Join(Seen<JoinRequest>),
    /// What came of a write.
    Answer(Answer),
}

/// What came of a write of ours.
#[derive(Debug)]
pub(super) enum Answer {
    /// The job, as the server has it now.
    Job(Box<GpuJob>),
    /// The job is gone.
    JobGone(Key, JobId),
    /// The lease, as the server has it now.
    Lease(Box<GpuLease>),
    /// The lease is gone.
    LeaseGone(Key),
    /// All writes for a job are done; if some failed, it is looked at again after this time.
    JobDone(JobId, Option<Duration>),
    /// The member, as the server has it now.
    Member(Box<MemberCluster>),
    /// All writes for a member are done; as for jobs.
    MemberDone(String, Option<Duration>),
    /// Whether a member that was not among those listed exists.
    MemberExists(String, bool),
    /// It could not be found out: look again when it matters.
    MemberUnknown(String, Duration),
    /// The job of a lease, which was not among those listed; `None` if it is gone.
    JobFound(JobId, Option<Box<GpuJob>>),
    /// As for members.
    JobUnknown(JobId, Duration),
    /// The incarnation is this now, or it could not be raised: try again after this time.
    Raised(u32, Option<Duration>),
    /// The writes to leases of this job, which is gone, are done.
    Retired(JobId, Option<Duration>),
    /// The queue, as the server has it now.
    Queue(Box<GpuQueue>),
    /// Leases of a namespace were removed; or not, and it is tried again after this time.
    Removed(String, Vec<String>, Option<Duration>),
}

/// What a job asks, or all that is wrong with it.
pub(super) type Read = Result<Arc<Request>, Arc<Vec<String>>>;

/// What the loop remembers of a job between passes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Writes for it are under way.
    pub(super) busy: bool,
    /// When it was first looked at.
    pub(super) seen: Option<Instant>,
    /// When its status was last written.
    pub(super) written: Option<Instant>,
    /// When to look again.
    pub(super) due: Option<Instant>,
    /// Pools that refused it.
    pub(super) bars: BTreeMap<PoolId, Bar>,
    /// Queue that it waits in.
    pub(super) queue: String,
    /// GPUs that it holds, by model.
    pub(super) held: BTreeMap<String, u64>,
    /// Attempts that go so that a more important job can start.
    pub(super) preempted: BTreeSet<Epoch>,
    /// Room that others make for it, and until when that counts.
    pub(super) hold: Option<(Hold, Instant)>,
    /// What it wanted when it was last looked at.
    pub(super) demand: Option<Demand>,
    /// Whether some of it waits for GPUs or quota.
    pub(super) waits: bool,
    /// Whether it is over.
    pub(super) finished: bool,
    /// What it asks, by generation, so that a template is read once.
    pub(super) asked: Option<(i64, Read)>,
}

/// A pool that refused a job.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// The attempt that was refused last.
    pub(super) epoch: Epoch,
    /// Serial of the member's books at the refusal.
    pub(super) serial: i64,
    /// Refusals in a row.
    pub(super) times: u32,
    /// What it said.
    pub(super) said: String,
    /// Not asked again before.
    pub(super) until: Instant,
}

/// GPUs that are promised, and perhaps not in their pool's picture yet.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    /// Where.
    pub(super) pool: PoolId,
    /// On which model.
    pub(super) model: String,
    /// What each pod needs.
    pub(super) need: PodNeed,
    /// Pods of each replica.
    pub(super) size: u32,
    /// Replicas.
    pub(super) replicas: u32,
    /// Serial of the member's books that includes it.
    pub(super) serial: Option<i64>,
}
