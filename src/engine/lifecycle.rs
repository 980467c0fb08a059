//! One job's life: what it has on record and what is seen of its leases, to what happens next.
//!
//! Invariant: a result counts once, and only from an allocation on record; a lease is removed only
//! after what it reported is on record; what is on record never gets older.

use std::collections::BTreeMap;

use super::indexes::Indexes;
use super::model::Epoch;
use crate::planted::{Defect, planted};
use ends::{count, doom, end};

mod adoption;
mod ends;
pub mod failover;
mod record;
#[cfg(test)]
mod tests;

pub use record::{
    Allocation, Attempt, CHECKPOINTS, Checkpoint, EARLIER, Ended, Evictions, FailureAction,
    FailurePattern, FailureRule, Fence, Lease, Record, SUCCEEDED, Stage, Terms, Verdict,
};

/// A lease that its member has not answered for so long is withdrawn.
pub const ANSWER_MILLIS: i64 = 10_000;
/// Why such a lease is withdrawn.
pub const NOT_ACCEPTED: &str = "NotAccepted";
/// Why a lease is withdrawn whose replicas are run elsewhere.
pub const SUPERSEDED: &str = "Superseded";
/// Why a lease is withdrawn that makes room for a more important job.
pub const PREEMPTED: &str = "Preempted";
/// How a replica ended whose node failed it, or is given up for lost.
const NODE_FAILURE: &str = "NodeFailure";
/// Ended attempts kept on record.
const ATTEMPTS_KEPT: usize = 10;
/// Leases of a living job that were never accepted and stand against a late create of the same.
const TOMBSTONES: usize = 64;
/// Longest back-off.
const BACK_OFF_MILLIS: i64 = 300_000;

/// Something to do about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The allocation has no lease: create it.
    Create(Epoch),
    /// It is the current attempt although it expired: say so.
    Adopt(Epoch),
    /// Its member holds it, and it is over here: end it.
    Reject(Box<Allocation>),
    /// End it, because of this.
    Withdraw(Epoch, &'static str),
    /// End it, unless its member accepts first.
    WithdrawUnanswered(Epoch),
    /// It is over and on record: remove it.
    Remove(Epoch),
    /// It is newer than the record: read the job again.
    Refresh,
}

/// What follows from what is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// The record from now on.
    pub record: Record,
    /// What to do about its leases, once the record is written.
    pub steps: Vec<Step>,
    /// Replicas that want a lease.
    pub wanted: Indexes,
    /// The next time at which time alone changes something, in milliseconds since 1970.
    pub wake_at: Option<i64>,
}

/// What is seen of a job.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// All its leases.
    pub leases: &'a BTreeMap<Epoch, Lease>,
    /// What members that answer say that they hold of it without a lease.
    pub orphans: &'a [Allocation],
}

/// Advances a job.
///
/// `standing` says how a member is. Running it again on its own result changes nothing.
#[must_use]
pub fn advance(
    terms: &Terms,
    record: &Record,
    Seen { leases, orphans }: Seen<'_>,
    standing: impl Fn(&str) -> Standing,
    now: i64,
) -> Advance {
    let mut next = Advance { record: record.clone(), ..Advance::default() };
    for allocation in std::mem::take(&mut next.record.allocations) {
        let standing = standing(&allocation.pool.member);
        let lease = leases.get(&allocation.epoch);
        fold(terms, &mut next, allocation, Sighting { lease, standing, now });
    }
    let reachable = |held: &Allocation| standing(&held.pool.member) == Standing::Live;
    // All of it was given up or ended, and a pod may be left on a node that is lost.
    let given_up = |held: &Allocation| {
        let lease = leases.get(&held.epoch);
        let lost =
            lease.is_some_and(|lease| lease.ended.iter().any(|one| one.reason == NODE_FAILURE));
        held.live().is_empty() && lost
    };
    let mut held = next.record.allocations.iter();
    let holds = held.any(|held| reachable(held) && !given_up(held));
    judge(terms, &mut next.record, holds, now);
    adoption::adopt(terms, &mut next, (leases, orphans), now);
    tidy(terms, &mut next, leases, now);
    next.wanted = wanted(terms, &next.record);
    if let Some(at) = next.record.requeue_at.filter(|at| *at > now) {
        wake(&mut next.wake_at, at);
    }
    next
}

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Live,
    /// It does not answer now: for so many seconds, as far as that counts.
    Silent(u64),
    /// It does not answer, as above, and its operator says that it will not come back.
    Left(u64),
    /// It is gone for ever.
    Lost,
}

/// Ends all leases of a job that is gone.
#[must_use]
pub fn retire(leases: &BTreeMap<Epoch, Lease>) -> Vec<Step> {
    if planted(Defect::LeasesStay) {
        return Vec::new();
    }
    let step = |lease: &Lease| match (lease.stage, lease.withdrawn) {
        (Stage::Released | Stage::Refused, _) => Some(Step::Remove(lease.epoch)),
        (_, false) => Some(Step::Withdraw(lease.epoch, "JobDeleted")),
        (_, true) => None,
    };
    leases.values().filter_map(step).collect()
}

fn wake(wake_at: &mut Option<i64>, at: i64) {
    *wake_at = Some(wake_at.map_or(at, |before| before.min(at)));
}

/// What is seen of an allocation.
struct Sighting<'a> {
    lease: Option<&'a Lease>,
    standing: Standing,
    now: i64,
}

/// Takes into the record what became of one allocation; keeps it while it is live.
fn fold(terms: &Terms, next: &mut Advance, mut allocation: Allocation, seen: Sighting) {
    let Sighting { lease, standing, now } = seen;
    let over = overdue(terms, next, &allocation, &seen);
    // The operator may be wrong: what must never run twice waits for the end of its pods' time.
    let left = matches!(standing, Standing::Left(_)) && !terms.never_twice;
    let lost = left || standing == Standing::Lost;
    let Some(lease) = lease else {
        if lost || over.is_some() {
            end(terms, &mut next.record, &allocation, &Lease::default(), ("ClusterLost", now));
            return;
        }
        next.steps.push(Step::Create(allocation.epoch));
        next.record.allocations.push(allocation);
        return;
    };
    match lease.stage {
        Stage::Refused => return,
        Stage::Unanswered if lease.withdrawn => return,
        Stage::Unanswered if !lost => wake(&mut next.wake_at, allocation.at + ANSWER_MILLIS),
        Stage::Unanswered | Stage::Held | Stage::Released => {}
    }
    next.record.started_at = earliest(next.record.started_at, lease.start);
    // What a member did while it had lost its hub counts once that is known to be the current attempt.
    let fenced = lease.fence == Fence::Closed && !lease.withdrawn;
    if !fenced {
        count(terms, &mut next.record, &mut allocation, lease, now);
    }
    if lost {
        return end(terms, &mut next.record, &allocation, lease, ("ClusterLost", now));
    }
    if let Some(silent) = over.filter(|_| lease.stage == Stage::Held) {
        if lease.withdrawn {
            // What ran in the dark is nobody's time.
            let heard = now.saturating_sub(silent).max(lease.start.unwrap_or(now)).min(now);
            return end(terms, &mut next.record, &allocation, lease, ("ClusterLost", heard));
        }
        // First its member is told, should it come back; then it is run elsewhere.
        next.steps.push(Step::Withdraw(allocation.epoch, SUPERSEDED));
    } else if fenced {
        next.steps.push(Step::Adopt(allocation.epoch));
    }
    if fenced {
        next.record.allocations.push(allocation);
        return;
    }
    if lease.stage == Stage::Released {
        let all = allocation.live().is_empty();
        let reason = match lease.end_reason.as_str() {
            "" => "Unknown",
            // It says that all ended by themselves, and does not say how.
            "Completed" if !all => "Unknown",
            reason => reason,
        };
        return end(
            terms,
            &mut next.record,
            &allocation,
            lease,
            (reason, lease.end.unwrap_or(now)),
        );
    }
    next.record.allocations.push(allocation);
}

/// For how many milliseconds its member has been silent, if that is longer than the job bears.
fn overdue(
    terms: &Terms,
    next: &mut Advance,
    allocation: &Allocation,
    seen: &Sighting,
) -> Option<i64> {
    let (Standing::Silent(seconds) | Standing::Left(seconds)) = seen.standing else { return None };
    if planted(Defect::LostForEver) {
        return None;
    }
    let bound = failover::bound(terms, allocation, seen.lease)?;
    let millis = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    if seconds < bound {
        wake(&mut next.wake_at, seen.now.saturating_add(millis(bound - seconds)));
        return None;
    }
    Some(millis(seconds))
}

fn earliest(left: Option<i64>, right: Option<i64>) -> Option<i64> {
    left.into_iter().chain(right).min()
}

/// Decides whether the job is over; it is only once nothing of it `holds` a lease of a member that
/// answers. What a silent member holds stays on record, and ends when it returns.
fn judge(terms: &Terms, record: &mut Record, holds: bool, now: i64) {
    if record.completed.len() >= terms.completions {
        let message =
            format!("{} of {} replicas succeeded", record.completed.len(), terms.completions);
        record.verdict = Some(Verdict { reason: SUCCEEDED.into(), message });
    } else if record.failures > terms.backoff_limit {
        let (failures, limit) = (record.failures, terms.backoff_limit);
        let message = format!("{failures} failures of its pods, backoffLimit is {limit}");
        doom(record, "BackoffLimitExceeded", message);
    }
    if record.verdict.is_some() && !holds && record.finished_at.is_none() {
        record.finished_at = Some(now);
        record.requeue_at = None;
        record.ran.clear();
        record.checkpoints.clear();
    }
}

/// What to do about leases, given the record.
fn tidy(terms: &Terms, next: &mut Advance, leases: &BTreeMap<Epoch, Lease>, now: i64) {
    let ending = next.record.verdict.as_ref().map(|_| "JobFinished").or(terms.stopped);
    let oldest = oldest_tombstone(&next.record, leases);
    for lease in leases.values() {
        if lease.epoch.attempt >= next.record.next_attempt && !lease.resumes {
            next.steps.push(Step::Refresh);
        } else if next.record.is_done_with(lease) {
            match lease.stage {
                Stage::Refused if oldest.is_some_and(|oldest| lease.epoch >= oldest) => {}
                Stage::Released | Stage::Refused => next.steps.push(Step::Remove(lease.epoch)),
                _ if !lease.withdrawn => {
                    next.steps.push(Step::Withdraw(lease.epoch, SUPERSEDED));
                }
                _ => {}
            }
        } else if lease.withdrawn {
            // Its member will answer.
        } else if let Some(reason) = ending {
            next.steps.push(Step::Withdraw(lease.epoch, reason));
        } else if lease.stage == Stage::Unanswered && unanswered_too_long(&next.record, lease, now)
        {
            next.steps.push(Step::WithdrawUnanswered(lease.epoch));
        }
    }
}

/// The first of the refused leases that stay; `None` if none does.
///
/// A leader that was held up may still send the create of an allocation that is over. While the job
/// lives, the lease that was never accepted is in its way: its member remembers nothing of it.
fn oldest_tombstone(record: &Record, leases: &BTreeMap<Epoch, Lease>) -> Option<Epoch> {
    if record.finished_at.is_some() {
        return None;
    }
    let refused = leases.values().filter(|lease| lease.stage == Stage::Refused);
    refused.map(|lease| lease.epoch).rev().take(TOMBSTONES).last()
}

fn unanswered_too_long(record: &Record, lease: &Lease, now: i64) -> bool {
    let made = record.allocations.iter().find(|allocation| allocation.epoch == lease.epoch);
    made.is_some_and(|allocation| now >= allocation.at + ANSWER_MILLIS)
}

/// The replicas that may run and hold no lease.
fn wanted(terms: &Terms, record: &Record) -> Indexes {
    let over = record.verdict.is_some() && !planted(Defect::EndForgotten);
    if terms.stopped.is_some() || terms.held || over {
        return Indexes::default();
    }
    let live = record.live();
    let open = Indexes::range(0, terms.completions).minus(&record.completed).minus(&live);
    open.lowest(terms.parallelism.saturating_sub(live.len()))
}
