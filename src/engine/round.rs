//! One round: everything that waits, everything that is free, and who gets what.
//!
//! Invariant: a round gives out only what is free, within each queue's quota, whole gangs only; who
//! wants more than it gets has a reason; the same facts in another order give the same plan; and a
//! round on the result of a round gives out nothing.
//!
//! Order: priority, then first queued, then id of the job, over all queues. Smaller demands pass one
//! that finds no room: nothing is held back for it yet, so a large gang can wait long.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::fit::{Replica, clamp};
use super::indexes::Indexes;
use super::model::{Demand, Placement, Plan, Refusal, Request, Snapshot, Waiting};
use super::placement::{Book, Choice, Known, Verdict};

/// Replicas that one lease carries at most: its object stays small and one refusal costs little.
pub const LEASED: u32 = 256;

/// An array is dealt in this many parts, so that it spreads over pools without a lease for each
/// of its replicas: leases cost writes.
const PARTS: u32 = 8;

/// Decides who gets what now, and why everybody else waits.
#[must_use]
pub fn round(snapshot: &Snapshot) -> Plan {
    watched(snapshot, &mut |_| {})
}

/// The same round; `decided` is told of every demand once that is decided on, so that somebody with a
/// clock can tell how long that took.
#[must_use]
pub fn watched(snapshot: &Snapshot, decided: &mut dyn FnMut(&Demand)) -> Plan {
    let mut round = Round::begin(snapshot);
    let mut plan = Plan::default();
    for demand in in_order(snapshot) {
        if let Some(why) = round.decide(demand, &mut plan.placements) {
            plan.waiting.insert(demand.job.clone(), why);
        }
        decided(demand);
    }
    let until = plan.waiting.values().filter_map(|why| match why {
        Waiting::BackOff { until } => Some(*until),
        _ => None,
    });
    plan.wake_at = until.min();
    plan
}

/// What waits, in the order in which it is decided on.
pub(super) fn in_order(snapshot: &Snapshot) -> Vec<&Demand> {
    let mut demands: Vec<&Demand> =
        snapshot.demands.iter().filter(|demand| !demand.wanted.is_empty()).collect();
    demands.sort_by_key(|demand| (Reverse(demand.priority), demand.queued_at, &demand.job));
    demands
}

/// What the round knows so far.
pub(super) struct Round<'a> {
    snapshot: &'a Snapshot,
    book: Book<'a>,
    used: BTreeMap<&'a str, u64>,
    known: Known<'a>,
}

/// Replicas of one demand that go to one pool on one model.
struct Lease<'a> {
    place: usize,
    replica: Replica<'a>,
    count: u32,
}

impl<'a> Round<'a> {
    /// A round in which nothing is decided yet.
    pub(super) fn begin(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            book: Book::open(snapshot),
            used: snapshot.queues.iter().map(|(name, queue)| (name.as_str(), queue.used)).collect(),
            known: Known::default(),
        }
    }

    /// What is left of everything by now.
    pub(super) fn book(&self) -> &Book<'a> {
        &self.book
    }

    /// Places what can be placed of the demand, and says why the rest waits, if there is one.
    pub(super) fn decide(
        &mut self,
        demand: &'a Demand,
        placements: &mut Vec<Placement>,
    ) -> Option<Waiting> {
        if let Some(why) = self.gate(demand) {
            return Some(why);
        }
        let (leases, refusals) = self.deal(demand, self.allowed(demand));
        let count: u32 = leases.iter().map(|lease| lease.count).sum();
        if let Some(used) = self.used.get_mut(demand.queue.as_str()) {
            *used = used.saturating_add(gpus(&demand.request).saturating_mul(u64::from(count)));
        }
        self.write(demand, &leases, placements);
        if let Some(refusals) = refusals {
            return Some(Waiting::NoPool { refusals });
        }
        // All that the quota allows is placed: what is left waits for the quota.
        (count < demand.wanted.len()).then(|| self.gate(demand)).flatten()
    }

    /// Why not even one replica may be placed now, pools apart.
    pub(super) fn gate(&self, demand: &Demand) -> Option<Waiting> {
        let Some(queue) = self.snapshot.queues.get(&demand.queue) else {
            return Some(Waiting::QueueNotAllowed);
        };
        if queue.held {
            return Some(Waiting::QueueHeld);
        }
        let (need, used) = (gpus(&demand.request), self.used(demand));
        if let Some(quota) = queue.quota.filter(|quota| need > *quota) {
            return Some(Waiting::ExceedsMaxQuota { quota, need });
        }
        // Before the quota: others may use that up meanwhile, and its reason would flap.
        if let Some(until) = demand.not_before.filter(|until| *until > self.snapshot.now) {
            return Some(Waiting::BackOff { until });
        }
        let quota = queue.quota.filter(|quota| need > quota.saturating_sub(used))?;
        Some(Waiting::WaitingForQuota { quota, used, need })
    }

    /// How many of the wanted replicas the quota allows.
    fn allowed(&self, demand: &Demand) -> u32 {
        let quota = self.snapshot.queues.get(&demand.queue).and_then(|queue| queue.quota);
        let left = quota.map(|quota| quota.saturating_sub(self.used(demand)));
        let allowed = left.and_then(|left| left.checked_div(gpus(&demand.request)));
        allowed.map_or(u32::MAX, clamp).min(demand.wanted.len())
    }

    /// GPUs that the demand's queue uses by now.
    fn used(&self, demand: &Demand) -> u64 {
        self.used.get(demand.queue.as_str()).copied().unwrap_or(0)
    }

    /// Deals `allowed` replicas to pools, part by part, each to the pool that is best by then.
    fn deal(
        &mut self,
        demand: &'a Demand,
        allowed: u32,
    ) -> (Vec<Lease<'a>>, Option<BTreeMap<Refusal, u32>>) {
        let request = &*demand.request;
        let mut leases = Vec::new();
        let part = if request.size > 1 { 1 } else { allowed.div_ceil(PARTS).min(LEASED) };
        let book = &mut self.book;
        let mut left = allowed;
        while left > 0 {
            let refusals = match self.known.place(demand, book) {
                Verdict::Chosen(choice) => {
                    left -= join(&mut leases, book, choice, (part, left));
                    continue;
                }
                Verdict::Refused(refusals) => refusals,
            };
            return (leases, Some(refusals));
        }
        (leases, None)
    }

    /// Writes the leases down, the lowest indexes into the first of them.
    fn write(&self, demand: &Demand, leases: &[Lease], placements: &mut Vec<Placement>) {
        let mut wanted = demand.wanted.iter();
        for lease in leases {
            let indexes: Indexes = wanted.by_ref().take(lease.count as usize).collect();
            placements.push(Placement {
                job: demand.job.clone(),
                pool: self.book.pool(lease.place).id.clone(),
                model: lease.replica.model.to_owned(),
                indexes,
            });
        }
    }
}

/// Takes the next part of `(part, left)` replicas where the choice says, in a lease of this demand
/// that has room or in a new one, and returns how many replicas that are.
///
/// A member's last lease takes all that fits: there will be no other one for the rest.
fn join<'a>(
    leases: &mut Vec<Lease<'a>>,
    book: &mut Book<'a>,
    choice: Choice<'a>,
    (part, left): (u32, u32),
) -> u32 {
    let Choice { place, replica, room } = choice;
    let joins = |lease: &&mut Lease| {
        replica.size == 1
            && lease.place == place
            && lease.replica == replica
            && lease.count < LEASED
    };
    let count = if let Some(lease) = leases.iter_mut().rev().find(joins) {
        let count = part.min(left).min(room).min(LEASED - lease.count);
        lease.count += count;
        count
    } else {
        let most = if replica.size > 1 { 1 } else { LEASED };
        let part = if book.answers(place) == 1 { left } else { part };
        let count = part.min(left).min(room).min(most);
        leases.push(Lease { place, replica, count });
        book.send(place);
        count
    };
    book.take(place, &replica, count);
    count
}

/// GPUs of one replica.
fn gpus(request: &Request) -> u64 {
    u64::from(request.size) * u64::from(request.need.gpus)
}

#[cfg(test)]
pub(super) mod tests;
