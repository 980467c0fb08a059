//! What a lease's status says, and when it is worth a write.
//!
//! Invariant: `ended` only grows, phases only advance, and nothing is written when nothing changed.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::books::Terms;
use super::guest::{Guest, Stage};
use super::outcome::{self, Outcome};
use super::step::{Decision, Run, Step, Stop};
use crate::api::gpulease::{
    EndedGroup, GuestLeaseStatus, LeasePhase, MAX_NODES, MAX_REASON, NodePods, PodCounts, Saved,
    node_number, shortened,
};
use crate::engine::indexes::Indexes;

/// Changes of counts alone are written at most this often.
const COALESCED: SignedDuration = SignedDuration::from_secs(1);
/// Pods that run within this need no report that they start.
const STARTING_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// Most groups of ended indexes that carry a message.
const MESSAGES: usize = 20;

/// What was found out about a lease, beside its pods.
pub(super) struct Seen<'a> {
    /// Its numbers.
    pub terms: &'a Terms,
    /// How indexes ended that are not recorded yet.
    pub outcomes: &'a BTreeMap<u32, Outcome>,
    /// Why it stops, if it does.
    pub stop: Option<&'a Stop>,
    /// Whether a pod of it may still run.
    pub running: bool,
    /// Since when it is expired, if it is.
    pub expired_at: Option<Timestamp>,
}

/// The indexes whose end stands in `status`.
pub(super) fn recorded(status: &GuestLeaseStatus) -> Indexes {
    let groups = status.ended.iter().filter_map(|group| Indexes::parse(&group.indexes));
    groups.fold(Indexes::default(), |all, group| all.union(&group))
}

/// Adds the step that writes the status of `run`, if that is due, or the time at which it will be.
pub(super) fn report(
    run: &Run<'_>,
    old: &GuestLeaseStatus,
    seen: &Seen<'_>,
    now: Timestamp,
    decision: &mut Decision,
) {
    let new = status(run, old, seen, now);
    // Nodes go along with what else changes: they are worth no write of their own, and where the
    // definitions are older than this agent, the server drops them each time.
    if (GuestLeaseStatus { nodes: old.nodes.clone(), ..new.clone() }) == *old {
        return;
    }
    let due = if new.phase == old.phase {
        run.memory.reported.is_none_or(|last| decision.due(last, COALESCED, now))
    } else if new.phase == Some(LeasePhase::Starting) {
        let first = run.pods.values().map(|(_, guest)| guest.seen).min();
        first.is_some_and(|first| decision.due(first, STARTING_AFTER, now))
    } else {
        true
    };
    if due {
        decision.steps.push(Step::Report(Box::new(new)));
    }
}

fn status(
    run: &Run<'_>,
    old: &GuestLeaseStatus,
    seen: &Seen<'_>,
    now: Timestamp,
) -> GuestLeaseStatus {
    let mut new = old.clone();
    record(&mut new.ended, seen.outcomes);
    let ended = recorded(&new);
    let done = seen.terms.indexes.minus(&ended).is_empty() && !seen.running;
    new.pods = counts(run, &new.ended, seen.terms);
    new.nodes = nodes(run).unwrap_or_default();
    let began = run.pods.values().filter_map(|(_, guest)| began(guest)).min();
    new.expired_at = seen.expired_at.map(Time);
    new.start_time = old.start_time.clone().or(began.map(Time));
    let until = run.pods.values().filter_map(|(_, guest)| {
        let limit = SignedDuration::from_secs(run.lease.spec.active_deadline_seconds);
        guest.started?.checked_add(limit).ok()
    });
    new.until = until.chain(old.until.as_ref().map(|until| until.0)).max().map(Time);
    let phase = phase(run, seen, &ended, done);
    new.phase = old.phase.max(Some(phase));
    let living = run.pods.values().filter(|(_, guest)| !guest.is_terminal()).count();
    let held = living + run.memory.planned.len();
    let held = i64::try_from(held).unwrap_or(i64::MAX);
    new.gpus = held.saturating_mul(i64::from(seen.terms.gpus));
    if done {
        new.gpus = 0;
        let last = seen.outcomes.values().map(|outcome| outcome.at).max();
        new.end_time = Some(Time(last.unwrap_or(now)));
        new.end_reason = Some(end_reason(&new.ended, seen.stop));
    } else if new.phase == Some(LeasePhase::Releasing) {
        new.end_reason = Some(leaving(run, seen));
    }
    new.end_reason = new.end_reason.map(|reason| shortened(reason, MAX_REASON));
    new
}

/// Why a lease ends whose pods were all told to go.
fn leaving(run: &Run<'_>, seen: &Seen<'_>) -> String {
    if let Some(stop) = seen.stop {
        return stop.reason.clone();
    }
    let first = run.pods.iter().find(|(_, (_, guest))| guest.deleting && !guest.is_terminal());
    let reason = first.map(|(key, (_, guest))| {
        let told = run.memory.doomed.get(key).map(String::as_str);
        outcome::leaving(guest, told, run.lease.spec.active_deadline_seconds)
    });
    reason.unwrap_or(outcome::OWNER_RECLAIMED).into()
}

fn began(guest: &Guest) -> Option<Timestamp> {
    match guest.stage {
        Stage::Pending => None,
        // A pod that was stopped before its containers began has a start, but never ran.
        Stage::Failed => guest.ran,
        Stage::Running | Stage::Succeeded => guest.ran.or(guest.started),
    }
}

fn phase(run: &Run<'_>, seen: &Seen<'_>, ended: &Indexes, done: bool) -> LeasePhase {
    if done {
        return LeasePhase::Released;
    }
    if seen.stop.is_some() {
        return LeasePhase::Releasing;
    }
    let open = || seen.terms.keys().filter(|key| !ended.contains(key.index));
    let all = |holds: fn(&Guest) -> bool| {
        open().all(|key| run.pods.get(&key).is_some_and(|(_, guest)| holds(guest)))
    };
    if all(|guest| guest.deleting) {
        return LeasePhase::Releasing;
    }
    if all(|guest| guest.stage != Stage::Pending) {
        return LeasePhase::Running;
    }
    LeasePhase::Starting
}

fn counts(run: &Run<'_>, ended: &[EndedGroup], terms: &Terms) -> PodCounts {
    let living = || run.pods.values().filter(|(_, guest)| !guest.is_terminal());
    let whole = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let pods = |succeeded: bool| {
        let groups = ended.iter().filter(|group| (group.reason == outcome::SUCCEEDED) == succeeded);
        let indexes = groups.filter_map(|group| Indexes::parse(&group.indexes));
        let count = indexes.fold(0_u32, |sum, indexes| sum.saturating_add(indexes.len()));
        i32::try_from(count.saturating_mul(terms.size)).unwrap_or(i32::MAX)
    };
    PodCounts {
        bound: whole(living().filter(|(_, guest)| guest.node.is_some()).count()),
        ready: whole(living().filter(|(_, guest)| guest.stage == Stage::Running).count()),
        succeeded: pods(true),
        failed: pods(false),
    }
}

/// Where its living pods are; `None` if the pool is gone, whose UID makes the numbers.
fn nodes(run: &Run<'_>) -> Option<Vec<NodePods>> {
    let secret = run.pool?.metadata.uid.as_deref()?;
    let living = run.pods.values().map(|(_, guest)| guest).filter(|guest| !guest.is_terminal());
    let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
    for node in living.filter_map(|guest| guest.node.as_ref().or(guest.pinned.as_ref())) {
        *counts.entry(node).or_default() += 1;
    }
    let counts = counts.into_iter();
    let nodes = counts.map(|(node, pods)| NodePods { node: node_number(secret, node), pods });
    let mut nodes: Vec<NodePods> = nodes.collect();
    nodes.sort_unstable();
    nodes.truncate(MAX_NODES);
    Some(nodes)
}

/// `Completed` if every index ended by itself, else why the first did not.
fn end_reason(ended: &[EndedGroup], stop: Option<&Stop>) -> String {
    let evicted: Vec<_> =
        ended.iter().map(|group| &group.reason).filter(|reason| !outcome::is_own(reason)).collect();
    let stop = stop.map(|stop| &stop.reason).filter(|reason| evicted.contains(reason));
    stop.or(evicted.first().copied()).map_or_else(|| "Completed".into(), Clone::clone)
}

/// Adds `outcomes` to the groups of those that ended alike; new groups go to the end.
fn record(groups: &mut Vec<EndedGroup>, outcomes: &BTreeMap<u32, Outcome>) {
    for (index, outcome) in outcomes {
        let added: Indexes = std::iter::once(*index).collect();
        let group = EndedGroup {
            reason: outcome.reason.clone(),
            exit_code: outcome.exit_code,
            container: outcome.container.clone(),
            conditions: outcome.conditions.clone(),
            indexes: String::new(),
            message: outcome.message.clone(),
            checkpoint: outcome
                .checkpoint
                .clone()
                .map(|(reference, at)| Saved { at: Time(at), reference }),
            lost_seconds: outcome.lost.unwrap_or(0),
        }
        .bounded();
        let alike = groups.iter_mut().find(|other| {
            other.reason == group.reason
                && other.exit_code == group.exit_code
                && other.container == group.container
                && other.conditions == group.conditions
                && other.checkpoint == group.checkpoint
                && other.lost_seconds == group.lost_seconds
        });
        if let Some(alike) = alike {
            let before = Indexes::parse(&alike.indexes).unwrap_or_default();
            alike.indexes = before.union(&added).to_string();
            continue;
        }
        let messages = groups.iter().filter(|group| group.message.is_some()).count();
        groups.push(EndedGroup {
            indexes: added.to_string(),
            message: group.message.filter(|_| messages < MESSAGES),
            ..group
        });
    }
}
