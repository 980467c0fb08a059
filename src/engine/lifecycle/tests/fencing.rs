//! What counts of those who were out of sight, and what waits for them.

use super::*;

#[test]
fn what_an_expired_lease_says_counts_once_it_is_adopted() {
    let done = vec![ended("Succeeded", 0, "0")];
    let expired = |stage| Lease {
        epoch: epoch(0),
        stage,
        fence: Fence::Closed,
        start: Some(NOW),
        end_reason: "Completed".into(),
        ended: done.clone(),
        ..Lease::default()
    };
    for stage in [Stage::Held, Stage::Released] {
        let seen = |lease| vec![(epoch(0), lease)];
        let next = check(&terms(1), &record(&["0"]), seen(expired(stage)), NOW);
        assert_eq!(next.steps, [Step::Adopt(epoch(0))]);
        assert!(next.record.completed.is_empty() && next.record.allocations.len() == 1);
        let adopted = Lease { fence: Fence::Open, ..expired(stage) };
        let next = check(&terms(1), &record(&["0"]), seen(adopted), NOW);
        assert_eq!(next.record.completed.len(), 1);
        // What the hub ended itself needs no word of its own.
        let withdrawn = Lease { withdrawn: true, ..expired(stage) };
        let next = check(&terms(1), &record(&["0"]), seen(withdrawn), NOW);
        assert_eq!(
            (next.steps.contains(&Step::Adopt(epoch(0))), next.record.completed.len()),
            (false, 1)
        );
    }
    // It was run elsewhere since: it is told to go, and what it says is nobody's.
    let mut superseded = record(&["1", "0"]);
    superseded.allocations.remove(0);
    let lease = Lease { epoch: epoch(0), ..expired(Stage::Held) };
    let next = check(&terms(2), &superseded, vec![(epoch(0), lease)], NOW);
    assert!(next.steps.contains(&Step::Withdraw(epoch(0), SUPERSEDED)));
    assert!(!next.steps.contains(&Step::Adopt(epoch(0))));
}

#[test]
fn an_expired_lease_of_a_member_that_falls_silent_again_is_superseded_and_not_adopted() {
    let terms = Terms { toleration_seconds: Some(60), ..terms(1) };
    let lease = Lease {
        epoch: epoch(0),
        stage: Stage::Held,
        fence: Fence::Closed,
        ended: vec![ended("Succeeded", 0, "0")],
        ..Lease::default()
    };
    let leases = [(epoch(0), lease)].into();
    let next = advance(&terms, &record(&["0"]), only(&leases), |_| Standing::Silent(61), NOW);
    assert_eq!(next.steps, [Step::Withdraw(epoch(0), SUPERSEDED)]);
    assert!(next.record.completed.is_empty());
}

#[test]
fn a_pod_that_is_left_on_a_lost_node_keeps_no_job_from_its_end() {
    let lease = |reason: &str| Lease {
        epoch: epoch(0),
        stage: Stage::Held,
        ended: vec![ended(reason, 0, "0"), ended("Succeeded", 0, "1")],
        ..Lease::default()
    };
    let mut both = record(&["0-1", "0"]);
    both.allocations[0].ended = Indexes::parse("0").unwrap();
    both.allocations.remove(1);
    both.completed = Indexes::parse("0").unwrap();
    let next = check(&terms(2), &both, vec![(epoch(0), lease("NodeFailure"))], NOW);
    assert_eq!(next.record.finished_at, Some(NOW));
    assert_eq!(next.record.allocations.len(), 1, "its member has still to say that it is over");
    let next = check(&terms(2), &both, vec![(epoch(0), lease("Succeeded"))], NOW);
    assert_eq!(next.record.finished_at, None);
}

#[test]
fn an_operator_who_dismisses_a_silent_member_ends_what_it_held_unless_it_must_never_run_twice() {
    let lease = Lease {
        epoch: epoch(0),
        stage: Stage::Held,
        started: true,
        withdrawn: true,
        ..Lease::default()
    };
    let leases = [(epoch(0), lease)].into();
    let fate = |never_twice, seconds| {
        let terms = Terms { never_twice, ..terms(1) };
        let left = |_: &str| Standing::Left(seconds);
        let next = advance(&terms, &record(&["0"]), only(&leases), left, NOW);
        (next.record.allocations.len(), next.wanted.len())
    };
    assert_eq!(fate(false, 0), (0, 1));
    assert_eq!(fate(true, 600), (1, 0));
    assert_eq!(fate(true, 700), (0, 1), "its pods' time is over: 670 s, by any clock, and five");
}
