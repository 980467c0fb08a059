//! Entering leases into the books, and promising nodes to their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::books::{self, Answer, Books, Grant, Terms};
use super::guest::Key;
use super::node::Load;
use super::outcome::{self, Outcome};
use super::report;
use super::state::{State, is_over, plan_id};
use super::step::Task;
use super::usage::Entry;
use super::writes::Write;
use crate::api::gpulease::{GuestLeaseStatus, LeasePhase, LeaseRefusal};
use crate::api::{GuestLease, gpus, template};
use crate::engine::indexes::Indexes;
use crate::engine::model::PodNeed;
use crate::engine::nodes;

/// Serials that a restart skips: more than the answers that may still be on their way.
const SKIPPED: i64 = 64;
/// Nodes that may fail to take a single pod before it is given up.
const TRIES: usize = 3;

impl State {
    /// Promises nodes again to what was reserved before a restart, oldest first.
    pub(super) fn restore(&mut self, now: Timestamp) {
        self.restored = true;
        self.serial = self.serial.saturating_add(SKIPPED);
        self.policy = self.serial;
        self.judging.due = true;
        let serial = |lease: &GuestLease| lease.status.as_ref().and_then(|status| status.serial);
        let mut leases: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| serial(lease).is_some() && !is_over(lease))
            .map(|(uid, lease)| (serial(lease), uid.clone(), lease.clone()))
            .collect();
        leases.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, uid, lease) in leases {
            self.plan_rest(&uid, &lease, now);
        }
    }

    pub(super) fn answer(&mut self, uid: &str, lease: &Arc<GuestLease>) -> Option<Write> {
        let known = self.known.entry(uid.into()).or_default();
        if known.memory.busy.contains(&Task::Status) || lease.meta().deletion_timestamp.is_some() {
            return None;
        }
        let status = match known.reserved {
            Some(serial) => Ok(serial),
            None => self.reserve(uid, lease),
        };
        let gpus = Terms::read(&lease.spec).map_or(0, |terms| terms.total_gpus());
        let status = match status {
            Ok(serial) => GuestLeaseStatus {
                phase: Some(LeasePhase::Reserved),
                serial: Some(serial),
                gpus,
                ..GuestLeaseStatus::default()
            },
            Err(refusal) => GuestLeaseStatus {
                phase: Some(LeasePhase::Refused),
                serial: Some(self.serial),
                refusal: Some(refusal.bounded()),
                ..GuestLeaseStatus::default()
            },
        };
        let known = self.known.entry(uid.into()).or_default();
        known.memory.busy.insert(Task::Status);
        Some(Write::Status(lease.clone(), Box::new(status)))
    }

    /// Enters a proposal into the books; the serial at which it stands there.
    fn reserve(&mut self, uid: &str, lease: &GuestLease) -> Result<i64, LeaseRefusal> {
        self.lent();
        let mix = self.asked.mix();
        let spec = &lease.spec;
        let same_job = self.jobs.get(&(spec.hub_id.clone(), spec.job.uid.clone()));
        let others = same_job.into_iter().flatten().filter(|other| other.as_str() != uid);
        let rivals: Vec<_> = others
            .filter_map(|other| self.leases.get(other))
            .filter_map(|other| Some((other.spec.epoch, Indexes::parse(&other.spec.indexes)?)))
            .collect();
        let going = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            meta.deletion_timestamp.is_some()
        };
        let pool = self.pools.values().find(|pool| pool.name_any() == spec.pool);
        let grant = self.grants.values().find(|grant| {
            grant.name_any() == spec.grant
                && grant.spec.hub_id == spec.hub_id
                && !going(grant.meta())
        });
        let books = Books {
            pool: pool.filter(|pool| !going(pool.meta())).map(Arc::as_ref),
            closed: self.shut(&spec.pool),
            lent: self.lent.as_ref().and_then(|lent| lent.get(&spec.pool)),
            held: self.held.in_pool(&spec.pool).values().sum(),
            grant: grant.map(|grant| Grant {
                max_gpus: grant.spec.max_gpus,
                held: self.held.of_hub(&spec.hub_id),
            }),
            rivals: &rivals,
            mix: &mix,
        };
        match books::answer(&lease.name_any(), spec, books) {
            Answer::Refuse(refusal) => Err(refusal),
            Answer::Reserve(chosen) => {
                for (key, node) in chosen {
                    self.plan(uid, key, &node);
                }
                self.serial = self.serial.saturating_add(1);
                let serial = self.serial;
                let entered = self.entered.entry(spec.pool.clone()).or_default();
                *entered = (*entered).max(serial);
                self.known.entry(uid.into()).or_default().reserved = Some(serial);
                Ok(serial)
            }
        }
    }

    /// Plans a node for each pod that still wants one: after a restart, or after its node did not
    /// take it. A confirmed lease loses pods that no node can take.
    pub(super) fn plan_rest(&mut self, uid: &str, lease: &GuestLease, now: Timestamp) {
        let running = lease.status.as_ref().and_then(|status| status.phase);
        let settled = running >= Some(LeasePhase::Running) || lease.spec.withdrawn.is_some();
        let Ok(terms) = Terms::read(&lease.spec) else { return };
        if settled {
            return;
        }
        let rest = self.unplanned(uid, lease, &terms);
        let fresh = self.known.get(uid).is_none_or(|known| known.memory.tried.is_empty());
        let whole = fresh && !rest.is_empty() && rest.len() == terms.keys().count();
        if whole && let Some(chosen) = self.whole(lease, &terms) {
            for (key, node) in chosen {
                self.plan(uid, key, &node);
            }
            return;
        }
        for key in rest {
            match self.another(uid, lease, key, &terms) {
                Some(node) => self.plan(uid, key, &node),
                None if lease.spec.confirmed && terms.size == 1 => {
                    let known = self.known.entry(uid.into()).or_default();
                    let end = Outcome::evicted(outcome::NOT_BOUND, now);
                    known.memory.lost.insert(key, end);
                }
                None => {}
            }
        }
    }

    /// Nodes for all pods of a lease, as they were chosen when it was answered.
    fn whole(&mut self, lease: &GuestLease, terms: &Terms) -> Option<BTreeMap<Key, String>> {
        let need = need(lease, terms)?;
        let mix = self.asked.mix();
        let lent = self.lent().get(&lease.spec.pool);
        books::fit(lent, &lease.spec.gpu, need, terms, &mix)
    }

    /// A node that the pod at `key` has not tried, unless it tried enough.
    fn another(
        &mut self,
        uid: &str,
        lease: &GuestLease,
        key: Key,
        terms: &Terms,
    ) -> Option<String> {
        let tried = self.known.get(uid).and_then(|known| known.memory.tried.get(&key)).cloned();
        let tried: BTreeSet<String> = tried.unwrap_or_default();
        let need = need(lease, terms)?;
        if tried.len() >= TRIES {
            return None;
        }
        let mut candidates = self.lent().get(&lease.spec.pool)?.candidates();
        candidates.retain(|node| !tried.contains(&node.name));
        let replica = books::replica(&lease.spec.gpu, need, 1);
        nodes::choose(&candidates, &replica, 1, &self.asked.mix())?.pop()
    }

    /// Promises `node` to the pod at `key` of the lease `uid`.
    fn plan(&mut self, uid: &str, key: Key, node: &str) {
        let Some(lease) = self.leases.get(uid) else { return };
        let count = lease.spec.gpu.count;
        let need = template::need(&lease.spec.template.value(), count).unwrap_or_default();
        let resource = gpus::resource_name(&lease.spec.gpu.model);
        let load = Load {
            gpus: BTreeMap::from([(resource, count.unsigned_abs())]),
            milli_cpu: need.milli_cpu,
            memory: need.memory_bytes,
        };
        let entry = Entry { node: node.into(), load, guest: true, nominated: true, claims: false };
        self.usages.set(&plan_id(uid, key), Some(entry));
        let known = self.known.entry(uid.into()).or_default();
        known.memory.planned.insert(key, node.into());
        self.capacity_changed();
        self.recount(uid);
    }

    /// Pods of a lease that are still to be made and have no node yet.
    fn unplanned(&self, uid: &str, lease: &GuestLease, terms: &Terms) -> Vec<Key> {
        let status = lease.status.clone().unwrap_or_default();
        let recorded = report::recorded(&status);
        let Some(known) = self.known.get(uid) else { return terms.keys().collect() };
        let waits = |key: &Key| {
            !recorded.contains(key.index)
                && !known.pods.contains_key(key)
                && !known.memory.planned.contains_key(key)
                && !known.memory.lost.contains_key(key)
                && !known.memory.unsure.contains_key(key)
                && !known.memory.busy.contains(&Task::Pod(*key))
        };
        terms.keys().filter(waits).collect()
    }
}

/// What each pod of `lease` needs; `None` if its template is not allowed after all.
pub(super) fn need(lease: &GuestLease, terms: &Terms) -> Option<PodNeed> {
    let need = template::need(&lease.spec.template.value(), lease.spec.gpu.count).ok()?;
    Some(PodNeed { gpus: terms.gpus, milli_cpu: need.milli_cpu, memory: need.memory_bytes })
}
