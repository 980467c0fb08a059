//! Guests that go so that a more important one can start.
//!
//! Invariant: money decides nothing here. Only guests of lower priority go, and only those of the
//! demand's own queue or of queues that have more of their share than it would have, or that hold
//! what they borrowed from it; whole leases, so whole gangs; none that could be spared; and only if
//! the whole replica then starts.

use std::collections::{BTreeMap, BTreeSet};

use super::fit::{self, Replica};
use super::guests::{Guest, Returned};
use super::model::{Demand, Epoch, JobId, PoolId};
use super::placement::Book;
use super::queues::Accounts;
use super::reserve::{Reservations, Start, fits, is_sure};

/// Plans that are compared, in pools with the most room for the replica: more would find one that
/// costs a little less, and take time from everybody.
const COMPARED: usize = 8;

/// Leases that go for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The job that takes their place.
    pub job: JobId,
    /// Where.
    pub pool: PoolId,
    /// Leases to withdraw, by job and attempt; none if those suffice that are leaving already.
    pub victims: Vec<(JobId, Epoch)>,
}

/// Where a replica starts once some guests are gone.
#[derive(Clone, Debug)]
pub(super) struct Way<'c> {
    /// Where.
    pub(super) start: Start<'c>,
    /// Guests that have to go, by their place in the pool's list; none if those that are leaving
    /// make room enough.
    pub(super) victims: Vec<usize>,
    /// What comes back with them and with those that are leaving.
    pub(super) returned: Returned<'c>,
}

/// What decides which guests a demand may take the place of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights<'r, 'a> {
    /// The demand.
    pub(super) demand: &'r Demand,
    /// Shares and quotas by now.
    pub(super) accounts: &'r Accounts<'a>,
    /// What is kept and spoken for by now.
    pub(super) reservations: &'r Reservations<'a>,
    /// Leases that go for some job.
    pub(super) going: &'r BTreeSet<(JobId, Epoch)>,
    /// GPUs of its own quota that other queues hold and that it lacks.
    pub(super) short: u64,
    /// Milliseconds since 1970.
    pub(super) now: i64,
}

impl Rights<'_, '_> {
    /// Whether the demand may use what a leaving guest gives back: it goes for it, or for nobody.
    fn counts_on(&self, guest: &Guest) -> bool {
        let key = (guest.job.clone(), guest.epoch);
        let mine = self.demand.hold.as_ref().is_some_and(|hold| hold.victims.contains(&key));
        mine || !self.going.contains(&key)
    }

    /// GPUs that come back to the quota of the demand's queue with these guests: of each queue at
    /// most what it borrowed.
    fn owed(&self, guests: &[Guest], victims: &[usize]) -> u64 {
        let mut held: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for guest in victims.iter().map(|at| &guests[*at]) {
            *held.entry((&guest.queue, &guest.model)).or_default() += guest.gpus();
        }
        let owed = |((queue, model), gpus): (&(&str, &str), &u64)| {
            self.accounts.borrowed(queue, model).min(*gpus)
        };
        held.iter().map(owed).sum()
    }
}

/// The cheapest way to start one replica now, if there is one: least priority, then least lost work,
/// then fewest leases, then the first pool.
pub(super) fn way<'c, 'a>(
    rights: &Rights<'_, 'a>,
    able: &[(usize, Replica<'c>)],
    book: &Book<'a>,
) -> Option<Way<'c>> {
    let mut places: Vec<(u64, usize, Replica)> = Vec::new();
    for (place, replica) in able.iter().copied() {
        let left = book.pool(place);
        let barred = rights.demand.is_barred(left.id, left.pool);
        if left.is_closed() || barred || !is_sure(left, &replica) {
            continue;
        }
        let free = fit::free_pods(left.shapes(), &replica).min(u64::from(replica.size));
        places.push((u64::from(replica.size) - free, place, replica));
    }
    places.sort_unstable();
    let mut shares = Shares::new(rights);
    // Where guests go for it already, if that suffices.
    let known = rights.demand.hold.as_ref().map(|hold| &hold.pool);
    let there = places.iter().find(|(_, place, _)| Some(book.pool(*place).id) == known);
    let way = there.and_then(|(_, place, replica)| shares.way_in(*place, *replica, book));
    if let Some((_, way)) = way {
        return Some(way);
    }
    let mut best: Option<(Cost, Way)> = None;
    let mut found = 0;
    for (_, place, replica) in places {
        let Some((cost, way)) = shares.way_in(place, replica, book) else { continue };
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, way));
        }
        found += 1;
        if found == COMPARED {
            break;
        }
    }
    best.map(|(_, way)| way)
}

/// What a plan costs; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    priority: i32,
    lost: u128,
    leases: usize,
    place: usize,
}

/// Whose guests may go, asked once for each queue and model.
struct Shares<'r, 'a> {
    rights: &'r Rights<'r, 'a>,
    known: BTreeMap<(&'a str, &'a str), bool>,
}

impl<'r, 'a> Shares<'r, 'a> {
    fn new(rights: &'r Rights<'r, 'a>) -> Self {
        Self { rights, known: BTreeMap::new() }
    }

    fn may_go(&mut self, guest: &'a Guest, replica: &Replica) -> bool {
        let Rights { demand, accounts, going, .. } = self.rights;
        if guest.leaving || !guest.preemptible || guest.priority >= demand.priority {
            return false;
        }
        if !going.is_empty() && going.contains(&(guest.job.clone(), guest.epoch)) {
            return false;
        }
        if guest.queue == demand.queue {
            return true;
        }
        *self.known.entry((&guest.queue, &guest.model)).or_insert_with(|| {
            let mine = accounts.share_with(&demand.queue, Some((replica.model, replica.gpus())));
            let owes = accounts.borrowed(&guest.queue, &guest.model) > 0
                && accounts.owns(&demand.queue, replica.model, replica.gpus());
            owes || accounts.share(&guest.queue) > mine
        })
    }

    /// The guests that go from one pool, so few that none could stay.
    fn way_in<'c>(
        &mut self,
        place: usize,
        replica: Replica<'c>,
        book: &Book<'a>,
    ) -> Option<(Cost, Way<'c>)> {
        let Rights { reservations, now, short, .. } = *self.rights;
        let left = book.pool(place);
        let guests = reservations.guests(left);
        let free = fit::free_pods(left.shapes(), &replica);
        let mut returned = reservations.returned(place, replica);
        let mut able: Vec<usize> = Vec::new();
        for (at, guest) in guests.iter().enumerate() {
            if guest.leaving {
                if self.rights.counts_on(guest) {
                    returned.add(at, guest);
                }
            } else if guest.model == replica.model && self.may_go(guest, &replica) {
                able.push(at);
            }
        }
        let held = |at: &usize| now.saturating_sub(guests[*at].since);
        able.sort_unstable_by_key(|at| {
            let guest = &guests[*at];
            (guest.priority, held(at), guest.gpus(), &guest.job, guest.epoch)
        });
        let enough = |victims: &[usize], returned: &Returned| {
            fits(left, free, returned, &replica)
                && (short == 0 || self.rights.owed(guests, victims) >= short)
        };
        let mut victims: Vec<usize> = Vec::new();
        for at in able {
            if enough(&victims, &returned) {
                break;
            }
            returned.add(at, &guests[at]);
            victims.push(at);
        }
        if !enough(&victims, &returned) {
            return None;
        }
        // The dearest are spared first.
        let mut dear = victims.clone();
        dear.sort_by_key(|at| (guests[*at].priority, guests[*at].lost(now)));
        for at in dear.into_iter().rev() {
            returned.remove(at, &guests[at]);
            let others: Vec<usize> =
                victims.iter().copied().filter(|victim| *victim != at).collect();
            match enough(&others, &returned) {
                true => victims = others,
                false => returned.add(at, &guests[at]),
            }
        }
        let cost = Cost {
            priority: victims.iter().map(|at| guests[*at].priority).max().unwrap_or(i32::MIN),
            lost: victims.iter().map(|at| guests[*at].lost(now)).sum(),
            leases: victims.len(),
            place,
        };
        let start = Start { place, replica, at: Some(now) };
        Some((cost, Way { start, victims, returned }))
    }
}

#[cfg(test)]
mod tests;
