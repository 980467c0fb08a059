//! What a member has seen of its idle GPUs, and what follows for a guest that would start now.
//!
//! `k` GPUs make a block: of 20 idle GPUs, 16 are two blocks of 8. For each size it is counted for
//! how long blocks of each age were watched and how many of them the owner then took: the product of
//! the chances to pass each age is the Kaplan–Meier estimate, which takes blocks that are idle still
//! for what they are. A block is as old as its youngest GPU is idle.
//!
//! Old counts fade with a half-life of four weeks, so that a new term's habits win.

use super::counts::{AGES, Counts, Guest, LONGEST, MILLI, MOST, ONE, class};
use super::{SIZES, SPANS, Survival, size};

/// What a count loses each day: one part in 41, half in 28 days.
const FADING: u64 = 41;
/// Days after which nothing of a count is left that matters.
const FORGOTTEN: u64 = 400;
/// Most steps of the number of idle GPUs that are told apart: bounds memory and work.
const MOST_LEVELS: usize = 64;

/// GPUs above the next lower level have been idle since a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    since: i64,
    idle: u64,
}

/// What a member has seen of its idle GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    counts: [Counts; SIZES.len()],
    levels: Vec<Level>,
    /// The minute up to which it was watched.
    seen: Option<i64>,
}

impl History {
    /// Goes on from counts of an earlier process, which watched up to the minute `seen`.
    #[must_use]
    pub fn restored(counts: [Counts; SIZES.len()], seen: i64) -> Self {
        let capped = |count: u64| count.min(MOST);
        let counts = counts.map(|Counts { ends, minutes }| Counts {
            ends: ends.map(capped),
            minutes: minutes.map(capped),
        });
        Self { counts, levels: Vec::new(), seen: Some(seen) }
    }

    /// What was counted, by size.
    #[must_use]
    pub fn counts(&self) -> &[Counts; SIZES.len()] {
        &self.counts
    }

    /// The minute up to which it was watched.
    #[must_use]
    pub fn seen(&self) -> Option<i64> {
        self.seen
    }

    /// From `minute` (since any fixed day) on, `idle` GPUs are not in use by the owner, guests or
    /// not. A minute before the last one counts as that one.
    ///
    /// What rises and falls within a minute is not counted: a guest takes longer to start.
    pub fn observe(&mut self, minute: i64, idle: u64) {
        let minute = minute.max(self.seen.unwrap_or(minute));
        self.pass(minute);
        let before = self.levels.last().map_or(0, |level| level.idle);
        if idle > before {
            self.levels.push(Level { since: minute, idle });
            self.narrow();
        }
        while let Some(top) = self.levels.last().copied().filter(|top| top.idle > idle) {
            self.levels.pop();
            let below = self.levels.last().map_or(0, |level| level.idle);
            self.end((below.max(idle), top.idle), minute.abs_diff(top.since));
            if below < idle {
                self.levels.push(Level { idle, ..top });
            }
        }
    }

    /// Minutes since `idle` GPUs are idle without a break; `None` if fewer are.
    #[must_use]
    pub fn age(&self, idle: u64) -> Option<u64> {
        let level = self.levels.iter().find(|level| level.idle >= idle)?;
        Some(self.seen?.abs_diff(level.since))
    }

    /// The short form: the chances of GPUs whose age is not known.
    #[must_use]
    pub fn survival(&self) -> Survival {
        let row = |counts: &Counts| SPANS.map(|span| counts.chance(span.div_ceil(60)));
        Survival::new(self.counts.each_ref().map(row))
    }

    /// Minutes that a start had better be put off; `None`: start now. GPUs for the guest have been
    /// idle for `age` minutes.
    ///
    /// A start is worth the work that it is going to keep, less what it is going to waste. The owner
    /// takes back young idle GPUs far more often than old ones, so a start a little later can be
    /// worth more, even reckoned with the chance that there will be none. Of equal worth the sooner
    /// wins. Where no start is worth anything, it is put off by the longest age that is told apart.
    #[must_use]
    pub fn put_off(&self, guest: &Guest, age: u64) -> Option<u64> {
        let counts = &self.counts[size(guest.gpus)];
        let end = age.saturating_add(LONGEST);
        let now = counts.worth(guest, age, end);
        let mut best = if now > 0 { (now, 0) } else { (0, AGES[AGES.len() - 1]) };
        for later in AGES.into_iter().filter(|later| *later > age) {
            let alive = i128::from(counts.survives(age, later - age));
            let worth = counts.worth(guest, later, end).saturating_mul(alive) / i128::from(ONE);
            if worth > best.0 {
                best = (worth, later - age);
            }
        }
        (best.1 > 0).then_some(best.1)
    }

    /// Counts the time from when it was last watched until `minute`.
    fn pass(&mut self, minute: i64) {
        let seen = self.seen.replace(minute).unwrap_or(minute);
        self.fade(minute.div_euclid(1440).abs_diff(seen.div_euclid(1440)));
        let mut below = 0;
        for Level { since, idle } in self.levels.clone() {
            let ages = (seen.abs_diff(since), minute.abs_diff(since));
            for (counts, blocks) in self.blocks((below, idle)) {
                counts.watch(ages, blocks);
            }
            below = idle;
        }
    }

    /// The owner took the GPUs between two levels, which had been idle for `age` minutes.
    fn end(&mut self, between: (u64, u64), age: u64) {
        let Some(last) = age.checked_sub(1) else { return };
        for (counts, blocks) in self.blocks(between) {
            let ends = &mut counts.ends[class(last)];
            *ends = blocks.saturating_mul(MILLI).saturating_add(*ends).min(MOST);
        }
    }

    /// For each size its counts, and how many blocks have their youngest GPU between two levels.
    fn blocks(&mut self, (below, top): (u64, u64)) -> impl Iterator<Item = (&mut Counts, u64)> {
        let blocks = move |size: &u32| top / u64::from(*size) - below / u64::from(*size);
        self.counts.iter_mut().zip(SIZES.iter().map(blocks)).filter(|(_, blocks)| *blocks > 0)
    }

    fn fade(&mut self, days: u64) {
        if days > FORGOTTEN {
            self.counts = Default::default();
            return;
        }
        let counts = self.counts.iter_mut();
        let all = counts.flat_map(|counts| counts.ends.iter_mut().chain(&mut counts.minutes));
        for count in all {
            for _ in 0..days {
                *count -= count.div_ceil(FADING);
            }
        }
    }

    /// Of too many levels the two that are nearest in age become one, as old as the younger.
    fn narrow(&mut self) {
        if self.levels.len() <= MOST_LEVELS {
            return;
        }
        let apart =
            |place: &usize| self.levels[place + 1].since.abs_diff(self.levels[*place].since);
        if let Some(nearest) = (0..self.levels.len() - 1).min_by_key(apart) {
            self.levels.remove(nearest);
        }
    }
}
