//! In which order pods arrive.

use super::files::Trace;

/// More arrives than there is: so many parts in ten of all GPUs.
const ARRIVING: u64 = 13;

/// Random numbers that stay the same on every machine and with every version of every library
/// (splitmix64), so that figures can be repeated.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `count`, which must not be 0.
    pub(super) fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        usize::try_from((u128::from(mixed) * count as u128) >> 64).unwrap_or(0)
    }
}

/// Kinds of the pods in the order in which they arrive: the list shuffled, then pods drawn from it again
/// and again until the next one would go beyond what is to arrive.
pub(super) fn arrivals(trace: &Trace, random: &mut Random) -> Vec<usize> {
    let mut order = trace.pods.clone();
    for place in (1..order.len()).rev() {
        order.swap(place, random.below(place + 1));
    }
    let milli = |kind: usize| trace.asks[kind].need.gpus.milli();
    let mut sum: u64 = order.iter().map(|kind| milli(*kind)).sum();
    loop {
        let kind = trace.pods[random.below(trace.pods.len())];
        if sum + milli(kind) > trace.capacity * ARRIVING / 10 {
            return order;
        }
        sum += milli(kind);
        order.push(kind);
    }
}
