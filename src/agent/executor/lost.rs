//! Pods whose node does not answer, and pods that went without their kubelet's word.
//!
//! Nodes that are away because most of them are, are no sign of that: nobody is given up then.
//!
//! Invariant: terminating is not terminated, and absent is not finished. Where a replica may run twice
//! for a while, it is given up after its node was away for long, so that the hub runs it elsewhere;
//! where it may not, only the kubelet's word, another start of the machine or the end of its time ends it.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::guest::Guest;
use super::outcome::{self, Outcome};
use super::state::{Known, State};
use super::step::{Decision, Run};
use crate::api::GuestLease;
use crate::api::gpujob::DuplicatePolicy;

/// A node that has been away for so long is likely to stay so; Kubernetes evicts its pods then too.
pub const LOST_AFTER: SignedDuration = SignedDuration::from_secs(300);
/// What a kubelet needs to kill what is over its grace.
const KILLED_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// A pod whose object is gone, and of which nobody said that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsure {
    /// Its node.
    pub node: String,
    /// Which start of that machine it ran on.
    pub boot: String,
    /// When its time is over.
    pub until: Timestamp,
    /// What it ended as, once that is sure.
    pub outcome: Outcome,
}

/// What is known of the nodes of a lease's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Since when those that do not answer have not, by our clock.
    pub away: BTreeMap<String, Timestamp>,
    /// Which start of its machine each is on.
    pub boots: BTreeMap<String, String>,
}

/// Whether two copies of a replica of `lease` must never run at once.
pub(super) fn never_twice(lease: &GuestLease) -> bool {
    lease.spec.duplicate_policy == Some(DuplicatePolicy::Never)
}

/// Whether `guest`, which has not ended, is given up.
pub(super) fn is_lost(
    run: &Run<'_>,
    guest: &Guest,
    now: Timestamp,
    decision: &mut Decision,
) -> bool {
    let away = guest.node.as_ref().and_then(|node| run.nodes.away.get(node));
    let open = !never_twice(run.lease) && !guest.is_terminal();
    away.filter(|_| open).is_some_and(|since| decision.due(*since, LOST_AFTER, now))
}

/// What a pod that went without its kubelet's word ended as, once that is sure.
pub(super) fn ended(
    run: &Run<'_>,
    unsure: &Unsure,
    now: Timestamp,
    decision: &mut Decision,
) -> Option<Outcome> {
    let boot = run.nodes.boots.get(&unsure.node);
    let restarted = boot.is_some_and(|boot| *boot != unsure.boot && !boot.is_empty());
    let over = decision.due(unsure.until, SignedDuration::ZERO, now);
    (restarted || over).then(|| Outcome { at: now, ..unsure.outcome.clone() })
}

/// When the time of a pod of `lease` is surely over that began at `began`.
pub(super) fn over(lease: &GuestLease, began: Timestamp) -> Timestamp {
    let spec = &lease.spec;
    let limit = spec.active_deadline_seconds.saturating_add(spec.grace_seconds);
    let limit = SignedDuration::from_secs(limit).saturating_add(KILLED_WITHIN);
    began.checked_add(limit).unwrap_or(Timestamp::MAX)
}

/// When no pod of the lease can run any more, as far as its status tells.
pub(super) fn latest(run: &Run<'_>) -> Timestamp {
    let status = run.lease.status.as_ref();
    let until = status.and_then(|status| status.until.as_ref()).map(|until| until.0);
    let grace =
        SignedDuration::from_secs(run.lease.spec.grace_seconds).saturating_add(KILLED_WITHIN);
    let told = until.map(|until| until.checked_add(grace).unwrap_or(Timestamp::MAX));
    told.unwrap_or(Timestamp::MIN)
}

/// Notes the end of a pod whose object is gone: sure, or to be waited for.
pub(super) fn note(
    known: &mut Known,
    lease: &GuestLease,
    guest: &Guest,
    boot: String,
    end: Outcome,
) {
    let ran = guest.node.clone().filter(|_| never_twice(lease) && !guest.is_terminal());
    let Some(node) = ran else {
        known.memory.lost.insert(guest.key, end);
        return;
    };
    let until = over(lease, guest.started.unwrap_or(end.at));
    known.memory.unsure.insert(guest.key, Unsure { node, boot, until, outcome: end });
}

/// The end of a replica whose node is lost.
pub(super) fn given_up(now: Timestamp, guest: &Guest) -> Outcome {
    let lost = guest.ran.map(|ran| now.duration_since(ran).as_secs().max(0));
    Outcome { lost, ..Outcome::evicted(outcome::NODE_FAILURE, now) }
}

impl State {
    /// Notes whether the node `name` answers, and looks at the leases whose pods are there.
    pub(super) fn note_node(&mut self, name: &str, ready: bool, now: Timestamp) {
        let before = self.away.contains_key(name);
        if ready {
            self.away.remove(name);
        } else {
            self.away.entry(name.to_owned()).or_insert(now);
        }
        let turned = !ready || before;
        let few = self.hears_few();
        if std::mem::replace(&mut self.cut_off, few) && !few {
            // Those that are still away may be the next to come back: their time counts anew.
            self.away.values_mut().for_each(|since| *since = now);
        }
        let on_it = |known: &Known| {
            let here = |guest: &Guest| {
                let node = guest.node.as_deref();
                node == Some(name) || node.is_some_and(|node| self.away.contains_key(node))
            };
            (turned && known.pods.values().any(|(_, guest)| here(guest)))
                || known.memory.unsure.values().any(|unsure| unsure.node == name)
        };
        let leases = self.known.iter().filter(|(_, known)| on_it(known));
        self.dirty.extend(leases.map(|(uid, _)| uid.clone()));
    }

    /// Whether so many nodes are away that it is rather their API server that hears nobody.
    fn hears_few(&self) -> bool {
        let away = self.nodes.values().filter(|node| !node.ready).count();
        away >= 2 && away * 2 > self.nodes.values().count()
    }

    /// What is known of the nodes of `known`'s pods.
    pub(super) fn nodes_of(&self, known: &Known) -> Nodes {
        let bound = known.pods.values().filter_map(|(_, guest)| guest.node.as_ref());
        let bound = bound.filter(|_| !self.cut_off);
        let away = bound.filter_map(|node| Some((node.clone(), *self.away.get(node)?)));
        let unsure = known.memory.unsure.values().map(|unsure| &unsure.node);
        let boot = |node: &String| Some((node.clone(), self.boot(node)?));
        Nodes { away: away.collect(), boots: unsure.filter_map(boot).collect() }
    }

    /// Which start of its machine the node `name` is on, if it is there.
    pub(super) fn boot(&self, name: &str) -> Option<String> {
        let node = self.nodes.values().find(|node| node.name == name)?;
        Some(node.boot.clone())
    }
}
