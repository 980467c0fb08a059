//! A lease and its pods → what to do next.
//!
//! Invariant: a pod is deleted only to stop it, or after its result stands in the lease's status;
//! a lease is `Released` only when no pod of it can run any more. Every step may be repeated.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::books::Terms;
use super::guest::{Guest, Key, Stage, Trouble};
use super::outcome::{self, Outcome};
use super::step::{Decision, End, Run, Step, Stop, Task, Why, task};
use super::workload::LEAST_GRACE;
use super::{gang, lost, report};
use crate::api::gpulease::{GuestLeaseStatus, LeasePhase, LeaseRefusal};
use crate::engine::indexes::Indexes;
use crate::planted::{Defect, planted};

/// A pod that kube-scheduler found not to fit is given another node after this.
pub const UNSCHEDULABLE_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// A pod that kube-scheduler has not looked at yet is given up after this: another node would not
/// help, and a scheduler with a long queue would look worse for it.
pub const UNSEEN_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// An image that fails to be pulled for this long ends the lease.
pub const PULL_FAILED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// A pod that is bound but does not run after this is stopped (pulls included).
pub const READY_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// The kubelet enforces the limit; we help after this much more, whatever the clocks say.
const OVERRUN_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Creates that the API server refused in a row until the lease ends; delays add up to half a minute.
const REFUSALS: u32 = 6;
/// A reservation that its hub has not confirmed after this is given up: the hub may be gone, and
/// the owner's GPUs must not wait for it.
pub const CONFIRMED_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// What to do next for one lease.
#[must_use]
pub fn decide(run: &Run<'_>, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let status = run.lease.status.clone().unwrap_or_default();
    let Ok(terms) = Terms::read(&run.lease.spec) else { return decision };
    match status.phase {
        Some(LeasePhase::Released | LeasePhase::Refused) => sweep(run, &mut decision),
        None => {}
        Some(_) if !run.lease.spec.confirmed && !planted(Defect::UnconfirmedPods) => {
            expire(run, &status, now, &mut decision);
        }
        Some(_) => advance(run, &terms, &status, now, &mut decision),
    }
    decision.steps.retain(|step| !run.memory.busy.contains(&task(step)));
    decision
}

/// Refuses a reservation after all that waited too long for its confirmation. The write fails if
/// the confirmation came first, so that a refused lease never had a pod.
fn expire(run: &Run<'_>, old: &GuestLeaseStatus, now: Timestamp, decision: &mut Decision) {
    let since = run.memory.reserved.filter(|_| old.phase == Some(LeasePhase::Reserved));
    if !since.is_some_and(|since| decision.due(since, CONFIRMED_WITHIN, now)) {
        return;
    }
    let seconds = CONFIRMED_WITHIN.as_secs();
    let message = format!("reserved, but not confirmed by the hub within {seconds} s");
    decision.steps.push(Step::Report(Box::new(GuestLeaseStatus {
        phase: Some(LeasePhase::Refused),
        refusal: Some(LeaseRefusal { reason: outcome::NOT_CONFIRMED.into(), message }),
        gpus: 0,
        ..old.clone()
    })));
}

/// Nothing of an ended lease stays, not even a pod whose creation answered late.
fn sweep(run: &Run<'_>, decision: &mut Decision) {
    for (key, (uid, guest)) in run.pods {
        if !guest.deleting && run.memory.asked.get(key) != Some(uid) {
            let why = if guest.is_terminal() { Why::Recorded } else { stop_as(run, "Unknown") };
            decision.steps.push(Step::Delete(*key, why));
        }
    }
}

fn stop_as(run: &Run<'_>, reason: &str) -> Why {
    Why::Stop(reason.into(), grace(run))
}

/// Seconds that a pod may take to stop: the least that anybody promised.
pub(super) fn grace(run: &Run<'_>) -> i64 {
    let spec = &run.lease.spec;
    let asked = spec.withdrawn.as_ref().map_or(i64::MAX, |withdrawn| withdrawn.grace_seconds);
    let notice = run.pool.map_or(i64::MAX, |pool| pool.spec.offer.notice_seconds);
    if planted(Defect::ForcedDelete) {
        return 0;
    }
    spec.grace_seconds.min(asked).min(notice).max(LEAST_GRACE)
}

/// What one look at a lease found.
struct View<'a> {
    run: &'a Run<'a>,
    terms: &'a Terms,
    /// Indexes whose end stands in the status.
    recorded: Indexes,
    /// How others ended.
    outcomes: BTreeMap<u32, Outcome>,
    stop: Option<Stop>,
    /// Pods that have not ended and are given up: their nodes are lost.
    lost: BTreeSet<Key>,
    now: Timestamp,
}

fn advance(
    run: &Run<'_>,
    terms: &Terms,
    status: &GuestLeaseStatus,
    now: Timestamp,
    decision: &mut Decision,
) {
    let lost = run.pods.values().filter(|(_, guest)| lost::is_lost(run, guest, now, decision));
    let lost: BTreeSet<Key> = lost.map(|(_, guest)| guest.key).collect();
    let whole = || Stop { reason: outcome::NODE_FAILURE.into(), grace: grace(run) };
    let stop = stop(run, terms, now, decision)
        .or_else(|| (terms.size > 1 && !lost.is_empty()).then(whole));
    let recorded = report::recorded(status);
    let mut view = View { run, terms, recorded, outcomes: BTreeMap::new(), stop, lost, now };
    for index in terms.indexes.iter().filter(|index| !view.recorded.contains(*index)) {
        let keys = (0..terms.size).map(|rank| Key { index, rank });
        let ends = keys.map(|key| end(&view, key, status, decision)).collect();
        let doomed = |rank| run.memory.doomed.contains_key(&Key { index, rank });
        if let Some(outcome) = gang::fold(ends, doomed) {
            view.outcomes.insert(index, outcome);
        }
    }
    let busy = |key: &Key| run.memory.busy.contains(&Task::Pod(*key));
    let living = |key: &Key| run.pods.get(key).is_some_and(|(_, guest)| !guest.is_terminal());
    let running = terms.keys().any(|key| busy(&key) || living(&key));
    let (outcomes, stop) = (&view.outcomes, view.stop.as_ref());
    let expired_at = expiry(run, status, now, decision);
    let seen = report::Seen { terms, outcomes, stop, running, expired_at };
    report::report(run, status, &seen, now, decision);
    for key in terms.keys() {
        let next = next(&view, key, decision);
        decision.steps.extend(next);
    }
    if view.stop.is_none() && terms.size > 1 && !run.memory.gate_open {
        decision.steps.extend(gang::gate(run, terms).map(Step::OpenGate));
    }
}

/// When the hub of the lease was last heard.
fn heard(run: &Run<'_>) -> Option<Timestamp> {
    run.contact.or(run.memory.reserved)
}

/// Since when the lease is expired, if it is: its hub was not heard for the length of a lease, whatever
/// it said later, until it adopts it.
fn expiry(
    run: &Run<'_>,
    status: &GuestLeaseStatus,
    now: Timestamp,
    decision: &mut Decision,
) -> Option<Timestamp> {
    let adopted = run.lease.spec.adopted.as_ref().and_then(|adopted| adopted.expired_at.as_ref());
    let fenced = status.expired_at.as_ref().filter(|at| Some(*at) != adopted);
    if let Some(at) = fenced {
        return Some(at.0);
    }
    let length = SignedDuration::from_secs(run.lease.spec.expires_after_seconds?);
    let since = heard(run)?;
    decision.due(since, length, now).then(|| since.checked_add(length).unwrap_or(now))
}

/// Why all pods of the lease must stop now, most binding first.
fn stop(run: &Run<'_>, terms: &Terms, now: Timestamp, decision: &mut Decision) -> Option<Stop> {
    let spec = &run.lease.spec;
    let status = run.lease.status.as_ref();
    let stop = |reason: &str| Some(Stop { reason: reason.into(), grace: grace(run) });
    if let Some(withdrawn) = &spec.withdrawn {
        return stop(&withdrawn.reason);
    }
    let releasing = status.filter(|status| status.phase == Some(LeasePhase::Releasing));
    if let Some(reason) = releasing.and_then(|status| status.end_reason.as_deref()) {
        return stop(reason);
    }
    if run.lease.metadata.deletion_timestamp.is_some() {
        return stop(outcome::OWNER_RECLAIMED);
    }
    if let Some(verdict) = run.verdict.filter(|verdict| verdict.only.is_none()) {
        return stop(verdict.reason);
    }
    let patience = SignedDuration::from_mins(1);
    if planted(Defect::SilenceKills)
        && run.contact.is_some_and(|at| decision.due(at, patience, now))
    {
        return stop(outcome::LEASE_EXPIRED);
    }
    // The hub may run it elsewhere from then on, and must be right that it does not run here.
    if let (Some(seconds), Some(since)) = (spec.stop_after_seconds, heard(run))
        && decision.due(since, SignedDuration::from_secs(seconds), now)
        && !planted(Defect::NeverStops)
    {
        return stop(outcome::LEASE_EXPIRED);
    }
    for (_, guest) in run.pods.values().filter(|(_, guest)| !guest.is_terminal()) {
        match &guest.trouble {
            Some(Trouble::NeedsRoot(_)) => return stop(outcome::IMAGE_NEEDS_ROOT),
            Some(Trouble::ImagePull(_))
                if decision.due(guest.trouble_seen, PULL_FAILED_AFTER, now) =>
            {
                return stop(outcome::IMAGE_PULL_FAILED);
            }
            _ => {}
        }
    }
    if run.memory.refused.0 >= REFUSALS {
        let gang = terms.size > 1;
        return stop(if gang { outcome::GANG_NOT_BOUND } else { outcome::NOT_BOUND });
    }
    if terms.size > 1 {
        return gang::broken(run, terms, now, decision).and_then(|reason| stop(&reason));
    }
    None
}

fn end(view: &View<'_>, key: Key, status: &GuestLeaseStatus, decision: &mut Decision) -> End {
    let View { run, now, .. } = *view;
    let cause = run.memory.doomed.get(&key).map(String::as_str);
    let cause = cause.or(view.stop.as_ref().map(|stop| stop.reason.as_str()));
    if let Some((_, guest)) = run.pods.get(&key) {
        let limit = run.lease.spec.active_deadline_seconds;
        let given_up = view.lost.contains(&key).then(|| lost::given_up(now, guest));
        let ended = outcome::of(guest, cause, limit, now).or(given_up);
        return ended.map_or(End::Open, End::Ended);
    }
    if let Some(unsure) = run.memory.unsure.get(&key) {
        return lost::ended(run, unsure, now, decision).map_or(End::Open, End::Ended);
    }
    if let Some(outcome) = run.memory.lost.get(&key) {
        return End::Ended(outcome.clone());
    }
    if run.memory.busy.contains(&Task::Pod(key)) {
        return End::Open;
    }
    let said = Some(run.memory.refused.1.clone()).filter(|said| !said.is_empty());
    let evicted = |reason: &str| {
        End::Ended(Outcome { message: said.clone(), ..Outcome::evicted(reason, now) })
    };
    // Once all pods have run, one that is not there has vanished unseen; until then it is still to
    // be created.
    let ran = status.phase >= Some(LeasePhase::Running);
    if ran && lost::never_twice(run.lease) {
        // It may have gone while we were down, its node too: until its time is over it may run.
        let over = decision.due(lost::latest(run), SignedDuration::ZERO, now);
        return if over { evicted(cause.unwrap_or(outcome::UNKNOWN)) } else { End::Open };
    }
    match cause {
        Some(cause) => evicted(cause),
        None if ran => evicted(outcome::UNKNOWN),
        None if run.memory.planned.contains_key(&key) => End::Open,
        None => evicted(outcome::NOT_BOUND),
    }
}

/// The step that the pod at `key` needs, if it needs one.
fn next(view: &View<'_>, key: Key, decision: &mut Decision) -> Option<Step> {
    let run = view.run;
    if let Some((uid, guest)) = run.pods.get(&key) {
        if run.memory.asked.get(&key) == Some(uid) {
            return None;
        }
        return because(view, key, guest, decision).map(|why| Step::Delete(key, why));
    }
    let over = view.stop.is_some()
        || view.outcomes.contains_key(&key.index)
        || view.recorded.contains(key.index);
    let node = run.memory.planned.get(&key).filter(|_| !over)?;
    Some(Step::Create(key, node.clone()))
}

/// Why the pod at `key` must go, if it must.
fn because(view: &View<'_>, key: Key, guest: &Guest, decision: &mut Decision) -> Option<Why> {
    let View { run, terms, now, .. } = *view;
    if guest.deleting {
        return None;
    }
    if guest.is_terminal() {
        return view.recorded.contains(key.index).then_some(Why::Recorded);
    }
    if let Some(stop) = &view.stop {
        return Some(Why::Stop(stop.reason.clone(), stop.grace));
    }
    if view.lost.contains(&key) {
        return Some(stop_as(run, outcome::NODE_FAILURE));
    }
    let verdict =
        run.verdict.filter(|verdict| verdict.only.as_ref().is_some_and(|only| only.contains(&key)));
    if let Some(verdict) = verdict {
        return Some(stop_as(run, verdict.reason));
    }
    if guest.node.is_none() && terms.size == 1 {
        let patience = if guest.unschedulable { UNSCHEDULABLE_AFTER } else { UNSEEN_AFTER };
        return decision.due(guest.seen, patience, now).then_some(Why::Rebind);
    }
    if guest.stage == Stage::Pending
        && terms.size == 1
        && decision.due(guest.seen, READY_WITHIN, now)
    {
        return Some(stop_as(run, outcome::PODS_READY_TIMEOUT));
    }
    let limit = SignedDuration::from_secs(run.lease.spec.active_deadline_seconds);
    let limit = limit.checked_add(OVERRUN_AFTER).unwrap_or(SignedDuration::MAX);
    let overran = guest.started.is_some_and(|started| decision.due(started, limit, now));
    overran.then(|| stop_as(run, outcome::DEADLINE_EXCEEDED))
}

#[cfg(test)]
mod tests;
