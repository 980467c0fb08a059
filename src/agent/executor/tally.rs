//! What the executor counts of its leases, taken from what the server stored, so that a write that
//! was repeated counts once.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::state::State;
use super::{outcome, report};
use crate::api::GuestLease;
use crate::api::gpulease::{GuestLeaseStatus, LeasePhase};
use crate::engine::indexes::Indexes;
use crate::metrics::bounded;

/// Phases that a guest lease can have; each is shown even if no lease has it.
const PHASES: [LeasePhase; 6] = [
    LeasePhase::Reserved,
    LeasePhase::Refused,
    LeasePhase::Starting,
    LeasePhase::Running,
    LeasePhase::Releasing,
    LeasePhase::Released,
];

/// Counts since they were last taken, and leases by phase.
#[derive(Debug, Default)]
pub struct Tally {
    /// Leases by phase; `None` = not answered.
    pub phases: BTreeMap<Option<LeasePhase>, i64>,
    /// Answers by outcome.
    pub answers: BTreeMap<&'static str, u64>,
    /// Evictions by reason.
    pub evictions: BTreeMap<String, u64>,
    /// Why guests were told to go, and how long that took.
    pub vacated: Vec<(&'static str, SignedDuration)>,
    /// GPUs of guests that were told to go and are not gone, by pool.
    pub vacating: BTreeMap<String, i64>,
    /// Those of them that should be gone.
    pub overdue: BTreeMap<String, i64>,
    /// GPUs that guests held, times time, by pool.
    pub held: BTreeMap<String, SignedDuration>,
}

/// GPUs that guests held when that was last counted.
#[derive(Debug, Default)]
pub(super) struct Meter {
    at: Option<Timestamp>,
    held: BTreeMap<String, i64>,
}

impl Meter {
    /// What was held until `now`, by pool; from now on it is `held`.
    fn read(
        &mut self,
        now: Timestamp,
        held: BTreeMap<String, i64>,
    ) -> BTreeMap<String, SignedDuration> {
        let since = self.at.replace(now).unwrap_or(now);
        let before = std::mem::replace(&mut self.held, held);
        let passed = now.duration_since(since);
        let times =
            |gpus: i64| i32::try_from(gpus).map_or(SignedDuration::ZERO, |gpus| passed * gpus);
        before.into_iter().map(|(pool, gpus)| (pool, times(gpus))).collect()
    }
}

impl Tally {
    /// Counts what changed from `old` to `new`.
    pub(super) fn changed(&mut self, old: &GuestLease, new: &GuestLease) {
        let none = GuestLeaseStatus::default();
        let (before, after) = (old.status.as_ref(), new.status.as_ref());
        let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&none));
        if before.phase.is_none() && after.phase.is_some() {
            let refused = after.refusal.as_ref();
            let answer = refused.map_or("Reserved", |refusal| bounded(&refusal.reason));
            *self.answers.entry(answer).or_default() += 1;
        }
        if before.ended == after.ended {
            return;
        }
        let recorded = report::recorded(before);
        for group in after.ended.iter().filter(|group| !outcome::is_own(&group.reason)) {
            let indexes = Indexes::parse(&group.indexes).unwrap_or_default();
            let count = u64::from(indexes.minus(&recorded).len());
            *self.evictions.entry(group.reason.clone()).or_default() += count;
        }
    }
}

impl State {
    /// GPUs that guests hold, by pool.
    fn by_pool(&self) -> BTreeMap<String, i64> {
        let sums = self.models.iter().map(|(pool, models)| (pool.clone(), models.values().sum()));
        sums.collect()
    }

    /// The counts since this was last asked.
    pub fn tally(&mut self, now: Timestamp) -> Tally {
        self.count_notices(now);
        let mut tally = std::mem::take(&mut self.tally);
        let phases = PHASES.into_iter().map(Some).chain([None]);
        tally.phases = phases.map(|phase| (phase, 0)).collect();
        tally.held = self.meter.read(now, self.by_pool());
        for lease in self.leases.values() {
            let phase = lease.status.as_ref().and_then(|status| status.phase);
            *tally.phases.entry(phase).or_default() += 1;
        }
        tally
    }
}
