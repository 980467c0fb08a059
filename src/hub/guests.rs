//! What runs where, kept up to date lease by lease, for estimates, reservations and preemption.

use std::sync::Arc;

use kube::ResourceExt;

use super::state::{State, job_of, member_in};
use crate::api::gpujob::Preemptibility;
use crate::api::gpulease::{LeasePhase, NodePods};
use crate::api::{GpuLease, convert};
use crate::engine::guests::Guest;
use crate::engine::indexes::Indexes;
use crate::engine::model::{Epoch, JobId, PodNeed, PoolId};

/// Brings the guest of one lease up to date.
pub(super) fn refresh(state: &mut State, lease: &GpuLease) {
    let Some(member) = member_in(&lease.namespace().unwrap_or_default()) else { return };
    let pool = PoolId { member, pool: lease.spec.pool.clone() };
    let (job, epoch) = (job_of(lease), Epoch::from(lease.spec.epoch));
    let guest = guest(state, lease, &job, epoch);
    put(state, pool, (job, epoch), guest);
}

/// Forgets the guest of a lease that is gone.
pub(super) fn forget(state: &mut State, lease: &GpuLease) {
    let Some(member) = member_in(&lease.namespace().unwrap_or_default()) else { return };
    let pool = PoolId { member, pool: lease.spec.pool.clone() };
    put(state, pool, (job_of(lease), Epoch::from(lease.spec.epoch)), None);
}

/// Brings all guests of a job up to date: its queue or priority may be another.
pub(super) fn refresh_job(state: &mut State, id: &JobId) {
    let keys: Vec<_> =
        state.leases_of.get(id).into_iter().flat_map(|leases| leases.values().cloned()).collect();
    for key in keys {
        if let Some(lease) = state.leases.shared(&key) {
            refresh(state, &lease);
        }
    }
}

fn put(state: &mut State, pool: PoolId, key: (JobId, Epoch), guest: Option<Guest>) {
    let held = state.guests.get(&pool);
    let find = |guest: &Guest| (&guest.job, guest.epoch).cmp(&(&key.0, key.1));
    let at = held.map_or(Err(0), |guests| guests.binary_search_by(find));
    match (at, guest) {
        (Err(_), None) => {}
        (Ok(at), Some(guest)) => {
            if held.is_some_and(|guests| guests[at] != guest) {
                Arc::make_mut(&mut state.guests).entry(pool).or_default()[at] = guest;
            }
        }
        (Err(at), Some(guest)) => {
            Arc::make_mut(&mut state.guests).entry(pool).or_default().insert(at, guest);
        }
        (Ok(at), None) => {
            let pools = Arc::make_mut(&mut state.guests);
            if let Some(guests) = pools.get_mut(&pool) {
                guests.remove(at);
                if guests.is_empty() {
                    pools.remove(&pool);
                }
            }
        }
    }
}

/// The guest of a lease; `None` if it holds nothing, or nothing is known of its job.
fn guest(state: &State, lease: &GpuLease, id: &JobId, epoch: Epoch) -> Option<Guest> {
    let status = lease.status.as_ref();
    let phase = status.and_then(|status| status.phase);
    if matches!(phase, Some(LeasePhase::Refused | LeasePhase::Released)) {
        return None;
    }
    let notes = state.notes.get(id)?;
    let job = state.keys.get(id).and_then(|key| state.jobs.shared(key))?;
    let asked = notes.asked.as_ref().and_then(|(_, asked)| asked.as_ref().ok())?;
    let (mut left, mut since) = (Indexes::parse(&lease.spec.indexes)?, lease.creation_timestamp());
    for group in status.into_iter().flat_map(|status| &status.ended) {
        left = left.minus(&Indexes::parse(&group.indexes).unwrap_or_default());
    }
    if let Some(start) = status.and_then(|status| status.start_time.clone()) {
        since = Some(start);
    }
    let since = since.as_ref().map_or(0, convert::millis);
    let seconds = lease.spec.active_deadline_seconds.saturating_add(lease.spec.grace_seconds);
    Some(Guest {
        job: id.clone(),
        epoch,
        queue: notes.queue.clone(),
        priority: super::rounds::priority(state, &job),
        preemptible: job.spec.preemptibility == Preemptibility::Preemptible,
        model: lease.spec.gpu.model.clone(),
        need: PodNeed { gpus: u32::try_from(lease.spec.gpu.count).unwrap_or(0), ..asked.need },
        size: asked.size,
        replicas: left.len(),
        nodes: known_nodes(
            status.map_or(&[], |status| &status.nodes),
            asked.size.saturating_mul(left.len()),
        ),
        since,
        ends: Some(since.saturating_add(seconds.saturating_mul(1000))),
        leaving: lease.spec.withdrawn.is_some() || notes.preempted.contains(&epoch),
    })
}

/// Where a guest's pods are, as its member says: of no more pods than it has.
fn known_nodes(nodes: &[NodePods], mut pods: u32) -> Vec<(u64, u32)> {
    let known = nodes.iter().filter_map(|on| {
        let count = u32::try_from(on.pods).ok()?.min(pods);
        pods -= count;
        Some((u64::try_from(on.node).ok()?, count)).filter(|(_, count)| *count > 0)
    });
    known.collect()
}
