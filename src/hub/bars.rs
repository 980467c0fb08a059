//! Pools that refused a job, or did not answer it: not asked again before they changed.
//!
//! Invariant: a refusal is counted once, and before anything else is placed because of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::facts::Bar;
use super::rounds::{Now, Pass};
use super::state::{State, member_in};
use crate::api::gpulease::{GpuLease, LeasePhase};
use crate::engine::lifecycle::{Allocation, NOT_ACCEPTED};
use crate::engine::model::PoolId;

/// Books without a serial: what is barred by time alone is free afterwards.
const NO_SERIAL: i64 = -1;
/// Characters of a refusal that are shown.
const SAID: usize = 256;
/// Repeated refusals double the delay at most so often: a minute.
const DOUBLED: u32 = 6;

/// Notes what members made of this job's leases. All that are seen count, also those that another
/// leader put on record: two that keep the refusals of each other from nobody would never rest.
pub(super) fn note(state: &mut State, pass: &Pass, now: Now) {
    let keys = state.leases_of.get(&pass.id).into_iter().flatten();
    let seen = keys.filter_map(|(epoch, key)| {
        let lease = state.leases.get(key)?;
        let pool = PoolId { member: member_in(&key.0)?, pool: lease.spec.pool.clone() };
        let said: String = said(lease).chars().take(SAID).collect();
        Some((*epoch, pool, answer(lease)?, said))
    });
    // Refused leases stay for a while: of each pool the last one counts.
    let newest: BTreeMap<_, _> =
        seen.map(|(epoch, pool, answer, said)| (pool, (epoch, answer, said))).collect();
    for (pool, (epoch, answer, said)) in newest {
        let notes = state.notes.entry(pass.id.clone()).or_default();
        let known = notes.bars.get(&pool);
        if known.is_some_and(|bar| bar.epoch >= epoch) {
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
        notes.bars.insert(pool, Bar { epoch, serial, times, said, until });
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

/// The member's answer; `None` if it may still come, was yes, or the lease was withdrawn for no
/// fault of the member's.
fn answer(lease: &GpuLease) -> Option<Answer> {
    let status = lease.status.as_ref();
    let phase = status.and_then(|status| status.phase);
    if !matches!(phase, None | Some(LeasePhase::Refused)) {
        return None;
    }
    match (&lease.spec.withdrawn, phase) {
        (Some(withdrawal), _) => (withdrawal.reason == NOT_ACCEPTED).then_some(Answer::None),
        (None, None) => None,
        (None, Some(_)) => {
            Some(Answer::Refused { serial: status.and_then(|status| status.serial).unwrap_or(0) })
        }
    }
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
    let accepted =
        |pool: &PoolId, bar: &Bar| held.iter().any(|(of, at)| of == pool && *at > bar.epoch);
    for (_, bar) in notes.bars.iter_mut().filter(|(pool, bar)| accepted(pool, bar)) {
        // Its epoch stays known, so that the same refusal is not counted again.
        (bar.serial, bar.times) = (NO_SERIAL, 0);
        bar.said.clear();
    }
}
