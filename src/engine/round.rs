//! One round: everything that waits, everything that is free, and who gets what.
//!
//! Invariant: a round gives out only what is free, within each queue's quota, whole gangs only; who
//! wants more than it gets has a reason; the same facts in another order give the same plan; and a
//! round on the result of a round gives out nothing.
//!
//! Order: jobs that others made room for, then turn by turn the queue with the least weighted share
//! ([`super::queues`]), inside a queue priority, then first queued, then id of the job. An array
//! gets a part of its replicas in each turn. Smaller demands pass one that finds no room, unless it
//! has waited long: then room is kept for it ([`super::reserve`]). A demand of higher priority may
//! take the place of guests ([`super::preempt`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::fit::{Replica, clamp};
use super::indexes::Indexes;
use super::model::{
    Demand, Epoch, Hold, JobId, Placement, Plan, Refusal, Request, Snapshot, Waiting,
};
use super::placement::{Book, Choice, Known, Verdict};
use super::preempt::{Preemption, Rights, way};
use super::queues::{Accounts, offered};
use super::reserve::{KEPT, PATIENCE, Reservations};

mod gate;
mod lines;

pub(super) use gate::Variants;
use lines::Lines;

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
pub fn watched(snapshot: &Snapshot, decided: &mut dyn FnMut(&JobId)) -> Plan {
    let variants = Variants::of(snapshot);
    let mut round = Round::begin(snapshot, &variants);
    while let Some((job, done)) = round.turn() {
        if done {
            decided(job);
        }
    }
    round.finish()
}

/// What the round knows so far.
pub(super) struct Round<'a> {
    snapshot: &'a Snapshot,
    variants: &'a Variants<'a>,
    book: Book<'a>,
    accounts: Accounts<'a>,
    reservations: Reservations<'a>,
    lines: Lines<'a>,
    known: Known<'a>,
    /// Leases that go for some job, since before or by this round.
    going: BTreeSet<(JobId, Epoch)>,
    /// Requests that no guests can make room for, by queue and priority.
    hopeless: BTreeSet<(&'a str, i32, &'a Request)>,
    /// What was said of requests while something was kept.
    told: BTreeMap<&'a Request, BTreeMap<Refusal, u32>>,
    /// Jobs that room is kept for because they wait long.
    patient: usize,
    /// The lowest priority among guests that may be preempted, once somebody asked; the highest
    /// number if there are none.
    lowest: Option<i32>,
    plan: Plan,
    /// What was taken, turn by turn: leases gather the parts of several turns.
    #[cfg(test)]
    taken: Vec<(JobId, usize, String, u32)>,
}

/// A demand whose turn it is or was, and what it got.
pub(super) struct Progress<'a> {
    demand: &'a Demand,
    leases: Vec<Lease<'a>>,
    /// Replicas that it gets in each turn.
    part: u32,
    given: u32,
}

impl<'a> Progress<'a> {
    fn of(demand: &'a Demand) -> Self {
        Self { demand, leases: Vec::new(), part: 0, given: 0 }
    }

    fn left(&self) -> u32 {
        self.demand.wanted.len().saturating_sub(self.given)
    }
}

/// Replicas of one demand that go to one pool on one model.
struct Lease<'a> {
    place: usize,
    replica: Replica<'a>,
    count: u32,
}

impl<'a> Round<'a> {
    /// A round in which nothing is decided yet.
    pub(super) fn begin(snapshot: &'a Snapshot, variants: &'a Variants<'a>) -> Self {
        let accounts = Accounts::open(&snapshot.queues, offered(&snapshot.pools));
        let held = snapshot.demands.iter().filter_map(|demand| demand.hold.as_ref());
        let mut plan = Plan::default();
        let lines = Lines::of(snapshot, &accounts, &mut plan.waiting);
        Self {
            snapshot,
            variants,
            book: Book::open(snapshot),
            accounts,
            reservations: Reservations::none(&snapshot.guests, snapshot.now),
            lines,
            known: Known::default(),
            going: held.flat_map(|hold| hold.victims.iter().cloned()).collect(),
            hopeless: BTreeSet::new(),
            told: BTreeMap::new(),
            patient: 0,
            lowest: None,
            plan,
            #[cfg(test)]
            taken: Vec::new(),
        }
    }

    /// The demand that is decided on next.
    pub(super) fn next(&self) -> Option<&'a Demand> {
        self.lines.next()
    }

    /// Gives the demand whose turn it is its part, or says why it waits; `None` once all is decided.
    /// The demand is `true` if it is done with.
    pub(super) fn turn(&mut self) -> Option<(&'a JobId, bool)> {
        let mut progress = self.lines.take()?;
        let demand = progress.demand;
        let outcome = self.part(&mut progress);
        let done = !matches!(outcome, Ok(())) || progress.left() == 0;
        if done {
            self.write(&progress);
        }
        if let Err(why) = outcome {
            let why = self.make_room(demand, why);
            self.plan.waiting.insert(demand.job.clone(), why);
        }
        let share = self.accounts.share(&demand.queue);
        self.lines.put_back(progress, done, share);
        Some((&demand.job, done))
    }

    /// What was concluded.
    pub(super) fn finish(mut self) -> Plan {
        let until = self.plan.waiting.values().filter_map(|why| match why {
            Waiting::BackOff { until } => Some(*until),
            _ => None,
        });
        let wake = until.chain(self.plan.wake_at).min();
        self.plan.wake_at = wake;
        self.plan
    }

    /// What was concluded so far.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives a demand its part of this turn, or says what keeps it from getting more.
    fn part(&mut self, progress: &mut Progress<'a>) -> Result<(), Waiting> {
        let demand = progress.demand;
        let allowed = self.allowed(demand)?;
        if progress.part == 0 {
            let most = allowed.min(progress.left());
            let part = most.div_ceil(PARTS).min(LEASED);
            progress.part = if demand.request.size > 1 { 1 } else { part };
        }
        match self.choose(demand) {
            Ok((choice, source)) => {
                let left = progress.left().min(allowed);
                let count = self.join(progress, choice, left);
                if source == Source::Free {
                    self.book.take(choice.place, &choice.replica, count);
                }
                #[cfg(test)]
                self.taken.push((
                    demand.job.clone(),
                    choice.place,
                    choice.replica.model.into(),
                    count,
                ));
                progress.given += count;
                let gpus = choice.replica.gpus().saturating_mul(u64::from(count));
                self.accounts.take(&demand.queue, choice.replica.model, gpus);
                Ok(())
            }
            Err(why) => Err(why),
        }
    }

    /// The pool that takes the next part of the demand.
    fn choose(&mut self, demand: &'a Demand) -> Result<(Choice<'a>, Source), Waiting> {
        let mut refusals = None;
        for request in self.wishes(demand) {
            let why = match self.known.place_as(demand, request, &self.book) {
                Verdict::Chosen(choice) => return Ok((choice, Source::Free)),
                Verdict::Refused(why) => why,
            };
            if self.reservations.keep_something() {
                let able = self.known.able(request, &self.book);
                if let Some(choice) = self.reservations.borrow(demand, &able, &self.book) {
                    return Ok((choice, Source::Kept));
                }
            }
            refusals.get_or_insert(why);
        }
        Err(self.no_pool(demand, refusals.unwrap_or_default()))
    }

    /// Takes the next part where the choice says, in a lease of this demand that has room or in a
    /// new one, and returns how many replicas that are.
    ///
    /// A member's last lease takes all that fits: there will be no other one for the rest.
    fn join(&mut self, progress: &mut Progress<'a>, choice: Choice<'a>, left: u32) -> u32 {
        let Choice { place, replica, room } = choice;
        let joins = |lease: &&mut Lease| {
            replica.size == 1
                && lease.place == place
                && lease.replica == replica
                && lease.count < LEASED
        };
        let part = progress.part;
        if let Some(lease) = progress.leases.iter_mut().rev().find(joins) {
            let count = part.min(left).min(room).min(LEASED - lease.count);
            lease.count += count;
            return count;
        }
        let most = if replica.size > 1 { 1 } else { LEASED };
        let part = if self.book.answers(place) == 1 { left } else { part };
        let count = part.min(left).min(room).min(most);
        progress.leases.push(Lease { place, replica, count });
        self.book.send(place);
        count
    }

    /// Writes the leases down, the lowest indexes into the first of them.
    fn write(&mut self, progress: &Progress<'a>) {
        let mut wanted = progress.demand.wanted.iter();
        for lease in &progress.leases {
            let indexes: Indexes = wanted.by_ref().take(lease.count as usize).collect();
            self.plan.placements.push(Placement {
                job: progress.demand.job.clone(),
                pool: self.book.pool(lease.place).id.clone(),
                model: lease.replica.model.to_owned(),
                indexes,
            });
        }
    }

    /// Makes or keeps room for a demand that found none, if it may, and says why it waits.
    fn make_room(&mut self, demand: &'a Demand, why: Waiting) -> Waiting {
        let passing = match &why {
            Waiting::NoPool { refusals } => refusals.keys().any(|why| why.is_temporary()),
            Waiting::WaitingForQuota { .. } => true,
            _ => false,
        };
        if !passing {
            return why;
        }
        if let Some(preempting) = self.preempt(demand, &why) {
            return preempting;
        }
        // The first of its queue that cannot go on; those behind it may pass meanwhile.
        if !self.lines.is_head(demand) || self.patient == KEPT {
            return why;
        }
        let ripe = demand.queued_at.saturating_add(PATIENCE);
        if ripe > self.snapshot.now {
            let wake = &mut self.plan.wake_at;
            *wake = Some(wake.map_or(ripe, |at| at.min(ripe)));
            return why;
        }
        self.patient += 1;
        match &why {
            Waiting::WaitingForQuota { .. } => {
                self.accounts.keep(&demand.queue, gpus(&demand.request));
            }
            _ => {
                let able = self.known.able(&demand.request, &self.book);
                if let Some(start) = self.reservations.keep(demand, &able, &mut self.book) {
                    let pool = self.book.pool(start.place).id.clone();
                    let since = self.snapshot.now;
                    let hold = Hold { pool, since, at: start.at, ..Hold::default() };
                    self.plan.kept.push((demand.job.clone(), hold));
                    self.accounts.keep(&demand.queue, gpus(&demand.request));
                }
            }
        }
        why
    }

    /// Takes the place of guests, if the demand may: what they hold is kept for it from now on.
    fn preempt(&mut self, demand: &'a Demand, why: &Waiting) -> Option<Waiting> {
        let guests = &self.snapshot.guests;
        let lowest = *self.lowest.get_or_insert_with(|| {
            let all = guests.values().flatten().filter(|guest| guest.preemptible);
            all.map(|guest| guest.priority).min().unwrap_or(i32::MAX)
        });
        if lowest >= demand.priority && demand.hold.is_none() {
            return None;
        }
        let short = match why {
            Waiting::WaitingForQuota { limit, need } => {
                let own = limit.used.saturating_add(*need) <= limit.quota;
                own.then(|| need.saturating_sub(limit.room))?
            }
            _ => 0,
        };
        for request in self.wishes(demand) {
            let key = (demand.queue.as_str(), demand.priority, request);
            if self.hopeless.contains(&key) && demand.barred.is_empty() {
                continue;
            }
            let able = self.known.able(request, &self.book);
            let book = &mut self.book;
            let rights = Rights {
                demand,
                accounts: &self.accounts,
                reservations: &self.reservations,
                going: &self.going,
                short,
                now: self.snapshot.now,
            };
            let Some(way) = way(&rights, &able, book) else {
                self.hopeless.insert(key);
                continue;
            };
            let left = book.pool(way.start.place);
            let guests = self.reservations.guests(left);
            let pool = left.id.clone();
            let victims: Vec<(JobId, Epoch)> =
                way.victims.iter().map(|at| (guests[*at].job.clone(), guests[*at].epoch)).collect();
            self.going.extend(victims.iter().cloned());
            self.reservations.settle(&way.start, (&way.returned, true), book);
            self.accounts.keep(&demand.queue, gpus(request));
            let leaving = clamp(victims.len() as u64);
            if !victims.is_empty() || demand.hold.as_ref().map(|hold| &hold.pool) != Some(&pool) {
                let job = demand.job.clone();
                self.plan.preemptions.push(Preemption { job, pool: pool.clone(), victims });
            }
            return Some(Waiting::Preempting { pool, victims: leaving });
        }
        None
    }
}

impl<'a> Round<'a> {
    /// When one replica of the demand could start at the earliest if everything `ahead`, which waits
    /// too, starts as soon as it can; in milliseconds since 1970, `None` = unknown.
    pub(super) fn estimate(&self, demand: &'a Demand, mut ahead: Vec<&'a Demand>) -> Option<i64> {
        let (mut book, mut reservations) = (self.book.clone(), self.reservations.clone());
        let mut known = Known::default();
        ahead.sort_by_key(|other| place_in_line(other));
        for other in ahead {
            let able = known.able(&other.request, &book);
            if reservations.earliest(&able, &book).is_some() {
                reservations.keep(other, &able, &mut book);
            }
        }
        if let Some(
            Waiting::QueueHeld
            | Waiting::QueueNotAllowed
            | Waiting::ExceedsMaxQuota { .. }
            | Waiting::WaitingForQuota { .. },
        ) = self.gate(demand)
        {
            return None;
        }
        let able = known.able(&demand.request, &book);
        let at = reservations.earliest(&able, &book)?.at?;
        Some(demand.not_before.map_or(at, |until| at.max(until)))
    }
}

/// What orders the demands of one queue: less is first.
pub(super) fn place_in_line(demand: &Demand) -> (Reverse<i32>, i64, &JobId) {
    (Reverse(demand.priority), demand.queued_at, &demand.job)
}

/// Where a replica's GPUs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// They are free.
    Free,
    /// They are free, and kept for somebody who needs them later.
    Kept,
}

/// GPUs of one replica.
pub(super) fn gpus(request: &Request) -> u64 {
    u64::from(request.size) * u64::from(request.need.gpus)
}

#[cfg(test)]
pub(super) mod tests;
