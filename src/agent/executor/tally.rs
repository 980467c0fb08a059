//! What the executor counts of its leases, taken from what the server stored, so that a write that
//! was repeated counts once.

use std::collections::BTreeMap;

use super::state::State;
use super::{outcome, report};
use crate::api::GuestLease;
use crate::api::gpulease::{GuestLeaseStatus, LeasePhase};
use crate::engine::indexes::Indexes;

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
    pub answers: BTreeMap<String, u64>,
    /// Evictions by reason.
    pub evictions: BTreeMap<String, u64>,
    /// Pools that are gone.
    pub dropped: Vec<String>,
}

impl Tally {
    /// Counts what changed from `old` to `new`.
    pub(super) fn changed(&mut self, old: &GuestLease, new: &GuestLease) {
        let none = GuestLeaseStatus::default();
        let (before, after) = (old.status.as_ref(), new.status.as_ref());
        let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&none));
        if before.phase.is_none() && after.phase.is_some() {
            let answer = after.refusal.as_ref().map_or("Reserved", |refusal| &refusal.reason);
            *self.answers.entry(answer.into()).or_default() += 1;
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
    /// The counts since this was last asked.
    pub fn tally(&mut self) -> Tally {
        let mut tally = std::mem::take(&mut self.tally);
        let phases = PHASES.into_iter().map(Some).chain([None]);
        tally.phases = phases.map(|phase| (phase, 0)).collect();
        for lease in self.leases.values() {
            let phase = lease.status.as_ref().and_then(|status| status.phase);
            *tally.phases.entry(phase).or_default() += 1;
        }
        tally
    }
}
