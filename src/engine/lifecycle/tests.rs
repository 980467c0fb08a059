//! Examples and laws of one job's life.

use proptest::prelude::*;

use super::*;
use crate::engine::model::PoolId;

mod fencing;

const NOW: i64 = 1_000_000;

fn terms(completions: u32) -> Terms {
    Terms { completions, parallelism: completions, gpus: 1, backoff_limit: 1, ..Terms::default() }
}

fn epoch(attempt: u32) -> Epoch {
    Epoch { incarnation: 1, attempt }
}

/// A record with one allocation for each text of indexes.
fn record(allocations: &[&str]) -> Record {
    let made = |(attempt, indexes): (usize, &&str)| Allocation {
        epoch: epoch(u32::try_from(attempt).unwrap()),
        pool: PoolId { member: "a".into(), pool: "p".into() },
        indexes: Indexes::parse(indexes).unwrap(),
        deadline_seconds: 600,
        at: NOW,
        ..Allocation::default()
    };
    let allocations: Vec<_> = allocations.iter().enumerate().map(made).collect();
    let next_attempt = u32::try_from(allocations.len()).unwrap();
    Record { allocations, next_attempt, ..Record::default() }
}

fn ended(reason: &str, code: i32, indexes: &str) -> Ended {
    Ended {
        reason: reason.into(),
        exit_code: (code >= 0).then_some(code),
        indexes: Indexes::parse(indexes).unwrap(),
        ..Ended::default()
    }
}

/// A lease of attempt `attempt`, over with these groups.
fn released(attempt: u32, end_reason: &str, groups: Vec<Ended>) -> (Epoch, Lease) {
    let lease = Lease {
        epoch: epoch(attempt),
        stage: Stage::Released,
        start: Some(NOW),
        end: Some(NOW + 5_000),
        end_reason: end_reason.into(),
        ended: groups,
        ..Lease::default()
    };
    (epoch(attempt), lease)
}

fn held(attempt: u32, stage: Stage) -> (Epoch, Lease) {
    (epoch(attempt), Lease { epoch: epoch(attempt), stage, ..Lease::default() })
}

fn only(leases: &BTreeMap<Epoch, Lease>) -> Seen<'_> {
    Seen { leases, orphans: &[] }
}

#[track_caller]
fn check(terms: &Terms, record: &Record, leases: Vec<(Epoch, Lease)>, now: i64) -> Advance {
    let leases = leases.into_iter().collect();
    let next = advance(terms, record, only(&leases), |_| Standing::Live, now);
    let again = advance(terms, &next.record, only(&leases), |_| Standing::Live, now);
    assert_eq!(again.record, next.record, "a second run changes nothing");
    next
}

#[test]
fn a_new_job_wants_what_may_run_at_once() {
    let terms = Terms { parallelism: 3, ..terms(10) };
    let next = check(&terms, &Record::default(), vec![], NOW);
    assert_eq!(next.wanted, Indexes::range(0, 3));
    assert!(next.steps.is_empty());
}

#[test]
fn an_allocation_without_a_lease_is_completed_never_skipped() {
    let next = check(&terms(2), &record(&["0"]), vec![], NOW);
    assert_eq!(next.steps, [Step::Create(epoch(0))]);
    assert_eq!(next.wanted.to_string(), "1");
}

#[test]
fn a_job_is_finished_only_once_nothing_of_it_holds_a_lease() {
    let groups = vec![ended("Succeeded", 0, "0")];
    let (key, mut lease) = released(0, "Completed", groups);
    lease.stage = Stage::Held;
    let next = check(&terms(1), &record(&["0"]), vec![(key, lease.clone())], NOW);
    assert_eq!(next.record.finished_at, None);
    assert_eq!(next.steps, [Step::Withdraw(epoch(0), "JobFinished")]);
    lease.stage = Stage::Released;
    let next = check(&terms(1), &record(&["0"]), vec![(key, lease)], NOW);
    assert_eq!(next.record.finished_at, Some(NOW));
    assert_eq!(next.record.verdict.unwrap().reason, SUCCEEDED);
    assert_eq!(next.steps, [Step::Remove(epoch(0))]);
}

#[test]
fn failures_count_over_all_replicas_and_evictions_never() {
    let groups = vec![ended("Failed", 3, "0"), ended("OwnerReclaimed", 143, "1-2")];
    let next =
        check(&terms(3), &record(&["0-2"]), vec![released(0, "OwnerReclaimed", groups)], NOW);
    assert_eq!(next.record.failures, 1);
    assert_eq!(next.record.evictions.owner_reclaimed, 1);
    assert_eq!(next.wanted.to_string(), "0-2");
    assert_eq!(next.record.verdict, None);
    let groups = vec![ended("Failed", 3, "0-1")];
    let next = check(&terms(3), &record(&["0-2"]), vec![released(0, "Unknown", groups)], NOW);
    assert_eq!(next.record.verdict.unwrap().reason, "BackoffLimitExceeded");
    assert_eq!(next.record.finished_at, Some(NOW));
}

#[test]
fn rules_on_exit_codes_ignore_count_or_fail_the_job() {
    let rule = |codes: &[i32], negated, action| FailureRule {
        pattern: FailurePattern::ExitCodes { container: None, codes: codes.into(), negated },
        action,
    };
    let rules = vec![
        rule(&[42], false, FailureAction::Ignore),
        rule(&[1], false, FailureAction::Count),
        rule(&[1, 2, 42], true, FailureAction::FailJob),
    ];
    let terms = Terms { rules, ..terms(1) };
    for (code, failures, verdict) in
        [(42, 0, None), (1, 1, None), (2, 1, None), (7, 0, Some("PodFailurePolicy"))]
    {
        let groups = vec![ended("Failed", code, "0")];
        let lease = released(0, "Completed", groups);
        let record = check(&terms, &record(&["0"]), vec![lease], NOW).record;
        assert_eq!(record.failures, failures, "exit code {code}");
        let found = record.verdict.map(|verdict| verdict.reason);
        assert_eq!(found.as_deref(), verdict, "exit code {code}");
    }
}

#[test]
fn a_refused_lease_frees_its_replicas_at_once() {
    let next = check(&terms(1), &record(&["0"]), vec![held(0, Stage::Refused)], NOW);
    assert_eq!(next.wanted.to_string(), "0");
    assert!(next.steps.is_empty(), "it stands against a late create while the job lives");
    let (key, lease) = held(0, Stage::Refused);
    let finished = Record { finished_at: Some(NOW), ..next.record };
    let next = check(&terms(1), &finished, vec![(key, lease)], NOW);
    assert_eq!(next.steps, [Step::Remove(epoch(0))]);
}

#[test]
fn no_more_than_64_refused_leases_stay() {
    let record = Record { next_attempt: 70, ..Record::default() };
    let leases = (0..70).map(|attempt| held(attempt, Stage::Refused)).collect();
    let next = check(&terms(1), &record, leases, NOW);
    let oldest: Vec<Step> = (0..6).map(|attempt| Step::Remove(epoch(attempt))).collect();
    assert_eq!(next.steps, oldest);
}

#[test]
fn a_silent_member_loses_an_unanswered_lease_after_ten_seconds() {
    let lease = held(0, Stage::Unanswered);
    let next = check(&terms(1), &record(&["0"]), vec![lease.clone()], NOW + 9_999);
    assert_eq!((next.steps.as_slice(), next.wake_at), (&[][..], Some(NOW + 10_000)));
    let next = check(&terms(1), &record(&["0"]), vec![lease], NOW + 10_000);
    assert_eq!(next.steps, [Step::WithdrawUnanswered(epoch(0))]);
    let leases = vec![held(0, Stage::Unanswered), held(1, Stage::Unanswered)];
    let later = Allocation { at: NOW + 3_000, ..record(&["0", "1"]).allocations.remove(1) };
    let mut both = record(&["0", "1"]);
    both.allocations[1] = later;
    let next = check(&terms(2), &both, leases, NOW);
    assert_eq!(next.wake_at, Some(NOW + 10_000), "the first of them");
    let (key, mut lease) = held(0, Stage::Unanswered);
    lease.withdrawn = true;
    let next = check(&terms(1), &record(&["0"]), vec![(key, lease)], NOW + 10_001);
    assert_eq!(next.wanted.to_string(), "0", "placed elsewhere, however dead the member is");
    assert!(next.steps.is_empty(), "the tombstone stays");
}

#[test]
fn a_doomed_job_does_not_wait_for_a_silent_member() {
    let verdict = Verdict { reason: "BackoffLimitExceeded".into(), message: String::new() };
    let doomed = Record { verdict: Some(verdict), ..record(&["0"]) };
    let leases = [held(0, Stage::Held)].into_iter().collect();
    let live = advance(&terms(1), &doomed, only(&leases), |_| Standing::Live, NOW);
    assert_eq!(live.record.finished_at, None);
    let silent = advance(&terms(1), &doomed, only(&leases), |_| Standing::Silent(0), NOW);
    assert_eq!(silent.record.finished_at, Some(NOW));
    assert_eq!(silent.record.allocations.len(), 1, "it ends when the member returns");
    assert_eq!(silent.steps, [Step::Withdraw(epoch(0), "JobFinished")]);
}

#[test]
fn words_of_members_do_not_spare_the_back_off() {
    let mut record = record(&["0"]);
    for attempt in 0..3 {
        let next = check(&terms(1), &record, vec![released(attempt, "Completed", vec![])], NOW);
        assert_eq!(next.record.attempts.last().unwrap().reason, "Unknown");
        record = next.record;
        let again =
            Allocation { epoch: epoch(attempt + 1), ..self::record(&["0"]).allocations.remove(0) };
        record.allocations.push(again);
        record.next_attempt += 1;
    }
    assert!(record.requeue_at.is_some());
}

#[test]
fn a_lease_newer_than_the_record_means_the_record_is_old() {
    let next =
        check(&terms(1), &record(&["0"]), vec![held(0, Stage::Held), held(1, Stage::Held)], NOW);
    assert_eq!(next.steps, [Step::Refresh]);
}

#[test]
fn a_lease_that_is_on_no_record_is_withdrawn() {
    let old = Record { next_attempt: 2, ..record(&[]) };
    let next = check(&terms(1), &old, vec![held(1, Stage::Held)], NOW);
    assert_eq!(next.steps, [Step::Withdraw(epoch(1), "Superseded")]);
}

#[test]
fn a_stopped_job_gives_everything_back_and_wants_nothing() {
    let terms = Terms { stopped: Some("Suspended"), ..terms(1) };
    let next = check(&terms, &record(&["0"]), vec![held(0, Stage::Held)], NOW);
    assert_eq!(next.steps, [Step::Withdraw(epoch(0), "Suspended")]);
    assert!(next.wanted.is_empty());
    let next = check(&terms, &record(&["0"]), vec![released(0, "Suspended", vec![])], NOW);
    assert_eq!(next.record.evictions, Evictions::default(), "asked for, not suffered");
    assert!(next.record.allocations.is_empty());
}

#[test]
fn a_lost_member_loses_its_work() {
    let leases = [held(0, Stage::Held)].into_iter().collect();
    let next = advance(&terms(1), &record(&["0"]), only(&leases), |_| Standing::Lost, NOW);
    assert_eq!(next.record.evictions.cluster_lost, 1);
    assert_eq!(next.wanted.to_string(), "0");
    assert_eq!(next.steps, [Step::Withdraw(epoch(0), "Superseded")]);
}

#[test]
fn a_silent_members_work_is_run_elsewhere_only_after_it_was_superseded() {
    let terms = Terms { toleration_seconds: Some(60), ..terms(1) };
    let silent = |record: &Record, lease: (Epoch, Lease), seconds| {
        let leases = [lease].into();
        advance(&terms, record, only(&leases), |_| Standing::Silent(seconds), NOW)
    };
    let runs = || held(0, Stage::Held);
    let before = silent(&record(&["0"]), runs(), 59);
    assert_eq!((before.steps, before.wake_at), (vec![], Some(NOW + 1_000)));
    assert_eq!(before.record, record(&["0"]));
    let told = silent(&record(&["0"]), runs(), 60);
    assert_eq!(told.steps, [Step::Withdraw(epoch(0), SUPERSEDED)]);
    assert!(told.wanted.is_empty() && told.record == record(&["0"]), "it is told first");
    let withdrawn = || (epoch(0), Lease { withdrawn: true, ..runs().1 });
    let moved = silent(&record(&["0"]), withdrawn(), 61);
    assert_eq!(moved.wanted.to_string(), "0");
    assert_eq!((moved.record.evictions.cluster_lost, moved.record.failures), (1, 0));
    assert_eq!(moved.steps, [], "its lease stays until its member has read it");
    // Whatever the old copy reports now counts for nothing.
    let mut late = released(0, "Completed", vec![ended(SUCCEEDED, 0, "0")]);
    late.1.withdrawn = true;
    let after = check(&terms, &moved.record, vec![late], NOW);
    assert_eq!((after.record.completed.len(), after.steps), (0, vec![Step::Remove(epoch(0))]));
    // A member that is heard in between ends the lease itself.
    let back = check(&terms, &record(&["0"]), vec![withdrawn()], NOW);
    assert_eq!((back.record, back.wanted.len()), (record(&["0"]), 0));
}

#[test]
fn a_lease_that_nobody_sees_is_not_waited_for_longer_than_the_job_bears() {
    let terms = Terms { toleration_seconds: Some(60), ..terms(1) };
    let none = BTreeMap::new();
    let next = advance(&terms, &record(&["0"]), only(&none), |_| Standing::Silent(60), NOW);
    assert_eq!((next.wanted.to_string(), next.steps), ("0".into(), vec![]));
}

#[test]
fn repeated_evictions_from_one_pool_back_off() {
    let mut record = record(&["0"]);
    let mut delays = Vec::new();
    for attempt in 0..12 {
        let lease = released(attempt, "OwnerReclaimed", vec![]);
        let next = check(&terms(1), &record, vec![lease], NOW);
        delays.push(next.record.requeue_at.map_or(0, |at| at - NOW - 5_000));
        record = next.record;
        let again =
            Allocation { epoch: epoch(attempt + 1), ..self::record(&["0"]).allocations.remove(0) };
        record.allocations.push(again);
        record.next_attempt += 1;
    }
    assert_eq!(delays[..4], [0, 1_000, 2_000, 4_000]);
    assert_eq!(*delays.last().unwrap(), BACK_OFF_MILLIS);
    assert_eq!(record.attempts.len(), ATTEMPTS_KEPT);
}

fn saves(uri: &str) -> Terms {
    let (checkpoint_uri, checkpoint_seconds) = (Some(uri.into()), Some(3));
    Terms { checkpoint_uri, checkpoint_seconds, ..terms(2) }
}

fn evicted(indexes: &str, reference: &str, lost_seconds: u64) -> Ended {
    let checkpoint = Some(Checkpoint { at: NOW, reference: reference.into() });
    Ended { checkpoint, lost_seconds, ..ended("OwnerReclaimed", 85, indexes) }
}

#[test]
fn the_next_attempt_goes_on_from_what_the_last_one_saved() {
    let groups = vec![evicted("0", "s3://b/j/0/1.0/a", 2), evicted("1", "s3://b/j/1/1.0/b", 3)];
    let lease = released(0, "OwnerReclaimed", groups);
    let next = check(&saves("s3://b/j"), &record(&["0-1"]), vec![lease], NOW).record;
    let references: Vec<_> = next.checkpoints.values().map(|one| one.reference.as_str()).collect();
    assert_eq!(references, ["s3://b/j/0/1.0/a", "s3://b/j/1/1.0/b"]);
    assert_eq!((next.lost_seconds, next.attempts[0].lost_seconds), (5, 5));
    assert_eq!(next.earlier(&Indexes::range(1, 1)), [epoch(0)]);
    assert_eq!(next.earlier(&Indexes::range(7, 1)), []);
    // What is done needs no save any more; the last of all is shown on.
    let mut later = next;
    later.allocations = record(&["0"]).allocations;
    later.allocations[0].epoch = epoch(1);
    later.next_attempt = 2;
    let lease = released(1, "Completed", vec![ended(SUCCEEDED, 0, "0")]);
    let done = check(&saves("s3://b/j"), &later, vec![lease], NOW).record;
    assert_eq!(done.checkpoints.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(done.last_checkpoint.unwrap().reference, "s3://b/j/1/1.0/b");
}

#[test]
fn words_of_members_lead_nobody_out_of_the_jobs_own_folder() {
    for lie in ["s3://b/other/1", "s3://b/jj/1", "s3://b/j", "s3://b/j/", "s3://b/j/../k/1"] {
        let lease = released(0, "OwnerReclaimed", vec![evicted("0", lie, 99)]);
        let next = check(&saves("s3://b/j"), &record(&["0"]), vec![lease], NOW).record;
        assert_eq!((next.checkpoints.len(), next.last_checkpoint), (0, None), "{lie}");
        assert_eq!(next.lost_seconds, 5, "no more than ran");
    }
    let lease = released(0, "OwnerReclaimed", vec![evicted("0", "s3://b/j/1", 0)]);
    let next = check(&terms(1), &record(&["0"]), vec![lease], NOW).record;
    assert_eq!(next.checkpoints.len(), 0, "it asked for no saves");
}

#[test]
fn a_replica_that_nobody_speaks_of_lost_an_interval_at_most() {
    let lost = |terms: &Terms| {
        let lease = released(0, "Unknown", vec![]);
        check(terms, &record(&["0-1"]), vec![lease], NOW).record.lost_seconds
    };
    assert_eq!((lost(&saves("s3://b/j")), lost(&terms(2))), (2 * 3, 2 * 5));
}

#[test]
fn a_job_fails_that_was_evicted_more_often_than_it_bears() {
    let terms = Terms { max_evictions: Some(1), ..terms(1) };
    let evict = |record: &Record, attempt| {
        check(&terms, record, vec![released(attempt, "OwnerReclaimed", vec![])], NOW).record
    };
    let mut once = evict(&record(&["0"]), 0);
    assert_eq!(once.verdict, None);
    once.allocations = record(&["0"]).allocations;
    once.allocations[0].epoch = epoch(1);
    once.next_attempt = 2;
    let verdict = evict(&once, 1).verdict.unwrap();
    assert_eq!(verdict.reason, "RequeuingLimitExceeded");
    assert_eq!(verdict.message, "2 evictions, failover.maxEvictions is 1");
}

#[test]
fn running_time_is_summed_over_attempts() {
    let terms = Terms { max_running_seconds: Some(8), ..terms(1) };
    let first = check(&terms, &record(&["0"]), vec![released(0, "OwnerReclaimed", vec![])], NOW);
    assert_eq!(first.record.ran, BTreeMap::from([(0, 5)]));
    assert_eq!(first.record.attempts[0].message, "", "nobody said anything");
    let mut second = Record { next_attempt: 2, ..first.record };
    let mut allocation = record(&["0"]).allocations.remove(0);
    (allocation.epoch, allocation.deadline_seconds) = (epoch(1), 3);
    second.allocations.push(allocation);
    let groups =
        vec![Ended { message: "time is over".into(), ..ended("DeadlineExceeded", -1, "0") }];
    let next = check(&terms, &second, vec![released(1, "Completed", groups)], NOW);
    assert_eq!(next.record.verdict.unwrap().reason, "DeadlineExceeded");
    assert_eq!(next.record.attempts.last().unwrap().message, "time is over");
}

#[test]
fn a_deleted_job_ends_its_leases_and_then_removes_them() {
    let leases: BTreeMap<_, _> =
        [held(0, Stage::Held), held(1, Stage::Unanswered), held(2, Stage::Refused)].into();
    assert_eq!(
        retire(&leases),
        [
            Step::Withdraw(epoch(0), "JobDeleted"),
            Step::Withdraw(epoch(1), "JobDeleted"),
            Step::Remove(epoch(2)),
        ]
    );
}

proptest! {
    /// Whatever members report, in whatever order, no replica counts twice, none is lost, and what
    /// is wanted never covers what is live or done.
    #[test]
    fn results_count_once_and_nothing_is_lost(
        reports in prop::collection::vec((0_u32..6, 0_usize..5, 0_u32..3), 0..24),
    ) {
        const REASONS: [&str; 5] =
            ["Succeeded", "Failed", "OwnerReclaimed", "DeadlineExceeded", "Unknown"];
        let terms = Terms { backoff_limit: u32::MAX, ..terms(6) };
        let mut record = record(&["0-2", "3-4", "5"]);
        let mut leases: BTreeMap<Epoch, Lease> =
            (0..3).map(|attempt| held(attempt, Stage::Held)).collect();
        let mut failures = 0;
        let mut ended_once = Indexes::default();
        for (index, reason, attempt) in reports {
            let Some(allocation) = record.allocations.iter().find(|held| held.epoch == epoch(attempt)) else { continue };
            if !allocation.indexes.contains(index) {
                continue;
            }
            if REASONS[reason] == "Failed" && !ended_once.contains(index) {
                failures += 1;
            }
            ended_once = ended_once.union(&Indexes::range(index, 1));
            let lease = leases.get_mut(&epoch(attempt)).unwrap();
            lease.ended.push(ended(REASONS[reason], 1, &index.to_string()));
            let before = record.completed.clone();
            let next = advance(&terms, &record, only(&leases), |_| Standing::Live, NOW);
            let again = advance(&terms, &next.record, only(&leases), |_| Standing::Live, NOW);
            prop_assert_eq!(&again.record, &next.record);
            prop_assert!(before.minus(&next.record.completed).is_empty());
            prop_assert!(next.wanted.intersection(&next.record.completed).is_empty());
            prop_assert!(next.wanted.intersection(&next.record.live()).is_empty());
            let known = next.record.completed.union(&next.record.live()).union(&next.wanted);
            prop_assert_eq!(known, Indexes::range(0, 6));
            record = next.record;
        }
        prop_assert_eq!(record.failures, failures);
    }
}
