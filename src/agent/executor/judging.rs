//! Everything that is known → which guests the owner wants gone.
//!
//! Invariant: nobody goes for an owner's pod while the room that others made for it is there, whether
//! its scheduler uses it or not. If another pod of the owner's takes it, more go.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::demand::{self, Claim, Cost, Place, Tenant, Victims};
use super::guest::{Guest, Key};
use super::node::{Load, Node};
use super::outcome::OWNER_RECLAIMED;
use super::owner;
use super::pod::Role;
use super::state::{State, is_over, open_pools};
use super::step::Verdict;
use crate::api::gpulease::LeasePhase;
use crate::api::{GuestLease, HubGrant};

/// A scheduler that tells nothing of its pods is given so long to place them.
const FOREIGN_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// Cost of who is being told already: less than any other.
const TOLD: i64 = -1;

/// When to look at who must go.
#[derive(Debug, Default)]
pub(super) struct Judging {
    /// Now: something happened that may matter.
    pub(super) due: bool,
    /// Whether an owner's pod waits that only we help: whatever changes what is free matters then.
    pub(super) wanting: bool,
    /// Since when pods of other schedulers wait that those have not told of, by UID.
    foreign: BTreeMap<String, Timestamp>,
    /// At this time, though nothing happens.
    pub(super) again: Option<Timestamp>,
}

impl State {
    pub(super) fn pass_judgement(&mut self, now: Timestamp) {
        self.judging.again = None;
        self.judging.wanting = true;
        if !self.leases.values().any(|lease| is_held(lease)) {
            return;
        }
        self.lent();
        let priorities = self.priorities();
        let leases = self.leases.iter().filter(|(_, lease)| is_held(lease));
        let holdings: Vec<_> =
            leases.map(|(uid, lease)| self.holding(uid, lease, &priorities, now)).collect();
        let mut verdicts = owner::verdicts(&holdings, &self.policy());
        for (uid, key) in self.called_for(&holdings, &verdicts, now) {
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
        let open = open_pools(&self.pools).into_iter();
        let pools = open.map(|(name, spec)| {
            let shut = self.shut(&name).is_some();
            let (paused, max_gpus) = (spec.offer.paused || shut, spec.offer.max_gpus);
            (name, owner::PoolPolicy { paused, max_gpus })
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
                lost: match known.and_then(|known| known.verdict.as_ref()) {
                    // Who is being told goes before all others, whatever time adds to costs.
                    Some(Verdict { only: None, .. }) => TOLD,
                    _ => gpus.saturating_mul(unsaved_seconds(lease, now)),
                },
                made: std::cmp::Reverse(made.map_or(0, |time| time.0.as_second())),
            },
            pool: lease.spec.pool.clone(),
            grant,
            gpus,
            leaving: phase == Some(LeasePhase::Releasing) || lease.spec.withdrawn.is_some(),
            nodes: nodes.filter_map(|(key, (_, guest))| Some((*key, place(guest)?))).collect(),
        }
    }

    /// Guests that owner's pods call for, which nobody else makes room for, and those that pools need for
    /// their reserves. Leases that go as a whole by `verdicts` make room too.
    fn called_for(
        &mut self,
        holdings: &[owner::Holding],
        verdicts: &BTreeMap<String, Verdict>,
        now: Timestamp,
    ) -> Victims {
        let mut evicting = std::mem::take(&mut self.evicting);
        evicting.retain(|uid, victims| {
            let pod = self.pods.get(uid);
            let waits = pod.is_some_and(|pod| matches!(pod.role, Role::Waits { .. }));
            waits && victims.iter().any(|(lease, key)| !self.is_told(lease, *key))
        });
        self.evicting = evicting;
        let all: Victims = self.evicting.values().flatten().cloned().collect();
        let stranded = self.stranded(now);
        let mut places = self.places(holdings, verdicts, &all);
        let mut going = demand::make_good(&mut places);
        let mut claims = Vec::new();
        for (uid, pod) in self.pods.iter() {
            let Role::Waits { wish, .. } = &pod.role else { continue };
            let stranded = stranded.contains(uid) && !self.evicting.contains_key(uid);
            claims.push(Claim { pod: uid, wish, stranded });
        }
        let new = demand::make_room(&mut places, &claims);
        let lent = self.lent.iter().flatten();
        let short: Vec<_> = lent.filter(|(_, lent)| lent.short > 0).collect();
        for (pool, lent) in short {
            let going_there = going.iter().chain(new.values().flatten());
            let going_there: Victims = going_there.cloned().collect();
            going.extend(demand::fill_reserve(&mut places, pool, lent.short, &going_there));
        }
        drop(places);
        self.judging.wanting = !stranded.is_empty();
        self.evicting.extend(new);
        going.extend(self.evicting.values().flatten().cloned());
        going
    }

    /// UIDs of owner's pods that no scheduler makes room for: kube-scheduler tried and may not preempt
    /// for them, or another one did, or says nothing for a while.
    fn stranded(&mut self, now: Timestamp) -> BTreeSet<String> {
        let mut foreign = std::mem::take(&mut self.judging.foreign);
        let mut stranded = BTreeSet::new();
        let mut silent = BTreeSet::new();
        for (uid, pod) in self.pods.iter() {
            let Role::Waits { tried, .. } = &pod.role else { continue };
            let hindered = pod.hindrance.priority || pod.hindrance.scheduler;
            if *tried && hindered {
                stranded.insert(uid.clone());
            } else if pod.hindrance.scheduler {
                silent.insert(uid.clone());
                let since = *foreign.entry(uid.clone()).or_insert(now);
                let ripe = since.checked_add(FOREIGN_AFTER).unwrap_or(now);
                if ripe <= now {
                    stranded.insert(uid.clone());
                } else {
                    self.judging.again = Some(self.judging.again.map_or(ripe, |at| at.min(ripe)));
                }
            }
        }
        foreign.retain(|uid, _| silent.contains(uid));
        self.judging.foreign = foreign;
        stranded
    }

    /// Whether all these pods of a lease are on their way, or gone.
    fn is_told(&self, lease: &str, key: Option<Key>) -> bool {
        let Some(known) = self.known.get(lease) else { return true };
        let mut named = known.pods.iter().filter(|(of, _)| key.is_none_or(|key| **of == key));
        named.all(|(of, (uid, guest))| {
            guest.is_terminal() || guest.deleting || known.memory.asked.get(of) == Some(uid)
        })
    }

    /// Nodes that take pods, with the guests on them that were not told to go: also those that are not
    /// lent, as owner's pods may find room there.
    fn places<'s>(
        &'s self,
        holdings: &[owner::Holding],
        verdicts: &BTreeMap<String, Verdict>,
        going: &Victims,
    ) -> Vec<Place<'s>> {
        let usable = self.nodes.values().filter(|node| node.ready && !node.cordoned);
        let pool = |node: &Node| self.members.as_ref()?.get(&node.name).map(String::as_str);
        let mut places: BTreeMap<&str, Place> =
            usable.map(|node| (node.name.as_str(), Place::of(node, pool(node)))).collect();
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
                if told || owner::goes(holding, verdicts) || going.contains(&named) {
                    place.leaving.add(&load);
                    continue;
                }
                let bound = guest.node.is_some();
                if !bound {
                    unbound.entry(place.node.name.as_str()).or_default().add(&load);
                }
                let doomed = known.memory.doomed.contains_key(key);
                let lost = if doomed { TOLD } else { holding.cost.lost / share };
                let cost = Cost { lost, ..holding.cost.clone() };
                let lease = holding.uid.clone();
                place.tenants.push(Tenant { lease, key: *key, gang, bound, load, cost });
            }
        }
        let nothing = Load::default();
        for (name, place) in &mut places {
            let (usage, all) = (self.usages.of(name), &place.node.allocatable);
            let stays = demand::without(&usage.all, &place.leaving);
            place.free = demand::without(all, &stays);
            let stays = demand::without(&stays, &usage.nominated);
            let stays = demand::without(&stays, unbound.get(name).unwrap_or(&nothing));
            place.excess = demand::beyond(&stays, all, &usage.owners);
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
