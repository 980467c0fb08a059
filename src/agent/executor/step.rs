//! The words in which a lease's next steps are decided.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::guest::{Guest, Key};
use super::lost::{Nodes, Unsure};
use super::outcome::Outcome;
use crate::api::gpulease::GuestLeaseStatus;
use crate::api::{GpuPool, GuestLease};

/// A write that may be in flight; while it is, it is not decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// The lease's status.
    Status,
    /// The gang's gate.
    Gate,
    /// A pod's creation or deletion.
    Pod(Key),
}

/// What only this process knows of a lease. Losing it costs a repetition, never a result.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Nodes chosen for pods that do not exist yet.
    pub planned: BTreeMap<Key, String>,
    /// Ends of pods that went before they were recorded.
    pub lost: BTreeMap<Key, Outcome>,
    /// Pods that went, and of which nobody said that they ended.
    pub unsure: BTreeMap<Key, Unsure>,
    /// Pods that we told to go, and why.
    pub doomed: BTreeMap<Key, String>,
    /// Pods whose deletion the server accepted, by UID.
    pub asked: BTreeMap<Key, String>,
    /// Nodes that did not take a pod.
    pub tried: BTreeMap<Key, BTreeSet<String>>,
    /// Writes in flight.
    pub busy: BTreeSet<Task>,
    /// Whether the gang's gate is open.
    pub gate_open: bool,
    /// Creates refused in a row, and what the server said last.
    pub refused: (u32, String),
    /// When we first saw its reservation without the hub's confirmation, by our clock.
    pub reserved: Option<Timestamp>,
    /// When the status was written last.
    pub reported: Option<Timestamp>,
}

/// The owner's policy wants a lease to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `PoolClosed` or `OwnerReclaimed`.
    pub reason: &'static str,
    /// Only these pods; `None` = all.
    pub only: Option<BTreeSet<Key>>,
}

/// Everything about one lease.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The lease.
    pub lease: &'a GuestLease,
    /// Its pool, unless it is gone.
    pub pool: Option<&'a GpuPool>,
    /// Its pods by key, each with its UID.
    pub pods: &'a BTreeMap<Key, (String, Guest)>,
    /// What we remember.
    pub memory: &'a Memory,
    /// What the owner's policy says of it.
    pub verdict: Option<&'a Verdict>,
    /// When its hub was last known to answer, by our clock.
    pub contact: Option<Timestamp>,
    /// What is known of its pods' nodes.
    pub nodes: &'a Nodes,
}

/// Why a pod is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It must stop, for this reason, and has this many seconds.
    Stop(String, i64),
    /// Its node did not take it; only while it is not bound.
    Rebind,
    /// Its result is recorded.
    Recorded,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this status.
    Report(Box<GuestLeaseStatus>),
    /// Create the pod on the node planned for it.
    Create(Key, String),
    /// Let the gang start; rank 0 is at this address.
    OpenGate(String),
    /// Delete the pod.
    Delete(Key, Why),
}

/// What to do, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Steps; any order will do.
    pub steps: Vec<Step>,
    /// The next time at which time alone could change the decision.
    pub wake: Option<Timestamp>,
}

impl Decision {
    /// True once `since + after` has come; else that is a time to wake.
    pub(super) fn due(&mut self, since: Timestamp, after: SignedDuration, now: Timestamp) -> bool {
        let at = since.checked_add(after).unwrap_or(Timestamp::MAX);
        if at > now {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        at <= now
    }
}

/// All pods of a lease are to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub reason: String,
    pub grace: i64,
}

/// The write that `step` is.
#[must_use]
pub fn task(step: &Step) -> Task {
    match step {
        Step::Report(_) => Task::Status,
        Step::OpenGate(_) => Task::Gate,
        Step::Create(key, _) | Step::Delete(key, _) => Task::Pod(*key),
    }
}

/// How one pod stands.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// It runs, will run, or may run.
    Open,
    /// It ended.
    Ended(Outcome),
}
