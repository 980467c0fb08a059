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

use crate::api::{
    GpuJob, GpuLease, GpuPool, GpuQueue, HEARTBEAT_LEASE, JOIN_REQUEST, JoinRequest, LABEL_JOB_UID,
    MemberCluster,
};
use crate::cluster::Seen;
use crate::cluster::cache::{self, Cache, Change, Key};
use crate::engine::guests::Guest;
use crate::engine::model::{Epoch, JobId, PoolId};
use crate::engine::placement;

use super::facts::{Answer, Event, Notes, Promise};
use super::guests;
use super::heartbeats::Silence;
use super::joins::is_enrolled;
use super::memory::Memory;
use super::observed::Unobserved;
use super::shares::Past;
use super::tally::{Before, Tally};

/// Jobs that wait for members to answer others are looked at after so many answers: half of what one
/// may owe, so that it always has something to do, and a burst is not looked at for each answer.
const ANSWERS: u32 = placement::UNANSWERED / 2;

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
    /// Leases that were seen to run.
    pub(super) ran: BTreeSet<Key>,
    /// How many members are silent, and of how many, while this hub rather suspects itself.
    pub(super) suspected: Option<(usize, usize)>,
    /// How long each member has been silent.
    pub(super) silence: BTreeMap<String, Silence>,
    /// When any member was last heard.
    pub(super) heard: Option<Instant>,
    /// Specs of leases that their members have not observed.
    pub(super) unobserved: Unobserved,
    /// Whether the store is older than what members know.
    pub(super) memory: Memory,
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
    /// Jobs, gone ones included, to be looked at again after a failure.
    pub(super) later: BTreeMap<JobId, Instant>,
    /// Jobs that are gone, with writes to their leases under way.
    pub(super) retiring: BTreeSet<JobId>,
    /// What runs, by pool.
    pub(super) guests: Arc<BTreeMap<PoolId, Vec<Guest>>>,
    /// What queues used lately.
    pub(super) past: BTreeMap<String, Past>,
    /// When that was last brought up to date.
    pub(super) past_at: Option<Instant>,
    /// Holds so far: an earlier one goes before a later one.
    pub(super) turns: u64,
    /// When time alone changes what a round decides.
    pub(super) round_at: Option<Instant>,
    /// Whether capacity may have grown since the last round.
    pub(super) capacity_changed: bool,
    /// Whether jobs wait for members that have enough to answer.
    pub(super) crowded: bool,
    /// Answers that came since those jobs were looked at.
    pub(super) answers: u32,
    /// What happened since it was last counted.
    pub(super) tally: Tally,
}

impl State {
    /// What has not been listed yet.
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
                let before = match &seen {
                    Seen::Object(job) => self.before(job),
                    _ => None,
                };
                let changes = self.jobs.apply(seen);
                for change in changes {
                    self.count(before.as_ref(), &change);
                    self.job_changed(change);
                }
            }
            Event::Lease(seen) => {
                let changes = self.leases.apply(seen);
                for change in changes {
                    self.lease_changed(change, now);
                }
            }
            Event::Pool(seen) => {
                for change in self.pools.apply(seen) {
                    self.capacity_changed = true;
                    self.note_orphans(&change);
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
                let before = self.before(&job);
                let changed = self.jobs.refresh(*job).map(Change::Set);
                if let Some(change) = changed {
                    self.count(before.as_ref(), &change);
                    self.job_changed(change);
                }
            }
            Answer::Lease(lease) => {
                let changed = self.leases.insert(*lease).map(Change::Set);
                if let Some(change) = changed {
                    self.lease_changed(change, now);
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
            Answer::LeaseGone(key) => self.lease_gone(&key, now),
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
            Answer::JobUnknown(id, again) => {
                self.absent.remove(&id);
                self.look(id, Some(again), now);
            }
            // Whoever asked looks again, and then it is looked up again.
            Answer::MemberUnknown(name, again) => {
                self.missing.remove(&name);
                self.later.extend(self.keys.keys().map(|id| (id.clone(), now + again)));
            }
            Answer::Raised(number, again) => self.raised(number, again.map(|delay| now + delay)),
            Answer::Retired(id, again) => {
                self.retiring.remove(&id);
                self.look(id, again, now);
            }
            Answer::Removed(namespace, names, again) => {
                self.removed(&namespace, names, (again, now));
            }
        }
    }

    fn before(&self, job: &GpuJob) -> Option<Before> {
        self.jobs.get(&cache::key(job)).map(Before::of)
    }

    fn count(&mut self, before: Option<&Before>, change: &Change<GpuJob>) {
        let Change::Set(key) = change else { return };
        if let Some(job) = self.jobs.get(key) {
            self.tally.changed(before, job);
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

    fn lease_gone(&mut self, key: &Key, now: Instant) {
        let held = self.leases.get(key).cloned();
        if let Some(lease) = held.and_then(|lease| self.leases.remove(&lease)) {
            self.lease_changed(Change::Removed(lease), now);
        }
    }

    fn job_done(&mut self, id: JobId, again: Option<Duration>, now: Instant) {
        if let Some(notes) = self.notes.get_mut(&id) {
            notes.busy = false;
            notes.due = again.map(|delay| now + delay);
            if again.is_some() {
                // Perhaps its status was not written: the next one need not wait.
                notes.written = None;
            }
        }
        if again.is_none() {
            self.dirty.insert(id);
        }
    }

    fn removed(
        &mut self,
        namespace: &str,
        names: Vec<String>,
        (again, now): (Option<Duration>, Instant),
    ) {
        for name in names {
            let key = (namespace.to_owned(), name);
            self.removing.remove(&key);
            match (again, self.leases.get(&key).map(job_of)) {
                (Some(_), Some(id)) => self.look(id, again, now),
                (Some(_), None) => {}
                (None, _) => self.lease_gone(&key, now),
            }
        }
    }

    /// Looks at a job now, or after some time.
    fn look(&mut self, id: JobId, again: Option<Duration>, now: Instant) {
        match again {
            None => drop(self.dirty.insert(id)),
            Some(delay) => drop(self.later.insert(id, now + delay)),
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
                guests::refresh_job(self, &id);
                if self.leases_of.contains_key(&id) {
                    self.absent.insert(id.clone(), true);
                }
                self.dirty.insert(id);
            }
        }
    }

    fn lease_changed(&mut self, change: Change<GpuLease>, now: Instant) {
        let (lease, key) = match &change {
            Change::Set(key) => (self.leases.get(key), Some(key.clone())),
            Change::Removed(lease) => (Some(lease), None),
        };
        let Some(lease) = lease else { return };
        let observed = match key.is_some() {
            true => self.unobserved.see(lease, now),
            false => self.unobserved.forget(&cache::key(lease), now),
        };
        let speaks_again = member_in(&lease.namespace().unwrap_or_default()).filter(|_| observed);
        let (id, epoch) = (job_of(lease), Epoch::from(lease.spec.epoch));
        let serial = lease.status.as_ref().and_then(|status| status.serial);
        if let Some(promise) = self.promises.get_mut(&(id.clone(), epoch)) {
            let answered = promise.serial.is_none() && serial.is_some();
            promise.serial = serial.or(promise.serial);
            self.answers += u32::from(answered && self.crowded);
            if self.answers >= ANSWERS {
                self.capacity_changed = true;
            }
        }
        let leases = self.leases_of.entry(id.clone()).or_default();
        match &key {
            Some(key) => drop(leases.insert(epoch, key.clone())),
            None => drop(leases.remove(&epoch)),
        }
        if leases.is_empty() {
            self.leases_of.remove(&id);
            self.absent.remove(&id);
        }
        self.dirty.insert(id);
        self.note_running(&change, now);
        match &change {
            // Its job is looked at next, and the guest with it.
            Change::Set(_) => {}
            Change::Removed(lease) => guests::forget(self, lease),
        }
        if let Some(member) = speaks_again {
            self.dirty_members.insert(member);
            self.everything_if(true);
        }
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
            // Its namespace says whose it is; labels are the member's to write.
            let Some(name) = member_in(&key.0).filter(|_| key.1 == HEARTBEAT_LEASE) else {
                continue;
            };
            let persisted = self
                .members
                .get(&(String::new(), name.clone()))
                .and_then(|member| member.status.as_ref().and_then(|status| status.silent_seconds));
            let renewed = beat.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            let was_silent = self.is_silent(&name, now);
            let silence = self.silence.entry(name.clone()).or_default();
            if !silence.heard(renewed.map(|time| time.0), persisted, now) {
                continue;
            }
            self.leave_out_deafness(now);
            self.heard = Some(now);
            self.everything_if(was_silent);
            // Each beat may be the first by a new request's rights.
            let request = self.joins.get(&(key.0, JOIN_REQUEST.to_owned()));
            if was_silent || request.is_some_and(|request| !is_enrolled(request)) {
                self.dirty_members.insert(name);
            }
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
