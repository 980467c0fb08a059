//! What the hub's metrics show.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::state::{State, member_in};
use super::work::Work;
use crate::api::convert::millis;
use crate::api::reasons;
use crate::metrics::Hub;

/// Counts what a decided write tells: evictions, and how long a job waited for its first place.
pub(super) fn work(metrics: &Hub, work: &Work, wall: Timestamp) {
    let Work::Job(work) = work else { return };
    let (Some(new), old) = (&work.status, work.job.status.clone().unwrap_or_default()) else {
        return;
    };
    let before = old.attempts.last().map(|attempt| attempt.epoch);
    let fresh = new.attempts.iter().filter(|attempt| Some(attempt.epoch) > before);
    for attempt in fresh.filter(|attempt| attempt.reason != "Completed") {
        metrics.evictions.with_label_values(&[bounded(&attempt.reason)]).inc();
    }
    if old.next_attempt == 0 && new.next_attempt > 0 {
        let created = work.job.creation_timestamp().map_or(0, |time| millis(&time));
        let waited = u32::try_from((wall.as_millisecond() - created).max(0)).unwrap_or(u32::MAX);
        let waited = std::time::Duration::from_millis(waited.into());
        metrics.placement_seconds.observe(waited.as_secs_f64());
    }
}

/// A reason as a label: members report it, so its values are bounded here.
fn bounded(reason: &str) -> &str {
    const KNOWN: [&str; 16] = [
        "OwnerReclaimed",
        "ClusterLost",
        "NodeFailure",
        "PoolClosed",
        "NotBound",
        "GangNotBound",
        "ImagePullFailed",
        "ImageNeedsRoot",
        "PodsReadyTimeout",
        "Suspended",
        "QueueDrained",
        reasons::MEMBER_LEFT,
        reasons::MEMBER_DRAINED,
        reasons::MEMBER_TAINTED,
        "JobFinished",
        "Unknown",
    ];
    if KNOWN.contains(&reason) { reason } else { "Other" }
}

/// Shows what is known now.
pub(super) fn state(metrics: &Hub, state: &State, now: Instant) {
    let mut waiting: BTreeMap<String, i64> = BTreeMap::new();
    for (_, job) in state.jobs.iter() {
        let summary = job.status.as_ref().map(|status| &status.summary);
        let waits = job.status.as_ref().is_some_and(|status| status.replicas.waiting > 0);
        if let Some(summary) = summary.filter(|summary| waits && !summary.reason.is_empty()) {
            *waiting.entry(summary.reason.clone()).or_default() += 1;
        }
    }
    metrics.waiting_jobs.reset();
    for (reason, count) in waiting {
        metrics.waiting_jobs.with_label_values(&[reason.as_str()]).set(count);
    }
    metrics.leases.reset();
    for (_, lease) in state.leases.iter() {
        let phase = lease.status.as_ref().and_then(|status| status.phase);
        let phase = phase.map_or_else(|| "Unanswered".to_owned(), |phase| format!("{phase:?}"));
        metrics.leases.with_label_values(&[phase.as_str()]).inc();
    }
    metrics.pool_gpus.reset();
    for ((namespace, name), pool) in state.pools.iter() {
        let Some(member) = member_in(namespace) else { continue };
        let gpus = pool.status.as_ref().map(|status| status.gpus).unwrap_or_default();
        let states = [
            ("offered", gpus.offered),
            ("owner", gpus.owner),
            ("guests", gpus.guests),
            ("free", gpus.free),
        ];
        for (which, count) in states {
            metrics.pool_gpus.with_label_values(&[member.as_str(), name, which]).set(count);
        }
    }
    let promised = state.promises.values().map(|promise| {
        i64::from(promise.need.gpus) * i64::from(promise.size) * i64::from(promise.replicas)
    });
    metrics.promised_gpus.set(promised.sum());
    metrics.heartbeat_age_seconds.reset();
    for (member, silence) in &state.silence {
        let age = silence.lasts(now).and_then(|age| i64::try_from(age.as_secs()).ok());
        metrics.heartbeat_age_seconds.with_label_values(&[member.as_str()]).set(age.unwrap_or(0));
    }
}
