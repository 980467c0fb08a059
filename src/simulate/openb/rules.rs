//! The rules that the product's is compared with, as their authors define them.

use crate::engine::board::{Class, Rule};
use crate::engine::fragmentation::Ask;
use crate::engine::idle::{Gpus, Idle, Place, WHOLE};

use super::files::Trace;

/// Most CPU and GPU of a node, by which the paper's best fit scales what is left.
const MOST_MILLI_CPU: f64 = 128_000.0;
const MOST_MILLI_GPU: f64 = 8_000.0;
/// Parts that weights are counted in.
const SUM: u64 = 1 << 20;

/// Best fit: the node with the least CPU and GPU left afterwards, both weighing the same.
#[derive(Debug)]
pub(super) struct BestFit;

impl Rule for BestFit {
    fn worth(&self, _: &Class) -> u64 {
        0
    }

    #[allow(clippy::float_arithmetic, reason = "the rule is defined with them")]
    #[allow(clippy::cast_precision_loss, reason = "nodes are far below 2^52")]
    fn cost(&self, class: &Class, _: u64, ask: &Ask) -> Option<(u64, Place)> {
        let place = class.idle.places(&ask.need).next()?;
        let left = class.idle.less(&ask.need, place);
        let (cpu, gpu) = (left.milli_cpu as f64, left.milli() as f64);
        let score = 1.0 - 0.5 * cpu / MOST_MILLI_CPU - 0.5 * gpu / MOST_MILLI_GPU;
        Some((below_hundred(score), place))
    }

    fn tie(&self, _: &Class) -> (u64, u64) {
        (0, 0)
    }
}

/// 100 less a score of 0 to 1 in whole hundredths.
#[allow(clippy::float_arithmetic, reason = "scores are defined with them")]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is cut to 0..100")]
fn below_hundred(score: f64) -> u64 {
    100 - (score * 100.0).clamp(0.0, 100.0) as u64
}

/// A class of usual pods.
#[derive(Debug)]
struct Usual {
    ask: Ask,
    models: Vec<bool>,
    weight: u64,
}

/// The paper's fragmentation gradient; ties go to the lowest name.
#[derive(Debug)]
pub(super) struct Gradient(Vec<Usual>);

impl Gradient {
    /// Parts that fragments are counted in: so many to a thousandth of a GPU.
    pub(super) const SUM: u64 = SUM;

    /// The rule for what the pods of the trace ask for: CPU, GPUs and models, not memory.
    pub(super) fn new(trace: &Trace) -> Self {
        let mut asked = std::collections::BTreeMap::new();
        for (mut ask, count) in trace.asked() {
            ask.need.memory = 0;
            *asked.entry(ask).or_default() += count;
        }
        let mut typical: Vec<(Ask, u64)> = asked.into_iter().collect();
        typical.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut sum = 0;
        typical.retain(|(_, count)| {
            let enough = sum * 100 >= trace.pods.len() as u64 * 95;
            sum += count;
            !enough
        });
        let total: u64 = typical.iter().map(|(_, count)| count).sum();
        let usual = typical.into_iter().map(|(ask, count)| {
            let models = trace.models.iter().map(|model| ask.accepts(model)).collect();
            Usual { ask, models, weight: count * SUM / total }
        });
        Self(usual.filter(|usual| usual.ask.need.gpus != Gpus::None).collect())
    }

    /// What usual pods can use of a node, in thousandths of a GPU times [`SUM`].
    pub(super) fn usable(&self, model: usize, idle: &Idle) -> u64 {
        let able = self
            .0
            .iter()
            .filter(|usual| usual.models[model] && idle.milli_cpu >= usual.ask.need.milli_cpu);
        let usable = able.map(|usual| {
            let all = |least: u32| {
                let parts = idle.parts.iter().filter(|milli| **milli >= least);
                parts.map(|milli| u64::from(*milli)).sum::<u64>()
            };
            let whole = u64::from(idle.whole) * u64::from(WHOLE);
            usual.weight
                * match usual.ask.need.gpus {
                    Gpus::Part(milli) => whole + all(milli),
                    Gpus::Whole(count) if idle.whole >= count => whole,
                    Gpus::Whole(_) | Gpus::None => 0,
                }
        });
        usable.sum()
    }

    /// Idle GPU of a node that usual pods cannot use, in the same unit.
    pub(super) fn fragments(&self, model: usize, idle: &Idle) -> u64 {
        (idle.milli() * SUM).saturating_sub(self.usable(model, idle))
    }
}

impl Rule for Gradient {
    fn worth(&self, class: &Class) -> u64 {
        self.fragments(class.model, &class.idle)
    }

    #[allow(clippy::float_arithmetic, reason = "the rule is defined with them")]
    #[allow(clippy::cast_precision_loss, reason = "scores are cut to whole hundredths")]
    fn cost(&self, class: &Class, worth: u64, ask: &Ask) -> Option<(u64, Place)> {
        let score = |place| {
            let after = self.fragments(class.model, &class.idle.less(&ask.need, place));
            let fewer = (worth as f64 - after as f64) / SUM as f64 / f64::from(WHOLE);
            (below_hundred(1.0 / (1.0 + (-fewer).exp())), place)
        };
        class.idle.places(&ask.need).map(score).min()
    }

    fn tie(&self, _: &Class) -> (u64, u64) {
        (0, 0)
    }
}
