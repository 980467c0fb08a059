//! What pods take of each node, kept up to date change by change.
//!
//! Invariant: a node's sum is the sum of its entries; a change costs the pods of one node.

use std::collections::{BTreeMap, BTreeSet};

use super::capacity::Usage;
use super::node::Load;

/// What one pod, or the promise of one, takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub node: String,
    /// How much.
    pub load: Load,
    /// Whether it is a guest's.
    pub guest: bool,
    /// Whether it is of a pod that is not bound yet: nominated by its scheduler, or only planned.
    pub nominated: bool,
    /// Whether it holds devices by resource claims.
    pub claims: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Usages {
    entries: BTreeMap<String, Entry>,
    nodes: BTreeMap<String, (BTreeSet<String>, Usage)>,
    nothing: Usage,
}

impl Usages {
    /// Sets what `id` takes; `None` = nothing. Whether that changed anything.
    pub fn set(&mut self, id: &str, entry: Option<Entry>) -> bool {
        let before = self.entries.get(id);
        if before == entry.as_ref() {
            return false;
        }
        if let Some(before) = self.entries.remove(id) {
            if let Some((ids, _)) = self.nodes.get_mut(&before.node) {
                ids.remove(id);
            }
            self.sum(&before.node);
        }
        if let Some(entry) = entry {
            let node = entry.node.clone();
            self.nodes.entry(node.clone()).or_default().0.insert(id.into());
            self.entries.insert(id.into(), entry);
            self.sum(&node);
        }
        true
    }

    fn sum(&mut self, node: &str) {
        let Some((ids, usage)) = self.nodes.get_mut(node) else { return };
        if ids.is_empty() {
            self.nodes.remove(node);
            return;
        }
        *usage = Usage::default();
        for entry in ids.iter().filter_map(|id| self.entries.get(id)) {
            usage.all.add(&entry.load);
            usage.pods = usage.pods.saturating_add(1);
            usage.claims |= entry.claims;
            if entry.nominated {
                usage.nominated.add(&entry.load);
            }
            if !entry.guest && !entry.nominated {
                usage.owners.add(&entry.load);
            }
            if entry.guest {
                usage.guests.add(&entry.load);
            }
        }
    }

    /// What is taken of `node`.
    #[must_use]
    pub fn of(&self, node: &str) -> &Usage {
        self.nodes.get(node).map_or(&self.nothing, |(_, usage)| usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: &str, gpus: u32, guest: bool) -> Entry {
        let gpus = BTreeMap::from([("nvidia.com/gpu".into(), gpus)]);
        let load = Load { gpus, milli_cpu: 100, memory: 7 };
        Entry { node: node.into(), load, guest, nominated: false, claims: false }
    }

    #[test]
    fn sums_follow_every_change() {
        let mut usages = Usages::default();
        assert!(usages.set("a", Some(entry("n1", 2, false))));
        assert!(usages.set("b", Some(entry("n1", 3, true))));
        assert!(!usages.set("b", Some(entry("n1", 3, true))));
        let usage = usages.of("n1");
        assert_eq!((usage.all.gpu_count(), usage.guests.gpu_count(), usage.pods), (5, 3, 2));
        usages.set("b", Some(entry("n2", 3, true)));
        assert_eq!(usages.of("n1").all.gpu_count(), 2);
        assert_eq!(usages.of("n2").guests.gpu_count(), 3);
        usages.set("a", None);
        assert_eq!(*usages.of("n1"), Usage::default());
    }
}
