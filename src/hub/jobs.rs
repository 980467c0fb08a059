//! What users read of their jobs: everything known of one, to its status.
//!
//! Invariant: the status is a function of record, leases and refusals; it never picks a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::words;
use crate::api::GpuJob;
use crate::api::conditions::{self, Claim};
use crate::api::convert::record;
use crate::api::gpujob::{Allocation, GpuJobStatus, Phase, ReplicaCounts, Summary};
use crate::api::gpulease::{GpuLeaseStatus, LeasePhase};
use crate::engine::lifecycle::{Record, SUCCEEDED};
use crate::engine::model::Epoch;

/// What a job waits for, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Reason of the condition.
    pub(super) reason: &'static str,
    /// Whether quota is what is missing; otherwise it is a place.
    pub(super) for_quota: bool,
    /// One sentence.
    pub(super) message: String,
}

/// Everything that a status is made of.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    /// The job as it is stored.
    pub(super) job: &'a GpuJob,
    /// What is on record of it from now on.
    pub(super) record: &'a Record,
    /// Incarnation of the hub.
    pub(super) incarnation: u32,
    /// What its members report.
    pub(super) leases: &'a BTreeMap<Epoch, GpuLeaseStatus>,
    /// Its queue.
    pub(super) queue: &'a str,
    /// Why some of it waits.
    pub(super) wait: Option<Wait>,
    /// Seconds of a member's silence after which what it holds is run elsewhere.
    pub(super) bound: Option<u64>,
    /// How many members are silent, and of how many, if this hub rather suspects itself.
    pub(super) suspects: Option<(usize, usize)>,
    /// Members of it that are silent.
    pub(super) silent: &'a BTreeSet<String>,
    /// Now.
    pub(super) now: Timestamp,
}

/// The status that `sight` adds up to.
#[must_use]
pub(super) fn status(sight: &Sight<'_>) -> GpuJobStatus {
    let mut status = sight.job.status.clone().unwrap_or_default();
    let generation = sight.job.metadata.generation;
    status.observed_generation = generation;
    record::write(sight.record, sight.incarnation, &mut status);
    status.replicas = ReplicaCounts {
        failed: status.replicas.failed,
        succeeded: status.replicas.succeeded,
        ..live_counts(sight)
    };
    status.failover_bound_seconds =
        sight.bound.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let clusters: BTreeSet<_> =
        status.allocations.iter().map(|allocation| allocation.cluster.clone()).collect();
    status.clusters = clusters.into_iter().collect();
    status.phase = Some(phase(sight, &status));
    for claim in words::claims(sight, &status) {
        conditions::set(&mut status.conditions, claim, generation, sight.now);
    }
    status.summary = summary(sight, &status);
    status
}

/// Replicas that wait, start and run.
fn live_counts(sight: &Sight<'_>) -> ReplicaCounts {
    let mut counts = ReplicaCounts::default();
    for allocation in &sight.record.allocations {
        let live = i32::try_from(allocation.live().len()).unwrap_or(i32::MAX);
        let running = sight.leases.get(&allocation.epoch).map_or(0, |lease| {
            let all = lease.phase == Some(LeasePhase::Running);
            let pods = if sight.job.spec.size == 1 { lease.pods.ready } else { 0 };
            if all { live } else { pods.clamp(0, live) }
        });
        counts.running += running;
        counts.starting += live - running;
    }
    let spec = &sight.job.spec;
    let done = i32::try_from(sight.record.completed.len()).unwrap_or(i32::MAX);
    let over = sight.record.finished_at.is_some();
    let left = spec.completions - done - counts.running - counts.starting;
    counts.waiting = if over { 0 } else { left.max(0) };
    counts
}

fn phase(sight: &Sight<'_>, status: &GpuJobStatus) -> Phase {
    let record = sight.record;
    if record.finished_at.is_some() {
        let succeeded = record.verdict.as_ref().is_some_and(|verdict| verdict.reason == SUCCEEDED);
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    if record.allocations.is_empty() {
        let evicted = record.attempts.last().is_some_and(|last| last.reason != "Completed");
        return match (sight.job.spec.suspend, evicted) {
            (true, _) => Phase::Suspended,
            (false, true) => Phase::Requeued,
            (false, false) => Phase::Queued,
        };
    }
    let known = |allocation: &Allocation| {
        let lease = sight.leases.get(&allocation.epoch.into());
        lease.and_then(|lease| lease.phase)
    };
    let phases: Vec<_> = status.allocations.iter().map(known).collect();
    let releasing = phases.iter().all(|phase| *phase == Some(LeasePhase::Releasing));
    let starting = phases.iter().flatten().any(|phase| *phase >= LeasePhase::Starting);
    if sight.job.spec.suspend || record.verdict.is_some() || releasing {
        Phase::Reclaiming
    } else if !sight.silent.is_empty() {
        Phase::Unknown
    } else if status.replicas.running > 0 {
        Phase::Running
    } else if starting {
        Phase::Starting
    } else {
        Phase::Placed
    }
}

fn summary(sight: &Sight<'_>, status: &GpuJobStatus) -> Summary {
    let spec = &sight.job.spec;
    let at_once = i64::from(spec.parallelism.unwrap_or(spec.completions).min(spec.completions));
    let latest = sight.record.next_attempt.checked_sub(1);
    Summary {
        gpus: at_once * i64::from(spec.size) * i64::from(spec.gpu.count),
        clusters: status.clusters.join(","),
        queue: sight.queue.to_owned(),
        reason: words::reason(sight, status),
        epoch: latest
            .map(|attempt| Epoch { incarnation: status.incarnation, attempt })
            .map(|epoch| format!("{}.{}", epoch.incarnation, epoch.attempt))
            .unwrap_or_default(),
    }
}

/// How long a change may wait to be written together with the next one.
///
/// What a user acts on is written at once. Counts of an array are written once a second, and steps
/// between allocation and running only if they last: each write costs the API server what a whole
/// placement costs us.
#[must_use]
pub(super) fn patience(old: &GpuJobStatus, new: &GpuJobStatus) -> Duration {
    let live = |status: &GpuJobStatus| -> Vec<_> {
        status.allocations.iter().map(|allocation| allocation.epoch).collect()
    };
    let truth = |status: &GpuJobStatus| -> Vec<_> {
        let conditions = status.conditions.iter();
        conditions.map(|held| (held.type_.clone(), held.status.clone())).collect()
    };
    let unhurried = |phase| matches!(phase, Some(Phase::Placed | Phase::Starting));
    let counts = |status: &GpuJobStatus| (status.replicas, status.completed_indexes.clone());
    if live(old) != live(new) || old.observed_generation != new.observed_generation {
        Duration::ZERO
    } else if unhurried(old.phase) && unhurried(new.phase) {
        Duration::from_secs(20)
    } else if old.phase != new.phase
        || truth(old) != truth(new)
        || (counts(old) == counts(new) && old.summary.reason != new.summary.reason)
    {
        Duration::ZERO
    } else {
        Duration::from_secs(1)
    }
}

/// A condition; a true one's reason is its type.
#[must_use]
pub(super) fn claim<'a>(
    type_: &'a str,
    truth: bool,
    reason: &'a str,
    message: impl Into<String>,
) -> Claim<'a> {
    let reason = if truth { type_ } else { reason };
    let status = if truth { "True" } else { "False" };
    Claim { type_, status, reason, message: message.into() }
}
