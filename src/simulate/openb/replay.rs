//! One replay: pod after pod, and what share of the GPUs is used as they come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::files::Trace;
use super::fleets::Fleet;
use super::rules::Gradient;

/// What one replay found. Shares are in parts of a hundred, by how much of all GPUs had arrived, in the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// GPU that is used.
    pub used: BTreeMap<u64, Mean>,
    /// Idle GPU that the usual pods cannot use.
    pub fragmented: BTreeMap<u64, Mean>,
    /// Pods that came.
    pub decisions: u64,
    /// Time that the choices took.
    pub busy: Duration,
}

/// A mean as it grows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    sum: f64,
    count: u64,
}

#[allow(clippy::float_arithmetic, reason = "a figure for people")]
#[allow(clippy::cast_precision_loss, reason = "events are far below 2^52")]
impl Mean {
    pub(super) fn add(&mut self, part: u64, whole: u64) {
        self.sum += 100.0 * part as f64 / (whole.max(1)) as f64;
        self.count += 1;
    }

    pub(super) fn value(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Places the pods of `order`, kinds of `trace`, on `fleet`.
pub(super) fn run(trace: &Trace, order: &[usize], fleet: &mut dyn Fleet) -> Run {
    let paper = Gradient::new(trace);
    let of = |node: &super::files::Node| paper.fragments(node.model, &node.idle);
    let mut fragments: u64 = trace.nodes.iter().map(of).sum();
    let (mut arrived, mut used) = (0, 0);
    let mut run = Run { decisions: order.len() as u64, ..Run::default() };
    for kind in order {
        let start = Instant::now();
        let taken = fleet.place(*kind);
        run.busy += start.elapsed();
        let milli = trace.asks[*kind].need.gpus.milli();
        arrived += milli;
        if let Some(taken) = taken {
            used += milli;
            let model = trace.nodes[taken.node].model;
            fragments -= paper.fragments(model, &taken.before);
            fragments += paper.fragments(model, &taken.after);
        }
        // Rounded to the nearest whole, as in the paper.
        let share = (200 * arrived + trace.capacity) / (2 * trace.capacity);
        run.used.entry(share).or_default().add(used, trace.capacity);
        let idle = (trace.capacity - used) * Gradient::SUM;
        run.fragmented.entry(share).or_default().add(fragments, idle);
    }
    run
}
