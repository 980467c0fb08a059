//! Which requests are usual, learnt from those that come.
//!
//! Invariant: it stays small whatever comes, and what came long ago fades.

use std::collections::BTreeMap;

use super::fragmentation::{Ask, Mix};

/// Requests that are told apart. Beyond so many the rarer half is forgotten.
const KINDS: usize = 256;
/// Pods after which all counts are halved, so that a change of habits shows within a few thousand.
const FADES: u64 = 8_192;

/// Requests seen, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    counts: BTreeMap<Ask, u64>,
    total: u64,
}

impl Asked {
    /// Notes that `pods` pods came that ask for this.
    pub fn note(&mut self, ask: Ask, pods: u64) {
        let pods = pods.min(FADES);
        *self.counts.entry(ask).or_default() += pods;
        self.total += pods;
        if self.total > FADES {
            self.counts.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            self.total = self.counts.values().sum();
        }
        if self.counts.len() > KINDS {
            self.forget();
        }
    }

    /// Forgets the rarer half; of equally rare ones the later in order.
    fn forget(&mut self) {
        let mut counts: Vec<(Ask, u64)> = std::mem::take(&mut self.counts).into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(KINDS / 2);
        self.counts = counts.into_iter().collect();
        self.total = self.counts.values().sum();
    }

    /// What is usual now.
    #[must_use]
    pub fn mix(&self) -> Mix {
        Mix::new(&self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::idle::{Gpus, Need};

    fn ask(gpus: u32) -> Ask {
        let need = Need { gpus: Gpus::Whole(gpus), milli_cpu: 1_000, memory: 1 };
        Ask { need, models: None }
    }

    #[test]
    fn a_flood_of_kinds_leaves_the_usual_ones() {
        let mut asked = Asked::default();
        asked.note(ask(1), 500);
        for gpus in 2..10_000 {
            asked.note(ask(gpus), 1);
            assert!(asked.counts.len() <= KINDS);
            // What is usual comes again and again.
            asked.note(ask(1), 1);
        }
        assert!(asked.counts[&ask(1)] > 1_000);
        assert_eq!(asked.total, asked.counts.values().sum::<u64>());
    }

    #[test]
    fn old_habits_fade() {
        let mut asked = Asked::default();
        asked.note(ask(1), u64::MAX);
        for _ in 0..20 {
            asked.note(ask(2), FADES / 2);
        }
        assert!(!asked.counts.contains_key(&ask(1)), "{asked:?}");
        assert!(asked.total <= FADES);
    }
}
