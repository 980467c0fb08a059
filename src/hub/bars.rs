//! Pools that refused a job, or did not answer it: not asked again before they changed.
//!
//! Invariant: a refusal is counted once, and before anything else is placed because of it.

use std::time::Duration;

use super::facts::Bar;
use super::rounds::{Now, Pass};
use super::state::State;
use crate::api::gpulease::{GpuLease, LeasePhase};
use crate::engine::lifecycle::{Allocation, NOT_ACCEPTED};

/// Books without a serial: what is barred by time alone is free afterwards.
const NO_SERIAL: i64 = -1;
/// Characters of a refusal that are shown.
const SAID: usize = 256;
/// Repeated refusals double the delay at most so often: a minute.
const DOUBLED: u32 = 6;

/// Notes what this pass found to be refused, or given up without an answer.
pub(super) fn note(state: &mut State, pass: &Pass, now: Now) {
    for refused in &pass.advance.refused {
        let key = state.leases_of.get(&pass.id).and_then(|leases| leases.get(&refused.epoch));
        let Some(lease) = key.and_then(|key| state.leases.get(key)) else { continue };
        let Some(answer) = answer(lease) else { continue };
        let notes = state.notes.entry(pass.id.clone()).or_default();
        let known = notes.bars.get(&refused.pool);
        if known.is_some_and(|bar| bar.epoch >= refused.epoch) {
            continue;
        }
        let times = known.map_or(1, |bar| bar.times.saturating_add(1));
        let (serial, delay) = match answer {
            // The first refusal waits for a newer picture only; repeated ones also for time, so
            // that a pool which refuses for another reason than its GPUs is not asked in a loop.
            Answer::Refused { serial } if times == 1 => (serial, 0),
            Answer::Refused { serial } => (serial, 1 << times.min(DOUBLED)),
            // A dead link publishes nothing either, so only time may lift this bar.
            Answer::None => (NO_SERIAL, 8 << times.min(DOUBLED - 3)),
        };
        let until = now.instant + Duration::from_secs(delay);
        let said = said(lease).chars().take(SAID).collect();
        let bar = Bar { epoch: refused.epoch, serial, times, until, said };
        notes.bars.insert(refused.pool.clone(), bar);
    }
}

/// The member's words.
fn said(lease: &GpuLease) -> String {
    let status = lease.status.as_ref();
    match status.and_then(|status| status.refusal.as_ref()) {
        Some(refusal) => format!("{}: {}", refusal.reason, refusal.message),
        None => "nothing in time".to_owned(),
    }
}

/// What a member made of a lease that never ran.
enum Answer {
    /// It said no, by its books of this serial.
    Refused { serial: i64 },
    /// It did not answer in time.
    None,
}

/// The member's answer; `None` if the lease was withdrawn for no fault of the member's.
fn answer(lease: &GpuLease) -> Option<Answer> {
    if let Some(withdrawal) = &lease.spec.withdrawn {
        return (withdrawal.reason == NOT_ACCEPTED).then_some(Answer::None);
    }
    let serial = lease.status.as_ref().and_then(|status| status.serial);
    Some(Answer::Refused { serial: serial.unwrap_or(0) })
}

/// A pool that accepted since is no longer held to have refused.
pub(super) fn lift(state: &mut State, pass: &Pass) {
    let Some(keys) = state.leases_of.get(&pass.id) else { return };
    let accepted = |held: &&Allocation| {
        let lease = keys.get(&held.epoch).and_then(|key| state.leases.get(key));
        let phase = lease.and_then(|lease| lease.status.as_ref()?.phase);
        phase.is_some_and(|phase| phase != LeasePhase::Refused)
    };
    let held = pass.advance.record.allocations.iter().filter(accepted);
    let held: Vec<_> = held.map(|held| (held.pool.clone(), held.epoch)).collect();
    let Some(notes) = state.notes.get_mut(&pass.id) else { return };
    notes.bars.retain(|pool, bar| !held.iter().any(|(of, at)| of == pool && *at > bar.epoch));
}
