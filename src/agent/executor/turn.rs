//! One turn of the loop: what is known → what to write.
//!
//! Invariant: all decisions of a turn are made before anything is written, answers first and one
//! after the other, each on books that hold those before it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::idling::is_stale;
use super::owner;
use super::picture::{self, Held};
use super::state::{State, is_over, open_pools};
use super::writes::Write;
use crate::api::gpulease::LeasePhase;
use crate::api::{GpuPool, GuestLease, HubGrant};

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
        if std::mem::take(&mut self.judge) {
            self.pass_judgement();
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
        lease.into_iter().chain(board).min()
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
    fn priorities(&self) -> BTreeMap<(String, String), i32> {
        let grants = self.grants.values();
        let named = |grant: &HubGrant| (grant.name_any(), grant.spec.hub_id.clone());
        grants.map(|grant| (named(grant), grant.spec.priority)).collect()
    }

    fn pass_judgement(&mut self) {
        if self.members.is_none() {
            self.lent();
        }
        let held = |lease: &&Arc<GuestLease>| lease.spec.confirmed && !is_over(lease);
        let leases = self.leases.iter().filter(|(_, lease)| held(lease));
        let priorities = self.priorities();
        let holdings: Vec<_> =
            leases.map(|(uid, lease)| self.holding(uid, lease, &priorities)).collect();
        let open = open_pools(&self.pools).into_iter();
        let pools = open.map(|(name, spec)| {
            let offer = &spec.offer;
            (name, owner::PoolPolicy { paused: offer.paused, max_gpus: offer.max_gpus })
        });
        let grants = self.grants.values().filter(|grant| grant.meta().deletion_timestamp.is_none());
        let policy = owner::Policy {
            pools: pools.collect(),
            grants: grants
                .map(|grant| ((grant.name_any(), grant.spec.hub_id.clone()), grant.spec.max_gpus))
                .collect(),
            members: self.members.clone().unwrap_or_default(),
            nodes: self.nodes.values().map(|node| node.name.clone()).collect(),
        };
        let mut verdicts = owner::verdicts(&holdings, &policy);
        for holding in holdings {
            let verdict = verdicts.remove(&holding.uid);
            let known = self.known.entry(holding.uid.clone()).or_default();
            if known.verdict != verdict {
                known.verdict = verdict;
                self.dirty.insert(holding.uid);
            }
        }
    }

    fn holding(
        &self,
        uid: &str,
        lease: &GuestLease,
        priorities: &BTreeMap<(String, String), i32>,
    ) -> owner::Holding {
        let grant = (lease.spec.grant.clone(), lease.spec.hub_id.clone());
        let known = self.known.get(uid);
        let phase = lease.status.as_ref().and_then(|status| status.phase);
        let made = lease.metadata.creation_timestamp.as_ref();
        let pods = known.into_iter().flat_map(|known| &known.pods);
        let nodes = pods.filter(|(_, (_, guest))| !guest.is_terminal());
        owner::Holding {
            uid: uid.into(),
            age: (made.map_or(0, |time| time.0.as_second()), lease.name_any()),
            pool: lease.spec.pool.clone(),
            priority: priorities.get(&grant).copied().unwrap_or(0),
            grant,
            gpus: known.and_then(|known| known.held.as_ref()).map_or(0, |held| held.gpus),
            leaving: phase == Some(LeasePhase::Releasing) || lease.spec.withdrawn.is_some(),
            nodes: nodes
                .filter_map(|(key, (_, guest))| {
                    Some((*key, guest.node.clone().or_else(|| guest.pinned.clone())?))
                })
                .collect(),
        }
    }

    fn publish(&mut self, now: Timestamp) -> Vec<Write> {
        let stale =
            |pool: &Arc<GpuPool>| pool.status.as_ref().is_some_and(|one| is_stale(one, now));
        if !self.changed && !self.pools.values().any(stale) {
            return Vec::new();
        }
        self.lent();
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
            let held = Held {
                hubs: &self.held.in_pool(&name),
                reclaimed: self.reclaimed.get(&name).copied().unwrap_or(0),
                entered: self.entered.get(&name).copied().unwrap_or(0),
                models: self.models.get(&name).unwrap_or(&NO_MODELS),
                learnt: learnt.as_ref(),
            };
            let next = self.serial.saturating_add(1);
            if let Some(status) = picture::status(&pool, lent, held, next, now) {
                self.serial = next;
                board.busy = true;
                board.written = Some(now);
                writes.push(Write::Picture(pool, Box::new(status)));
            }
        }
        self.changed = later;
        writes
    }
}
