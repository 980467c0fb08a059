//! What runs in a pool, and what comes back on which nodes when it goes.
//!
//! Invariant: nothing is counted on that may not come. GPUs that guests give back on one node are
//! added up only where it is known to be one node; what is free there already is left out, as the
//! picture does not say which node that is. So a replica that is said to fit will.

use std::collections::BTreeMap;

use super::fit::{Replica, clamp};
use super::model::{Epoch, JobId, PodNeed};

/// A lease that holds GPUs of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Its job.
    pub job: JobId,
    /// Its attempt.
    pub epoch: Epoch,
    /// The queue of its job.
    pub queue: String,
    /// The priority of its job.
    pub priority: i32,
    /// Whether other guests may take its place.
    pub preemptible: bool,
    /// GPU model that it runs on.
    pub model: String,
    /// What each of its pods uses.
    pub need: PodNeed,
    /// Pods of each replica.
    pub size: u32,
    /// Replicas that have not ended.
    pub replicas: u32,
    /// On which nodes so many of its pods are, by numbers that mean something inside the pool only;
    /// pods that are not listed are somewhere.
    pub nodes: Vec<(u64, u32)>,
    /// When it began to hold them, in milliseconds since 1970.
    pub since: i64,
    /// When it is gone at the latest, in milliseconds since 1970; `None` = unknown.
    pub ends: Option<i64>,
    /// It was told to go.
    pub leaving: bool,
}

/// A node as guests' pods tell of it: one that is known by its number, or one pod's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    /// A known node.
    Node(u64),
    /// Wherever this pod of the guest at this place of its pool's list is.
    Somewhere(usize, u32),
}

impl Guest {
    /// Pods that run.
    #[must_use]
    pub fn pods(&self) -> u32 {
        self.size.saturating_mul(self.replicas)
    }

    /// GPUs that it holds.
    #[must_use]
    pub fn gpus(&self) -> u64 {
        u64::from(self.pods()) * u64::from(self.need.gpus)
    }

    /// GPU-seconds that are lost if it goes now: since it began, as long as no save is known of.
    #[must_use]
    pub fn lost(&self, now: i64) -> u128 {
        let held = u64::try_from(now.saturating_sub(self.since)).unwrap_or(0) / 1000;
        u128::from(self.gpus()) * u128::from(held)
    }

    /// Where its pods are, `place` being its own in its pool's list.
    pub(super) fn spots(&self, place: usize) -> impl Iterator<Item = (Spot, u32)> + '_ {
        let known: u32 = self.nodes.iter().fold(0, |sum, (_, pods)| sum.saturating_add(*pods));
        let rest = self.pods().saturating_sub(known);
        let known = self.nodes.iter().map(|(node, pods)| (Spot::Node(*node), *pods));
        known.chain((0..rest).map(move |pod| (Spot::Somewhere(place, pod), 1)))
    }
}

/// What comes back on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Back {
    gpus: u64,
    milli_cpu: u64,
    memory: u64,
}

impl Back {
    fn add(&mut self, need: PodNeed, pods: u32) {
        let times = |each: u64| each.saturating_mul(u64::from(pods));
        self.gpus = self.gpus.saturating_add(times(u64::from(need.gpus)));
        self.milli_cpu = self.milli_cpu.saturating_add(times(need.milli_cpu));
        self.memory = self.memory.saturating_add(times(need.memory));
    }

    fn take(&mut self, need: PodNeed, pods: u32) {
        let times = |each: u64| each.saturating_mul(u64::from(pods));
        self.gpus = self.gpus.saturating_sub(times(u64::from(need.gpus)));
        self.milli_cpu = self.milli_cpu.saturating_sub(times(need.milli_cpu));
        self.memory = self.memory.saturating_sub(times(need.memory));
    }

    fn less(&self, other: Self) -> Self {
        Self {
            gpus: self.gpus.saturating_sub(other.gpus),
            milli_cpu: self.milli_cpu.saturating_sub(other.milli_cpu),
            memory: self.memory.saturating_sub(other.memory),
        }
    }

    fn pods(&self, replica: &Replica) -> u32 {
        replica.pods_within(clamp(self.gpus), self.milli_cpu, self.memory)
    }
}

/// What is spoken for already of that which will come back to a pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Spoken {
    nodes: BTreeMap<Spot, Back>,
    gpus: u64,
}

/// What comes back to a pool, node by node, as guests go; with the pods of one replica that it holds
/// kept counted.
#[derive(Clone, Debug)]
pub(super) struct Returned<'a> {
    replica: Replica<'a>,
    nodes: BTreeMap<Spot, (Back, Back)>,
    /// Pods of the replica that fit on what came back and is not spoken for.
    pub(super) pods: u64,
    came: u64,
    spoken: u64,
}

impl<'a> Returned<'a> {
    /// Nothing yet, of which some will be spoken for.
    pub(super) fn new(replica: Replica<'a>, spoken: &Spoken) -> Self {
        let nodes = spoken.nodes.iter().map(|(spot, debt)| (*spot, (Back::default(), *debt)));
        Self { replica, nodes: nodes.collect(), pods: 0, came: 0, spoken: spoken.gpus }
    }

    /// GPUs that came back and are not spoken for, of whatever model.
    pub(super) fn gpus(&self) -> u64 {
        self.came.saturating_sub(self.spoken)
    }

    /// The guest at `place` of its pool's list goes.
    pub(super) fn add(&mut self, place: usize, guest: &Guest) {
        self.came = self.came.saturating_add(guest.gpus());
        self.change(place, guest, Back::add);
    }

    /// It stays after all.
    pub(super) fn remove(&mut self, place: usize, guest: &Guest) {
        self.came = self.came.saturating_sub(guest.gpus());
        self.change(place, guest, Back::take);
    }

    fn change(&mut self, place: usize, guest: &Guest, change: fn(&mut Back, PodNeed, u32)) {
        if guest.model != self.replica.model {
            return;
        }
        for (spot, pods) in guest.spots(place) {
            let (back, debt) = self.nodes.entry(spot).or_default();
            let before = back.less(*debt).pods(&self.replica);
            change(back, guest.need, pods);
            let after = back.less(*debt).pods(&self.replica);
            self.pods = (self.pods + u64::from(after)).saturating_sub(u64::from(before));
        }
    }

    /// Speaks for up to `pods` pods of the replica, tightest nodes first, and says for how many.
    pub(super) fn speak_for(&self, pods: u64, spoken: &mut Spoken) -> u64 {
        let able = self.nodes.iter().map(|(spot, (back, debt))| (back.less(*debt), *spot));
        let mut able: Vec<(Back, Spot)> =
            able.filter(|(left, _)| left.pods(&self.replica) > 0).collect();
        able.sort_unstable();
        let mut missing = pods;
        for (left, spot) in able {
            let some = clamp(missing).min(left.pods(&self.replica));
            spoken.nodes.entry(spot).or_default().add(self.replica.need, some);
            missing -= u64::from(some);
        }
        let found = pods - missing;
        let gpus = found.saturating_mul(u64::from(self.replica.need.gpus));
        spoken.gpus = spoken.gpus.saturating_add(gpus);
        found
    }
}

#[cfg(test)]
mod tests;
