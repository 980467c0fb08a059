//! All that the hub knows, in plain maps owned by one loop.
//!
//! Invariant: nothing here is the only copy of anything but back-offs and bars, which a restart
//! may forget.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease as Heartbeat;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::ResourceExt;

use crate::api::convert::Asked;
use crate::api::{GpuJob, GpuLease, GpuPool, GpuQueue, JoinRequest, LABEL_JOB_UID, MemberCluster};
use crate::cluster::Seen;
use crate::cluster::cache::{Cache, Change, Key};
use crate::engine::model::{Epoch, JobId, PodNeed, PoolId, Refusal};

use super::heartbeats::Silence;

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
    MemberUnknown(String),
    /// The job of a lease, which was not among those listed; `None` if it is gone.
    JobFound(JobId, Option<Box<GpuJob>>),
    /// As for members.
    JobUnknown(JobId),
    /// The writes to leases of this job, which is gone, are done.
    Retired(JobId),
    /// The queue, as the server has it now.
    Queue(Box<GpuQueue>),
    /// Leases of a namespace were removed, or not.
    Removed(String, Vec<String>, bool),
}

/// What a job asks, or all that is wrong with it.
pub(super) type Read = Arc<Result<Asked, Vec<String>>>;

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
    /// Refusals in the last message.
    pub(super) refusals: BTreeSet<Refusal>,
    /// Queue that it waits in.
    pub(super) queue: String,
    /// GPUs that it holds.
    pub(super) held_gpus: u64,
    /// Whether some of it waits for GPUs or quota.
    pub(super) waits: bool,
    /// Whether it is over.
    pub(super) finished: bool,
    /// What it asks, by generation, so that a template is read once.
    pub(super) asked: Option<(i64, Read)>,
}

/// A pool that refused a job, or did not answer it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    /// The attempt that was refused last.
    pub(super) epoch: Epoch,
    /// Serial of the member's books at the refusal.
    pub(super) serial: i64,
    /// Refusals in a row.
    pub(super) times: u32,
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

/// All that the hub knows.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Jobs.
    pub(super) jobs: Cache<GpuJob>,
    /// Leases of all members.
    pub(super) leases: Cache<GpuLease>,
    /// Copies of the owners' pools.
    pub(super) pools: Cache<GpuPool>,
    /// Members.
    pub(super) members: Cache<MemberCluster>,
    /// Their heartbeats.
    pub(super) heartbeats: Cache<Heartbeat>,
    /// Queues.
    pub(super) queues: Cache<GpuQueue>,
    /// Namespaces, for the queues.
    pub(super) namespaces: Cache<Namespace>,
    /// Priority classes.
    pub(super) priorities: Cache<PriorityClass>,
    /// Requests to join.
    pub(super) joins: Cache<JoinRequest>,
    /// Key of each job.
    pub(super) keys: BTreeMap<JobId, Key>,
    /// Keys of each job's leases.
    pub(super) leases_of: BTreeMap<JobId, BTreeMap<Epoch, Key>>,
    /// What is remembered of jobs.
    pub(super) notes: BTreeMap<JobId, Notes>,
    /// What is promised.
    pub(super) promises: BTreeMap<(JobId, Epoch), Promise>,
    /// How long each member has been silent.
    pub(super) silence: BTreeMap<String, Silence>,
    /// Members that are looked up, or known to be gone (`true`).
    pub(super) missing: BTreeMap<String, bool>,
    /// Jobs of leases that are looked up, or known to be gone (`true`).
    pub(super) absent: BTreeMap<JobId, bool>,
    /// Members with writes under way.
    pub(super) busy_members: BTreeSet<String>,
    /// When to look at members again whose writes failed.
    pub(super) due_members: BTreeMap<String, Instant>,
    /// Jobs, and job UIDs of leases, to be looked at.
    pub(super) dirty: BTreeSet<JobId>,
    /// Members to be looked at.
    pub(super) dirty_members: BTreeSet<String>,
    /// Leases that are being removed.
    pub(super) removing: BTreeSet<Key>,
    /// Jobs that are gone, with writes to their leases under way.
    pub(super) retiring: BTreeSet<JobId>,
    /// Whether capacity may have grown since the last round.
    pub(super) capacity_changed: bool,
}

impl State {
    /// Whether everything was listed once.
    #[must_use]
    pub(super) fn closed_gates(&self) -> Vec<&'static str> {
        let gates = [
            ("jobs", self.jobs.is_complete()),
            ("leases", self.leases.is_complete()),
            ("pools", self.pools.is_complete()),
            ("members", self.members.is_complete()),
            ("heartbeats", self.heartbeats.is_complete()),
            ("queues", self.queues.is_complete()),
            ("namespaces", self.namespaces.is_complete()),
            ("priorities", self.priorities.is_complete()),
            ("joins", self.joins.is_complete()),
        ];
        gates.into_iter().filter(|(_, open)| !open).map(|(name, _)| name).collect()
    }

    /// Takes in an event, and marks what must be looked at again.
    pub(super) fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Job(seen) => {
                let changes = self.jobs.apply(seen);
                for change in changes {
                    self.job_changed(change);
                }
            }
            Event::Lease(seen) => {
                let changes = self.leases.apply(seen);
                for change in changes {
                    self.lease_changed(change);
                }
            }
            Event::Pool(seen) => {
                self.capacity_changed = true;
                for change in self.pools.apply(seen) {
                    let namespace = match change {
                        Change::Set(key) => key.0,
                        Change::Removed(pool) => pool.namespace().unwrap_or_default(),
                    };
                    self.member_of_namespace_changed(&namespace);
                }
            }
            Event::Member(seen) => {
                let changes = self.members.apply(seen);
                for change in changes {
                    self.member_changed(change);
                }
            }
            Event::Heartbeat(seen) => self.heartbeat(seen, now),
            Event::Queue(seen) => {
                let changed = !self.queues.apply(seen).is_empty();
                self.everything_if(changed);
            }
            Event::Namespace(seen) => {
                let changed = !self.namespaces.apply(seen).is_empty();
                self.everything_if(changed);
            }
            Event::Priority(seen) => {
                let changed = !self.priorities.apply(seen).is_empty();
                self.everything_if(changed);
            }
            Event::Join(seen) => {
                for change in self.joins.apply(seen) {
                    let Change::Set((namespace, _)) = change else { continue };
                    self.member_of_namespace_changed(&namespace);
                }
            }
            Event::Answer(answer) => self.answer(answer, now),
        }
    }

    fn answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Job(job) => {
                let changed = self.jobs.refresh(*job).map(Change::Set);
                if let Some(change) = changed {
                    self.job_changed(change);
                }
            }
            Answer::Lease(lease) => {
                let changed = self.leases.insert(*lease).map(Change::Set);
                if let Some(change) = changed {
                    self.lease_changed(change);
                }
            }
            Answer::Member(member) => {
                let changed = self.members.refresh(*member).map(Change::Set);
                if let Some(change) = changed {
                    self.member_changed(change);
                }
            }
            Answer::Queue(queue) => drop(self.queues.refresh(*queue)),
            Answer::JobGone(key, id) => self.job_gone(&key, &id),
            Answer::LeaseGone(key) => self.lease_gone(&key),
            Answer::JobDone(id, again) => self.job_done(id, again, now),
            Answer::MemberDone(name, again) => {
                self.busy_members.remove(&name);
                match again {
                    None => drop(self.dirty_members.insert(name)),
                    Some(delay) => drop(self.due_members.insert(name, now + delay)),
                }
            }
            Answer::MemberExists(name, exists) => {
                if exists {
                    self.missing.remove(&name);
                } else {
                    self.missing.insert(name, true);
                    self.everything_if(true);
                }
            }
            Answer::JobFound(id, job) => self.job_found(id, job.map(|job| *job)),
            Answer::JobUnknown(id) => {
                self.absent.remove(&id);
                self.dirty.insert(id);
            }
            Answer::MemberUnknown(name) => {
                self.missing.remove(&name);
                self.everything_if(true);
            }
            Answer::Retired(id) => {
                self.retiring.remove(&id);
                self.dirty.insert(id);
            }
            Answer::Removed(namespace, names, done) => self.removed(&namespace, names, done),
        }
    }

    fn job_gone(&mut self, key: &Key, id: &JobId) {
        let held = self.jobs.get(key).filter(|job| job.uid().as_deref() == Some(&id.0));
        if let Some(job) = held.cloned().and_then(|job| self.jobs.remove(&job)) {
            self.job_changed(Change::Removed(job));
        }
    }

    fn job_found(&mut self, id: JobId, job: Option<GpuJob>) {
        match job {
            Some(job) => {
                self.absent.remove(&id);
                if let Some(key) = self.jobs.insert(job) {
                    self.job_changed(Change::Set(key));
                }
            }
            None => drop(self.absent.insert(id.clone(), true)),
        }
        self.dirty.insert(id);
    }

    fn lease_gone(&mut self, key: &Key) {
        let held = self.leases.get(key).cloned();
        if let Some(lease) = held.and_then(|lease| self.leases.remove(&lease)) {
            self.lease_changed(Change::Removed(lease));
        }
    }

    fn job_done(&mut self, id: JobId, again: Option<Duration>, now: Instant) {
        if let Some(notes) = self.notes.get_mut(&id) {
            notes.busy = false;
            notes.due = again.map(|delay| now + delay);
        }
        if again.is_none() {
            self.dirty.insert(id);
        }
    }

    fn removed(&mut self, namespace: &str, names: Vec<String>, done: bool) {
        for name in names {
            let key = (namespace.to_owned(), name);
            self.removing.remove(&key);
            match done {
                true => self.lease_gone(&key),
                false => self.dirty.extend(self.leases.get(&key).map(job_of)),
            }
        }
    }

    fn job_changed(&mut self, change: Change<GpuJob>) {
        match change {
            Change::Set(key) => {
                let id = self.jobs.get(&key).and_then(ResourceExt::uid).map(JobId);
                if let Some(id) = id {
                    self.absent.remove(&id);
                    self.keys.insert(id.clone(), key);
                    self.dirty.insert(id);
                }
            }
            Change::Removed(job) => {
                let id = JobId(job.uid().unwrap_or_default());
                self.keys.remove(&id);
                self.notes.remove(&id);
                if self.leases_of.contains_key(&id) {
                    self.absent.insert(id.clone(), true);
                }
                self.dirty.insert(id);
            }
        }
    }

    fn lease_changed(&mut self, change: Change<GpuLease>) {
        let (lease, key) = match &change {
            Change::Set(key) => (self.leases.get(key), Some(key.clone())),
            Change::Removed(lease) => (Some(lease), None),
        };
        let Some(lease) = lease else { return };
        let (id, epoch) = (job_of(lease), Epoch::from(lease.spec.epoch));
        let serial = lease.status.as_ref().and_then(|status| status.serial);
        if let Some(promise) = self.promises.get_mut(&(id.clone(), epoch)) {
            promise.serial = serial.or(promise.serial);
        }
        let leases = self.leases_of.entry(id.clone()).or_default();
        match key {
            Some(key) => drop(leases.insert(epoch, key)),
            None => drop(leases.remove(&epoch)),
        }
        if leases.is_empty() {
            self.leases_of.remove(&id);
            self.absent.remove(&id);
        }
        self.dirty.insert(id);
    }

    fn member_changed(&mut self, change: Change<MemberCluster>) {
        let name = match change {
            Change::Set((_, name)) => {
                self.missing.remove(&name);
                name
            }
            Change::Removed(member) => member.name_any(),
        };
        self.dirty_members.insert(name);
        self.everything_if(true);
    }

    fn heartbeat(&mut self, seen: Seen<Heartbeat>, now: Instant) {
        for change in self.heartbeats.apply(seen) {
            let Change::Set(key) = change else { continue };
            let Some(beat) = self.heartbeats.get(&key) else { continue };
            let Some(name) = beat.labels().get(crate::api::LABEL_MEMBER).cloned() else { continue };
            let persisted = self
                .members
                .get(&(String::new(), name.clone()))
                .and_then(|member| member.status.as_ref().and_then(|status| status.silent_seconds));
            let renewed = beat.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            let was_silent = self.silence.get(&name).is_none_or(|silence| silence.is_silent(now));
            let silence = self.silence.entry(name.clone()).or_default();
            if silence.heard(renewed.map(|time| time.0), persisted, now) && was_silent {
                self.dirty_members.insert(name);
                self.everything_if(true);
            }
        }
    }

    /// Counts on from what a former leader counted: once, when work begins.
    pub(super) fn recall_silence(&mut self) {
        for (name, silence) in &mut self.silence {
            let member = self.members.get(&(String::new(), name.clone()));
            silence.recall(member.and_then(|member| member.status.as_ref()?.silent_seconds));
        }
    }

    fn member_of_namespace_changed(&mut self, namespace: &str) {
        self.dirty_members.extend(member_in(namespace));
    }

    /// Marks every job, where something changed that any of them may depend on.
    pub(super) fn everything_if(&mut self, changed: bool) {
        if changed {
            self.capacity_changed = true;
            self.dirty.extend(self.keys.keys().cloned());
        }
    }
}

/// UID of the job that `lease` serves.
#[must_use]
pub(super) fn job_of(lease: &GpuLease) -> JobId {
    let label = lease.labels().get(LABEL_JOB_UID);
    JobId(label.unwrap_or(&lease.spec.job.uid).clone())
}

/// Namespace of a member on this hub.
#[must_use]
pub(super) fn namespace_of(member: &str) -> String {
    format!("{}{member}", crate::api::MEMBER_NAMESPACE_PREFIX)
}

/// The member whose namespace this would be: the inverse of [`namespace_of`], for look-ups only.
#[must_use]
pub(super) fn member_in(namespace: &str) -> Option<String> {
    namespace.strip_prefix(crate::api::MEMBER_NAMESPACE_PREFIX).map(str::to_owned)
}
