//! Whether this hub's store is older than what its members know, and what they hold that it forgot.
//!
//! Invariant: no lease is issued and nothing is adopted while a member knows of an incarnation, or of
//! an attempt in this one, that the store does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::members::JOINED;
use super::rounds::{Now, Pass};
use super::state::{State, member_in};
use crate::api::{GpuPool, MemberCluster, conditions, convert};
use crate::cluster::cache::{self, Change, Key};
use crate::engine::lifecycle::{Allocation, Record};
use crate::engine::model::JobId;

/// After its store was restored a hub asks first and places later: members beat every ten seconds, list
/// their leases again within ten more, and then say what they hold.
pub(super) const ASKS_FOR: Duration = Duration::from_mins(1);
/// A member may lie: nobody restores a hub so often between two of its pictures.
const BELIEVED: u32 = 16;

/// Why nothing is placed by a hub whose store may be older than what its members know.
const RESTORED: &str =
    "this hub's store is older than what its members know; it asks them first what they run";

/// What members know that this store may not.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Incarnation of this process.
    pub(super) incarnation: u32,
    /// The least that it must have before it issues another lease.
    least: u32,
    /// A higher one is being written.
    raising: bool,
    /// That failed: when to try again.
    pub(super) again: Option<Instant>,
    /// The store was restored before this process came.
    restored: bool,
    /// Until when members are asked first, after that.
    asks_until: Option<Instant>,
    /// Attempts without a lease, by the picture that names them.
    orphans: BTreeMap<Key, Vec<(JobId, Allocation)>>,
}

impl Memory {
    /// That of a process of this incarnation.
    pub(super) fn new(incarnation: u32) -> Self {
        Self { incarnation, ..Self::default() }
    }

    /// The store was restored.
    pub(super) fn doubt_all(&mut self, now: Instant) {
        self.restored = true;
        self.asks_until = Some(now + ASKS_FOR);
    }

    /// Whether nothing new may be issued now.
    #[must_use]
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.is_behind() || self.asks_until.is_some_and(|until| now < until)
    }

    /// Until when members are asked first, if that is still to come.
    #[must_use]
    pub(super) fn asks_until(&self, now: Instant) -> Option<Instant> {
        self.asks_until.filter(|until| now < *until)
    }

    fn is_behind(&self) -> bool {
        self.incarnation < self.least
    }

    /// The incarnation that is to be written now, if one is.
    pub(super) fn raise(&mut self, now: Instant) -> Option<u32> {
        let due = self.again.is_none_or(|at| at <= now);
        if !self.is_behind() || self.raising || !due {
            return None;
        }
        self.raising = true;
        Some(self.least)
    }

    /// A job's record names this incarnation.
    fn recall(&mut self, incarnation: u32) {
        self.least = self.least.max(incarnation);
    }

    /// A member names this incarnation.
    fn learn(&mut self, incarnation: u32) {
        if incarnation <= self.incarnation.saturating_add(BELIEVED) {
            self.recall(incarnation);
        }
    }
}

impl State {
    /// Takes in the incarnation that is stored now, or when to try again to raise it.
    pub(super) fn raised(&mut self, number: u32, again: Option<Instant>) {
        let memory = &mut self.memory;
        (memory.raising, memory.again) = (false, again);
        memory.incarnation = memory.incarnation.max(number);
        let works = !memory.is_behind();
        self.everything_if(works);
    }

    /// Takes in what a picture says of attempts without a lease; their jobs are to be looked at.
    pub(super) fn note_orphans(&mut self, change: &Change<GpuPool>) {
        let (key, pool) = match change {
            Change::Set(key) => (key.clone(), self.pools.get(key)),
            Change::Removed(pool) => (cache::key(pool), None),
        };
        let status = pool.and_then(|pool| pool.status.as_ref());
        let member = member_in(&key.0).unwrap_or_default();
        let said = status.map(|status| status.orphans.as_slice()).unwrap_or_default();
        let orphans: Vec<_> =
            said.iter().map(|one| convert::orphan(&member, &key.1, one)).collect();
        let incarnation = status.map_or(0, |status| status.incarnation);
        self.memory.learn(incarnation);
        let before = match orphans.is_empty() {
            true => self.memory.orphans.remove(&key),
            false => self.memory.orphans.insert(key, orphans.clone()),
        };
        let touched = before.into_iter().flatten().chain(orphans).map(|(id, _)| id);
        let touched: BTreeSet<JobId> = touched.filter(|id| self.keys.contains_key(id)).collect();
        self.dirty.extend(touched);
    }

    /// A member that has said nothing since the store was restored: it may run what the store forgot,
    /// and what must never run twice waits for it. Its operator can dismiss it.
    #[must_use]
    pub(super) fn unheard(&self) -> Option<String> {
        if !self.memory.restored {
            return None;
        }
        let joined = |member: &&MemberCluster| {
            let status = member.status.as_ref();
            let joined = status.is_some_and(|one| conditions::is_true(&one.conditions, JOINED));
            joined && member.metadata.deletion_timestamp.is_none()
        };
        let silent =
            |name: &String| self.silence.get(name).is_none_or(|silence| !silence.was_heard_anew());
        let members = self.members.iter().map(|(_, member)| member).filter(joined);
        members.map(ResourceExt::name_any).find(silent)
    }

    /// What members that answer hold of the job without a lease. Nothing, while this hub must not act
    /// on it: first its incarnation is above what they know.
    pub(super) fn orphans(&mut self, id: &JobId, record: &Record, now: Instant) -> Vec<Allocation> {
        let job = self.keys.get(id).and_then(|key| self.jobs.get(key));
        let written =
            job.and_then(|job| job.status.as_ref()).map_or(0, |status| status.incarnation);
        self.memory.recall(written);
        let all = self.memory.orphans.values().flatten().filter(|(of, _)| of == id);
        let said = all.map(|(_, orphan)| orphan);
        let said = said.filter(|orphan| !self.is_silent(&orphan.pool.member, now));
        let orphans: Vec<Allocation> = said.cloned().collect();
        for epoch in orphans.iter().map(|orphan| orphan.epoch) {
            let newer = epoch.attempt >= record.next_attempt;
            self.memory.learn(epoch.incarnation.saturating_add(u32::from(newer)));
        }
        if self.memory.is_behind() { Vec::new() } else { orphans }
    }
}

/// Why the job is not placed by a hub whose store may be older than what its members know.
pub(super) fn doubt(state: &State, pass: &Pass, now: Now) -> Option<String> {
    if pass.advance.wanted.is_empty() {
        return None;
    }
    if state.memory.waits(now.instant) {
        return Some(RESTORED.to_owned());
    }
    let member = state.unheard().filter(|_| pass.terms.never_twice)?;
    Some(format!(
        "it must never run twice, and {member} has not said what it runs since this hub's store was restored"
    ))
}
