//! How well a pool takes a demand, in one number: what a decision compares over all pools.
//!
//! From the highest bit: 31 of the rank of the model, 32 of the cost's place among all costs, one
//! that is set where a gang needs several nodes, 64 of what is left over. Nothing is rounded.

/// Lower is better; all scores of one request speak of the same number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score(u128);

/// How many nodes a gang spans (of replicas of one pod all are the same), then what is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tightness {
    One(u64),
    Several(u64),
}

const COST: u32 = 65;
const RANK: u32 = COST + 32;
/// More models than any request names; above it is only [`Score::NONE`].
const LAST_RANK: u32 = (1 << 31) - 2;

impl Score {
    /// Nothing fits; worse than every score.
    pub(super) const NONE: Self = Self(u128::MAX);

    /// The score where cost decides nothing.
    pub(super) fn new(rank: u32, tightness: Tightness) -> Self {
        let (several, over) = match tightness {
            Tightness::One(over) => (0, over),
            Tightness::Several(over) => (1, over),
        };
        let rank = u128::from(rank.min(LAST_RANK)) << RANK;
        Self(rank | several << 64 | u128::from(over))
    }

    /// The same where useful work costs more than at `cost` other costs; once only.
    pub(super) fn at_cost(self, cost: u32) -> Self {
        Self(self.0 | u128::from(cost) << COST)
    }

    /// Rank of the model.
    pub(super) fn rank(self) -> Option<u32> {
        (self != Self::NONE).then(|| u32::try_from(self.0 >> RANK).unwrap_or(LAST_RANK))
    }
}
