//! Everything the executor knows, kept up to date event by event.
//!
//! Invariant: nothing here is the only copy of something that matters. Nodes chosen stand in the
//! pods, results in the leases; what else a restart forgets is found again or repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::capacity::{self, Lent};
use super::demand::Victims;
use super::event::{Event, Noted};
use super::guest::{Guest, Key};
use super::hindered::Hindered;
use super::idling::Idling;
use super::judging::Judging;
use super::node::Node;
use super::outcome;
use super::pod::{Pod, Role, Wish};
use super::reclaims::Reclaims;
use super::step::{Memory, Verdict};
use super::store::{Put, Store};
use super::tally::{Meter, Tally};
use super::usage::Usages;
use super::vacating::Notice;
use super::windows::Windows;
use crate::api::gpulease::LeasePhase;
use crate::api::gpupool::GpuPoolSpec;
use crate::api::{GpuPool, GuestLease, HubGrant};
use crate::cluster::Seen;
use crate::engine::asked::Asked;

/// A heartbeat is written down, and seen to be, within so much: its own deadline and a busy API server.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(15);

/// What is known of one lease.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its pods by key, each with its UID.
    pub pods: BTreeMap<Key, (String, Guest)>,
    /// What only we know.
    pub memory: Memory,
    /// Pods that are deleted only to be given another node.
    pub rebinding: BTreeSet<Key>,
    /// What the owner's policy says of it.
    pub verdict: Option<Verdict>,
    /// Its pods that were told to go and are not gone.
    pub notices: BTreeMap<Key, Notice>,
    /// Serial at which we reserved for it, if the answer was not seen to be written yet.
    pub reserved: Option<i64>,
    /// When to look at it again.
    pub wake: Option<Timestamp>,
    /// What it counts for.
    pub held: Option<Held>,
}

/// What a lease counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub pool: String,
    pub hub: String,
    pub model: String,
    pub gpus: i64,
    /// Its guests were told to go for the owner.
    pub reclaimed: bool,
}

/// GPUs that guests hold or are promised, by pool and hub.
#[derive(Debug, Default)]
pub(super) struct Books(BTreeMap<String, BTreeMap<String, i64>>);

impl Books {
    fn add(&mut self, pool: String, hub: String, gpus: i64) {
        let sum = self.0.entry(pool).or_default().entry(hub).or_default();
        *sum = sum.saturating_add(gpus);
    }

    /// By hub, in `pool`.
    pub(super) fn in_pool(&self, pool: &str) -> BTreeMap<String, i64> {
        let held = self.0.get(pool).into_iter().flatten().filter(|(_, gpus)| **gpus > 0);
        held.map(|(hub, gpus)| (hub.clone(), *gpus)).collect()
    }

    /// Of `hub`, in all pools.
    pub(super) fn of_hub(&self, hub: &str) -> i64 {
        self.0.values().filter_map(|pool| pool.get(hub)).sum()
    }
}

/// When the picture of a pool was written, and whether that is in flight.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub written: Option<Timestamp>,
    pub busy: bool,
}

/// All that is known.
#[derive(Default)]
pub struct State {
    pub(super) nodes: Store<Node>,
    pub(super) pods: Store<Pod>,
    pub(super) pools: Store<Arc<GpuPool>>,
    pub(super) leases: Store<Arc<GuestLease>>,
    pub(super) grants: Store<HubGrant>,
    pub(super) usages: Usages,
    pub(super) known: BTreeMap<String, Known>,
    pub(super) dirty: BTreeSet<String>,
    pub(super) wakes: BTreeSet<(Timestamp, String)>,
    pub(super) boards: BTreeMap<String, Board>,
    /// How often the owner takes GPUs back.
    pub(super) reclaims: Reclaims,
    /// Owner's pods that kube-scheduler alone does not help, by pool, if that was counted.
    pub(super) hindered: Option<BTreeMap<String, Hindered>>,
    /// What was learnt of idle GPUs.
    pub(super) idling: Idling,
    /// UIDs of leases by hub and job.
    pub(super) jobs: BTreeMap<(String, String), BTreeSet<String>>,
    /// GPUs held, by pool and by hub.
    pub(super) held: Books,
    /// Those of them, by pool, whose guests were told to go for the owner.
    pub(super) reclaimed: BTreeMap<String, i64>,
    /// Those that are held, by pool and model.
    pub(super) models: BTreeMap<String, BTreeMap<String, i64>>,
    /// Highest serial at which a lease entered the books, by pool.
    pub(super) entered: BTreeMap<String, i64>,
    pub(super) serial: i64,
    /// Serial of the last change of the owner's policy.
    pub(super) policy: i64,
    pub(super) judging: Judging,
    /// The last contact that each grant tells of, and when it counts from by our clock, by UID.
    pub(super) contacts: BTreeMap<String, (Timestamp, Timestamp)>,
    /// What is lent by its schedule; `None` = to be looked at.
    pub(super) windows: Option<Windows>,
    /// Who goes for an owner's pod that waits, by its UID.
    pub(super) evicting: BTreeMap<String, Victims>,
    pub(super) restored: bool,
    pub(super) members: Option<BTreeMap<String, String>>,
    /// Since when nodes that do not answer, or are gone, have not answered, by our clock.
    pub(super) away: BTreeMap<String, Timestamp>,
    /// Whether so many are away that it is rather the API server that hears nobody.
    pub(super) cut_off: bool,
    pub(super) lent: Option<BTreeMap<String, Lent>>,
    /// Whether a picture may have changed.
    pub(super) changed: bool,
    pub(super) tally: Tally,
    pub(super) meter: Meter,
    /// What owner and guests ask for, by which nodes are chosen.
    pub(super) asked: Asked,
}

impl State {
    /// Takes in `event`, which came at `now`.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Node(seen) => self.see_node(seen, now),
            Event::Pod(seen) => self.see_pod(seen, now),
            Event::Pool(seen) => self.see_pool(seen),
            Event::Lease(seen) => self.see_lease(seen),
            Event::Grant(seen) => self.see_grant(seen, now),
            Event::Written(lease, task, written) => self.written(&lease, task, written, now),
            Event::Pictured(uid, pool) => {
                self.boards.entry(uid).or_default().busy = false;
                self.changed = true;
                if let Some(pool) = pool {
                    self.put_pool(super::event::noted(*pool));
                }
            }
        }
    }

    /// Names of the lists that are not complete yet.
    #[must_use]
    pub fn incomplete(&self) -> Vec<&'static str> {
        let lists = [
            ("nodes", self.nodes.is_complete()),
            ("pods", self.pods.is_complete()),
            ("gpupools", self.pools.is_complete()),
            ("guestleases", self.leases.is_complete()),
            ("hubgrants", self.grants.is_complete()),
        ];
        lists.into_iter().filter(|(_, complete)| !complete).map(|(name, _)| name).collect()
    }

    fn see_node(&mut self, seen: Seen<Noted<Node>>, now: Timestamp) {
        let gone = match seen {
            Seen::Listing => return self.nodes.begin(),
            Seen::Broken => return,
            Seen::Listed => self.nodes.finish(),
            Seen::Gone(node) => vec![node.uid],
            Seen::Object(Noted { uid, version, item }) => {
                let (labels, cordoned) = (item.labels.clone(), item.cordoned);
                let (name, ready) = (item.name.clone(), item.ready);
                let same = self.nodes.get(&uid) == Some(&item);
                let put = self.nodes.put(&uid, version, item);
                if same || put == Put::Stale {
                    return;
                }
                self.note_node(&name, ready, now);
                // Nodes that come, go or change may leave a reserve short.
                self.judging.due = true;
                self.capacity_changed();
                let known = |old: &Node| old.labels == labels && old.cordoned == cordoned;
                if !matches!(put, Put::Changed(old) if known(&old)) {
                    self.policy_changed();
                }
                return;
            }
        };
        for uid in gone {
            if let Some(node) = self.nodes.remove(&uid) {
                self.note_node(&node.name, false, now);
            }
            self.policy_changed();
        }
    }

    /// The owner changed what is lent: everything is judged again.
    fn policy_changed(&mut self) {
        self.members = None;
        self.windows = None;
        self.capacity_changed();
        self.judging.due = true;
        self.policy = self.serial;
    }

    pub(super) fn capacity_changed(&mut self) {
        // Room that came or went may be what an owner's pod or a reserve waits for.
        self.judging.due |= self.judging.wanting;
        self.lent = None;
        self.hindered = None;
        self.changed = true;
    }

    fn see_pool(&mut self, seen: Seen<Noted<GpuPool>>) {
        let gone = match seen {
            Seen::Listing => return self.pools.begin(),
            Seen::Broken => return,
            Seen::Object(pool) => return self.put_pool(pool),
            Seen::Listed => self.pools.finish(),
            Seen::Gone(pool) => vec![pool.uid],
        };
        for uid in gone {
            if let Some(pool) = self.pools.remove(&uid) {
                self.reclaims.forget(&pool.name_any());
            }
            self.boards.remove(&uid);
            self.idling.forget(&uid);
            self.policy_changed();
        }
    }

    fn put_pool(&mut self, Noted { uid, version, item }: Noted<GpuPool>) {
        let policy =
            |pool: &GpuPool| (pool.meta().generation, pool.meta().deletion_timestamp.is_some());
        let new = policy(&item);
        if !self.restored {
            let serial = item.status.as_ref().map_or(0, |status| status.serial);
            self.serial = self.serial.max(serial);
        }
        match self.pools.put(&uid, version, Arc::new(item)) {
            Put::Stale => {}
            Put::Changed(old) if policy(&old) == new => self.changed = true,
            Put::New | Put::Changed(_) => self.policy_changed(),
        }
    }

    fn see_grant(&mut self, seen: Seen<Noted<HubGrant>>, now: Timestamp) {
        let policy = |grant: &HubGrant| {
            let going = grant.meta().deletion_timestamp.is_some();
            (grant.spec.max_gpus, grant.spec.priority, going)
        };
        let gone = match seen {
            Seen::Listing => return self.grants.begin(),
            Seen::Broken => return,
            Seen::Listed => self.grants.finish(),
            Seen::Gone(grant) => vec![grant.uid],
            Seen::Object(Noted { uid, version, item }) => {
                let new = policy(&item);
                self.note_contact(&uid, &item, now);
                let put = self.grants.put(&uid, version, item);
                match put {
                    Put::Stale => {}
                    Put::Changed(old) if policy(&old) == new => {}
                    Put::New | Put::Changed(_) => self.policy_changed(),
                }
                return;
            }
        };
        for uid in gone {
            self.grants.remove(&uid);
            self.contacts.remove(&uid);
            self.policy_changed();
        }
    }

    /// A contact that we saw to change is as old as it takes to be seen, whatever became of the machine's
    /// clock; one that was there when we came is as old as it says.
    fn note_contact(&mut self, uid: &str, grant: &HubGrant, now: Timestamp) {
        let status = grant.status.as_ref();
        let Some(said) = status.and_then(|status| status.last_contact.as_ref()) else { return };
        let before = self.contacts.get(uid).map(|(before, _)| *before);
        if before == Some(said.0) {
            return;
        }
        let since = match before {
            Some(_) => now.checked_sub(SEEN_WITHIN).unwrap_or(now),
            None => said.0.min(now),
        };
        self.contacts.insert(uid.into(), (said.0, since));
    }

    /// Counts again what a lease holds.
    pub(super) fn recount(&mut self, uid: &str) {
        let Some(known) = self.known.get_mut(uid) else { return };
        let lease = self.leases.get(uid);
        let now = lease.map(|lease| {
            let living = known.pods.values().filter(|(_, guest)| !guest.is_terminal()).count();
            let pods = i64::try_from(living + known.memory.planned.len()).unwrap_or(i64::MAX);
            let gpus = pods.saturating_mul(i64::from(lease.spec.gpu.count));
            let (pool, hub) = (lease.spec.pool.clone(), lease.spec.hub_id.clone());
            let model = lease.spec.gpu.model.clone();
            Held { pool, hub, model, gpus, reclaimed: is_reclaimed(lease) }
        });
        if known.held == now {
            return;
        }
        let before = std::mem::replace(&mut known.held, now.clone());
        for (sign, part) in [(-1, before), (1, now)] {
            let Some(Held { pool, hub, model, gpus, reclaimed }) = part else { continue };
            if reclaimed {
                let sum = self.reclaimed.entry(pool.clone()).or_default();
                *sum = sum.saturating_add(sign * gpus);
            }
            let models = self.models.entry(pool.clone()).or_default();
            let of_model = models.entry(model).or_default();
            *of_model = of_model.saturating_add(sign * gpus);
            models.retain(|_, gpus| *gpus != 0);
            self.held.add(pool, hub, sign * gpus);
        }
        self.changed = true;
    }

    /// What each pool lends now.
    pub(super) fn lent(&mut self) -> &BTreeMap<String, Lent> {
        if self.lent.is_none() {
            let pools = open_pools(&self.pools);
            let members = self
                .members
                .get_or_insert_with(|| capacity::membership(&pools, self.nodes.values()));
            let usages = &self.usages;
            let nodes = self.nodes.values().map(|node| (node, usages.of(&node.name)));
            let wishes: Vec<&Wish> = self.pods.values().filter_map(wish).collect();
            self.lent = Some(capacity::lend(&pools, nodes, members, &wishes));
        }
        self.lent.get_or_insert_default()
    }
}

/// Whether the guests of `lease` were told to go because the owner wants the GPUs.
fn is_reclaimed(lease: &GuestLease) -> bool {
    let status = lease.status.as_ref().filter(|one| one.phase == Some(LeasePhase::Releasing));
    let reason = status.and_then(|status| status.end_reason.as_deref());
    reason.is_some_and(outcome::is_owners)
}

/// Whether nothing more will run of `lease`.
pub(super) fn is_over(lease: &GuestLease) -> bool {
    let phase = lease.status.as_ref().and_then(|status| status.phase);
    matches!(phase, Some(LeasePhase::Released | LeasePhase::Refused))
}

/// Pools that are there and not going, by name.
pub(super) fn open_pools(pools: &Store<Arc<GpuPool>>) -> BTreeMap<String, &GpuPoolSpec> {
    let open = pools.values().filter(|pool| pool.metadata.deletion_timestamp.is_none());
    open.map(|pool| (pool.name_any(), &pool.spec)).collect()
}

/// What the promise to a pod is called among usages.
pub(super) fn plan_id(lease: &str, key: Key) -> String {
    format!("plan/{lease}/{}/{}", key.index, key.rank)
}

fn wish(pod: &Pod) -> Option<&Wish> {
    match &pod.role {
        Role::Waits { wish, .. } => Some(wish),
        Role::Takes { .. } | Role::Guest(_) => None,
    }
}

/// Whether an owner's pod waits.
pub(super) fn is_wish(pod: &Pod) -> bool {
    wish(pod).is_some()
}
