//! Which nodes of one pool the pods of a lease go to.
//!
//! Invariant: no node is given more than it has free, and either every pod gets a node or none.

use super::fit::Replica;

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

/// Node names for all pods of `count` replicas, replica by replica, or `None` if not all fit.
///
/// Best fit, pod by pod: the node with the fewest free GPUs that fits, then the least CPU, then the
/// lowest name. A replica of several pods gets one node if one holds it. As pods are equal,
/// this finds nodes whenever there are any.
#[must_use]
pub fn choose(nodes: &[Node], replica: &Replica, count: u32) -> Option<Vec<String>> {
    let mut left: Vec<Node> = nodes
        .iter()
        .filter(|node| replica.accepts(&node.model, node.gpu_memory))
        .cloned()
        .collect();
    let mut chosen = Vec::new();
    for _ in 0..count {
        let whole = best(&left, replica, replica.size);
        for _ in 0..replica.size {
            let place = whole.or_else(|| best(&left, replica, 1))?;
            let node = &mut left[place];
            node.free_gpus -= replica.need.gpus;
            node.free_milli_cpu -= replica.need.milli_cpu;
            node.free_memory -= replica.need.memory;
            chosen.push(node.name.clone());
        }
    }
    Some(chosen)
}

/// The tightest node that holds `pods` of the replica.
fn best(nodes: &[Node], replica: &Replica, pods: u32) -> Option<usize> {
    let holds = |node: &Node| {
        replica.pods_within(node.free_gpus, node.free_milli_cpu, node.free_memory) >= pods
    };
    let able = nodes.iter().enumerate().filter(|(_, node)| holds(node));
    able.min_by_key(|(_, node)| (node.free_gpus, node.free_milli_cpu, &node.name))
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests;
