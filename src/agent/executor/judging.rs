//! Everything that is known → which guests the owner wants gone.
//!
//! Invariant: nobody goes for an owner's pod while the room that others made for it is there, whether
//! its scheduler uses it or not. If another pod of the owner's takes it, more go.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::demand::{self, Claim, Cost, Place, Tenant, Victims};
use super::guest::{Guest, Key};
use super::node::Load;
use super::outcome::OWNER_RECLAIMED;
use super::owner;
use super::pod::{Pod, Role};
use super::state::{State, is_over, open_pools};
use super::step::Verdict;
use crate::api::gpulease::LeasePhase;
use crate::api::{GuestLease, HubGrant};

impl State {
    pub(super) fn pass_judgement(&mut self, now: Timestamp) {
        if !self.leases.values().any(|lease| is_held(lease)) {
            return;
        }
        self.lent();
        let priorities = self.priorities();
        let leases = self.leases.iter().filter(|(_, lease)| is_held(lease));
        let holdings: Vec<_> =
            leases.map(|(uid, lease)| self.holding(uid, lease, &priorities, now)).collect();
        let mut verdicts = owner::verdicts(&holdings, &self.policy());
        for (uid, key) in self.called_for(&holdings) {
            let verdict = Verdict { reason: OWNER_RECLAIMED, only: key.map(|key| [key].into()) };
            owner::join(&mut verdicts, uid, verdict);
        }
        for holding in holdings {
            let verdict = verdicts.remove(&holding.uid);
            let known = self.known.entry(holding.uid.clone()).or_default();
            if known.verdict != verdict {
                known.verdict = verdict;
                self.dirty.insert(holding.uid);
            }
        }
    }

    fn policy(&self) -> owner::Policy {
        let short = |pool: &String| {
            let lent = self.lent.as_ref().and_then(|lent| lent.get(pool));
            lent.map_or(0, |lent| i64::from(lent.short))
        };
        let open = open_pools(&self.pools).into_iter();
        let pools = open.map(|(name, spec)| {
            let shut = self.shut(&name).is_some();
            let (paused, max_gpus) = (spec.offer.paused || shut, spec.offer.max_gpus);
            let short = short(&name);
            (name, owner::PoolPolicy { paused, max_gpus, short })
        });
        let grants = self.grants.values().filter(|grant| grant.meta().deletion_timestamp.is_none());
        let grant =
            |grant: &HubGrant| ((grant.name_any(), grant.spec.hub_id.clone()), grant.spec.max_gpus);
        let mut members = self.members.clone().unwrap_or_default();
        for node in self.nodes.values().filter(|node| node.cordoned) {
            members.remove(&node.name);
        }
        owner::Policy {
            pools: pools.collect(),
            grants: grants.map(grant).collect(),
            members,
            nodes: self.nodes.values().map(|node| node.name.clone()).collect(),
        }
    }

    fn holding(
        &self,
        uid: &str,
        lease: &GuestLease,
        priorities: &BTreeMap<(String, String), i32>,
        now: Timestamp,
    ) -> owner::Holding {
        let grant = (lease.spec.grant.clone(), lease.spec.hub_id.clone());
        let known = self.known.get(uid);
        let phase = lease.status.as_ref().and_then(|status| status.phase);
        let made = lease.metadata.creation_timestamp.as_ref();
        let pods = known.into_iter().flat_map(|known| &known.pods);
        let nodes = pods.filter(|(_, (_, guest))| !guest.is_terminal());
        let gpus = known.and_then(|known| known.held.as_ref()).map_or(0, |held| held.gpus);
        owner::Holding {
            uid: uid.into(),
            name: lease.name_any(),
            cost: Cost {
                priority: priorities.get(&grant).copied().unwrap_or(0),
                lost: gpus.saturating_mul(unsaved_seconds(lease, now)),
                made: std::cmp::Reverse(made.map_or(0, |time| time.0.as_second())),
            },
            pool: lease.spec.pool.clone(),
            grant,
            gpus,
            leaving: phase == Some(LeasePhase::Releasing) || lease.spec.withdrawn.is_some(),
            nodes: nodes.filter_map(|(key, (_, guest))| Some((*key, place(guest)?))).collect(),
        }
    }

    /// Guests that owner's pods call for, which nobody else makes room for.
    fn called_for(&mut self, holdings: &[owner::Holding]) -> Victims {
        let mut evicting = std::mem::take(&mut self.evicting);
        evicting.retain(|uid, victims| {
            let pod = self.pods.get(uid);
            let waits = pod.is_some_and(|pod| matches!(pod.role, Role::Waits { .. }));
            waits && victims.iter().any(|(lease, key)| !self.is_told(lease, *key))
        });
        self.evicting = evicting;
        let all: Victims = self.evicting.values().flatten().cloned().collect();
        let mut places = self.places(holdings, &all);
        let mut going = demand::make_good(&mut places);
        let claim = |(uid, pod): (&'_ String, &'_ Pod)| {
            let Role::Waits { wish, stranded } = &pod.role else { return None };
            let stranded = *stranded && !self.evicting.contains_key(uid);
            Some((uid.clone(), wish.clone(), stranded))
        };
        let claims: Vec<_> = self.pods.iter().filter_map(claim).collect();
        let claims: Vec<_> = claims
            .iter()
            .map(|(pod, wish, stranded)| Claim { pod, wish, stranded: *stranded })
            .collect();
        let new = demand::make_room(&mut places, &claims);
        drop(places);
        self.evicting.extend(new);
        going.extend(self.evicting.values().flatten().cloned());
        going
    }

    /// Whether all these pods of a lease are on their way, or gone.
    fn is_told(&self, lease: &str, key: Option<Key>) -> bool {
        let Some(known) = self.known.get(lease) else { return true };
        let mut named = known.pods.iter().filter(|(of, _)| key.is_none_or(|key| **of == key));
        named.all(|(of, (uid, guest))| {
            guest.is_terminal() || guest.deleting || known.memory.asked.get(of) == Some(uid)
        })
    }

    /// Nodes that are lent, with the guests on them that were not told to go.
    fn places(&self, holdings: &[owner::Holding], going: &Victims) -> Vec<Place<'_>> {
        let members = self.members.as_ref();
        let lent = self.nodes.values().filter(|node| {
            let member = members.is_some_and(|members| members.contains_key(&node.name));
            member && node.ready && !node.cordoned
        });
        let place = |node| Place {
            node,
            free: Load::default(),
            excess: Load::default(),
            tenants: Vec::new(),
        };
        let mut places: BTreeMap<&str, Place> =
            lent.map(|node| (node.name.as_str(), place(node))).collect();
        let mut leaving: BTreeMap<&str, Load> = BTreeMap::new();
        let mut unbound: BTreeMap<&str, Load> = BTreeMap::new();
        for holding in holdings {
            let (Some(known), Some(lease)) =
                (self.known.get(&holding.uid), self.leases.get(&holding.uid))
            else {
                continue;
            };
            let gang = lease.spec.size > 1;
            let count = i64::try_from(holding.nodes.len()).unwrap_or(i64::MAX).max(1);
            let share = if gang { 1 } else { count };
            for (key, node) in &holding.nodes {
                let (Some((uid, guest)), Some(place)) =
                    (known.pods.get(key), places.get_mut(node.as_str()))
                else {
                    continue;
                };
                let load = self.pods.get(uid).map(|pod| pod.load.clone()).unwrap_or_default();
                let named = (holding.uid.clone(), (!gang).then_some(*key));
                let told = guest.deleting || known.memory.asked.get(key) == Some(uid);
                if told || holding.leaving || going.contains(&named) {
                    leaving.entry(place.node.name.as_str()).or_default().add(&load);
                    continue;
                }
                let bound = guest.node.is_some();
                if !bound {
                    unbound.entry(place.node.name.as_str()).or_default().add(&load);
                }
                let cost = Cost { lost: holding.cost.lost / share, ..holding.cost.clone() };
                let lease = holding.uid.clone();
                place.tenants.push(Tenant { lease, key: *key, gang, bound, load, cost });
            }
        }
        let nothing = Load::default();
        for (name, place) in &mut places {
            let usage = self.usages.of(name);
            let goes = leaving.get(name).unwrap_or(&nothing);
            place.free = demand::rest(&place.node.allocatable, &usage.all, goes);
            let mut bound = demand::without(&usage.all, &usage.nominated);
            bound = demand::without(&bound, unbound.get(name).unwrap_or(&nothing));
            place.excess = demand::beyond(&bound, goes, &place.node.allocatable);
        }
        places.into_values().collect()
    }
}

/// Whether it may have pods.
fn is_held(lease: &GuestLease) -> bool {
    lease.spec.confirmed && !is_over(lease)
}

/// Seconds of work of each GPU that are lost if the lease ends now: a program that saves did so an
/// interval ago at the latest.
fn unsaved_seconds(lease: &GuestLease, now: Timestamp) -> i64 {
    let start = lease.status.as_ref().and_then(|status| status.start_time.as_ref());
    let ran = start.map_or(0, |start| now.duration_since(start.0).as_secs().max(0));
    let saves = lease.spec.checkpoint.as_ref();
    saves.map_or(ran, |saves| ran.min(saves.interval_seconds.max(0)))
}

fn place(guest: &Guest) -> Option<String> {
    guest.node.clone().or_else(|| guest.pinned.clone())
}
