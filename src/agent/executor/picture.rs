//! What a pool publishes: shapes, sums and conditions.
//!
//! Invariant: the serial rises with every change of the picture, and whenever a lease entered the
//! books above it; an unchanged picture is not written again.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::capacity::{Lent, Slot};
use super::hindered::Hindered;
use super::idling::Learnt;
use super::reclaims;
use crate::api::GpuPool;
use crate::api::conditions::{self, Claim};
use crate::api::gpulease::shortened;
use crate::api::gpupool::{
    FreeNodes, GpuPoolStatus, HubGpus, MAX_FREE, MAX_HUBS, MAX_MODELS, MAX_NAME, MAX_REASONS,
    MAX_SHAPES, ModelGpus, NodeShape, NotLent, PoolGpus, PoolSummary, VacateHistory,
};

/// What is known of a pool beside its nodes.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// GPUs that guests hold or are promised, wherever they run, by hub.
    pub hubs: &'a BTreeMap<String, i64>,
    /// Those of them whose guests were told to go for the owner.
    pub reclaimed: i64,
    /// Highest serial at which a lease of this pool entered the books.
    pub entered: i64,
    /// GPUs that guests hold by model.
    pub models: &'a BTreeMap<String, i64>,
    /// Why its schedule lends nothing now, in a word and a sentence.
    pub closed: Option<&'a (&'static str, String)>,
    /// How often the owner took GPUs back, and how soon guests left.
    pub vacating: &'a VacateHistory,
    /// Owner's pods that kube-scheduler alone does not help.
    pub hindered: Hindered,
    /// How long idle GPUs stay idle, if the status may say it anew.
    pub learnt: Option<&'a Learnt>,
}

/// The status that `pool` should have; `next` is the serial that it takes if something changed.
/// `None`: what stands there is true.
#[must_use]
pub fn status(
    pool: &GpuPool,
    lent: &Lent,
    held: Held<'_>,
    next: i64,
    now: Timestamp,
) -> Option<GpuPoolStatus> {
    let old = pool.status.clone().unwrap_or_default();
    let shut = pool.spec.offer.paused || held.closed.is_some();
    let gpus = sums(pool, lent, held.hubs.values().sum(), shut);
    let shapes = if shut { Vec::new() } else { shapes(&lent.slots) };
    let mut new = GpuPoolStatus {
        observed_generation: pool.meta().generation,
        conditions: old.conditions.clone(),
        serial: old.serial,
        shapes,
        gpus,
        hubs: hubs(held.hubs),
        models: by_model(&lent.slots, gpus, held.models),
        not_lent: lent
            .not_lent
            .iter()
            .take(MAX_REASONS)
            .map(|(reason, nodes)| NotLent { reason: (*reason).into(), nodes: *nodes })
            .collect(),
        survival: old.survival.clone(),
        idle_history: old.idle_history.clone(),
        time_to_vacate: old.time_to_vacate,
        evictions_per_gpu_hour: old.evictions_per_gpu_hour.clone(),
        vacate_history: old.vacate_history.clone(),
        // What a hub has no lease of stands in that hub's copy.
        orphans: Vec::new(),
        orphan_count: 0,
        incarnation: 0,
        summary: PoolSummary { member: old.summary.member.clone(), models: models(&lent.slots) },
        agent_version: env!("CARGO_PKG_VERSION").into(),
    };
    let [low, elsewhere] = hindered(held.hindered);
    for claim in [
        ready(pool, lent, held.closed),
        paused(pool),
        reclaiming(held),
        degraded(lent),
        low,
        elsewhere,
    ] {
        conditions::set(&mut new.conditions, claim, pool.meta().generation, now);
    }
    let same = known_parts(&old, &new) == old;
    let overdue = held.learnt.is_some_and(|learnt| learnt.is_overdue(&old, now));
    if same && !overdue && pool.status.is_some() && old.serial >= held.entered {
        return None;
    }
    if let Some(learnt) = held.learnt {
        learnt.put(&mut new);
    }
    reclaims::put(held.vacating, &mut new);
    new.serial = next;
    Some(new)
}

/// `new` without the parts that `old` lacks because definitions of an earlier version drop them: that
/// they are missing is no reason to write again and again.
fn known_parts(old: &GpuPoolStatus, new: &GpuPoolStatus) -> GpuPoolStatus {
    let mut new = new.clone();
    if old.models.is_empty() {
        new.models.clear();
    }
    if old.hubs.is_empty() {
        new.hubs.clear();
    }
    new
}

/// The owner holds the pool back.
fn paused(pool: &GpuPool) -> Claim<'static> {
    let what = "offer.paused is true: guests are told to go and none is let in";
    flag("Paused", pool.spec.offer.paused.then(|| what.into()), "Lending")
}

/// Guests are on their way out, for the owner.
fn reclaiming(held: Held<'_>) -> Claim<'static> {
    let gpus = held.reclaimed;
    let what = format!("guests on {gpus} GPUs were told to go; they have their notice to save");
    flag("Reclaiming", (gpus > 0).then_some(what), "NothingToReclaim")
}

/// Some nodes that the selector names are not lent.
fn degraded(lent: &Lent) -> Claim<'static> {
    let what = format!("nodes that match and are not lent: {}", excluded(lent));
    flag("Degraded", (!lent.not_lent.is_empty()).then_some(what), "AllNodesLent")
}

/// Pods of the owner that guests stay in the way of while the agent is down.
fn hindered(pods: Hindered) -> [Claim<'static>; 2] {
    let says = |count: u32, why: &str| {
        let what = format!(
            "{count} of the owner's pods with GPUs {why}: while the agent is down, guests stay in their way"
        );
        (count > 0).then_some(what)
    };
    let low = says(pods.priority, "have a priority of -999 or less, or may not preempt");
    let elsewhere = says(pods.scheduler, "have a scheduler other than default-scheduler");
    [
        flag("OwnerPriorityTooLow", low, "SchedulerPreempts"),
        flag("OwnerSchedulerUnsupported", elsewhere, "SchedulerPreempts"),
    ]
}

/// A condition that is true if there is something to say.
fn flag(type_: &'static str, says: Option<String>, otherwise: &'static str) -> Claim<'static> {
    let (status, reason) = if says.is_some() { ("True", type_) } else { ("False", otherwise) };
    Claim { type_, status, reason, message: says.unwrap_or_default() }
}

fn excluded(lent: &Lent) -> String {
    let parts = lent.not_lent.iter().map(|(reason, nodes)| format!("{nodes} {reason}"));
    parts.collect::<Vec<_>>().join(", ")
}

fn ready<'a>(pool: &GpuPool, lent: &Lent, closed: Option<&(&'static str, String)>) -> Claim<'a> {
    let claim = |status: &'a str, reason: &'a str, message: String| Claim {
        type_: "Ready",
        status,
        reason,
        message,
    };
    if pool.spec.offer.paused {
        return claim("False", "Paused", "offer.paused is true: nothing is lent".into());
    }
    if let Some((reason, message)) = closed {
        return claim("False", reason, message.clone());
    }
    match (&pool.spec.node_selector, lent.slots.is_empty()) {
        (_, false) => claim("True", "Ready", String::new()),
        (None, true) => claim("False", "NoNodes", "nodeSelector is absent: nothing is lent".into()),
        (Some(_), true) if lent.not_lent.is_empty() => claim(
            "False",
            "NoNodes",
            "no node has the labels of nodeSelector, or a pool earlier by name has them all".into(),
        ),
        (Some(_), true) => {
            claim("False", "NoNodes", format!("no node can be lent: {}", excluded(lent)))
        }
    }
}

fn sums(pool: &GpuPool, lent: &Lent, held: i64, shut: bool) -> PoolGpus {
    let sum = |of: fn(&Slot) -> u32| lent.slots.iter().map(|slot| i64::from(of(slot))).sum::<i64>();
    let most = pool.spec.offer.max_gpus.unwrap_or(i64::MAX);
    let free = if shut { 0 } else { sum(|slot| slot.free).min(most.saturating_sub(held)).max(0) };
    PoolGpus {
        offered: sum(|slot| slot.total).min(most),
        owner: sum(|slot| slot.owner),
        guests: held,
        free,
    }
}

fn hubs(held: &BTreeMap<String, i64>) -> Vec<HubGpus> {
    let hub = |(hub_id, gpus): (&String, &i64)| HubGpus { hub_id: hub_id.clone(), gpus: *gpus };
    let mut hubs: Vec<_> = held.iter().map(hub).collect();
    if hubs.len() > MAX_HUBS {
        hubs.sort_by_key(|hub| std::cmp::Reverse(hub.gpus));
        hubs.truncate(MAX_HUBS);
    }
    hubs
}

/// The sums by model. What the pool's limits cap is handed out model by model, by name, so that the
/// parts add up to the whole.
fn by_model(slots: &[Slot], sums: PoolGpus, held: &BTreeMap<String, i64>) -> Vec<ModelGpus> {
    let mut models: BTreeMap<&str, ModelGpus> = BTreeMap::new();
    for slot in slots {
        let of_model = models.entry(&slot.model).or_default();
        of_model.offered += i64::from(slot.total);
        of_model.owner += i64::from(slot.owner);
        of_model.free += i64::from(slot.free);
    }
    for (model, gpus) in held.iter().filter(|(_, gpus)| **gpus > 0) {
        models.entry(model).or_default().guests = *gpus;
    }
    let (mut offered, mut free) = (sums.offered, sums.free);
    let capped = |part: &mut i64, rest: &mut i64| {
        *part = (*part).min(*rest);
        *rest -= *part;
    };
    let models = models.into_iter().filter(|(model, _)| model.chars().count() <= MAX_NAME);
    let models = models.map(|(model, mut gpus)| {
        capped(&mut gpus.offered, &mut offered);
        capped(&mut gpus.free, &mut free);
        ModelGpus { model: model.into(), ..gpus }
    });
    models.take(MAX_SHAPES).collect()
}

fn models(slots: &[Slot]) -> String {
    let models: BTreeSet<_> = slots.iter().map(|slot| slot.model.as_str()).collect();
    shortened(models.into_iter().collect::<Vec<_>>().join(", "), MAX_MODELS)
}

fn shapes(slots: &[Slot]) -> Vec<NodeShape> {
    let mut shapes: BTreeMap<_, (i32, BTreeMap<u32, FreeNodes>)> = BTreeMap::new();
    // No job can name a model of more characters, so what has one is as good as not there.
    let short = |text: &String| text.chars().count() <= MAX_NAME;
    let short = |slot: &&Slot| [&slot.model, &slot.memory, &slot.arch].into_iter().all(short);
    for slot in slots.iter().filter(short) {
        let kind = (&slot.model, &slot.memory, &slot.arch, slot.total);
        let (nodes, free) = shapes.entry(kind).or_default();
        *nodes += 1;
        if slot.free == 0 {
            continue;
        }
        let group = free.entry(slot.free).or_insert(FreeNodes {
            gpus: whole(slot.free),
            nodes: 0,
            milli_cpu: i64::MAX,
            memory_bytes: i64::MAX,
        });
        group.nodes += 1;
        group.milli_cpu = group.milli_cpu.min(i64::try_from(slot.milli_cpu).unwrap_or(i64::MAX));
        let memory = i64::try_from(slot.memory_bytes).unwrap_or(i64::MAX);
        group.memory_bytes = group.memory_bytes.min(memory);
    }
    let shape = |(kind, (nodes, free)): ((&String, &String, &String, u32), (_, BTreeMap<_, _>))| {
        NodeShape {
            model: kind.0.clone(),
            memory: kind.1.clone(),
            arch: kind.2.clone(),
            gpus_per_node: whole(kind.3),
            nodes,
            free: free.into_values().rev().take(MAX_FREE).collect(),
        }
    };
    let mut shapes: Vec<_> = shapes.into_iter().map(shape).collect();
    if shapes.len() > MAX_SHAPES {
        shapes.sort_by_key(|shape| std::cmp::Reverse(shape.nodes));
        shapes.truncate(MAX_SHAPES);
    }
    shapes
}

fn whole(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
