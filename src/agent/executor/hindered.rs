//! Owner's pods that kube-scheduler alone does not help: what a pool warns its owner of.
//!
//! While the agent runs it makes room for them ([`super::demand`]). Without it guests stay in their way.

use std::collections::BTreeMap;

use super::capacity::Lent;
use super::pod::Role;
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
    pub(super) fn hindered(&self) -> BTreeMap<String, Hindered> {
        let mut hindered: BTreeMap<String, Hindered> = BTreeMap::new();
        let none = BTreeMap::new();
        let members = self.members.as_ref().unwrap_or(&none);
        for (_, pod) in self.pods.iter() {
            let why = pod.hindrance;
            if !why.priority && !why.scheduler {
                continue;
            }
            let pools: Vec<&String> = match &pod.role {
                Role::Takes { node, .. } => members.get(node).into_iter().collect(),
                Role::Waits { wish, .. } => {
                    let lent = self.lent.iter().flatten();
                    let could = |lent: &Lent| {
                        let slots = lent.slots.iter();
                        let mut asked =
                            slots.filter(|slot| wish.load.gpus.contains_key(&slot.resource));
                        asked.any(|slot| self.passes(&slot.node, &wish.reach))
                    };
                    lent.filter(|(_, lent)| could(lent)).map(|(pool, _)| pool).collect()
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

    fn passes(&self, name: &str, reach: &super::selecting::Reach) -> bool {
        let mut named = self.nodes.values().filter(|node| node.name == name);
        named.any(|node| reach.passes(&node.name, &node.labels, &node.taints))
    }
}
