//! What taking replicas changed, told so that nobody has to look at all nodes again.

use super::product;
use crate::engine::model::Free;

/// Some shapes of one pool: a bit for each of the first 63, and one for all behind them. So names of
/// models are compared once, not each time somebody looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(u64);

impl Places {
    /// All that a pool can have.
    pub const ALL: Self = Self(u64::MAX);
    pub(super) const LAST: usize = 63;
    /// Shapes of a pool that has no more than this have a bit each.
    pub const TOLD_APART: usize = 63;

    /// Adds the shape at that place of its pool.
    pub fn add(&mut self, place: usize) {
        self.0 |= 1 << place.min(Self::LAST);
    }

    /// Whether the shape at that place of its pool may be one of them.
    #[must_use]
    pub fn holds(self, place: usize) -> bool {
        self.0 & 1 << place.min(Self::LAST) != 0
    }

    /// Those in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of them may be in both.
    #[must_use]
    pub fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What was taken, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Pods for which nothing was left.
    pub missing: u64,
    /// Most free GPUs that one of the nodes had before.
    pub most_free: u32,
    /// Shapes of the nodes.
    pub shapes: Places,
    /// The one group of nodes that changed; `None` if there were several.
    pub moved: Option<Moved>,
}

/// Some nodes of a group, and what became of the GPUs on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    shape: usize,
    nodes: u32,
    before: u32,
    after: u32,
}

impl Moved {
    /// How many pods of so many GPUs fit on them before and do not fit now, if it is their shape
    /// that `accepted` is about; `None` if that cannot be told.
    #[must_use]
    pub fn pods_lost(&self, accepted: Places, gpus: u32) -> Option<u64> {
        if self.shape >= Places::LAST {
            return None;
        }
        let each = self.before.checked_div(gpus)? - self.after.checked_div(gpus)?;
        Some(if accepted.holds(self.shape) { product(self.nodes, each) } else { 0 })
    }
}

impl Taken {
    pub(super) fn note(&mut self, shape: usize, free: &Free, (nodes, used): (u32, u32)) {
        let first = self.most_free == 0;
        let moved = Moved { shape, nodes, before: free.gpus, after: free.gpus - used };
        self.moved = first.then_some(moved);
        self.most_free = self.most_free.max(free.gpus);
        self.shapes.add(shape);
    }
}
