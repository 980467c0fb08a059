//! What the hub counts of jobs, taken from what the server stored: a write that was repeated counts
//! once, and so does one whose answer and whose watch both bring it.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;

use crate::api::convert::millis;
use crate::api::gpujob::{Evictions, GpuJobStatus};
use crate::api::{GpuJob, gpujob};
use crate::engine::lifecycle::PREEMPTED;
use crate::engine::model::Epoch;
use crate::metrics::bounded;

/// Ends that nobody lost anything by, or that the job's own user wanted.
const NO_EVICTIONS: [&str; 3] = ["Completed", "Suspended", "JobFinished"];

/// Counts since they were last taken.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// Attempts that were allocated.
    pub(super) allocations: u64,
    /// From creation to the first allocation.
    pub(super) waits: Vec<Duration>,
    /// Evictions by reason.
    pub(super) evictions: BTreeMap<&'static str, u64>,
    /// GPU-seconds of attempts that ended.
    pub(super) used: u64,
    /// Of those, GPU-seconds of attempts that ended before their end.
    pub(super) lost: BTreeMap<&'static str, u64>,
}

/// A job as it was before an event.
#[derive(Debug)]
pub(super) struct Before {
    uid: Option<String>,
    next: u32,
    evictions: Evictions,
    last: Option<Epoch>,
}

impl Before {
    pub(super) fn of(job: &GpuJob) -> Self {
        let status = job.status.as_ref();
        Self {
            uid: job.uid(),
            next: status.map_or(0, |status| status.next_attempt),
            evictions: status.map(|status| status.evictions).unwrap_or_default(),
            last: status.and_then(last),
        }
    }
}

fn last(status: &GpuJobStatus) -> Option<Epoch> {
    status.attempts.iter().map(|attempt| Epoch::from(attempt.epoch)).max()
}

fn grown(before: i32, after: i32) -> u64 {
    u64::try_from(after.saturating_sub(before)).unwrap_or(0)
}

impl Tally {
    /// Counts what changed. A job that was not known before counts for nothing: what it went through
    /// was counted by whoever led then.
    pub(super) fn changed(&mut self, before: Option<&Before>, job: &GpuJob) {
        let Some(before) = before.filter(|before| before.uid == job.uid()) else { return };
        let Some(status) = &job.status else { return };
        self.allocations += u64::from(status.next_attempt.saturating_sub(before.next));
        if before.next == 0 {
            self.waits.extend(waited(job, status));
        }
        let ended = status.attempts.iter();
        let ended: Vec<_> =
            ended.filter(|attempt| Some(Epoch::from(attempt.epoch)) > before.last).collect();
        self.evicted(before.evictions, status.evictions, &ended);
        for attempt in ended {
            let seconds = u64::try_from(attempt.gpu_seconds).unwrap_or(0);
            self.used += seconds;
            if attempt.reason != "Completed" {
                *self.lost.entry(bounded(&attempt.reason)).or_default() += seconds;
            }
        }
    }

    /// The job counts all evictions, and its record keeps the reasons of the last few.
    fn evicted(&mut self, before: Evictions, after: Evictions, ended: &[&gpujob::Attempt]) {
        let mut count = |reason: &'static str, count: u64| {
            if count > 0 {
                *self.evictions.entry(reason).or_default() += count;
            }
        };
        count("OwnerReclaimed", grown(before.owner_reclaimed, after.owner_reclaimed));
        count("ClusterLost", grown(before.cluster_lost, after.cluster_lost));
        count(PREEMPTED, grown(before.preempted, after.preempted));
        let mut others = grown(before.other, after.other);
        let counted = |reason: &str| ["OwnerReclaimed", "ClusterLost", PREEMPTED].contains(&reason);
        for attempt in ended.iter().filter(|attempt| !counted(&attempt.reason)) {
            if others > 0 && !NO_EVICTIONS.contains(&attempt.reason.as_str()) {
                count(bounded(&attempt.reason), 1);
                others -= 1;
            }
        }
        count("Other", others);
    }
}

/// How long `job` waited for its first allocation, which is on record.
fn waited(job: &GpuJob, status: &GpuJobStatus) -> Option<Duration> {
    let first = status.allocations.iter().min_by_key(|allocation| Epoch::from(allocation.epoch))?;
    let created = job.creation_timestamp()?;
    let waited = millis(&first.time).saturating_sub(millis(&created));
    Some(Duration::from_millis(u64::try_from(waited).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(status: Value) -> GpuJob {
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuJob",
            "metadata": {"name": "a", "namespace": "n", "uid": "u",
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"gpu": {"count": 1}, "template": {"spec": {"containers": []}}},
            "status": status,
        }))
        .unwrap()
    }

    fn attempt(number: u32, reason: &str) -> Value {
        json!({"epoch": {"incarnation": 1, "attempt": number}, "cluster": "m", "pool": "p",
            "indexes": "0", "end": "2026-01-01T01:00:00Z", "reason": reason, "gpuSeconds": 100})
    }

    #[test]
    fn a_first_allocation_tells_how_long_the_job_waited() {
        let (old, new) = (
            job(json!({})),
            job(json!({"nextAttempt": 2, "allocations": [{
                "epoch": {"incarnation": 1, "attempt": 0}, "cluster": "m", "pool": "p", "indexes": "0",
                "model": "A100", "generation": 1, "activeDeadlineSeconds": 60,
                "time": "2026-01-01T00:00:07Z"}]})),
        );
        let mut tally = Tally::default();
        tally.changed(None, &new);
        assert_eq!(tally, Tally::default(), "it was placed by whoever led before");
        tally.changed(Some(&Before::of(&old)), &new);
        assert_eq!((tally.allocations, &tally.waits[..]), (2, &[Duration::from_secs(7)][..]));
        let counted = std::mem::take(&mut tally);
        tally.changed(Some(&Before::of(&new)), &new);
        assert_eq!(tally, Tally::default(), "seen again: {counted:?}");
    }

    #[test]
    fn every_eviction_counts_even_if_its_reason_is_no_longer_kept() {
        let old = job(json!({"evictions": {"total": 1, "ownerReclaimed": 1},
            "attempts": [attempt(0, "OwnerReclaimed")]}));
        let new = job(json!({"evictions": {"total": 9, "ownerReclaimed": 5, "other": 4},
            "attempts": [attempt(0, "OwnerReclaimed"), attempt(1, "Completed"),
                attempt(2, "NodeFailure"), attempt(3, "Suspended"), attempt(4, "made up")]}));
        let mut tally = Tally::default();
        tally.changed(Some(&Before::of(&old)), &new);
        let evictions = [("NodeFailure", 1), ("Other", 3), ("OwnerReclaimed", 4)];
        assert_eq!(tally.evictions, evictions.into());
        assert_eq!(tally.used, 400);
        assert_eq!(tally.lost, [("NodeFailure", 100), ("Other", 100), ("Suspended", 100)].into());
    }
}
