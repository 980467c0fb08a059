//! What a round decides on: pools less what is promised, queues with what they hold. Pure.
//!
//! [`View`] is the one door for those who tell users what a round would say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::facts::Promise;
use super::queues;
use super::state::{State, member_in};
use crate::api::convert;
use crate::api::{GpuQueue, MemberCluster, conditions, reasons};
use crate::engine::fit::{self, Replica};
use crate::engine::lifecycle::Stage;
use crate::engine::model::{Closed, Demand, Epoch, JobId, Pool, PoolId, Queue, Snapshot};

mod view;

pub use view::View;

/// The snapshot with `demands`.
#[must_use]
pub(super) fn snapshot(
    state: &State,
    demands: Vec<Demand>,
    now: Instant,
    wall: Timestamp,
) -> Snapshot {
    let pools = pools(state, now);
    Snapshot {
        now: wall.as_millisecond(),
        queues: queues(state, &pools),
        pools,
        unanswered: unanswered(state),
        demands,
        guests: state.guests.clone(),
    }
}

/// Every queue, with what its jobs hold and what its members lend.
fn queues(state: &State, pools: &BTreeMap<PoolId, Pool>) -> BTreeMap<String, Queue> {
    let used = queues::used(state);
    let mut lent: BTreeMap<&str, u64> = BTreeMap::new();
    for (id, pool) in pools.iter().filter(|(_, pool)| pool.closed.is_none()) {
        let sum = lent.entry(&id.member).or_default();
        *sum = sum.saturating_add(pool.offered);
    }
    let view = |queue: &GpuQueue| {
        let name = queue.name_any();
        let held = used.get(name.as_str()).into_iter().flatten();
        let contributors: BTreeSet<&String> = queue.spec.contributors.iter().collect();
        let lends = contributors.into_iter().filter_map(|member| lent.get(member.as_str()));
        Queue {
            contributed: lends.fold(0, |sum, gpus| sum.saturating_add(*gpus)),
            used: held.map(|(model, gpus)| ((*model).to_owned(), *gpus)).collect(),
            past: state.past.get(&name).map(|past| past.means().clone()).unwrap_or_default(),
            ..queues::view(queue)
        }
    };
    state.queues.iter().map(|(key, queue)| (key.1.clone(), view(queue))).collect()
}

/// The weighted dominant share of a queue, in millionths.
#[must_use]
pub(super) fn share_ppm(state: &State, name: &str, now: Instant) -> i64 {
    let pools = pools(state, now);
    let share = crate::engine::queues::share(&queues(state, &pools), &pools, name);
    i64::try_from(share / 1000).unwrap_or(i64::MAX)
}

/// Every pool, less what is promised and not in its picture yet.
#[must_use]
pub(super) fn pools(state: &State, now: Instant) -> BTreeMap<PoolId, Pool> {
    let mut pools = BTreeMap::new();
    for ((namespace, name), copy) in state.pools.iter() {
        let Some(member) = member_in(namespace) else { continue };
        let Some(cluster) = state.members.get(&(String::new(), member.clone())) else { continue };
        let mut pool = convert::pool(copy, cluster);
        let ready = copy.status.as_ref().is_some_and(|status| {
            conditions::is_true(&status.conditions, reasons::READY) && !copy.spec.offer.paused
        });
        pool.closed = closed(state, cluster, now).or((!ready).then_some(Closed::NotReady));
        pools.insert(PoolId { member, pool: name.clone() }, pool);
    }
    for promise in state.promises.values() {
        if let Some(pool) = pools.get_mut(&promise.pool) {
            deduct(pool, promise);
        }
    }
    pools
}

/// Why a member takes nothing at all.
#[must_use]
pub(super) fn closed(state: &State, member: &MemberCluster, now: Instant) -> Option<Closed> {
    let leaving = member.metadata.deletion_timestamp.is_some();
    let cordoned = member.spec.unschedulable || convert::taints::is_drained(member);
    if !member.spec.accepted || cordoned || leaving {
        return Some(Closed::Cordoned);
    }
    state.is_silent(&member.name_any(), now).then_some(Closed::Silent)
}

fn deduct(pool: &mut Pool, promise: &Promise) {
    let replica =
        Replica { model: &promise.model, min_memory: None, need: promise.need, size: promise.size };
    let gpus = replica.gpus() * u64::from(promise.replicas);
    pool.lendable = pool.lendable.saturating_sub(gpus);
    // What finds no room was lent elsewhere meanwhile; the member will refuse it.
    fit::take(&mut pool.shapes, &replica, promise.replicas);
}

/// Forgets promises that are in their pool's picture, or will never be kept. True if any were.
pub(super) fn settle_promises(state: &mut State) -> bool {
    let before = state.promises.len();
    let (pools, leases, leases_of) = (&state.pools, &state.leases, &state.leases_of);
    let (keys, jobs, notes) = (&state.keys, &state.jobs, &state.notes);
    let on_record = |job: &JobId, epoch: Epoch| {
        let status = keys.get(job).and_then(|key| jobs.get(key)?.status.as_ref());
        status.is_some_and(|status| {
            status.allocations.iter().any(|held| Epoch::from(held.epoch) == epoch)
        })
    };
    let busy = |job: &JobId| notes.get(job).is_some_and(|notes| notes.busy);
    state.promises.retain(|(job, epoch), promise| {
        let lease = leases_of.get(job).and_then(|all| leases.get(all.get(epoch)?));
        let seen = lease.map(convert::lease);
        let dead = seen.is_some_and(|lease| {
            let unanswered = lease.stage == Stage::Unanswered;
            lease.stage == Stage::Refused || (unanswered && lease.withdrawn)
        });
        let key = (super::state::namespace_of(&promise.pool.member), promise.pool.pool.clone());
        let shown =
            pools.get(&key).and_then(|pool| pool.status.as_ref()).map(|status| status.serial);
        let covered =
            promise.serial.is_some_and(|serial| shown.is_some_and(|shown| shown >= serial));
        let failed =
            lease.is_none() && promise.serial.is_none() && !busy(job) && !on_record(job, *epoch);
        !dead && !covered && !failed
    });
    before != state.promises.len()
}

/// Leases of each member that wait for its answer.
fn unanswered(state: &State) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for promise in state.promises.values().filter(|promise| promise.serial.is_none()) {
        *counts.entry(promise.pool.member.clone()).or_default() += 1;
    }
    counts
}
