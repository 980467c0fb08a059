//! One turn of the loop: what is known → what to write.
//!
//! Invariant: all decisions of a turn are made before anything is written, answers first and one
//! after the other, each on books that hold those before it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::idling::is_stale;
use super::picture::{self, Held};
use super::state::State;
use super::writes::Write;
use crate::api::{GpuPool, HubGrant};
use crate::planted::{Defect, planted};

/// A pool without guests.
static NO_MODELS: BTreeMap<String, i64> = BTreeMap::new();

/// Pictures of a pool are written at most this often.
const PUBLISHED: SignedDuration = SignedDuration::from_secs(1);
impl State {
    /// Everything to write now; nothing until all lists are complete.
    pub fn turn(&mut self, sandbox: bool, now: Timestamp) -> Vec<Write> {
        if !self.incomplete().is_empty() {
            return Vec::new();
        }
        if !self.restored {
            self.restore(now);
        }
        while let Some((at, uid)) = self.wakes.first().cloned().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, uid.clone()));
            self.dirty.insert(uid);
        }
        self.watch_windows(now);
        self.judging.due |= self.judging.again.is_some_and(|at| at <= now);
        if std::mem::take(&mut self.judging.due) {
            self.pass_judgement(now);
        }
        let mut writes = Vec::new();
        for uid in self.in_order() {
            let Some(lease) = self.leases.get(&uid).cloned() else { continue };
            if lease.status.as_ref().is_none_or(|status| status.phase.is_none()) {
                writes.extend(self.answer(&uid, &lease));
            } else {
                self.advance(&uid, &lease, (sandbox, now), &mut writes);
            }
        }
        writes.extend(self.publish(now));
        writes
    }

    /// When to take a turn though nothing happens.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        let lease = self.wakes.first().map(|(at, _)| *at);
        let boards = self.boards.values().filter(|board| self.changed && !board.busy);
        let board = boards.filter_map(|board| board.written?.checked_add(PUBLISHED).ok()).min();
        let window = self.windows.as_ref().and_then(|windows| windows.turn);
        lease.into_iter().chain(board).chain(window).chain(self.judging.again).min()
    }

    /// Leases to look at: proposals first, by the priority that the owner gives their hubs, oldest
    /// first.
    fn in_order(&mut self) -> Vec<String> {
        let priorities = self.priorities();
        let rank = |uid: &String| {
            let lease = self.leases.get(uid)?;
            let grant = (lease.spec.grant.clone(), lease.spec.hub_id.clone());
            let priority = priorities.get(&grant).copied().unwrap_or(0);
            let answered = lease.status.as_ref().is_some_and(|status| status.phase.is_some());
            let made = lease.metadata.creation_timestamp.as_ref().map(|time| time.0);
            Some((answered, Reverse(priority), made, lease.name_any()))
        };
        let mut order: Vec<_> =
            self.dirty.iter().filter_map(|uid| Some((rank(uid)?, uid.clone()))).collect();
        order.sort();
        self.dirty.clear();
        order.into_iter().map(|(_, uid)| uid).collect()
    }

    /// Priorities of the owner's grants, by name and hub ID.
    pub(super) fn priorities(&self) -> BTreeMap<(String, String), i32> {
        let grants = self.grants.values();
        let named = |grant: &HubGrant| (grant.name_any(), grant.spec.hub_id.clone());
        grants.map(|grant| (named(grant), grant.spec.priority)).collect()
    }

    fn publish(&mut self, now: Timestamp) -> Vec<Write> {
        let stale =
            |pool: &Arc<GpuPool>| pool.status.as_ref().is_some_and(|one| is_stale(one, now));
        if !self.changed && !self.pools.values().any(stale) {
            return Vec::new();
        }
        self.lent();
        let hindered = self.hindered.take().unwrap_or_else(|| self.count_hindered());
        let mut writes = Vec::new();
        let mut later = false;
        let pools: Vec<_> =
            self.pools.iter().map(|(uid, pool)| (uid.clone(), pool.clone())).collect();
        for (uid, pool) in pools {
            let name = pool.name_any();
            let lent = self.lent.as_ref().and_then(|lent| lent.get(&name));
            let Some(lent) = lent else { continue };
            let learnt = self.idling.learn(&uid, &pool, lent, now);
            let board = self.boards.entry(uid).or_default();
            let early = board.written.and_then(|last| last.checked_add(PUBLISHED).ok());
            if board.busy || early.is_some_and(|due| due > now) {
                later = true;
                continue;
            }
            let hubs = self.held.in_pool(&name);
            let metered = (hubs.values().sum(), now);
            let held = Held {
                hubs: &hubs,
                closed: self.windows.as_ref().and_then(|windows| windows.shut(&name)),
                vacating: self.reclaims.read(&name, pool.status.as_ref(), metered),
                hindered: hindered.get(&name).copied().unwrap_or_default(),
                reclaimed: self.reclaimed.get(&name).copied().unwrap_or(0),
                entered: self.entered.get(&name).copied().unwrap_or(0),
                models: self.models.get(&name).unwrap_or(&NO_MODELS),
                learnt: learnt.as_ref(),
            };
            let next = self.serial.saturating_add(1);
            let stale = planted(Defect::StalePictures) && pool.status.is_some();
            let status = picture::status(&pool, lent, held, next, now).filter(|_| !stale);
            if let Some(status) = status {
                self.serial = next;
                board.busy = true;
                board.written = Some(now);
                writes.push(Write::Picture(pool, Box::new(status)));
            }
        }
        self.hindered = Some(hindered);
        self.changed = later;
        writes
    }
}
