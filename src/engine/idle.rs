//! What is free on one node, GPU by GPU, and what taking something leaves.
//!
//! Kubernetes hands out whole GPUs and MIG devices, which are whole to it; thousandths of a GPU are
//! for clusters that share them, and for traces of such clusters.
//!
//! Invariant: GPUs are interchangeable, so only how much is left on each counts. Two nodes with equal
//! [`Idle`] are the same node to every decision.

use super::model::PodNeed;

/// Thousandths of a whole GPU.
pub const WHOLE: u32 = 1_000;

/// GPUs of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gpus {
    /// None: it takes CPU and memory only.
    #[default]
    None,
    /// These thousandths of a single GPU, fewer than [`WHOLE`] and more than none.
    Part(u32),
    /// So many whole ones.
    Whole(u32),
}

impl Gpus {
    /// Thousandths of a GPU in all.
    #[must_use]
    pub fn milli(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Part(milli) => milli.into(),
            Self::Whole(count) => u64::from(count) * u64::from(WHOLE),
        }
    }
}

/// What one pod takes of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// GPUs.
    pub gpus: Gpus,
    /// Thousandths of a core.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
}

impl From<PodNeed> for Need {
    fn from(need: PodNeed) -> Self {
        let gpus = Gpus::Whole(need.gpus);
        Self { gpus, milli_cpu: need.milli_cpu, memory: need.memory }
    }
}

/// The GPUs that a pod is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// One that has these thousandths left, fewer than [`WHOLE`].
    Part(u32),
    /// Untouched ones, as many as it needs.
    Whole,
}

/// What is free on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Idle {
    /// Thousandths of a core.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Untouched GPUs.
    pub whole: u32,
    /// Thousandths left on each GPU that is shared already, least first; used-up ones are left out.
    pub parts: Vec<u32>,
}

impl Idle {
    /// Thousandths of a GPU in all.
    #[must_use]
    pub fn milli(&self) -> u64 {
        let parts: u64 = self.parts.iter().map(|milli| u64::from(*milli)).sum();
        u64::from(self.whole) * u64::from(WHOLE) + parts
    }

    /// Every place for the pod here that differs from the others, the tightest first. Empty if it
    /// does not fit. A pod without GPUs has one.
    pub fn places(&self, need: &Need) -> impl Iterator<Item = Place> {
        let room = self.milli_cpu >= need.milli_cpu && self.memory >= need.memory;
        let (least, wanted) = match need.gpus {
            Gpus::None => (u32::MAX, 0),
            Gpus::Part(milli) => (milli, 1),
            Gpus::Whole(count) => (u32::MAX, count),
        };
        let mut before = 0;
        let parts = self.parts.iter().copied().filter(move |left| {
            let new = *left != before;
            before = *left;
            room && new && *left >= least
        });
        let whole = (room && self.whole >= wanted).then_some(Place::Whole);
        parts.map(Place::Part).chain(whole)
    }

    /// What is left once the pod is at `place`, which [`Idle::places`] named.
    #[must_use]
    pub fn less(&self, need: &Need, place: Place) -> Self {
        let mut left = self.clone();
        left.milli_cpu = left.milli_cpu.saturating_sub(need.milli_cpu);
        left.memory = left.memory.saturating_sub(need.memory);
        let rest = match (need.gpus, place) {
            (Gpus::None, _) => 0,
            (Gpus::Whole(count), _) => {
                left.whole = left.whole.saturating_sub(count);
                0
            }
            (Gpus::Part(milli), Place::Whole) => {
                left.whole = left.whole.saturating_sub(1);
                WHOLE.saturating_sub(milli)
            }
            (Gpus::Part(milli), Place::Part(had)) => {
                if let Ok(at) = left.parts.binary_search(&had) {
                    left.parts.remove(at);
                }
                had.saturating_sub(milli)
            }
        };
        if rest > 0 {
            let at = left.parts.partition_point(|other| *other < rest);
            left.parts.insert(at, rest);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(whole: u32, parts: &[u32]) -> Idle {
        Idle { milli_cpu: 10, memory: 10, whole, parts: parts.to_vec() }
    }

    fn need(gpus: Gpus) -> Need {
        Need { gpus, milli_cpu: 4, memory: 3 }
    }

    #[test]
    fn a_part_goes_to_any_gpu_with_enough_left() {
        let places = |gpus| idle(2, &[200, 500, 500]).places(&need(gpus)).collect::<Vec<_>>();
        let (tight, wide) = (Place::Part(200), Place::Part(500));
        assert_eq!(places(Gpus::Part(100)), [tight, wide, Place::Whole]);
        assert_eq!(places(Gpus::Part(201)), [wide, Place::Whole]);
        assert_eq!(places(Gpus::Whole(2)), [Place::Whole]);
        assert_eq!(places(Gpus::Whole(3)), []);
        assert_eq!(places(Gpus::None), [Place::Whole]);
    }

    #[test]
    fn cpu_and_memory_are_kept() {
        let fits = |milli_cpu, memory| {
            idle(1, &[]).places(&Need { gpus: Gpus::None, milli_cpu, memory }).next().is_some()
        };
        assert!(fits(10, 10) && !fits(11, 0) && !fits(0, 11));
    }

    #[test]
    fn what_is_left_stays_in_order() {
        let left = |gpus, place| idle(2, &[200, 500]).less(&need(gpus), place);
        let rest = |whole, parts: &[u32]| Idle { milli_cpu: 6, memory: 7, ..idle(whole, parts) };
        assert_eq!(left(Gpus::Part(200), Place::Part(200)), rest(2, &[500]));
        assert_eq!(left(Gpus::Part(100), Place::Part(500)), rest(2, &[200, 400]));
        assert_eq!(left(Gpus::Part(700), Place::Whole), rest(1, &[200, 300, 500]));
        assert_eq!(left(Gpus::Whole(2), Place::Whole), rest(0, &[200, 500]));
        assert_eq!(left(Gpus::None, Place::Whole), rest(2, &[200, 500]));
    }

    #[test]
    fn the_limits_of_integers_break_nothing() {
        let all =
            Idle { milli_cpu: u64::MAX, memory: u64::MAX, whole: u32::MAX, parts: vec![999; 64] };
        assert_eq!(all.milli(), u64::from(u32::MAX) * 1_000 + 64 * 999);
        let need = Need { gpus: Gpus::Whole(u32::MAX), milli_cpu: u64::MAX, memory: u64::MAX };
        let place = all.places(&need).next().unwrap();
        let left = all.less(&need, place);
        assert_eq!((left.milli_cpu, left.memory, left.whole, left.milli()), (0, 0, 0, 64 * 999));
    }
}
