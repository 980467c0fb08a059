//! What the end of a replica means for the record: success, failure, eviction, and what was lost.

use super::record::{
    Allocation, Attempt, CHECKPOINTS, Checkpoint, Ended, Evictions, FailureAction, FailurePattern,
    FailureRule, Lease, Record, SUCCEEDED, Terms, Verdict,
};
use super::{ATTEMPTS_KEPT, BACK_OFF_MILLIS, PREEMPTED};
use crate::engine::indexes::Indexes;
use crate::engine::model::PoolId;
use crate::planted::{Defect, planted};

/// Counts the replicas that ended while their lease lives on.
pub(super) fn count(
    terms: &Terms,
    record: &mut Record,
    allocation: &mut Allocation,
    lease: &Lease,
    now: i64,
) {
    let seconds = ran_seconds(lease, now).min(allocation.deadline_seconds);
    for group in &lease.ended {
        let fresh = match planted(Defect::FoldedTwice) {
            true => group.indexes.clone(),
            false => allocation.live().intersection(&group.indexes),
        };
        if fresh.is_empty() {
            continue;
        }
        allocation.ended = allocation.ended.union(&fresh);
        settle(terms, record, (group, &fresh), allocation, (seconds, now));
    }
}

fn ran_seconds(lease: &Lease, now: i64) -> u64 {
    let millis = lease.start.map_or(0, |start| lease.end.unwrap_or(now).saturating_sub(start));
    u64::try_from(millis / 1000).unwrap_or(0)
}

/// Takes one way in which some replicas ended into the record.
fn settle(
    terms: &Terms,
    record: &mut Record,
    (group, indexes): (&Ended, &Indexes),
    allocation: &Allocation,
    (seconds, now): (u64, i64),
) {
    if group.reason == SUCCEEDED {
        record.completed = record.completed.union(indexes);
        record.ran.retain(|index, _| !indexes.contains(*index));
        record.checkpoints.retain(|index, _| !indexes.contains(*index));
        return;
    }
    if let Some(saved) = group.checkpoint.as_ref().filter(|saved| is_below(terms, saved)) {
        save(record, saved, indexes);
    }
    let ran =
        if group.reason == "DeadlineExceeded" { allocation.deadline_seconds } else { seconds };
    for index in indexes.iter() {
        *record.ran.entry(index).or_default() += ran;
    }
    let action = action(&terms.rules, group);
    if action == Some(FailureAction::FailJob) {
        let code = group.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
        let message = format!("a rule of podFailurePolicy failed it: replica {indexes}{code}");
        return doom(record, "PodFailurePolicy", message);
    }
    match group.reason.as_str() {
        "Failed" if action != Some(FailureAction::Ignore) => {
            record.failures = record.failures.saturating_add(indexes.len());
            back_off(record, record.failures, now);
        }
        "Failed" => back_off(record, 1, now),
        "DeadlineExceeded" => expire(terms, record, indexes, (&allocation.pool, now)),
        "Suspended" | "JobFinished" => {}
        reason => {
            // Nobody loses more than ran.
            let lost = group.lost_seconds.min(seconds).saturating_mul(indexes.len().into());
            record.lost_seconds = record.lost_seconds.saturating_add(lost);
            evict(record, reason, &allocation.pool, now);
            give_up(terms, record);
        }
    }
}

/// Whether a member's word for a save can be true: it may lie, and programs of the next attempt go on
/// from there.
fn is_below(terms: &Terms, saved: &Checkpoint) -> bool {
    let uri = terms.checkpoint_uri.as_ref();
    let below = uri.and_then(|uri| saved.reference.strip_prefix(uri.as_str()));
    below.is_some_and(|rest| {
        rest.starts_with('/') && !rest.split('/').any(|part| part == "..") && rest.len() > 1
    })
}

/// Notes the newest save of `indexes`; where as many are known as are kept, others find theirs below
/// the earlier attempts.
fn save(record: &mut Record, saved: &Checkpoint, indexes: &Indexes) {
    for index in indexes.iter() {
        if record.checkpoints.contains_key(&index) || record.checkpoints.len() < CHECKPOINTS {
            record.checkpoints.insert(index, saved.clone());
        }
    }
    if record.last_checkpoint.as_ref().is_none_or(|last| last.at <= saved.at) {
        record.last_checkpoint = Some(saved.clone());
    }
}

/// Fails a job that was evicted more often than it bears.
fn give_up(terms: &Terms, record: &mut Record) {
    let Evictions { owner_reclaimed, cluster_lost, preempted, other } = record.evictions;
    let all = [owner_reclaimed, cluster_lost, preempted, other];
    let total = all.into_iter().fold(0_u32, u32::saturating_add);
    if let Some(limit) = terms.max_evictions.filter(|limit| total > *limit) {
        let message = format!("{total} evictions, failover.maxEvictions is {limit}");
        doom(record, "RequeuingLimitExceeded", message);
    }
}

pub(super) fn doom(record: &mut Record, reason: &str, message: String) {
    record.verdict.get_or_insert(Verdict { reason: reason.into(), message });
}

/// Replicas ran as long as they might: the job's limit ends it, the pool's is an eviction.
fn expire(terms: &Terms, record: &mut Record, indexes: &Indexes, (pool, now): (&PoolId, i64)) {
    let used_up = |limit: &u64| indexes.iter().any(|index| record.ran.get(&index) >= Some(limit));
    match terms.max_running_seconds.filter(used_up) {
        Some(limit) => {
            let message = format!("replica {indexes} ran for maxRunningSeconds ({limit} s)");
            doom(record, "DeadlineExceeded", message);
        }
        None => evict(record, "LeaseExpired", pool, now),
    }
}

/// Counts an eviction; a repeated one from the same pool backs off.
fn evict(record: &mut Record, reason: &str, pool: &PoolId, now: i64) {
    match reason {
        "OwnerReclaimed" => record.evictions.owner_reclaimed += 1,
        "ClusterLost" => record.evictions.cluster_lost += 1,
        PREEMPTED => record.evictions.preempted += 1,
        _ => record.evictions.other += 1,
    }
    let completed = |attempt: &&Attempt| attempt.reason != "Completed" && attempt.pool == *pool;
    let repeated = record.attempts.iter().rev().take_while(completed).count();
    back_off(record, u32::try_from(repeated).unwrap_or(u32::MAX), now);
}

/// Nothing new for 1 s after the first, doubling to 5 min.
fn back_off(record: &mut Record, times: u32, now: i64) {
    if times > 0 {
        let delay = 1000_i64.checked_shl(times.min(20) - 1).unwrap_or(BACK_OFF_MILLIS);
        record.requeue_at = Some(now + delay.min(BACK_OFF_MILLIS));
    }
}

/// The first rule that matches; exit codes are of user code, conditions of any end.
fn action(rules: &[FailureRule], group: &Ended) -> Option<FailureAction> {
    rules.iter().find(|rule| matches(&rule.pattern, group)).map(|rule| rule.action)
}

fn matches(pattern: &FailurePattern, group: &Ended) -> bool {
    match pattern {
        FailurePattern::Conditions(types) => {
            types.iter().any(|type_| group.conditions.contains(type_))
        }
        FailurePattern::ExitCodes { container, codes, negated } => {
            let named = container.is_none() || *container == group.container;
            let code = group.exit_code.filter(|code| group.reason == "Failed" && *code != 0);
            named && code.is_some_and(|code| codes.contains(&code) != *negated)
        }
    }
}

/// Ends an allocation: replicas that did not end by themselves were evicted.
pub(super) fn end(
    terms: &Terms,
    record: &mut Record,
    allocation: &Allocation,
    lease: &Lease,
    (reason, at): (&str, i64),
) {
    let left = allocation.live();
    // Members report their own times; nothing runs longer than its pods may.
    let seconds = ran_seconds(lease, at).min(allocation.deadline_seconds);
    let mut lost = lost_seconds(lease, seconds);
    if !left.is_empty() {
        // Nobody says what they saved: all of it, or an interval at most.
        let lost_seconds = terms.checkpoint_seconds.map_or(seconds, |most| most.min(seconds));
        lost = lost.saturating_add(lost_seconds.saturating_mul(left.len().into()));
        let group = Ended { reason: reason.into(), lost_seconds, ..Ended::default() };
        settle(terms, record, (&group, &left), allocation, (seconds, at));
    }
    record.attempts.push(Attempt {
        epoch: allocation.epoch,
        pool: allocation.pool.clone(),
        indexes: allocation.indexes.clone(),
        start: lease.start,
        end: at,
        reason: reason.into(),
        gpu_seconds: seconds
            .saturating_mul(terms.gpus)
            .saturating_mul(u64::from(allocation.indexes.len())),
        lost_seconds: lost,
        message: last_words(lease),
    });
    let excess = record.attempts.len().saturating_sub(ATTEMPTS_KEPT);
    record.attempts.drain(..excess);
}

/// Seconds of work that the replicas of a lease lost which ran for `seconds`.
fn lost_seconds(lease: &Lease, seconds: u64) -> u64 {
    let lost = lease
        .ended
        .iter()
        .map(|group| group.lost_seconds.min(seconds).saturating_mul(group.indexes.len().into()));
    lost.fold(0, u64::saturating_add)
}

/// What the member says of the last replicas that ended, if it says something.
fn last_words(lease: &Lease) -> String {
    lease.ended.last().map(|group| group.message.clone()).unwrap_or_default()
}
