//! How long idle GPUs stay idle: the chance that `k` of them do for `t`, and what it costs a guest.
//!
//! A member learns it from what its owner does ([`History`]) and publishes the short form
//! ([`Survival`]), which is what a round reads: nine chances for each of eight sizes.
//!
//! Invariant: a chance never rises with the time nor with the number of GPUs, whatever a member
//! published.
//!
//! Why not by the hour of the week: on a month of sixteen clusters it made no difference that could
//! be told from noise, once the time since the GPUs became idle was known; that tells most.

use std::sync::OnceLock;

mod counts;
mod history;

pub use counts::{AGES, Counts, Guest};
pub use history::History;

/// Numbers of GPUs that are told apart; others count as the next larger one, or as the last.
pub const SIZES: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// Times that are told apart, in seconds: 10 minutes doubling to a day.
pub const SPANS: [u64; 9] = [600, 1200, 2400, 4800, 9600, 19_200, 38_400, 76_800, 86_400];
/// What is certain, in millionths.
pub const CERTAIN: u32 = 1_000_000;
/// Most that [`Survival::loss_ppm`] says: a guest that wastes a hundred times what it keeps.
pub const MOST_LOSS: u64 = 100_000_000;
/// How long a guest is thought to run whose user does not say, in seconds: 8 hours.
pub const USUAL: u64 = 28_800;
/// What a restart is thought to cost a guest, in seconds: to pull, to start and to load.
pub const RESTART: u64 = 300;
/// Longest run that is judged, in seconds; a longer one is judged as this: a year.
const LONGEST: u64 = 31_536_000;

/// The chances, in millionths, that GPUs which are idle now stay idle: by size, then by span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survival([[u32; SPANS.len()]; SIZES.len()]);

impl Default for Survival {
    /// What is assumed of a pool that says nothing.
    fn default() -> Self {
        static UNKNOWN: OnceLock<Survival> = OnceLock::new();
        *UNKNOWN.get_or_init(|| History::default().survival())
    }
}

impl Survival {
    /// Takes `rows` of chances, made to fall with the span and with the size: a member may lie, but
    /// not confuse.
    #[must_use]
    pub fn new(rows: [[u32; SPANS.len()]; SIZES.len()]) -> Self {
        let mut chances = rows;
        let mut above = [CERTAIN; SPANS.len()];
        for row in &mut chances {
            let mut before = CERTAIN;
            for (chance, above) in row.iter_mut().zip(&mut above) {
                *chance = (*chance).min(before).min(*above);
                (before, *above) = (*chance, *chance);
            }
        }
        Self(chances)
    }

    /// The chances by size, then by span.
    #[must_use]
    pub fn rows(&self) -> &[[u32; SPANS.len()]; SIZES.len()] {
        &self.0
    }

    /// The chance, in millionths, that `gpus` GPUs which are idle now are so for `seconds` more.
    ///
    /// Between two spans it falls evenly; twice the last span halves the chance.
    #[must_use]
    pub fn chance(&self, gpus: u64, seconds: u64) -> u32 {
        let mut before = (0, CERTAIN);
        for point in self.points(gpus) {
            if seconds <= point.0 {
                let (width, passed) = (point.0 - before.0, seconds - before.0);
                let fallen = u64::from(before.1 - point.1) * passed / width;
                return before.1 - u32::try_from(fallen).unwrap_or(0);
            }
            before = point;
        }
        let beyond = u64::from(before.1) * before.0 / seconds;
        u32::try_from(beyond).unwrap_or(CERTAIN)
    }

    /// How many millionths of its useful work a guest of `gpus` GPUs will lose that wants to run for
    /// `seconds`, saves every `checkpoint` seconds (0 = never) and needs `restart` seconds to be
    /// where it was after an eviction. At most [`MOST_LOSS`].
    ///
    /// Lost is the work since the last save, half an interval on average, or all of it; and the
    /// restart. Dividing by the useful work rather than by the time held makes
    /// `price × (1,000,000 + loss) / 1,000,000` the exact price of useful work.
    #[must_use]
    pub fn loss_ppm(&self, gpus: u64, seconds: u64, checkpoint: u64, restart: u64) -> u64 {
        let seconds = seconds.clamp(1, LONGEST);
        let certain = u128::from(CERTAIN);
        let chance = u128::from(self.chance(gpus, seconds));
        // Seconds in millionths, so that nothing is rounded before the end.
        let finished = chance * u128::from(seconds);
        let unfinished = self.held(gpus, seconds).saturating_sub(finished);
        let evicted = certain - chance;
        let lost = match checkpoint {
            0 => unfinished,
            _ => unfinished.min(evicted * u128::from(checkpoint.min(LONGEST)) / 2),
        };
        let useful = finished + unfinished - lost;
        let wasted = lost + evicted * u128::from(restart.min(LONGEST));
        match useful {
            0 => MOST_LOSS,
            _ => u64::try_from(wasted * certain / useful).unwrap_or(MOST_LOSS).min(MOST_LOSS),
        }
    }

    /// Seconds, in millionths, that a guest holds its GPUs on average if it wants to for `seconds`.
    fn held(&self, gpus: u64, seconds: u64) -> u128 {
        let end = (seconds, self.chance(gpus, seconds));
        let passed = self.points(gpus).filter(|(span, _)| *span < seconds);
        let mut before = (0, CERTAIN);
        let mut sum = 0;
        for point in passed.chain([end]) {
            let both = u128::from(before.1) + u128::from(point.1);
            sum += both * u128::from(point.0 - before.0) / 2;
            before = point;
        }
        sum
    }

    /// Spans and the chances of `gpus` GPUs at them.
    fn points(&self, gpus: u64) -> impl Iterator<Item = (u64, u32)> {
        SPANS.into_iter().zip(self.0[size(gpus)])
    }
}

/// Which of [`SIZES`] a number of GPUs counts as.
fn size(gpus: u64) -> usize {
    let larger = SIZES.iter().position(|size| u64::from(*size) >= gpus);
    larger.unwrap_or(SIZES.len() - 1)
}

#[cfg(test)]
mod tests;
