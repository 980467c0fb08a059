//! Steps that were decided for a lease → writes, and what is remembered of them.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::state::{State, is_over};
use super::step::{self, Run, Step, Why};
use super::workload::{self, Plan};
use super::writes::{Delete, Write};
use super::{outcome, runs};
use crate::api::{GpuPool, GuestLease, HubGrant};

impl State {
    pub(super) fn advance(
        &mut self,
        uid: &str,
        lease: &Arc<GuestLease>,
        (sandbox, now): (bool, Timestamp),
        writes: &mut Vec<Write>,
    ) {
        if lease.spec.confirmed && !is_over(lease) {
            self.plan_rest(uid, lease, now);
        }
        let pool = self.pools.values().find(|pool| pool.name_any() == lease.spec.pool).cloned();
        let contact = self.contact(lease, now);
        let nodes = self.known.get(uid).map(|known| self.nodes_of(known)).unwrap_or_default();
        let known = self.known.entry(uid.into()).or_default();
        known.memory.reserved.get_or_insert(now);
        let decision = runs::decide(
            &Run {
                lease,
                pool: pool.as_deref(),
                pods: &known.pods,
                memory: &known.memory,
                verdict: known.verdict.as_ref(),
                contact,
                nodes: &nodes,
            },
            now,
        );
        if known.wake != decision.wake {
            if let Some(before) = known.wake {
                self.wakes.remove(&(before, uid.into()));
            }
            known.wake = decision.wake;
        }
        if let Some(wake) = decision.wake {
            self.wakes.insert((wake, uid.into()));
        }
        for step in decision.steps {
            let task = step::task(&step);
            if let Some(write) = self.carry_out(uid, lease, pool.as_deref(), (step, sandbox, now)) {
                self.known.entry(uid.into()).or_default().memory.busy.insert(task);
                writes.push(write);
            }
        }
    }

    /// When the hub of a lease was last known to answer, by its grant.
    fn contact(&self, lease: &GuestLease, now: Timestamp) -> Option<Timestamp> {
        let of = |(_, grant): &(&String, &HubGrant)| {
            grant.name_any() == lease.spec.grant && grant.spec.hub_id == lease.spec.hub_id
        };
        let (uid, _) = self.grants.iter().find(of)?;
        // Our record of a lease is made when its hub has just told of it.
        let made = lease.metadata.creation_timestamp.as_ref().map(|made| made.0.min(now));
        self.contacts.get(uid).map(|(_, since)| *since).max(made)
    }

    fn carry_out(
        &mut self,
        uid: &str,
        lease: &Arc<GuestLease>,
        pool: Option<&GpuPool>,
        (step, sandbox, now): (Step, bool, Timestamp),
    ) -> Option<Write> {
        if let Step::Delete(key, Why::Stop(reason, _)) = &step {
            self.notice(uid, *key, outcome::told(reason), now);
        }
        let windows = self.windows.as_ref();
        let closes_in = windows.and_then(|windows| windows.seconds_left(&lease.spec.pool, now));
        let known = self.known.get_mut(uid)?;
        match step {
            Step::Report(status) => {
                known.memory.reported = Some(now);
                Some(Write::Status(lease.clone(), status))
            }
            Step::OpenGate(address) => {
                Some(Write::Gate(uid.into(), workload::gate(lease, &address)))
            }
            Step::Create(key, node) => {
                let refused = known.memory.refused.0;
                let plan = Plan { key, node: &node, sandbox, closes_in };
                match workload::pod(lease, &pool?.spec, plan) {
                    Ok(pod) => Some(Write::Create { lease: uid.into(), key, pod, refused }),
                    Err(violations) => {
                        // An older build accepted what this one refuses.
                        known.memory.refused = (u32::MAX, violations.join("; "));
                        self.dirty.insert(uid.into());
                        None
                    }
                }
            }
            Step::Delete(key, why) => {
                let (pod_uid, guest) = known.pods.get(&key)?;
                let mut delete = Delete {
                    lease: uid.into(),
                    key,
                    name: guest.name.clone(),
                    uid: pod_uid.clone(),
                    version: None,
                    grace: None,
                    over: None,
                };
                match why {
                    Why::Recorded => delete.over = is_over(lease).then(|| lease.name_any()),
                    Why::Stop(reason, grace) => {
                        delete.grace = Some(grace);
                        known.memory.doomed.entry(key).or_insert(reason);
                    }
                    Why::Rebind => {
                        let pinned = guest.pinned.clone().unwrap_or_default();
                        known.memory.tried.entry(key).or_default().insert(pinned);
                        known.rebinding.insert(key);
                        delete.version = Some(guest.version.clone());
                    }
                }
                Some(Write::Delete(delete))
            }
        }
    }
}
