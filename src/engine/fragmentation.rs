//! How much of what is free the usual requests can still use, and how much of that a placement costs.
//!
//! Invariant: worth only falls when something is taken, so a cost is never below zero.
//!
//! The idea is the fragmentation gradient of Weng and others ("Beware of Fragmentation", USENIX ATC
//! 2023): idle GPU counts only as far as a *typical* pod could use it, and a pod goes where it spoils
//! least. Three things differ from the paper, each because it was measured (README, "How well it
//! packs"):
//!
//! * **CPU and memory bound how many typical pods fit, not whether one does.** Eight free GPUs beside
//!   CPU for two pods are worth two. The paper notices only when not even one fits, which loses two
//!   points where pods need much CPU.
//! * **A class weighs more the less is left that serves it**, in proportion. That keeps large blocks
//!   whole and scarce models free for those who can use nothing else, but only as far as they are
//!   asked for. The paper's weights are how often a class comes, whatever there is for it.
//! * **Costs are compared in even steps of [`STEP`]**, which needs no table. The paper cuts a sigmoid to
//!   0..100, whose steps are 40 thousandths and more. That costs are alike at all is what lets ties pack
//!   tightly; how wide a step is matters little (16 to 40: two tenths of a point).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::idle::{Gpus, Idle, Need, Place, WHOLE};

/// Costs that differ by less than so many thousandths of a GPU, as the usual requests see them, are alike.
pub const STEP: u64 = 25;
/// All weights together, were nothing scarce.
const SUM: u64 = 1 << 20;
/// How much more than others a class can weigh because little is left that serves it. Beyond this it
/// would push aside what is asked for far more often.
const SCARCEST: u64 = 64;
/// The classes that are looked at, those that ask for most in all, ask for so many parts in a thousand
/// of everything.
const COVERED: u128 = 990;
/// And are no more than this: a decision costs time for each.
const MOST: usize = 256;
/// Binary places of a rate.
const PLACES: u32 = 20;
/// Bytes to MiB, as a shift: rates of single bytes would be too small to count.
const MEBI: u32 = 20;

/// What a pod asks for, as far as it decides which GPUs serve it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// What it takes.
    pub need: Need,
    /// Models that will do; `None` = any.
    pub models: Option<BTreeSet<String>>,
}

impl Ask {
    /// Whether GPUs of `model` will do. A pod without GPUs does not mind.
    #[must_use]
    pub fn accepts(&self, model: &str) -> bool {
        let listed = self.models.as_ref().is_none_or(|models| models.contains(model));
        listed || self.need.gpus == Gpus::None
    }
}

/// A class of requests as one model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    /// Thousandths that a GPU must have left to serve it.
    least: u32,
    /// Whole GPUs that one pod needs; 0 if it shares one.
    whole: u32,
    milli_cpu: u64,
    memory: u64,
    /// Thousandths of a GPU that go with a thousandth of a core or a MiB, in binary fractions.
    by_cpu: u64,
    by_memory: u64,
    weight: u64,
}

/// What is asked for, by how often. Requests that differ in memory alone count as one, with the least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    classes: Vec<(Ask, u64)>,
    total: u64,
}

impl Mix {
    /// The mix in which each request came so many times. While it is empty, nothing is worth anything,
    /// and ties decide.
    #[must_use]
    pub fn new(asked: &BTreeMap<Ask, u64>) -> Self {
        let mut classes: BTreeMap<Ask, (u64, u64)> = BTreeMap::new();
        for (ask, count) in asked.iter().filter(|(ask, _)| ask.need.gpus.milli() > 0) {
            let need = Need { memory: 0, ..ask.need };
            let class = Ask { need, models: ask.models.clone() };
            let (sum, memory) = classes.entry(class).or_insert((0, u64::MAX));
            *sum = sum.saturating_add(*count);
            *memory = ask.need.memory.min(*memory);
        }
        let class = |(mut ask, (count, memory)): (Ask, (u64, u64))| {
            ask.need.memory = memory;
            (ask, count)
        };
        let mut classes: Vec<(Ask, u64)> = classes.into_iter().map(class).collect();
        let demand =
            |(ask, count): &(Ask, u64)| u128::from(ask.need.gpus.milli()) * u128::from(*count);
        // The sort keeps the order of classes that ask for equally much.
        classes.sort_by_key(|class| Reverse(demand(class)));
        let all: u128 = classes.iter().map(demand).fold(0, u128::saturating_add);
        let mut sum: u128 = 0;
        let needed = classes.iter().take_while(|class| {
            let covered = sum.saturating_mul(1_000) >= all.saturating_mul(COVERED);
            sum = sum.saturating_add(demand(class));
            !covered
        });
        let needed = needed.count().min(MOST);
        classes.truncate(needed);
        let total = asked.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        Self { classes, total }
    }

    /// What the mix makes of each of `models` while `free` is free: so many nodes of a model, given by
    /// its place, with so much on each.
    #[must_use]
    pub fn priced(&self, models: &[&str], free: &[(usize, &Idle, u64)]) -> Vec<Worth> {
        let nodes = |nodes: u64, milli: u64| u128::from(nodes) * u128::from(milli);
        let all: u128 = free.iter().map(|(_, idle, count)| nodes(*count, idle.milli())).sum();
        let mut worths = vec![Worth::default(); models.len()];
        for (ask, count) in &self.classes {
            let accepted: Vec<bool> = models.iter().map(|model| ask.accepts(model)).collect();
            let mut class = Class::new(&ask.need);
            let able = free.iter().filter(|(model, ..)| accepted[*model]);
            let able = able.map(|(_, idle, count)| nodes(*count, class.usable_of(idle)));
            let able: u128 = able.fold(0, u128::saturating_add).max(1);
            let share = u128::from(SUM) * u128::from(*count) / u128::from(self.total.max(1));
            let weight = (share.saturating_mul(all) / able).min(share * u128::from(SCARCEST));
            class.weight = u64::try_from(weight).unwrap_or(u64::MAX);
            for (worth, _) in worths.iter_mut().zip(&accepted).filter(|(_, accepted)| **accepted) {
                worth.0.push(class);
            }
        }
        for worth in &mut worths {
            worth.0.sort_unstable();
        }
        worths
    }
}

impl Class {
    fn new(need: &Need) -> Self {
        let milli = u128::from(need.gpus.milli());
        let rate = |of: u64| {
            let rate = (milli << PLACES).checked_div(u128::from(of));
            rate.map_or(u64::MAX, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
        };
        let (least, whole) = match need.gpus {
            Gpus::None => (WHOLE, u32::MAX),
            Gpus::Part(milli) => (milli, 0),
            Gpus::Whole(count) => (WHOLE, count),
        };
        let (by_cpu, by_memory) = (rate(need.milli_cpu), rate(need.memory >> MEBI));
        let (milli_cpu, memory) = (need.milli_cpu, need.memory);
        Self { least, whole, milli_cpu, memory, by_cpu, by_memory, weight: 0 }
    }

    /// Thousandths of a GPU that pods of the class could use.
    fn usable_of(&self, idle: &Idle) -> u64 {
        let small = idle.parts.iter().take_while(|left| **left < self.least);
        let small: u64 = small.map(|left| u64::from(*left)).sum();
        self.usable(idle, idle.milli() - small)
    }

    /// Thousandths of a GPU that pods of the class could use where GPUs that are large enough have
    /// `milli` left.
    fn usable(&self, idle: &Idle, milli: u64) -> u64 {
        if idle.whole < self.whole || idle.milli_cpu < self.milli_cpu || idle.memory < self.memory {
            return 0;
        }
        milli
            .min(portion(idle.milli_cpu, self.by_cpu))
            .min(portion(idle.memory >> MEBI, self.by_memory))
    }
}

/// What `amount` allows at `rate`; all there is where nothing of it is needed. Where the product is
/// beyond 64 bits it is more GPUs than there are.
fn portion(amount: u64, rate: u64) -> u64 {
    if rate == u64::MAX { u64::MAX } else { amount.saturating_mul(rate) >> PLACES }
}

/// What the mix asks of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worth(Vec<Class>);

impl Worth {
    /// How much of `idle` the usual requests can use, by weight. More is better.
    #[must_use]
    pub fn of(&self, idle: &Idle) -> u64 {
        let (mut parts, mut milli) = (idle.parts.as_slice(), idle.milli());
        let mut worth: u64 = 0;
        for class in &self.0 {
            // Classes come by what a GPU must have left, as parts do: each part is passed once.
            while let [first, rest @ ..] = parts
                && *first < class.least
            {
                milli -= u64::from(*first);
                parts = rest;
            }
            let usable = class.usable(idle, milli);
            worth = worth.saturating_add(class.weight.saturating_mul(usable));
        }
        worth
    }

    /// How many steps the worth falls from `before` to `after`.
    #[must_use]
    pub fn steps(before: u64, after: u64) -> u64 {
        before.saturating_sub(after) / (STEP * SUM)
    }

    /// The place for a pod that costs the usual requests least, and what it costs them, if it fits;
    /// of equal places the tightest. `before` is the worth of `idle`.
    #[must_use]
    pub fn best(&self, idle: &Idle, before: u64, need: &Need) -> Option<(u64, Place)> {
        let cost = |place| (Self::steps(before, self.of(&idle.less(need, place))), place);
        idle.places(need).map(cost).min()
    }
}

#[cfg(test)]
mod tests;
