//! Owner's pods that kube-scheduler alone does not help: what a pool warns its owner of.
//!
//! While the agent runs it makes room for them ([`super::demand`]). Without it guests stay in their way.

use std::collections::BTreeMap;

use super::capacity::Lent;
use super::node::Node;
use super::pod::{Role, Wish};
use super::state::State;

/// Owner's pods with GPUs that kube-scheduler does not preempt guests for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hindered {
    /// Their priority is no higher than that of guests, or they may not preempt.
    pub priority: u32,
    /// Another scheduler places them.
    pub scheduler: u32,
}

impl State {
    /// By pool: those that hold GPUs of its nodes, and those that wait and could.
    pub(super) fn count_hindered(&self) -> BTreeMap<String, Hindered> {
        let mut hindered: BTreeMap<String, Hindered> = BTreeMap::new();
        let nobody = BTreeMap::new();
        let members = self.members.as_ref().unwrap_or(&nobody);
        let mut nodes: Option<BTreeMap<&str, &Node>> = None;
        // Many pods wait for the same.
        let mut reached: BTreeMap<&Wish, Vec<&String>> = BTreeMap::new();
        for (_, pod) in self.pods.iter() {
            let why = pod.hindrance;
            if !why.priority && !why.scheduler {
                continue;
            }
            let pools: Vec<&String> = match &pod.role {
                Role::Takes { node, .. } => members.get(node).into_iter().collect(),
                Role::Waits { wish, .. } => {
                    let nodes = nodes.get_or_insert_with(|| self.by_name());
                    reached.entry(wish).or_insert_with(|| self.reached(wish, nodes)).clone()
                }
                Role::Guest(_) => Vec::new(),
            };
            for pool in pools {
                let sum = hindered.entry(pool.clone()).or_default();
                sum.priority += u32::from(why.priority);
                sum.scheduler += u32::from(why.scheduler);
            }
        }
        hindered
    }

    fn by_name(&self) -> BTreeMap<&str, &Node> {
        self.nodes.values().map(|node| (node.name.as_str(), node)).collect()
    }

    /// Pools with a node that `wish` could go to.
    fn reached(&self, wish: &Wish, nodes: &BTreeMap<&str, &Node>) -> Vec<&String> {
        let could = |lent: &Lent| {
            let asked =
                lent.slots.iter().filter(|slot| wish.load.gpus.contains_key(&slot.resource));
            let mut found = asked.filter_map(|slot| nodes.get(slot.node.as_str()));
            found.any(|node| wish.reach.passes(&node.name, &node.labels, &node.taints))
        };
        let lent = self.lent.iter().flatten();
        lent.filter(|(_, lent)| could(lent)).map(|(pool, _)| pool).collect()
    }
}
