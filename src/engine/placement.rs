//! One demand and all pools: the pool that takes it next, or why each of them cannot.
//!
//! The verdict depends on what is known alone, never on its order. A demand goes to a pool whose owner
//! did not take GPUs back from it lately, if one takes it; among those to
//! 1. the pool that has the more wanted model free, then
//! 2. the least cost of useful work: short jobs may go where owners come back often, long ones go
//!    where GPUs stay idle; then
//! 3. for replicas of one pod, the pool that keeps the largest share of its GPUs free once one more
//!    runs there, which spreads a burst over pools by their capacity and leaves each owner room to
//!    come back; for gangs, the
//!    tightest fit: a pool where one node holds it, then the fewest GPUs left over beside it, which
//!    keeps large blocks whole; then
//! 4. the lowest id.
//!
//! Inside a pool a replica runs on one model: the most wanted one that is free. Where all are equally
//! wanted it is the one with the least room, which keeps the large rest whole.
//!
//! Invariant: a score follows from the request and from what is left of the one pool, from nothing
//! else. So a round scores again only the pools that changed since it last looked: see
//! [`Candidates`].

use std::collections::BTreeMap;

use super::fit::{self, Found, Places, Replica};
use super::model::{Demand, PodNeed, PoolId, Refusal, Request};
use super::rules::{Chance, Wish, chances, lasting_refusal, wishes};
use super::survival;

mod book;
mod filters;
mod index;
mod known;
mod order;
mod score;

pub use book::{Book, Left};
pub use known::Known;
use score::Tightness;

/// Leases of one member that may wait for its answer: more would only wait there instead of here.
pub const UNANSWERED: u32 = 32;

/// Losses are compared in steps of this, in millionths.
const LOSS_STEP: u64 = 50_000;
/// Shares are compared in parts of this: finer than any pool has GPUs.
const WHOLE: u64 = 1_000_000_000;

/// Where a demand goes next.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Place of the pool in the book.
    pub place: usize,
    /// Its replica, on the model that was chosen.
    pub replica: Replica<'a>,
    /// Replicas that fit there now; 1 or more.
    pub room: u32,
}

/// The answer of all pools to a demand.
#[derive(Clone, Debug)]
pub enum Verdict<'a> {
    /// This one takes it.
    Chosen(Choice<'a>),
    /// None takes it: number of pools by the first rule that each breaks.
    Refused(BTreeMap<Refusal, u32>),
}

/// What one pool says to a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many of its replicas fit now; 1 or more.
    Fits(u32),
    /// It cannot take it, for the first rule that it breaks.
    Refused(Refusal),
}

/// What of a pool a demand gets: the replica, and how many of it fit now.
#[derive(Clone, Copy, Debug)]
struct Fits<'a> {
    wish: Wish<'a>,
    found: Found,
    /// GPUs that the pool would lend if all were free, to this wish and those wanted as much.
    ever: u64,
    room: u32,
    /// Pods that fit on the nodes now on any equally wanted model, this one included.
    alike: u64,
}

/// What every pool says to `demand`, in the order of ids: [`Known::place`] chooses among those that fit, and
/// counts the others.
#[must_use]
pub fn answers<'a>(demand: &Demand, book: &Book<'a>) -> Vec<(&'a PoolId, Answer)> {
    let pools = book.pools().iter().enumerate();
    pools.map(|(place, left)| (left.id, answer(demand, book, place))).collect()
}

/// What the pool at `place` says to `demand`.
#[must_use]
pub fn answer(demand: &Demand, book: &Book, place: usize) -> Answer {
    match find(&demand.request, book.pool(place), || passing_refusal(demand, book, place)) {
        Ok(choice) => Answer::Fits(choice.room),
        Err(why) => Answer::Refused(why),
    }
}

/// Whether a replica of the request fits in a pool, barred demands and busy members apart; `left` may be
/// a supposition.
#[must_use]
pub fn holds(request: &Request, left: &Left) -> bool {
    find(request, left, || None).is_ok()
}

/// What of one pool the request gets, unless `passing` says why it gets nothing for now.
fn find<'a>(
    request: &'a Request,
    left: &Left<'a>,
    passing: impl Fn() -> Option<Refusal>,
) -> Result<Fits<'a>, Refusal> {
    let (mut wishes, mut held) = (wishes(request), Vec::new());
    let nodes = chances(request, left.pool, &mut wishes, &mut held);
    let lasting = lasting_refusal(request, (left.id, left.pool), nodes);
    match lasting.or_else(passing) {
        Some(why) => Err(why),
        None => {
            let fits = fitting(left, &wishes, &held);
            fits.ok_or_else(|| shortage(left, &wishes, &held))
        }
    }
}

/// The first rule that keeps this demand from the pool for now, room apart.
fn passing_refusal(demand: &Demand, book: &Book, place: usize) -> Option<Refusal> {
    let left = book.pool(place);
    if demand.is_barred(left.id, left.pool) {
        return Some(Refusal::Refused);
    }
    (book.answers(place) == 0).then_some(Refusal::TooManyUnanswered)
}

/// The replica that fits now: most wanted, then least room on nodes, then by name of its model.
fn fitting<'a>(left: &Left, wishes: &[Wish<'a>], chances: &[Chance]) -> Option<Fits<'a>> {
    let find = |_, accepted, replica: &Replica| fit::find(&left.shapes, accepted, replica);
    fitting_as(left, wishes, chances, find)
}

/// The same, with what `find` says that each chance finds.
fn fitting_as<'a>(
    left: &Left,
    wishes: &[Wish<'a>],
    chances: &[Chance],
    find: impl Fn(usize, Places, &Replica) -> Found,
) -> Option<Fits<'a>> {
    let mut best: Option<Fits<'a>> = None;
    for (number, chance) in chances.iter().enumerate() {
        let wish = wishes[chance.wish as usize];
        if best.as_ref().is_some_and(|best| best.wish.rank < wish.rank) {
            break;
        }
        let found = find(number, chance.accepted, &wish.replica);
        let room = fit::replicas(found.pods, left.lendable, &wish.replica);
        let alike = found.pods.saturating_add(best.as_ref().map_or(0, |best| best.alike));
        match &mut best {
            _ if room == 0 => {}
            // Models come in the order of their names, so of equal room the first one stays.
            Some(best) if best.found.pods <= found.pods => best.alike = alike,
            _ => best = Some(Fits { wish, found, ever: chance.ever, room, alike }),
        }
    }
    best
}

/// What there is too little of: GPUs on single nodes, or CPU and memory beside them.
fn shortage(left: &Left, wishes: &[Wish], chances: &[Chance]) -> Refusal {
    let by_gpus_alone = |chance: &Chance| {
        let replica = wishes[chance.wish as usize].replica;
        let need = PodNeed { milli_cpu: 0, memory: 0, ..replica.need };
        fit::room(&left.shapes, left.lendable, &Replica { need, ..replica }) > 0
    };
    match chances.iter().any(by_gpus_alone) {
        true => Refusal::TooLittleCpuOrMemory,
        false => Refusal::TooFewFreeGpus,
    }
}

/// What is asked of `replica` when pools are compared. For one pod these are its GPUs: the CPU and
/// memory beside them decide whether it fits, not how well, so jobs that differ in them alone share
/// one order of pools.
fn compared(replica: Replica) -> Replica {
    match replica.size {
        1 => Replica { need: PodNeed { milli_cpu: 0, memory: 0, ..replica.need }, ..replica },
        _ => replica,
    }
}

/// How well the pool takes one replica of those that are [`compared`].
fn tightness(left: &Left, fits: &Fits) -> Tightness {
    let replica = fits.wish.replica;
    if replica.size == 1 {
        return Tightness::One(taken_share(left, fits));
    }
    let over = |free: u64| free.saturating_sub(replica.gpus());
    match fits.found.one_node {
        Some(free) => Tightness::One(over(free.into())),
        None => {
            let free = fits.found.pods.saturating_mul(u64::from(replica.need.gpus));
            Tightness::Several(over(free.min(left.lendable)))
        }
    }
}

/// The share of the pool's equally wanted GPUs that is taken once one more replica is.
fn taken_share(left: &Left, fits: &Fits) -> u64 {
    let gpus = fits.wish.replica.gpus();
    let free = fits.alike.saturating_mul(gpus).min(left.lendable);
    let kept = free.saturating_sub(gpus);
    let share = match kept.checked_mul(WHOLE) {
        Some(parts) => parts / fits.ever,
        // More than 18 thousand million GPUs are no pool, but no reason to fall over either.
        None => kept / (fits.ever / WHOLE).max(1),
    };
    WHOLE.saturating_sub(share)
}

/// What an hour of useful work of one GPU costs at the pool, lost work included, in millionths of the
/// hub's currency: ask · (1,000,000 + loss) / 1,000,000 (`market.md` 2).
///
/// Losses count in steps of a twentieth: what is known of idle GPUs is no finer, and pools that are
/// alike but for that share a burst. It belongs to request and pool alone, so a round finds it once
/// for both.
fn cost(request: &Request, left: &Left) -> u64 {
    let seconds = request.running_seconds.unwrap_or(survival::USUAL);
    let gpus = u64::from(request.size) * u64::from(request.need.gpus);
    let loss =
        left.pool.survival.loss_ppm(gpus, seconds, request.checkpoint_seconds, survival::RESTART);
    let parts = 1_000_000 / LOSS_STEP;
    left.pool.ask.saturating_mul(parts + loss / LOSS_STEP) / parts
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
