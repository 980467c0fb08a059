//! What was counted of blocks of one size, and what that says of a guest.

use super::CERTAIN;

/// Ages that are told apart, in minutes: the first of each class.
pub const AGES: [u64; 12] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Counts are kept in thousandths, so that they can fade.
pub(super) const MILLI: u64 = 1000;
/// Assumed before anything was seen: GPUs that have been idle for a while stay so as long again
/// seven times in ten. It weighs as much as three blocks of each age.
const PRIOR_BLOCKS: u64 = 3;
/// The class of age that idle GPUs are thought to be in before anything was seen: about an hour.
const PRIOR_CLASS: usize = 7;
/// Largest count: far above what a member can see in weeks, far below an overflow.
pub(super) const MOST: u64 = 1 << 53;
/// One, as chances are reckoned with inside.
pub(super) const ONE: u64 = 1 << BITS;
const BITS: u32 = 32;
/// Longest time that is judged in minutes: a week.
pub(super) const LONGEST: u64 = 10_080;
/// Lost work costs the power that it took: a twentieth of the worth of useful work.
const POWER: u64 = 20;
/// Longest piece of time whose evictions are taken for even.
const PIECE: u64 = 1024;

/// What was counted for one size, by class of age, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks that the owner took.
    pub ends: [u64; AGES.len()],
    /// Minutes for which blocks were watched.
    pub minutes: [u64; AGES.len()],
}

/// A guest that would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// GPUs that it holds.
    pub gpus: u64,
    /// Minutes for which it wants to run.
    pub minutes: u64,
    /// Minutes between its saves; 0 = it never saves.
    pub checkpoint: u64,
    /// Minutes of a start until it is where it was.
    pub restart: u64,
}

impl Counts {
    /// Counts that `blocks` were watched while they aged from one age to another.
    pub(super) fn watch(&mut self, (from, to): (u64, u64), blocks: u64) {
        for (place, minutes) in self.minutes.iter_mut().enumerate().skip(class(from)) {
            if AGES[place] >= to {
                return;
            }
            let until = AGES.get(place + 1).copied().unwrap_or(u64::MAX);
            let passed = to.min(until).saturating_sub(from.max(AGES[place]));
            let passed = passed.saturating_mul(blocks).saturating_mul(MILLI);
            *minutes = minutes.saturating_add(passed).min(MOST);
        }
    }

    /// The chance, of [`ONE`], to pass one more minute at an age of this class.
    fn passes(&self, place: usize) -> u64 {
        let age = AGES[place].max(1);
        // Half of the assumed blocks end in as much time as they are old.
        let ends = self.ends[place] + PRIOR_BLOCKS * MILLI / 2;
        let minutes = self.minutes[place] + PRIOR_BLOCKS * MILLI * age;
        let ending = u128::from(ends) * u128::from(ONE) / u128::from(minutes);
        ONE.saturating_sub(u64::try_from(ending).unwrap_or(ONE))
    }

    /// The chance, of [`ONE`], that a block of `age` stays idle for `minutes`.
    pub(super) fn survives(&self, age: u64, minutes: u64) -> u64 {
        pieces(age, minutes)
            .fold(ONE, |alive, (place, piece)| times(alive, power(self.passes(place), piece)))
    }

    /// The chance, in millionths, of a block whose age is any of those that were watched.
    pub(super) fn chance(&self, minutes: u64) -> u32 {
        let (mut sum, mut weights) = (0_u128, 0_u128);
        for (place, age) in AGES.into_iter().enumerate() {
            let prior = if place == PRIOR_CLASS { PRIOR_BLOCKS * MILLI * age } else { 0 };
            let weight = u128::from(self.minutes[place] + prior);
            sum += weight * u128::from(self.survives(age, minutes));
            weights += weight;
        }
        let chance = sum / weights.max(1) * u128::from(CERTAIN) / u128::from(ONE);
        u32::try_from(chance).unwrap_or(CERTAIN)
    }

    /// What guests that follow each other on a block of `age` keep until the owner takes it, or
    /// until it is as old as `end`, less what that eviction costs; in minutes of [`ONE`].
    pub(super) fn worth(&self, guest: &Guest, age: u64, end: u64) -> i128 {
        // A guest that never saves is one whose only save is its end.
        let interval = match guest.checkpoint {
            0 => guest.minutes,
            checkpoint => checkpoint.min(guest.minutes),
        };
        let kept = |ran: u64| if ran < interval { 0 } else { ran - interval / 2 };
        let costs = i128::from(guest.restart + interval / 2 / POWER);
        let (mut alive, mut ran, mut worth) = (ONE, 0, 0_i128);
        for (place, piece) in pieces(age, end - age) {
            let after = times(alive, power(self.passes(place), piece));
            let yields = i128::from(kept(ran + piece.div_ceil(2))) - costs;
            worth += i128::from(alive - after) * yields;
            (alive, ran) = (after, ran + piece);
        }
        worth + i128::from(alive) * i128::from(kept(ran))
    }
}

/// `minutes` from `age` on, cut where the class of age changes: class and length of each piece.
fn pieces(age: u64, minutes: u64) -> impl Iterator<Item = (usize, u64)> {
    let (mut age, mut left) = (age, minutes.min(LONGEST));
    std::iter::from_fn(move || {
        let place = class(age);
        let until = AGES.get(place + 1).map_or(u64::MAX, |next| next - age);
        let piece = left.min(until).min(PIECE);
        (age, left) = (age.saturating_add(piece), left - piece);
        (piece > 0).then_some((place, piece))
    })
}

/// Which of [`AGES`] an age belongs to.
pub(super) fn class(age: u64) -> usize {
    AGES.iter().rposition(|first| *first <= age).unwrap_or(0)
}

/// The product of two chances.
fn times(a: u64, b: u64) -> u64 {
    u64::try_from((u128::from(a) * u128::from(b)) >> BITS).unwrap_or(ONE)
}

/// The chance to pass `minutes` of which each is passed with the chance `one`.
fn power(one: u64, minutes: u64) -> u64 {
    let (mut result, mut square, mut left) = (ONE, one, minutes);
    while left > 0 {
        if left % 2 == 1 {
            result = times(result, square);
        }
        (square, left) = (times(square, square), left / 2);
    }
    result
}
