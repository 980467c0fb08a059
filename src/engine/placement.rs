//! One demand and all pools: the pool that takes it next, or why each of them cannot.
//!
//! The verdict depends on what is known alone, never on its order. A demand goes to
//! 1. the pool that has the more wanted model free, then
//! 2. for replicas of one pod, the pool that keeps the largest share of its GPUs free, which spreads
//!    a burst over pools by their capacity and leaves each owner room to come back; for gangs, the
//!    tightest fit: a pool where one node holds it, then the fewest GPUs left over beside it, which
//!    keeps large blocks whole; then
//! 3. the lowest id.
//!
//! Inside a pool a replica runs on one model: the most wanted one that is free. Where all are equally
//! wanted it is the one with the least room, which keeps the large rest whole.

use std::collections::BTreeMap;

use super::fit::{self, Replica};
use super::model::{Demand, PodNeed, Pool, PoolId, Refusal, Request, Shape, Snapshot};
use super::rules::{Ranked, lasting_refusal, possible};

/// Leases of one member that may wait for its answer: more would only wait there instead of here.
pub const UNANSWERED: u32 = 32;

/// Shares are compared in parts of this: finer than any pool has GPUs.
const WHOLE: u128 = 1_000_000_000;

/// A pool and what is left of it in the course of a round.
#[derive(Clone, Debug)]
pub struct Left<'a> {
    /// Its id.
    pub id: &'a PoolId,
    /// The pool as it was at the start.
    pub pool: &'a Pool,
    shapes: Vec<Shape>,
    lendable: u64,
    member: usize,
}

impl Left<'_> {
    /// What is free of it by now.
    #[must_use]
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// GPUs that guests may still take by now.
    #[must_use]
    pub fn lendable(&self) -> u64 {
        self.lendable
    }

    /// Whether it takes nothing at all.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.pool.closed.is_some()
    }
}

/// What is left of everything in the course of a round; it only falls.
#[derive(Clone, Debug)]
pub struct Book<'a> {
    pools: Vec<Left<'a>>,
    unanswered: Vec<u32>,
}

impl<'a> Book<'a> {
    /// Everything that the snapshot says is free.
    #[must_use]
    pub fn open(snapshot: &'a Snapshot) -> Self {
        let mut book = Self { pools: Vec::new(), unanswered: Vec::new() };
        let mut last = None;
        for (id, pool) in &snapshot.pools {
            if last != Some(&id.member) {
                last = Some(&id.member);
                book.unanswered.push(snapshot.unanswered.get(&id.member).copied().unwrap_or(0));
            }
            let member = book.unanswered.len() - 1;
            let (shapes, lendable) = (pool.shapes.clone(), pool.lendable);
            book.pools.push(Left { id, pool, shapes, lendable, member });
        }
        book
    }

    /// The pool at a place that a [`Choice`] names.
    #[must_use]
    pub fn pool(&self, place: usize) -> &Left<'a> {
        &self.pools[place]
    }

    /// How many more leases the member of that pool may be sent.
    #[must_use]
    pub fn answers(&self, place: usize) -> u32 {
        UNANSWERED.saturating_sub(self.unanswered[self.pools[place].member])
    }

    /// Counts a lease that the member of that pool has to answer.
    pub fn send(&mut self, place: usize) {
        self.unanswered[self.pools[place].member] += 1;
    }

    /// Keeps up to `pods` pods of a replica from everybody else, one by one, and says how many.
    pub fn keep(&mut self, place: usize, replica: &Replica, pods: u32) -> u32 {
        let single = Replica { size: 1, ..*replica };
        let left = &mut self.pools[place];
        let found = fit::room(&left.shapes, left.lendable, &single).min(pods);
        fit::take(&mut left.shapes, &single, found);
        left.lendable = left.lendable.saturating_sub(single.gpus() * u64::from(found));
        found
    }

    /// Takes replicas from what is free.
    pub fn take(&mut self, place: usize, replica: &Replica, count: u32) {
        let left = &mut self.pools[place];
        fit::take(&mut left.shapes, replica, count);
        left.lendable = left.lendable.saturating_sub(replica.gpus() * u64::from(count));
    }
}

/// What of a pool a demand gets: the replica, and how many of it fit now.
#[derive(Clone, Copy, Debug)]
struct Fits<'a> {
    ranked: Ranked<'a>,
    /// Pods of it that fit on the nodes now.
    pods: u64,
    room: u32,
    /// Pods that fit on the nodes now on any equally wanted model, this one included.
    alike: u64,
}

/// Pools that could take a request at some time, and how many could not, by reason.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    able: Vec<(usize, Vec<Ranked<'a>>)>,
    refusals: BTreeMap<Refusal, u32>,
}

impl<'a> Candidates<'a> {
    /// The replica on each model in each pool that could take it at some time, in the order of ids.
    pub(super) fn able(&self) -> impl Iterator<Item = (usize, Replica<'a>)> + '_ {
        let models = |(place, possible): &'_ (usize, Vec<Ranked<'a>>)| {
            let place = *place;
            let replicas: Vec<_> = possible.iter().map(|ranked| (place, ranked.replica)).collect();
            replicas
        };
        self.able.iter().flat_map(models)
    }
}

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

/// Lower is better; all scores of one request speak of the same number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    rank: usize,
    nodes: Nodes,
    slack: u64,
}

/// How many nodes a gang spans; of replicas of one pod all are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nodes {
    One,
    Several,
}

/// The pools that no lasting rule keeps from the request, found once for equal requests.
#[must_use]
pub fn candidates<'a>(request: &'a Request, book: &Book<'a>) -> Candidates<'a> {
    let mut found = Candidates { able: Vec::new(), refusals: BTreeMap::new() };
    for (place, left) in book.pools.iter().enumerate() {
        let possible = possible(request, left.pool);
        match lasting_refusal(request, left.id, left.pool, &possible) {
            Some(why) => *found.refusals.entry(why).or_default() += 1,
            None => found.able.push((place, possible)),
        }
    }
    found
}

/// Picks the pool for the next replicas of `demand`, up to `dealt` of them.
///
/// Guarantees: the chosen pool breaks no rule of [`Refusal`], and `room` replicas can be taken there.
#[must_use]
pub fn place<'a>(
    demand: &Demand,
    dealt: u32,
    candidates: &Candidates<'a>,
    book: &Book<'a>,
) -> Verdict<'a> {
    let mut refusals = candidates.refusals.clone();
    let mut best: Option<(Score, Choice<'a>)> = None;
    for (place, possible) in &candidates.able {
        let left = &book.pools[*place];
        let why = passing_refusal(demand, left, book.answers(*place));
        let fits = if why.is_none() { fitting(left, possible) } else { None };
        let Some(fits) = fits else {
            let why = why.unwrap_or_else(|| shortage(left, possible));
            *refusals.entry(why).or_default() += 1;
            continue;
        };
        let score = score(left, possible, &fits, dealt.min(fits.room));
        // Places rise with ids, so of equal scores the first one has the lowest id.
        if best.as_ref().is_none_or(|(least, _)| score < *least) {
            let Fits { ranked: Ranked { replica, .. }, room, .. } = fits;
            best = Some((score, Choice { place: *place, replica, room }));
        }
    }
    best.map_or(Verdict::Refused(refusals), |(_, choice)| Verdict::Chosen(choice))
}

/// What one pool says to a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many of its replicas fit now; 1 or more.
    Fits(u32),
    /// It cannot take it, for the first rule that it breaks.
    Refused(Refusal),
}

/// What every pool says to `demand`, in the order of ids: [`place`] chooses among those that fit, and
/// counts the others.
#[must_use]
pub fn answers<'a>(demand: &Demand, book: &Book<'a>) -> Vec<(&'a PoolId, Answer)> {
    let answer = |(place, left): (usize, &Left<'a>)| {
        let possible = possible(&demand.request, left.pool);
        let why = lasting_refusal(&demand.request, left.id, left.pool, &possible)
            .or_else(|| passing_refusal(demand, left, book.answers(place)));
        let answer = match (why, fitting(left, &possible)) {
            (Some(why), _) => Answer::Refused(why),
            (None, Some(fits)) => Answer::Fits(fits.room),
            (None, None) => Answer::Refused(shortage(left, &possible)),
        };
        (left.id, answer)
    };
    book.pools.iter().enumerate().map(answer).collect()
}

/// The first rule that keeps this demand from the pool for now, room apart.
fn passing_refusal(demand: &Demand, left: &Left, answers: u32) -> Option<Refusal> {
    if demand.is_barred(left.id, left.pool) {
        return Some(Refusal::Refused);
    }
    (answers == 0).then_some(Refusal::TooManyUnanswered)
}

/// The replica that fits now: most wanted, then least room on nodes, then by name of its model.
fn fitting<'a>(left: &Left, possible: &[Ranked<'a>]) -> Option<Fits<'a>> {
    let mut best: Option<Fits<'a>> = None;
    for ranked in possible {
        if best.as_ref().is_some_and(|best| best.ranked.rank < ranked.rank) {
            break;
        }
        let pods = fit::free_pods(&left.shapes, &ranked.replica);
        let room = fit::replicas(pods, left.lendable, &ranked.replica);
        let alike = pods.saturating_add(best.as_ref().map_or(0, |best| best.alike));
        match &mut best {
            _ if room == 0 => {}
            // Models come in the order of their names, so of equal room the first one stays.
            Some(best) if best.pods <= pods => best.alike = alike,
            _ => best = Some(Fits { ranked: *ranked, pods, room, alike }),
        }
    }
    best
}

/// What there is too little of: GPUs on single nodes, or CPU and memory beside them.
fn shortage(left: &Left, possible: &[Ranked]) -> Refusal {
    let by_gpus_alone = |ranked: &Ranked| {
        let need = PodNeed { milli_cpu: 0, memory: 0, ..ranked.replica.need };
        let replica = Replica { need, ..ranked.replica };
        fit::room(&left.shapes, left.lendable, &replica) > 0
    };
    match possible.iter().any(by_gpus_alone) {
        true => Refusal::TooLittleCpuOrMemory,
        false => Refusal::TooFewFreeGpus,
    }
}

/// How good it is to give `count` replicas to the pool.
fn score(left: &Left, possible: &[Ranked], fits: &Fits, count: u32) -> Score {
    let Ranked { rank, replica, .. } = fits.ranked;
    if replica.size == 1 {
        let slack = taken_share(left, possible, fits, count);
        return Score { rank, nodes: Nodes::One, slack };
    }
    match fit::tightest_node(&left.shapes, &replica) {
        Some(free) => {
            let slack = u64::from(free).saturating_sub(replica.gpus());
            Score { rank, nodes: Nodes::One, slack }
        }
        None => {
            let free = fits.pods.saturating_mul(u64::from(replica.need.gpus)).min(left.lendable);
            Score { rank, nodes: Nodes::Several, slack: free.saturating_sub(replica.gpus()) }
        }
    }
}

/// The share of the pool's equally wanted GPUs that is taken once `count` more replicas are.
fn taken_share(left: &Left, possible: &[Ranked], fits: &Fits, count: u32) -> u64 {
    let Ranked { rank, replica, .. } = fits.ranked;
    let alike = possible.iter().filter(|other| other.rank == rank);
    let ever = alike.fold(0_u64, |sum, other| sum.saturating_add(other.ever));
    let gpus = |pods: u64| pods.saturating_mul(replica.gpus());
    let all = u128::from(gpus(ever).min(left.pool.offered)).max(1);
    let free = gpus(fits.alike).min(left.lendable);
    let kept = u128::from(free.saturating_sub(gpus(u64::from(count))));
    u64::try_from(WHOLE.saturating_sub(kept * WHOLE / all)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
