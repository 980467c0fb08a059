//! A replica of several pods: it starts whole, and it ends whole.
//!
//! Invariant: the gate opens only when every pod is bound, none has ended and none is told to go.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::books::Terms;
use super::guest::{Guest, Key, Stage};
use super::outcome::{self, Outcome};
use super::runs::READY_WITHIN;
use super::step::{Decision, End, Run, Task};
use crate::planted::{Defect, planted};

/// A gang that is not bound whole after this is rolled back.
pub const BOUND_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// How a replica ended, from how each rank stands; `None` while one may still run. The first that
/// went wrong decides, and what we told to go because of it does not.
pub(super) fn fold(ends: Vec<End>, doomed: impl Fn(u32) -> bool) -> Option<Outcome> {
    let mut outcomes = Vec::with_capacity(ends.len());
    for (rank, end) in (0_u32..).zip(ends) {
        match end {
            End::Open => return None,
            End::Ended(outcome) => outcomes.push((doomed(rank), outcome)),
        }
    }
    let latest = outcomes.iter().map(|(_, outcome)| outcome.at).max()?;
    let wrong = outcomes.iter().filter(|(_, outcome)| outcome.reason != outcome::SUCCEEDED);
    let first = wrong.min_by_key(|(doomed, outcome)| (*doomed, outcome.onset));
    let (_, outcome) = first.or(outcomes.first())?;
    // One rank saves for all, most often the first; what it saved none of them lost.
    let saves = outcomes.iter().filter_map(|(_, outcome)| outcome.checkpoint.clone());
    let checkpoint = saves.max_by_key(|(_, at)| *at);
    let lost = outcomes.iter().filter_map(|(_, outcome)| outcome.lost).min();
    let lost = lost.filter(|_| !outcome.is_own());
    Some(Outcome { at: latest, checkpoint, lost, ..outcome.clone() })
}

/// The address of rank 0, if the gang may start now and does not run yet.
pub(super) fn gate(run: &Run<'_>, terms: &Terms) -> Option<String> {
    let index = terms.indexes.first()?;
    let ready = |guest: &Guest| guest.node.is_some() && !guest.is_terminal() && !guest.deleting;
    let guests: Vec<_> = terms
        .keys()
        .map(|key| run.pods.get(&key).map(|(_, guest)| guest))
        .collect::<Option<_>>()?;
    let run_already = guests.iter().all(|guest| guest.stage == Stage::Running);
    let early = planted(Defect::GateOpensEarly);
    if run_already || !(early || guests.iter().all(|guest| ready(guest))) {
        return None;
    }
    run.pods.get(&Key { index, rank: 0 })?.1.ip.clone()
}

/// Why the gang must end whole, if it must.
pub(super) fn broken(
    run: &Run<'_>,
    terms: &Terms,
    now: Timestamp,
    decision: &mut Decision,
) -> Option<String> {
    let limit = run.lease.spec.active_deadline_seconds;
    let ended = run.pods.values().filter_map(|(_, guest)| outcome::of(guest, None, limit, now));
    let lost = run.memory.lost.values().cloned();
    let wrong = ended.chain(lost).filter(|outcome| outcome.reason != outcome::SUCCEEDED);
    if let Some(first) = wrong.min_by_key(|outcome| outcome.onset) {
        return Some(first.reason);
    }
    let leaving = run.pods.values().find(|(_, guest)| guest.deleting && !guest.is_terminal());
    if let Some((_, guest)) = leaving {
        let told = run.memory.doomed.get(&guest.key).map(String::as_str);
        return Some(outcome::leaving(guest, told, limit).into());
    }
    let only = run.verdict.filter(|verdict| verdict.only.is_some());
    if let Some(verdict) = only {
        return Some(verdict.reason.into());
    }
    let absent = |key: &Key| {
        !run.pods.contains_key(key)
            && !run.memory.planned.contains_key(key)
            && !run.memory.lost.contains_key(key)
            && !run.memory.busy.contains(&Task::Pod(*key))
    };
    if terms.keys().any(|key| absent(&key)) {
        let ran = run.lease.status.as_ref().and_then(|status| status.start_time.as_ref());
        let reason = if ran.is_some() { outcome::UNKNOWN } else { outcome::GANG_NOT_BOUND };
        return Some(reason.into());
    }
    let first = run.pods.values().map(|(_, guest)| guest.seen).min()?;
    let unbound = run.pods.len() < terms.size as usize
        || run.pods.values().any(|(_, guest)| guest.node.is_none());
    if unbound && decision.due(first, BOUND_WITHIN, now) {
        return Some(outcome::GANG_NOT_BOUND.into());
    }
    let pending = run.pods.values().any(|(_, guest)| guest.stage == Stage::Pending);
    (pending && decision.due(first, READY_WITHIN, now)).then(|| outcome::PODS_READY_TIMEOUT.into())
}
