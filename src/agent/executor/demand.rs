//! Owner's pods that no scheduler makes room for → which guests go.
//!
//! kube-scheduler preempts guests for the owner's pods by itself, with or without us. Some pods it does
//! not help: those that may not preempt or have no higher priority than guests, those of other
//! schedulers, and those that were bound past it.
//!
//! Invariant: guests go only where the pod fits once they are gone; of less important hubs first, then
//! with the least work lost, then the youngest; gangs whole; none whose going is not needed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::guest::Key;
use super::node::{Load, Node};
use super::pod::Wish;
use crate::planted::{Defect, planted};

/// A guest's pod on a node.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// UID of its `GuestLease`.
    pub lease: String,
    /// Which of the lease's pods.
    pub key: Key,
    /// Whether all pods of the lease go if this one does.
    pub gang: bool,
    /// Whether it is bound to the node; else it is only meant to be.
    pub bound: bool,
    /// What it takes of the node.
    pub load: Load,
    /// What its going costs.
    pub cost: Cost,
}

/// What it costs that a guest goes: less goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Priority that the owner gives its hub.
    pub priority: i32,
    /// GPU-seconds of work that are lost.
    pub lost: i64,
    /// When its lease was made, seconds since 1970; the youngest goes first.
    pub made: Reverse<i64>,
}

/// A node, and who is there.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The node.
    pub node: &'a Node,
    /// The pool that lends it; `None` = it is not lent.
    pub pool: Option<&'a str>,
    /// What those hold who were told to go.
    pub leaving: Load,
    /// What nobody takes, once all have gone who were told to.
    pub free: Load,
    /// GPUs that bound pods take beyond what there is.
    pub excess: Load,
    /// Guests that were not told to go.
    pub tenants: Vec<Tenant>,
}

impl<'a> Place<'a> {
    /// A node where nobody is.
    #[must_use]
    pub fn of(node: &'a Node, pool: Option<&'a str>) -> Self {
        let (leaving, free, excess) = (Load::default(), Load::default(), Load::default());
        Self { node, pool, leaving, free, excess, tenants: Vec::new() }
    }
}

/// An owner's pod that waits.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Its UID.
    pub pod: &'a str,
    /// What it asks for.
    pub wish: &'a Wish,
    /// Whether guests may be told to go for it: nobody else makes room, and none is being told to.
    pub stranded: bool,
}

/// Guests that go: UID of the lease and which of its pods; `None` = all, as it is a gang.
pub type Victims = BTreeSet<(String, Option<Key>)>;

/// Who goes for each of `claims`, by UID of the pod. Those that find room or may not ask are not in it.
#[must_use]
pub fn make_room(places: &mut [Place], claims: &[Claim]) -> BTreeMap<String, Victims> {
    let mut going = BTreeMap::new();
    // Where one found no room, and nobody to make it, the next that asks for the same finds none.
    let mut hopeless: BTreeSet<&Wish> = BTreeSet::new();
    for claim in claims {
        if hopeless.contains(claim.wish) {
            continue;
        }
        let load = &claim.wish.load;
        let passes = |place: &Place| {
            claim.wish.reach.passes(&place.node.name, &place.node.labels, &place.node.taints)
        };
        let able = places.iter().enumerate().filter(|(_, place)| passes(place));
        let tightest = able
            .clone()
            .filter(|(_, place)| covers(&place.free, load))
            .min_by_key(|(_, place)| (place.free.gpu_count(), &place.node.name));
        if let Some((at, _)) = tightest {
            subtract(&mut places[at].free, load);
            continue;
        }
        if !claim.stranded || planted(Defect::OwnerIgnored) {
            continue;
        }
        let found = able.filter_map(|(at, place)| Some((victims(place, load)?, at)));
        let price = |(victims, at): &(Vec<&Tenant>, usize)| {
            let first = victims.iter().map(|tenant| tenant.cost.priority).max();
            let lost = victims.iter().fold(0_i64, |sum, one| sum.saturating_add(one.cost.lost));
            let oldest = victims.iter().map(|tenant| tenant.cost.made).max();
            (first, lost, victims.len(), oldest, places[*at].node.name.clone())
        };
        let Some((victims, at)) = found.min_by_key(price) else {
            hopeless.insert(claim.wish);
            continue;
        };
        let victims: Victims = victims.into_iter().map(name).collect();
        depart(places, &victims);
        subtract(&mut places[at].free, load);
        going.insert(claim.pod.to_owned(), victims);
    }
    going
}

/// Who goes because bound pods take more GPUs of a node than it has: the owner's stay.
#[must_use]
pub fn make_good(places: &mut [Place]) -> Victims {
    let mut going = Victims::new();
    for at in 0..places.len() {
        let place = &places[at];
        if place.excess.gpu_count() == 0 {
            continue;
        }
        let mut over = Place { free: Load::default(), ..place.clone() };
        // Who is not bound takes nothing of what is there, and goes elsewhere if it finds no room.
        over.tenants.retain(|tenant| tenant.bound);
        // If all guests together are too few, all of them go.
        let victims = victims(&over, &place.excess);
        let all = || over.tenants.iter().map(name).collect();
        let victims: Victims =
            victims.map_or_else(all, |victims| victims.into_iter().map(name).collect());
        depart(places, &victims);
        going.extend(victims);
    }
    going
}

/// Who goes so that `pool` has `short` more GPUs free, beside those that are `going` already: pods one
/// by one, gangs whole.
#[must_use]
pub fn fill_reserve(places: &mut [Place], pool: &str, short: u32, going: &Victims) -> Victims {
    let all = || places.iter().filter(|place| place.pool == Some(pool));
    let leaving = all().fold(0_u32, |sum, place| sum.saturating_add(place.leaving.gpu_count()));
    let mut gpus: BTreeMap<(String, Option<Key>), (&Cost, u32)> = BTreeMap::new();
    for tenant in all().flat_map(|place| &place.tenants) {
        let (_, sum) = gpus.entry(name(tenant)).or_insert((&tenant.cost, 0));
        *sum = sum.saturating_add(tenant.load.gpu_count());
    }
    let already = going.iter().filter_map(|one| gpus.get(one)).map(|(_, count)| *count);
    let mut left = short.saturating_sub(already.fold(leaving, u32::saturating_add));
    let mut order: Vec<_> = gpus.into_iter().filter(|(one, _)| !going.contains(one)).collect();
    order.sort_by(|(a, (x, _)), (b, (y, _))| (x, a).cmp(&(y, b)));
    let mut chosen: Vec<((String, Option<Key>), u32)> = Vec::new();
    let mut spare = 0;
    for (one, (_, count)) in order {
        if left == 0 {
            break;
        }
        spare = count.saturating_sub(left);
        left = left.saturating_sub(count);
        chosen.push((one, count));
    }
    // The dearest first: who is not needed after all stays.
    let mut victims = Victims::new();
    for (one, count) in chosen.into_iter().rev() {
        if left == 0 && count <= spare {
            spare -= count;
        } else {
            victims.insert(one);
        }
    }
    depart(places, &victims);
    victims
}

fn name(tenant: &Tenant) -> (String, Option<Key>) {
    (tenant.lease.clone(), (!tenant.gang).then_some(tenant.key))
}

/// The cheapest guests of the place without whom `load` fits, none more than needed.
fn victims<'p>(place: &'p Place, load: &Load) -> Option<Vec<&'p Tenant>> {
    let mut order: Vec<&Tenant> = place.tenants.iter().collect();
    order.sort_by(|a, b| (&a.cost, &a.lease, a.key).cmp(&(&b.cost, &b.lease, b.key)));
    let mut free = place.free.clone();
    let mut going: Vec<&Tenant> = Vec::new();
    for tenant in order {
        if covers(&free, load) {
            break;
        }
        // Of a gang all pods on the node go at once.
        if tenant.gang && going.iter().any(|one| one.lease == tenant.lease) {
            continue;
        }
        free.add(&weight(place, tenant));
        going.push(tenant);
    }
    if !covers(&free, load) {
        return None;
    }
    // The dearest first: who is not needed after all stays.
    for at in (0..going.len()).rev() {
        let mut without = free.clone();
        subtract(&mut without, &weight(place, going[at]));
        if covers(&without, load) {
            free = without;
            going.remove(at);
        }
    }
    Some(going)
}

/// What comes free on the place if the tenant goes.
fn weight(place: &Place, tenant: &Tenant) -> Load {
    if !tenant.gang {
        return tenant.load.clone();
    }
    let mut sum = Load::default();
    let of_gang = place.tenants.iter().filter(|other| other.lease == tenant.lease);
    of_gang.for_each(|other| sum.add(&other.load));
    sum
}

/// Takes all `victims` off their nodes.
fn depart(places: &mut [Place], victims: &Victims) {
    for place in places {
        let goes = |tenant: &Tenant| victims.contains(&name(tenant));
        let mut came_free = Load::default();
        place.tenants.iter().filter(|one| goes(one)).for_each(|one| came_free.add(&one.load));
        // What is beyond the node's GPUs is made good first.
        let beyond = place.excess.clone();
        subtract(&mut place.excess, &came_free);
        subtract(&mut came_free, &beyond);
        place.free.add(&came_free);
        place.tenants.retain(|tenant| !goes(tenant));
    }
}

/// GPUs of `taken` beyond `all`, as far as the `owners` pods hold them: a device plugin that restarts,
/// or finds a GPU broken, is nobody's demand.
#[must_use]
pub fn beyond(taken: &Load, all: &Load, owners: &Load) -> Load {
    let mut gpus = without(taken, all).gpus;
    gpus.retain(|resource, count| {
        *count = (*count).min(owners.gpus.get(resource).copied().unwrap_or(0));
        *count > 0 && all.gpus.contains_key(resource)
    });
    Load { gpus, ..Load::default() }
}

/// `load` less what is in `part`, down to nothing.
#[must_use]
pub fn without(load: &Load, part: &Load) -> Load {
    let mut left = load.clone();
    subtract(&mut left, part);
    left
}

fn covers(free: &Load, load: &Load) -> bool {
    let there = |name: &String| free.gpus.get(name).copied().unwrap_or(0);
    load.gpus.iter().all(|(name, count)| there(name) >= *count)
        && free.milli_cpu >= load.milli_cpu
        && free.memory >= load.memory
}

fn subtract(from: &mut Load, load: &Load) {
    for (name, count) in &load.gpus {
        if let Some(left) = from.gpus.get_mut(name) {
            *left = left.saturating_sub(*count);
        }
    }
    from.milli_cpu = from.milli_cpu.saturating_sub(load.milli_cpu);
    from.memory = from.memory.saturating_sub(load.memory);
}

#[cfg(test)]
mod tests;
