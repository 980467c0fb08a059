//! Which nodes of one pool the pods of a lease go to.
//!
//! Invariant: no node is given more than it has free, and either every pod gets a node or none.

use std::collections::BTreeSet;

use super::fit::Replica;
use super::fragmentation::{Mix, Worth};
use super::idle::{Gpus, Idle, Need};

/// A node with what is free on it for guests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name, unique in its cluster.
    pub name: String,
    /// GPU model, such as `A100`.
    pub model: String,
    /// Memory of one GPU in bytes; `None` = unknown, which satisfies no `min_memory`.
    pub gpu_memory: Option<u64>,
    /// Free GPUs.
    pub free_gpus: u32,
    /// Free CPU in thousandths of a core.
    pub free_milli_cpu: u64,
    /// Free memory in bytes.
    pub free_memory: u64,
}

impl Node {
    fn idle(&self) -> Idle {
        Idle {
            milli_cpu: self.free_milli_cpu,
            memory: self.free_memory,
            whole: self.free_gpus,
            parts: Vec::new(),
        }
    }
}

/// Node names for all pods of `count` replicas, replica by replica, or `None` if not all fit.
///
/// Pod by pod: the node where it costs the usual requests of `mix` least, then the one with the fewest
/// free GPUs, then the least CPU, then the lowest name. While nothing is known of what is usual, that
/// is best fit. A replica of several pods gets one node if one holds it. As pods are equal, this
/// finds nodes whenever there are any.
#[must_use]
pub fn choose(nodes: &[Node], replica: &Replica, count: u32, mix: &Mix) -> Option<Vec<String>> {
    let accepted = nodes.iter().filter(|node| replica.accepts(&node.model, node.gpu_memory));
    let mut left: Vec<Node> = accepted.cloned().collect();
    let worth = worth(nodes, replica.model, mix);
    let mut whole = Ranking::new(&left, replica, replica.size, &worth);
    let mut single = Ranking::new(&left, replica, 1, &worth);
    let mut chosen = Vec::new();
    for _ in 0..count {
        let one = whole.best(&left);
        for _ in 0..replica.size {
            let place = one.or_else(|| single.best(&left))?;
            let node = &mut left[place];
            node.free_gpus -= replica.need.gpus;
            node.free_milli_cpu -= replica.need.milli_cpu;
            node.free_memory -= replica.need.memory;
            chosen.push(node.name.clone());
            whole.judge(place, &left[place]);
            single.judge(place, &left[place]);
        }
    }
    Some(chosen)
}

/// What the mix makes of `model` with all that is free on `nodes`, those of other models too: what can
/// run on many models is not scarce on one.
fn worth(nodes: &[Node], model: &str, mix: &Mix) -> Worth {
    let models: BTreeSet<&str> = nodes.iter().map(|node| node.model.as_str()).collect();
    let models: Vec<&str> = models.into_iter().collect();
    let place = |model: &str| models.binary_search(&model);
    let idle: Vec<(usize, Idle)> =
        nodes.iter().filter_map(|node| Some((place(&node.model).ok()?, node.idle()))).collect();
    let free: Vec<_> = idle.iter().map(|(model, idle)| (*model, idle, 1)).collect();
    let mut worths = mix.priced(&models, &free);
    place(model).map_or_else(|_| Worth::default(), |at| worths.swap_remove(at))
}

/// What so many pods of a replica cost on each node, kept while nodes fill up one by one.
struct Ranking<'a> {
    replica: &'a Replica<'a>,
    pods: u32,
    worth: &'a Worth,
    costs: Vec<Option<u64>>,
}

impl<'a> Ranking<'a> {
    fn new(nodes: &[Node], replica: &'a Replica<'a>, pods: u32, worth: &'a Worth) -> Self {
        let costs = vec![None; nodes.len()];
        let mut ranking = Self { replica, pods, worth, costs };
        for (place, node) in nodes.iter().enumerate() {
            ranking.judge(place, node);
        }
        ranking
    }

    /// Notes what the pods cost on the node at `place` now, if it holds them.
    fn judge(&mut self, place: usize, node: &Node) {
        let (need, pods) = (self.replica.need, self.pods);
        let room = self.replica.pods_within(node.free_gpus, node.free_milli_cpu, node.free_memory);
        self.costs[place] = (room >= pods && pods > 0).then(|| {
            // They fit, so none of these can pass what is free.
            let all = Need {
                gpus: Gpus::Whole(need.gpus * pods),
                milli_cpu: need.milli_cpu * u64::from(pods),
                memory: need.memory * u64::from(pods),
            };
            let (idle, worth) = (node.idle(), self.worth);
            let best = worth.best(&idle, worth.of(&idle), &all);
            best.map_or(u64::MAX, |(cost, _)| cost)
        });
    }

    /// The best node that holds them.
    fn best(&self, nodes: &[Node]) -> Option<usize> {
        let able = nodes.iter().zip(&self.costs).enumerate();
        able.filter_map(|(place, (node, cost))| Some((place, node, (*cost)?)))
            .min_by_key(|(_, node, cost)| (*cost, node.free_gpus, node.free_milli_cpu, &node.name))
            .map(|(place, ..)| place)
    }
}

#[cfg(test)]
mod tests;
