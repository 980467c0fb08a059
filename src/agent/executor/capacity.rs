//! Nodes and pods → what a pool lends now, node by node.
//!
//! Invariant: what is free is free of every pod that is bound, nominated or planned there, whoever
//! made it, of what the owner's pending pods would take, and of the reserve.
//!
//! Why the reserve is taken from the nodes with the fewest free GPUs: it keeps whole nodes for
//! gangs, and a picture that already lacks it needs no second rule where it is read.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Load, Node};
use super::pod::Wish;
use super::selecting::{Toleration, selects, tolerated};
use crate::api::gpupool::GpuPoolSpec;
use crate::api::gpus::{self, Handout};
use crate::api::quantity;
use crate::engine::nodes;
use crate::planted::{Defect, planted};

/// What pods take of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of them.
    pub all: Load,
    /// Guests, planned ones too.
    pub guests: Load,
    /// Bound pods of the owner.
    pub owners: Load,
    /// Pods that are not bound: the owner's that are nominated, and guests that are planned.
    pub nominated: Load,
    /// Number of pods.
    pub pods: u32,
    /// Whether some pod holds devices by resource claims.
    pub claims: bool,
}

/// A kind of GPU on a lent node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Name of the node.
    pub node: String,
    /// Model.
    pub model: String,
    /// Memory of one GPU as a quantity; empty = unknown.
    pub memory: String,
    /// Processor architecture.
    pub arch: String,
    /// Resource that pods ask for.
    pub resource: String,
    /// GPUs of the node.
    pub total: u32,
    /// Held by guests.
    pub guests: u32,
    /// Held by the owner, or wanted by pending pods of the owner that would fit.
    pub owner: u32,
    /// Free for guests.
    pub free: u32,
    /// Free CPU in thousandths of a core.
    pub milli_cpu: u64,
    /// Free memory in bytes.
    pub memory_bytes: u64,
}

/// What one pool lends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    /// Its nodes, by name, then resource.
    pub slots: Vec<Slot>,
    /// Nodes that it selects but does not lend, by reason.
    pub not_lent: BTreeMap<&'static str, i32>,
    /// GPUs that lack to the reserve.
    pub short: u32,
}

impl Lent {
    /// The nodes as the engine chooses among them.
    #[must_use]
    pub fn candidates(&self) -> Vec<nodes::Node> {
        let blind = planted(Defect::AcceptedBlindly) || planted(Defect::BoundBlindly);
        self.slots
            .iter()
            .map(|slot| nodes::Node {
                name: slot.node.clone(),
                model: slot.model.clone(),
                gpu_memory: quantity::bytes(&slot.memory).ok(),
                free_gpus: if blind { 64 } else { slot.free },
                free_milli_cpu: slot.milli_cpu,
                free_memory: slot.memory_bytes,
            })
            .collect()
    }
}

/// Which pool each node belongs to: the first by name that selects it.
#[must_use]
pub fn membership<'n>(
    pools: &BTreeMap<String, &GpuPoolSpec>,
    nodes: impl Iterator<Item = &'n Node>,
) -> BTreeMap<String, String> {
    let owner = |node: &Node| {
        let mut selecting = pools.iter().filter(|(_, spec)| {
            spec.node_selector.as_ref().is_some_and(|selector| selects(selector, &node.labels))
        });
        selecting.next().map(|(pool, _)| pool.clone())
    };
    nodes.filter_map(|node| owner(node).map(|pool| (node.name.clone(), pool))).collect()
}

/// A kind of GPU that a node has.
struct Device {
    model: String,
    memory: String,
    resource: String,
    total: u32,
}

/// The kinds of GPU that `node` can lend, or why it lends none.
fn devices(node: &Node, usage: &Usage, spec: &GpuPoolSpec) -> Result<Vec<Device>, &'static str> {
    if !node.ready {
        return Err("NotReady");
    }
    if node.cordoned {
        return Err("Cordoned");
    }
    if node.shared {
        return Err("GpusShared");
    }
    if usage.claims {
        return Err("ResourceClaims");
    }
    let defaults = spec.pod_defaults.as_ref();
    let tolerations = defaults.iter().flat_map(|defaults| &defaults.tolerations);
    let tolerations: Vec<_> = tolerations.map(Toleration::slim).collect();
    if !tolerated(&tolerations, &node.taints) {
        return Err("TaintNotTolerated");
    }
    if node.allocatable.gpus.is_empty() {
        return Err("NoGpus");
    }
    let (card, memory) = card(node, spec)?;
    let kinds = node.allocatable.gpus.iter().filter_map(|(resource, total)| {
        let (model, memory) = match gpus::slice(&card, resource) {
            Some(slice) => (slice.model, slice.memory.unwrap_or_default()),
            None if resource == gpus::GPU_RESOURCE => (card.clone(), memory.clone()),
            None => return None,
        };
        Some(Device { model, memory, resource: resource.clone(), total: *total })
    });
    Ok(kinds.collect())
}

/// Model and memory of the node's card, by its labels, else by what the owner wrote.
fn card(node: &Node, spec: &GpuPoolSpec) -> Result<(String, String), &'static str> {
    if let Some(product) = node.labels.get(gpus::PRODUCT_LABEL) {
        let mebibytes = node.labels.get(gpus::MEMORY_LABEL).and_then(|text| text.parse().ok());
        let kind = gpus::kind(product, mebibytes);
        return match kind.handout {
            Handout::Whole => Ok((kind.model, kind.memory.unwrap_or_default())),
            Handout::Shared => Err("GpusShared"),
            Handout::SingleMig => Err("SingleMigStrategy"),
        };
    }
    let told = spec.model_override.as_ref().ok_or("UnknownModel")?;
    Ok((told.model.clone(), told.memory.clone()))
}

/// What every pool lends now. `members` says which pool a node belongs to; `wishes` are the
/// owner's pending pods, in the order in which they are thought to be bound.
#[must_use]
pub fn lend<'a>(
    pools: &BTreeMap<String, &GpuPoolSpec>,
    nodes: impl Iterator<Item = (&'a Node, &'a Usage)>,
    members: &BTreeMap<String, String>,
    wishes: &[&Wish],
) -> BTreeMap<String, Lent> {
    let mut lent: BTreeMap<String, Lent> =
        pools.keys().map(|pool| (pool.clone(), Lent::default())).collect();
    let mut known = BTreeMap::new();
    for (node, usage) in nodes {
        let Some(pool) = members.get(&node.name) else { continue };
        let (Some(spec), Some(into)) = (pools.get(pool), lent.get_mut(pool)) else { continue };
        match devices(node, usage, spec) {
            Ok(devices) => {
                into.slots.extend(devices.into_iter().map(|device| slot(node, usage, device)));
                known.insert(node.name.as_str(), node);
            }
            Err(reason) => *into.not_lent.entry(reason).or_default() += 1,
        }
    }
    for (pool, lent) in &mut lent {
        // Pods that wait may go elsewhere: only what is taken is missing.
        let free = lent.slots.iter().fold(0_u32, |sum, slot| sum.saturating_add(slot.free));
        let reserve = u32::try_from(pools[pool].offer.reserve_gpus.max(0)).unwrap_or(u32::MAX);
        lent.short = reserve.saturating_sub(free);
    }
    deduct(&mut lent, &known, wishes);
    for (pool, lent) in &mut lent {
        keep_free(&mut lent.slots, pools[pool].offer.reserve_gpus);
    }
    lent
}

fn slot(node: &Node, usage: &Usage, device: Device) -> Slot {
    let taken = |load: &Load| load.gpus.get(&device.resource).copied().unwrap_or(0);
    let (all, guests) = (taken(&usage.all), taken(&usage.guests));
    // A guest takes at least one GPU, so that free places for pods bound free GPUs too.
    let places = node.max_pods.saturating_sub(usage.pods);
    Slot {
        node: node.name.clone(),
        arch: node.arch.clone(),
        guests,
        owner: all.saturating_sub(guests).min(device.total),
        free: device.total.saturating_sub(all).min(places),
        milli_cpu: node.allocatable.milli_cpu.saturating_sub(usage.all.milli_cpu),
        memory_bytes: node.allocatable.memory.saturating_sub(usage.all.memory),
        model: device.model,
        memory: device.memory,
        resource: device.resource,
        total: device.total,
    }
}

/// Takes what pending pods of the owner would get, tightest node first. Equal wishes behind one
/// that fits nowhere are not tried again.
fn deduct(lent: &mut BTreeMap<String, Lent>, known: &BTreeMap<&str, &Node>, wishes: &[&Wish]) {
    let mut hopeless: BTreeSet<&Wish> = BTreeSet::new();
    let mut slots: Vec<&mut Slot> = lent.values_mut().flat_map(|lent| &mut lent.slots).collect();
    for wish in wishes {
        if hopeless.contains(wish) {
            continue;
        }
        let fits = |slot: &Slot, node: &Node| {
            slot.milli_cpu >= wish.load.milli_cpu
                && slot.memory_bytes >= wish.load.memory
                && wish.reach.passes(&node.name, &node.labels, &node.taints)
        };
        // A wish for several resources counts where its first one fits: rare, and errs to the owner.
        let wanted = wish.load.gpus.iter().next();
        let able = slots.iter().enumerate().filter(|(_, slot)| {
            wanted.is_some_and(|(name, count)| slot.resource == *name && slot.free >= *count)
                && known.get(slot.node.as_str()).is_some_and(|node| fits(slot, node))
        });
        let tightest = able.min_by_key(|(_, slot)| (slot.free, &slot.node)).map(|(place, _)| place);
        match tightest {
            Some(place) => take(&mut slots, place, &wish.load),
            None => drop(hopeless.insert(wish)),
        }
    }
}

fn take(slots: &mut [&mut Slot], place: usize, load: &Load) {
    let node = slots[place].node.clone();
    for slot in slots.iter_mut().filter(|slot| slot.node == node) {
        let count = load.gpus.get(&slot.resource).copied().unwrap_or(0).min(slot.free);
        slot.free -= count;
        slot.owner += count;
        slot.milli_cpu = slot.milli_cpu.saturating_sub(load.milli_cpu);
        slot.memory_bytes = slot.memory_bytes.saturating_sub(load.memory);
    }
}

/// Keeps `reserve` GPUs out of what is free, from the fullest nodes first.
fn keep_free(slots: &mut [Slot], reserve: i64) {
    let mut left = u32::try_from(reserve.max(0)).unwrap_or(u32::MAX);
    let mut order: Vec<_> = slots.iter_mut().filter(|slot| slot.free > 0).collect();
    order.sort_by(|a, b| (a.free, &a.node, &a.resource).cmp(&(b.free, &b.node, &b.resource)));
    for slot in order {
        let kept = slot.free.min(left);
        slot.free -= kept;
        left -= kept;
    }
}

#[cfg(test)]
mod tests;
