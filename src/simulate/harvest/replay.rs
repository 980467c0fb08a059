//! One member's minutes: who holds its idle GPUs.

use std::collections::VecDeque;

use super::Policy;
use crate::engine::survival::{Guest, History};

/// The guests of the backlog, all alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guests {
    /// GPUs of one.
    pub gpus: u32,
    /// Minutes that one runs.
    pub minutes: u64,
    /// Minutes between its saves; 0 = it never saves.
    pub checkpoint: u64,
    /// Minutes that a restart is thought to cost.
    pub restart: u64,
}

/// What became of them; times in minutes of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Guests that started.
    pub started: u64,
    /// Of them, those that the owner's return ended.
    pub evicted: u64,
    /// Of them, those that ran to their end.
    pub finished: u64,
    /// Time of finished guests, and saved time of evicted ones.
    pub useful: u64,
    /// Time of evicted guests that they had not saved.
    pub wasted: u64,
    /// Time of guests that run still at the end of the trace: neither.
    pub unfinished: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.evicted += other.evicted;
        self.finished += other.finished;
        self.useful += other.useful;
        self.wasted += other.wasted;
        self.unfinished += other.unfinished;
    }
}

impl Guests {
    /// Work that a guest loses if it is evicted after `ran` minutes.
    fn unsaved(&self, ran: u64) -> u64 {
        ran.checked_rem(self.checkpoint).unwrap_or(ran)
    }

    /// The same guest in the engine's words.
    fn guest(&self) -> Guest {
        Guest {
            gpus: self.gpus.into(),
            minutes: self.minutes,
            checkpoint: self.checkpoint,
            restart: self.restart,
        }
    }
}

/// Replays one member. In each minute guests that have run long enough end, the owner takes what it
/// takes, the policy fills what it likes of the rest, and everybody runs for a minute.
pub(super) fn replay(idle: &[u32], guests: &Guests, policy: Policy) -> Tally {
    let (mut tally, mut history) = (Tally::default(), History::default());
    // How long each guest has run, the oldest first.
    let mut running: Vec<u64> = Vec::new();
    let mut waits = Waits::default();
    for (minute, free) in (0..).zip(idle) {
        let before = running.len();
        running.retain(|ran| *ran < guests.minutes);
        tally.finished += (before - running.len()) as u64;
        let room = (free / guests.gpus) as usize;
        while running.len() > room {
            let ran = running.remove(victim(&running, guests, policy));
            tally.evicted += 1;
            tally.wasted += guests.unsaved(ran);
            tally.useful += ran - guests.unsaved(ran);
        }
        if policy == Policy::Default {
            history.observe(minute, (*free).into());
        }
        while running.len() < room && waits.is_over(&history, running.len(), guests, policy) {
            running.push(0);
            tally.started += 1;
        }
        for ran in &mut running {
            *ran += 1;
        }
    }
    tally.finished += running.iter().filter(|ran| **ran >= guests.minutes).count() as u64;
    tally.unfinished = running.iter().filter(|ran| **ran < guests.minutes).sum();
    tally.useful += tally.finished * guests.minutes;
    tally
}

/// Which of the guests goes when one must, the oldest first in `running`.
fn victim(running: &[u64], guests: &Guests, policy: Policy) -> usize {
    let youngest = running.len() - 1;
    match policy {
        Policy::Greedy => youngest,
        // As the member's agent chooses: the least lost work, then the youngest.
        Policy::Default => (0..running.len())
            .min_by_key(|place| (guests.unsaved(running[*place]), running[*place]))
            .unwrap_or(youngest),
    }
}

/// A start that was put off: beside how many others, and until which minute.
#[derive(Debug, Default)]
struct Waits(Option<(usize, i64)>);

impl Waits {
    /// Whether one more guest starts beside `running` others. What was put off is judged again when
    /// its time has come, or when it would get other GPUs.
    fn is_over(
        &mut self,
        history: &History,
        running: usize,
        guests: &Guests,
        policy: Policy,
    ) -> bool {
        if policy == Policy::Greedy {
            return true;
        }
        let wanted = (running as u64 + 1) * u64::from(guests.gpus);
        let (minute, age) = (history.seen().unwrap_or(0), history.age(wanted).unwrap_or(0));
        let waits = |(beside, until): &(usize, i64)| *beside == running && minute < *until;
        if age > 0 && self.0.as_ref().is_some_and(waits) {
            return false;
        }
        let put_off = history.put_off(&guests.guest(), age);
        self.0 = put_off.map(|wait| (running, minute.saturating_add_unsigned(wait)));
        put_off.is_none()
    }
}

/// The most guests without saves that anybody could have finished on these minutes, knowing them all.
///
/// Choose minutes such that no guest fits between two of them: every guest that finishes holds its
/// GPUs in one of them at least, so there are no more guests than room in these minutes together.
/// The least such sum over all choices is the bound. (It is the dual of a linear program whose
/// matrix is an interval matrix, so it is attained: greedy with the youngest evicted reaches it.)
pub(super) fn most_finished(idle: &[u32], guests: &Guests) -> u64 {
    let length = usize::try_from(guests.minutes).unwrap_or(usize::MAX);
    if idle.len() < length {
        return 0;
    }
    // Places of the last `length` minutes with their sums, rising: the least is in front.
    let mut least: VecDeque<(usize, u64)> = VecDeque::new();
    for (place, free) in idle.iter().enumerate() {
        while least.front().is_some_and(|(old, _)| old + length < place) {
            least.pop_front();
        }
        let before = if place < length { 0 } else { least.front().map_or(0, |(_, sum)| *sum) };
        let sum = before + u64::from(free / guests.gpus);
        while least.back().is_some_and(|(_, other)| *other >= sum) {
            least.pop_back();
        }
        least.push_back((place, sum));
    }
    let first = idle.len() - length;
    least.iter().find(|(place, _)| *place >= first).map_or(0, |(_, sum)| *sum)
}
