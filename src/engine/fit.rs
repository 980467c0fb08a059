//! Whether replicas fit the free GPUs of a pool, from counts of like nodes.
//!
//! Invariant: GPUs of different nodes are never added up for one pod. Pods of a replica are equal,
//! so counting how many of them each node holds is exact, not an estimate.
//! Invariant: what is taken was free; of a group only the nodes that are used change.

use super::model::{Free, PodNeed, Shape};

mod change;

pub use change::{Moved, Places, Taken};

/// One replica on one model: equal pods that need GPUs of that model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica<'a> {
    /// GPU model of all its pods.
    pub model: &'a str,
    /// Least memory of one GPU in bytes; `None` = any, unknown included.
    pub min_memory: Option<u64>,
    /// What each pod needs.
    pub need: PodNeed,
    /// Pods; a replica without pods or GPUs fits nowhere.
    pub size: u32,
}

impl Replica<'_> {
    /// GPUs of all its pods.
    #[must_use]
    pub fn gpus(&self) -> u64 {
        product(self.size, self.need.gpus)
    }

    /// Whether GPUs of `model` with `gpu_memory` bytes each will do.
    #[must_use]
    pub fn accepts(&self, model: &str, gpu_memory: Option<u64>) -> bool {
        let enough = |least| gpu_memory.is_some_and(|memory| memory >= least);
        self.model == model && self.min_memory.is_none_or(enough)
    }

    /// How many of its pods one node holds with this much free.
    #[must_use]
    pub fn pods_within(&self, gpus: u32, milli_cpu: u64, memory: u64) -> u32 {
        let by_gpus = gpus.checked_div(self.need.gpus).unwrap_or(0);
        // Most nodes have enough beside their GPUs, and two products cost less than two quotients.
        let enough = |need: u64, free: u64| {
            need.checked_mul(u64::from(by_gpus)).is_some_and(|needed| needed <= free)
        };
        if enough(self.need.milli_cpu, milli_cpu) && enough(self.need.memory, memory) {
            return by_gpus;
        }
        let by_cpu = milli_cpu.checked_div(self.need.milli_cpu).map_or(u32::MAX, clamp);
        let by_memory = memory.checked_div(self.need.memory).map_or(u32::MAX, clamp);
        by_gpus.min(by_cpu).min(by_memory)
    }

    fn pods_on(&self, free: &Free) -> u32 {
        self.pods_within(free.gpus, free.milli_cpu, free.memory)
    }

    fn shapes<'s>(&self, shapes: &'s [Shape]) -> impl Iterator<Item = (usize, &'s Shape)> {
        let accepted = |shape: &Shape| self.accepts(&shape.model, shape.gpu_memory);
        shapes.iter().enumerate().filter(move |(_, shape)| accepted(shape))
    }
}

/// The nearest number that fits: counts beyond 32 bits are all the same to a round.
#[must_use]
pub fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Pods of the replica that all free GPUs together hold now.
#[must_use]
pub fn free_pods(shapes: &[Shape], replica: &Replica) -> u64 {
    let groups = replica.shapes(shapes).flat_map(|(_, shape)| &shape.free);
    groups.fold(0, |sum, free| sum.saturating_add(product(free.nodes, replica.pods_on(free))))
}

/// Free GPUs of all nodes together.
#[must_use]
pub fn free_gpus(shapes: &[Shape]) -> u64 {
    let groups = shapes.iter().flat_map(|shape| &shape.free);
    groups.fold(0, |sum, free| sum.saturating_add(product(free.nodes, free.gpus)))
}

/// The shapes that the replica accepts, and its pods that all their GPUs together would hold, were they
/// free. CPU and memory are not looked at: a picture says only what is free of them now.
#[must_use]
pub fn idle(shapes: &[Shape], replica: &Replica) -> (Places, u64) {
    let (mut accepted, mut sum) = (Places::default(), 0_u64);
    for (place, shape) in replica.shapes(shapes) {
        accepted.add(place);
        let pods = replica.pods_within(shape.gpus_per_node, u64::MAX, u64::MAX);
        sum = sum.saturating_add(product(shape.nodes, pods));
    }
    (accepted, sum)
}

/// What of a pool a replica finds now, from one look at its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Pods of it that all free GPUs together hold: see [`free_pods`].
    pub pods: u64,
    /// Free GPUs of the tightest node that holds the whole replica, if one does.
    pub one_node: Option<u32>,
}

/// What the replica finds now; `accepted` are the shapes that it accepts.
#[must_use]
pub fn find(shapes: &[Shape], accepted: Places, replica: &Replica) -> Found {
    let mut found = Found::default();
    let accepts = |place: usize, shape: &Shape| {
        let behind = place >= Places::LAST;
        accepted.holds(place) && (!behind || replica.accepts(&shape.model, shape.gpu_memory))
    };
    let able = shapes.iter().enumerate().filter(|(place, shape)| accepts(*place, shape));
    for free in able.flat_map(|(_, shape)| &shape.free) {
        let pods = replica.pods_on(free);
        found.pods = found.pods.saturating_add(product(free.nodes, pods));
        if pods >= replica.size.max(1) && free.nodes > 0 {
            found.one_node = Some(found.one_node.map_or(free.gpus, |least| least.min(free.gpus)));
        }
    }
    found
}

fn product(left: u32, right: u32) -> u64 {
    u64::from(left) * u64::from(right)
}

/// Whole replicas among `pods` if `lendable` GPUs may be taken in all.
#[must_use]
pub fn replicas(pods: u64, lendable: u64, replica: &Replica) -> u32 {
    let by_nodes = pods.checked_div(u64::from(replica.size)).unwrap_or(0);
    clamp(by_nodes.min(lendable.checked_div(replica.gpus()).unwrap_or(0)))
}

/// Replicas that fit now if `lendable` GPUs may be taken in all.
#[must_use]
pub fn room(shapes: &[Shape], lendable: u64, replica: &Replica) -> u32 {
    replicas(free_pods(shapes, replica), lendable, replica)
}

/// Takes `count` replicas from what is free, and returns the pods for which nothing was left.
///
/// The tightest nodes go first: fewest free GPUs, then least CPU, then least memory. That fills
/// gaps and keeps whole nodes whole. A replica of several pods gets one node if one holds it.
pub fn take(shapes: &mut [Shape], replica: &Replica, count: u32) -> u64 {
    take_and_tell(shapes, replica, count).missing
}

/// The same as [`take`], and tells which nodes changed.
pub fn take_and_tell(shapes: &mut [Shape], replica: &Replica, count: u32) -> Taken {
    let mut taken = Taken::default();
    if replica.size == 1 {
        fill(shapes, replica, u64::from(count), &mut taken);
        return taken;
    }
    for _ in 0..count {
        match tightest(shapes, replica, replica.size) {
            Some((shape, group)) => {
                let (free, used) = (&mut shapes[shape].free, used(replica, replica.size));
                taken.note(shape, &free[group], (1, used.gpus));
                split(free, group, 1, used);
            }
            None => fill(shapes, replica, u64::from(replica.size), &mut taken),
        }
    }
    taken
}

/// Puts `pods` on the tightest nodes.
fn fill(shapes: &mut [Shape], replica: &Replica, pods: u64, taken: &mut Taken) {
    let mut left = pods;
    while left > 0 {
        let Some((shape, group)) = tightest(shapes, replica, 1) else { break };
        let free = &mut shapes[shape].free;
        let each = replica.pods_on(&free[group]);
        let full = clamp(left / u64::from(each)).min(free[group].nodes);
        let (nodes, pods) = if full > 0 { (full, each) } else { (1, clamp(left)) };
        let used = used(replica, pods);
        taken.note(shape, &free[group], (nodes, used.gpus));
        split(free, group, nodes, used);
        left -= u64::from(nodes) * u64::from(pods);
    }
    taken.missing += left;
}

/// The group with the fewest free GPUs whose nodes hold `pods` of the replica each.
///
/// Groups that tie in all that is compared are alike, so their order decides nothing.
fn tightest(shapes: &[Shape], replica: &Replica, pods: u32) -> Option<(usize, usize)> {
    let groups = replica
        .shapes(shapes)
        .flat_map(|(place, shape)| shape.free.iter().enumerate().map(move |at| (place, shape, at)));
    groups
        .filter(|(_, _, (_, free))| free.nodes > 0 && replica.pods_on(free) >= pods.max(1))
        .min_by_key(|(_, shape, (_, free))| {
            let node = (free.gpus, free.milli_cpu, free.memory);
            (node, shape.gpu_memory, shape.gpus_per_node, shape.nodes, free.nodes)
        })
        .map(|(place, _, (group, _))| (place, group))
}

/// What `pods` of the replica use of one node.
fn used(replica: &Replica, pods: u32) -> PodNeed {
    PodNeed {
        gpus: replica.need.gpus * pods,
        milli_cpu: replica.need.milli_cpu * u64::from(pods),
        memory: replica.need.memory * u64::from(pods),
    }
}

/// Moves `nodes` of a group to the group that has `used` less free on each.
fn split(free: &mut Vec<Free>, group: usize, nodes: u32, used: PodNeed) {
    let before = free[group];
    let after = Free {
        gpus: before.gpus - used.gpus,
        nodes,
        milli_cpu: before.milli_cpu - used.milli_cpu,
        memory: before.memory - used.memory,
    };
    free[group].nodes -= nodes;
    if free[group].nodes == 0 {
        free.swap_remove(group);
    }
    if after.gpus > 0 {
        join(free, after);
    }
}

/// Adds nodes to the group of those that are equal: a group keeps the least CPU of its nodes.
fn join(free: &mut Vec<Free>, more: Free) {
    match free.iter_mut().find(|other| Free { nodes: more.nodes, ..**other } == more) {
        Some(other) => other.nodes = other.nodes.saturating_add(more.nodes),
        None => free.push(more),
    }
}

#[cfg(test)]
mod tests;
