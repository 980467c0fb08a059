//! What a round would say of one job now, and which changes of its request would help.
//!
//! Invariant: it is the round itself that is asked, up to that job; a change is said to help only
//! after the same pools confirmed it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::model::{Demand, JobId, Placement, PoolId, Request, Snapshot, Waiting};
use super::placement::Answer;
use super::round::{Round, Variants, place_in_line};

mod relief;
#[cfg(test)]
mod tests;

pub use relief::Relief;

/// What a round would say of one job that wants GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Its place among those that wait in its queue.
    pub place: Place,
    /// Its place among all that wait on the hub, in the order in which a round decides.
    pub overall: Place,
    /// What it would get now.
    pub placements: Vec<Placement>,
    /// Why it, or what is left of it, waits.
    pub waiting: Option<Waiting>,
    /// When the next of its replicas could start, in milliseconds since 1970, as far as limits of
    /// what runs tell and nobody else comes; `None` = unknown.
    pub estimate: Option<i64>,
    /// What every pool says to it, once those before it got theirs.
    pub answers: Vec<(PoolId, Answer)>,
    /// Changes of its request that would help, the most helpful first; none if it needs none.
    pub changes: Vec<Change>,
}

/// A place in a line; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The place.
    pub place: u32,
    /// Length of the line.
    pub of: u32,
}

/// How well pools can take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// No pool could take it at any time, as things are, or its queue never will.
    Never,
    /// A pool could take it at another time.
    Later,
    /// A pool takes it now.
    Now,
}

/// One change of a request that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What to change.
    pub relief: Relief,
    /// How well pools can take it then: better than without.
    pub effect: Effect,
    /// Which pools could.
    pub pools: Vec<PoolId>,
}

/// Waiting demands before a job that an estimate of its start looks at: each costs a look at every
/// pool's guests, and behind so many nobody can say.
const AHEAD: usize = 256;

/// What a round would say of `job`; `None` if it wants nothing placed.
#[must_use]
pub fn outlook(snapshot: &Snapshot, job: &JobId) -> Option<Outlook> {
    let mut waiting = snapshot.demands.iter().filter(|demand| !demand.wanted.is_empty());
    let demand = waiting.find(|demand| demand.job == *job)?;
    let variants = Variants::of(snapshot);
    let mut round = Round::begin(snapshot, &variants);
    let mut before: BTreeSet<&JobId> = BTreeSet::new();
    while round.next().is_some_and(|next| next.job != *job) {
        before.extend(round.turn().map(|(other, _)| other));
    }
    let said = round.answers(demand);
    let said = said.into_iter().map(|(id, answer)| (id.clone(), answer)).collect();
    let changes = Asking { round: &round, demand }.changes(snapshot);
    let ahead = snapshot.demands.iter().filter(|other| {
        before.contains(&other.job) && round.plan().waiting.contains_key(&other.job)
    });
    let ahead: Vec<&Demand> = ahead.collect();
    let estimate = (ahead.len() <= AHEAD).then(|| round.estimate(demand, ahead)).flatten();
    while let Some((other, done)) = round.turn() {
        if done && other == job {
            break;
        }
    }
    let plan = round.finish();
    let mine = snapshot
        .demands
        .iter()
        .filter(|other| !other.wanted.is_empty() && other.queue == demand.queue);
    let mine: Vec<&Demand> = mine.collect();
    let earlier = mine.iter().filter(|other| place_in_line(other) < place_in_line(demand)).count();
    let all = snapshot.demands.iter().filter(|other| !other.wanted.is_empty()).count();
    let placements = plan.placements.into_iter().filter(|given| given.job == *job);
    let waiting = plan.waiting.get(job).cloned();
    Some(Outlook {
        place: Place { place: count(earlier + 1), of: count(mine.len()) },
        overall: Place { place: count(before.len() + 1), of: count(all) },
        placements: placements.collect(),
        estimate: if waiting.is_none() { Some(snapshot.now) } else { estimate },
        waiting,
        answers: said,
        changes,
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A demand whose turn it is, before anything is given to it.
struct Asking<'a> {
    round: &'a Round<'a>,
    demand: &'a Demand,
}

impl Asking<'_> {
    /// How well the pools can take the demand with `request` in place of its own, and which.
    fn effect(&self, request: Arc<Request>) -> (Effect, Vec<PoolId>) {
        let demand = Demand { request, ..self.demand.clone() };
        let said = self.round.answers(&demand);
        let pools = |able: fn(&Answer) -> bool| -> Vec<PoolId> {
            let able = said.iter().filter(|(_, answer)| able(answer));
            able.map(|(id, _)| (*id).clone()).collect()
        };
        let now = pools(|answer| matches!(answer, Answer::Fits(_)));
        let ever = pools(|answer| match answer {
            Answer::Fits(_) => true,
            Answer::Refused(why) => why.is_temporary(),
        });
        match self.round.gate(&demand) {
            None if !now.is_empty() => (Effect::Now, now),
            None | Some(Waiting::BackOff { .. } | Waiting::WaitingForQuota { .. })
                if !ever.is_empty() =>
            {
                (Effect::Later, ever)
            }
            _ => (Effect::Never, Vec::new()),
        }
    }

    /// Every single change that helps; those that take two at once only if no single one does.
    fn changes(&self, snapshot: &Snapshot) -> Vec<Change> {
        let (today, _) = self.effect(self.demand.request.clone());
        if today == Effect::Now {
            return Vec::new();
        }
        let request = &self.demand.request;
        let try_one = |relief: Relief| {
            let (effect, pools) = self.effect(Arc::new(relief.apply(request)));
            (effect > today).then_some(Change { relief, effect, pools })
        };
        let singles = relief::singles(request, snapshot).into_iter().filter_map(try_one);
        let mut changes: Vec<Change> = singles.collect();
        changes.extend(relief::amounts(request).into_iter().filter_map(|amount| {
            let (least, most) = (1, amount.most);
            self.largest((least, most), today, |value| (amount.relief)(value))
        }));
        for (relief, covers) in relief::together(request) {
            let covered = changes.iter().any(|change| covers(&change.relief));
            changes.extend((!covered).then(|| try_one(relief)).flatten());
        }
        if !changes.iter().any(|change| change.effect == Effect::Now) {
            changes.extend(self.smaller(today.max(best(&changes))));
        }
        // The sort is stable: of equal effect they stay in the order in which they were tried.
        changes.sort_by_key(|change| std::cmp::Reverse(change.effect));
        changes
    }

    /// The change with the largest number of `range` that does best. A smaller one never does worse.
    fn largest(
        &self,
        range: (u64, u64),
        today: Effect,
        relief: impl Fn(u64) -> Relief,
    ) -> Option<Change> {
        let request = &self.demand.request;
        let effect = |value| self.effect(Arc::new(relief(value).apply(request)));
        let (mut low, mut high) = range;
        if low > high {
            return None;
        }
        let (best, mut pools) = effect(low);
        if best <= today {
            return None;
        }
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match effect(middle) {
                (found, then) if found == best => (low, pools) = (middle, then),
                _ => high = middle - 1,
            }
        }
        Some(Change { relief: relief(low), effect: best, pools })
    }

    /// Fewer and smaller pods at once: what keeps most GPUs.
    fn smaller(&self, today: Effect) -> Option<Change> {
        let Request { size, need, .. } = *self.demand.request;
        let most = u64::from(size).checked_sub(1)?;
        let tried = (1..need.gpus).filter_map(|gpus| {
            self.largest((1, most), today, |size| Relief::Smaller {
                gpus,
                size: u32::try_from(size).unwrap_or(u32::MAX),
            })
        });
        tried.max_by_key(|change| match change.relief {
            Relief::Smaller { gpus, size } => (change.effect, u64::from(gpus) * u64::from(size)),
            _ => (change.effect, 0),
        })
    }
}

fn best(changes: &[Change]) -> Effect {
    changes.iter().map(|change| change.effect).max().unwrap_or(Effect::Never)
}
