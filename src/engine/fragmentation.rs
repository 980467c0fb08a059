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
//! * **A class that accepts few models weighs more on those**, by the share of the fleet that they
//!   are: all its pods will come to these nodes. So the others leave scarce models alone.
//! * **Costs are compared in steps of [`STEP`]**, evenly. The paper's sigmoid, cut to 0..100, has
//!   steps of 40 and more; finer ones let noise decide where packing tightly should, coarser ones
//!   overlook gaps.

use std::collections::{BTreeMap, BTreeSet};

use super::idle::{Gpus, Idle, Need, Place, WHOLE};

/// Costs that differ by less than so many thousandths of a GPU, as the usual requests see them, are alike.
pub const STEP: u64 = 25;
/// The classes that are looked at cover so many parts in a hundred of what was asked.
const COVERED: u128 = 95;
/// Most classes that are looked at: beyond these each is rare, and a decision costs as much again.
const MOST: usize = 256;
/// All weights together, were no class bound to a model.
const SUM: u64 = 1 << 20;
/// A class bound to a smaller share of the fleet than one in this many counts as if it were this much.
const SCARCEST: u64 = 1 << 12;
/// Binary places of a rate.
const PLACES: u32 = 24;

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
    /// Thousandths of a GPU that go with one unit of CPU or memory, in binary fractions.
    by_cpu: u64,
    by_memory: u64,
    weight: u64,
}

/// What is asked for, by how often, and on how many GPUs of each model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    models: BTreeMap<String, Worth>,
}

impl Mix {
    /// The mix in which each of `asked` came so many times, on a fleet of so many GPUs of each model,
    /// free or not. Where nothing was asked yet everything is worth nothing, and ties decide.
    #[must_use]
    pub fn new(asked: &BTreeMap<Ask, u64>, fleet: &BTreeMap<String, u64>) -> Self {
        let typical = typical(asked);
        let total: u128 = typical.iter().map(|(_, count)| u128::from(*count)).sum();
        let all: u128 = fleet.values().map(|gpus| u128::from(*gpus)).sum();
        let mut models: BTreeMap<String, Worth> =
            fleet.keys().map(|model| (model.clone(), Worth::default())).collect();
        for (ask, count) in typical.into_iter().filter(|(ask, _)| ask.need.gpus.milli() > 0) {
            let able = fleet.iter().filter(|(model, _)| ask.accepts(model));
            let able: u128 = able.map(|(_, gpus)| u128::from(*gpus)).sum();
            let share = u128::from(SUM) * u128::from(count) / total.max(1);
            let scarce = share.saturating_mul(all) / able.max(1);
            let weight = scarce.min(share * u128::from(SCARCEST));
            let class = Class::new(&ask.need, u64::try_from(weight).unwrap_or(u64::MAX));
            for (_, worth) in models.iter_mut().filter(|(model, _)| ask.accepts(model)) {
                worth.0.push(class);
            }
        }
        models.values_mut().for_each(|worth| worth.0.sort_unstable());
        Self { models }
    }

    /// What is asked of one model.
    #[must_use]
    pub fn of(&self, model: &str) -> &Worth {
        static NOTHING: Worth = Worth(Vec::new());
        self.models.get(model).unwrap_or(&NOTHING)
    }
}

/// The most frequent requests, so many that they cover nearly all of what was asked.
fn typical(asked: &BTreeMap<Ask, u64>) -> Vec<(&Ask, u64)> {
    let mut typical: Vec<_> = asked.iter().map(|(ask, count)| (ask, *count)).collect();
    // The sort keeps the order of requests that came equally often.
    typical.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let total: u128 = typical.iter().map(|(_, count)| u128::from(*count)).sum();
    let mut sum = 0;
    let needed = typical.iter().take_while(|(_, count)| {
        let enough = sum * 100 >= total * COVERED;
        sum += u128::from(*count);
        !enough
    });
    let needed = needed.count().min(MOST);
    typical.truncate(needed);
    typical
}

impl Class {
    fn new(need: &Need, weight: u64) -> Self {
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
        let (by_cpu, by_memory) = (rate(need.milli_cpu), rate(need.memory));
        let (milli_cpu, memory) = (need.milli_cpu, need.memory);
        Self { least, whole, milli_cpu, memory, by_cpu, by_memory, weight }
    }

    /// Thousandths of a GPU that pods of the class could use where GPUs that are large enough have
    /// `milli` left.
    fn usable(&self, idle: &Idle, milli: u64) -> u64 {
        if idle.whole < self.whole || idle.milli_cpu < self.milli_cpu || idle.memory < self.memory {
            return 0;
        }
        milli.min(portion(idle.milli_cpu, self.by_cpu)).min(portion(idle.memory, self.by_memory))
    }
}

/// What `amount` allows at `rate`.
fn portion(amount: u64, rate: u64) -> u64 {
    if rate == u64::MAX {
        return u64::MAX;
    }
    u64::try_from((u128::from(amount) * u128::from(rate)) >> PLACES).unwrap_or(u64::MAX)
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
