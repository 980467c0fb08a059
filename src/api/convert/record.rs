//! A job's record: from its status, and back into it.

use std::collections::BTreeMap;

use super::{millis, time};
use crate::api::gpujob::{
    Allocation, Attempt, DuplicatePolicy, Evictions, GpuJobStatus, LastCheckpoint, RanSeconds,
    ReplicaCheckpoint,
};
use crate::api::{conditions, reasons};
use crate::engine::indexes::Indexes;
use crate::engine::lifecycle::{self, Record, SUCCEEDED, Verdict};
use crate::engine::model::PoolId;

fn counted(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// A count as the API writes it; beyond its range it stays at the limit.
fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn indexes(text: &str) -> Indexes {
    Indexes::parse(text).unwrap_or_default()
}

/// What `status` has on record.
#[must_use]
pub fn read(status: &GpuJobStatus) -> Record {
    Record {
        completed: indexes(&status.completed_indexes),
        failures: counted(status.replicas.failed),
        allocations: status.allocations.iter().map(read_allocation).collect(),
        attempts: status.attempts.iter().map(read_attempt).collect(),
        evictions: lifecycle::Evictions {
            owner_reclaimed: counted(status.evictions.owner_reclaimed),
            cluster_lost: counted(status.evictions.cluster_lost),
            preempted: counted(status.evictions.preempted),
            other: counted(status.evictions.other),
        },
        ran: read_ran(&status.ran),
        checkpoints: status.checkpoints.iter().filter_map(read_checkpoint).collect(),
        last_checkpoint: status.last_checkpoint.as_ref().map(|last| lifecycle::Checkpoint {
            at: millis(&last.time),
            reference: last.reference.clone(),
        }),
        lost_seconds: u64::try_from(status.lost_seconds).unwrap_or(0),
        next_attempt: status.next_attempt,
        requeue_at: status.requeue_at.as_ref().map(millis),
        started_at: status.start_time.as_ref().map(millis),
        verdict: verdict(status),
        finished_at: status.completion_time.as_ref().map(millis),
    }
}

fn verdict(status: &GpuJobStatus) -> Option<Verdict> {
    if conditions::is_true(&status.conditions, reasons::COMPLETE) {
        return Some(Verdict { reason: SUCCEEDED.into(), message: String::new() });
    }
    let target = conditions::find(&status.conditions, reasons::FAILURE_TARGET)?;
    Some(Verdict { reason: target.reason.clone(), message: target.message.clone() })
}

fn read_allocation(allocation: &Allocation) -> lifecycle::Allocation {
    lifecycle::Allocation {
        epoch: allocation.epoch.into(),
        pool: PoolId { member: allocation.cluster.clone(), pool: allocation.pool.clone() },
        indexes: indexes(&allocation.indexes),
        ended: indexes(&allocation.ended),
        model: allocation.model.clone(),
        generation: allocation.generation,
        deadline_seconds: u64::try_from(allocation.active_deadline_seconds).unwrap_or(0),
        stop_after: allocation.stop_after_seconds.and_then(|seconds| u64::try_from(seconds).ok()),
        expires_after: allocation
            .expires_after_seconds
            .and_then(|seconds| u64::try_from(seconds).ok()),
        never_twice: allocation.duplicate_policy == Some(DuplicatePolicy::Never),
        earlier: allocation.earlier.iter().copied().map(Into::into).collect(),
        at: millis(&allocation.time),
    }
}

fn read_attempt(attempt: &Attempt) -> lifecycle::Attempt {
    lifecycle::Attempt {
        epoch: attempt.epoch.into(),
        pool: PoolId { member: attempt.cluster.clone(), pool: attempt.pool.clone() },
        indexes: indexes(&attempt.indexes),
        start: attempt.start.as_ref().map(millis),
        end: millis(&attempt.end),
        reason: attempt.reason.clone(),
        gpu_seconds: u64::try_from(attempt.gpu_seconds).unwrap_or(0),
        lost_seconds: u64::try_from(attempt.lost_seconds).unwrap_or(0),
        message: attempt.message.clone(),
    }
}

fn read_ran(ran: &[RanSeconds]) -> BTreeMap<u32, u64> {
    let each = ran.iter().flat_map(|entry| {
        let seconds = u64::try_from(entry.seconds).unwrap_or(0);
        indexes(&entry.indexes).iter().map(move |index| (index, seconds)).collect::<Vec<_>>()
    });
    each.collect()
}

fn read_checkpoint(saved: &ReplicaCheckpoint) -> Option<(u32, lifecycle::Checkpoint)> {
    let (at, reference) = (millis(&saved.time), saved.reference.clone());
    Some((u32::try_from(saved.index).ok()?, lifecycle::Checkpoint { at, reference }))
}

/// Writes `record` into `status`; conditions, phase and the counts of live replicas are not its
/// business.
pub fn write(record: &Record, incarnation: u32, status: &mut GpuJobStatus) {
    let evictions = record.evictions;
    let lifecycle::Evictions { owner_reclaimed, cluster_lost, preempted, other } = evictions;
    let total = owner_reclaimed + cluster_lost + preempted + other;
    status.completed_indexes = record.completed.to_string();
    status.replicas.failed = count(record.failures);
    status.replicas.succeeded = count(record.completed.len());
    status.allocations = record.allocations.iter().map(write_allocation).collect();
    status.attempts = record.attempts.iter().map(write_attempt).collect();
    status.evictions = Evictions {
        total: count(total),
        owner_reclaimed: count(evictions.owner_reclaimed),
        cluster_lost: count(evictions.cluster_lost),
        preempted: count(evictions.preempted),
        other: count(evictions.other),
    };
    status.ran = write_ran(&record.ran);
    let saved = record.checkpoints.iter().map(|(index, saved)| ReplicaCheckpoint {
        index: i64::from(*index),
        time: time(saved.at),
        reference: saved.reference.clone(),
    });
    status.checkpoints = saved.collect();
    status.last_checkpoint = record
        .last_checkpoint
        .as_ref()
        .map(|last| LastCheckpoint { time: time(last.at), reference: last.reference.clone() });
    status.lost_seconds = i64::try_from(record.lost_seconds).unwrap_or(i64::MAX);
    status.next_attempt = record.next_attempt;
    status.incarnation = incarnation.max(status.incarnation);
    status.requeue_at = record.requeue_at.map(time);
    status.start_time = record.started_at.map(time);
    status.completion_time = record.finished_at.map(time);
}

fn write_allocation(allocation: &lifecycle::Allocation) -> Allocation {
    Allocation {
        epoch: allocation.epoch.into(),
        cluster: allocation.pool.member.clone(),
        pool: allocation.pool.pool.clone(),
        indexes: allocation.indexes.to_string(),
        ended: allocation.ended.to_string(),
        model: allocation.model.clone(),
        generation: allocation.generation,
        active_deadline_seconds: i64::try_from(allocation.deadline_seconds).unwrap_or(i64::MAX),
        stop_after_seconds: allocation
            .stop_after
            .map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        expires_after_seconds: allocation
            .expires_after
            .map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        duplicate_policy: allocation.never_twice.then_some(DuplicatePolicy::Never),
        earlier: allocation.earlier.iter().copied().map(Into::into).collect(),
        time: time(allocation.at),
    }
}

fn write_attempt(attempt: &lifecycle::Attempt) -> Attempt {
    Attempt {
        epoch: attempt.epoch.into(),
        cluster: attempt.pool.member.clone(),
        pool: attempt.pool.pool.clone(),
        indexes: attempt.indexes.to_string(),
        start: attempt.start.map(time),
        end: time(attempt.end),
        reason: attempt.reason.clone(),
        gpu_seconds: i64::try_from(attempt.gpu_seconds).unwrap_or(i64::MAX),
        lost_seconds: i64::try_from(attempt.lost_seconds).unwrap_or(i64::MAX),
        message: attempt.message.clone(),
    }
}

/// Replicas that ran equally long share an entry.
fn write_ran(ran: &BTreeMap<u32, u64>) -> Vec<RanSeconds> {
    let mut by_seconds: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (index, seconds) in ran {
        by_seconds.entry(*seconds).or_default().push(*index);
    }
    let entry = |(seconds, indexes): (u64, Vec<u32>)| RanSeconds {
        indexes: indexes.into_iter().collect::<Indexes>().to_string(),
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
    };
    by_seconds.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::Epoch;

    #[test]
    fn a_record_never_holds_more_than_can_be_stored() {
        assert_eq!(lifecycle::CHECKPOINTS, crate::api::MAX_CHECKPOINTS);
        assert_eq!(lifecycle::EARLIER, crate::api::gpulease::MAX_EARLIER);
    }

    #[test]
    fn a_record_survives_the_status() {
        let epoch = Epoch { incarnation: 2, attempt: 6 };
        let pool = PoolId { member: "a".into(), pool: "p".into() };
        let saved = lifecycle::Checkpoint { at: 7_000, reference: "s3://b/j/2/1.5/9".into() };
        let record = Record {
            completed: Indexes::range(3, 4),
            failures: 2,
            allocations: vec![lifecycle::Allocation {
                epoch,
                pool: pool.clone(),
                indexes: Indexes::range(0, 3),
                ended: Indexes::range(1, 1),
                model: "A100".into(),
                generation: 4,
                deadline_seconds: 86_400,
                stop_after: Some(900),
                expires_after: Some(600),
                never_twice: true,
                earlier: vec![Epoch { incarnation: 1, attempt: 5 }],
                at: 1_000_000,
            }],
            attempts: vec![lifecycle::Attempt {
                epoch: Epoch { incarnation: 2, attempt: 5 },
                pool,
                indexes: Indexes::range(0, 7),
                start: Some(5_000),
                end: 9_000,
                reason: "OwnerReclaimed".into(),
                gpu_seconds: 28,
                lost_seconds: 3,
                message: "preempted".into(),
            }],
            evictions: lifecycle::Evictions {
                owner_reclaimed: 1,
                cluster_lost: 2,
                preempted: 4,
                other: 3,
            },
            ran: BTreeMap::from([(0, 10), (1, 10), (2, 4)]),
            checkpoints: BTreeMap::from([(2, saved.clone())]),
            last_checkpoint: Some(saved),
            lost_seconds: 17,
            next_attempt: 7,
            requeue_at: Some(12_000),
            started_at: Some(5_000),
            ..Record::default()
        };
        let mut status = GpuJobStatus::default();
        write(&record, 2, &mut status);
        assert_eq!(read(&status), record);
        assert_eq!(status.evictions.total, 10);
        assert_eq!(status.ran.len(), 2);
    }
}
