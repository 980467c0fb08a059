use super::*;
use crate::engine::model::{JobId, Plan, Refusal, Snapshot, Waiting};
use crate::engine::notation::{snapshot, with_guests};
use crate::engine::outlook::outlook;
use crate::engine::placement::Answer;
use crate::engine::round::round;

/// Long ago, so that whoever was queued then has waited long.
const LATER: i64 = PATIENCE + 100;

fn placed(plan: &Plan) -> Vec<String> {
    plan.placements.iter().map(|given| format!("{} {}", given.job.0, given.pool.pool)).collect()
}

/// What starts at `LATER`, when guests run in pools.
#[track_caller]
fn check(pools: &[(&str, &str)], guests: &[(&str, &str)], demands: &[&str], want: &[&str]) {
    let mut facts = with_guests(snapshot(pools, demands), guests);
    facts.now = LATER;
    assert_eq!(placed(&round(&facts)), want);
}

#[test]
fn those_behind_pass_a_head_that_has_not_waited_long() {
    let (pools, guests) = ([("a", "A100:8x2=8x1")], [("a", "A100 g gpus=8 ends=9000000")]);
    check(&pools, &guests, &["gang gpus=8 size=2 at=101", "small at=102"], &["small a"]);
    check(&pools, &guests, &["gang gpus=8 size=2 at=100", "small at=102"], &[]);
}

#[test]
fn a_round_wakes_when_patience_ends() {
    let mut facts = snapshot(&[("a", "A100:8x1=")], &["job at=40", "next at=41"]);
    assert_eq!(round(&facts).wake_at, Some(40 + PATIENCE));
    facts.now = LATER;
    assert_eq!(round(&facts).wake_at, None);
}

#[test]
fn those_who_end_in_time_pass() {
    let (pools, guests) = ([("a", "A100:8x2=8x1")], [("a", "A100 g gpus=8 ends=900000")]);
    // 900,000 - 600,100 ms = 299 s, of which 120 for starting.
    let demands = |job| ["gang gpus=8 size=2", job];
    check(&pools, &guests, &demands("small at=9 longest=179"), &["small a"]);
    check(&pools, &guests, &demands("small at=9 longest=180"), &[]);
    let many =
        ["gang gpus=8 size=2 cpu=8000", "array x9 at=9 longest=9", "more gpus=8 at=10 longest=9"];
    let guests = [("a", "A100 g gpus=8 cpu=8000 ends=900000")];
    check(&pools, &guests, &many, &["array a"]);
}

#[test]
fn those_who_need_other_room_pass() {
    let pools = [("a", "A100:8x3=8x1,4x1"), ("b", "A100:4x1")];
    let guests = [("a", "A100 g gpus=8 ends=900000")];
    let demands = ["gang gpus=8 size=2", "four gpus=4 at=1", "more gpus=4 at=2", "not at=3"];
    check(&pools, &guests, &demands, &["four a", "more b"]);
}

#[test]
fn the_earliest_known_start_is_kept() {
    let pools = [("a", "A100:8x2=8x1"), ("b", "A100:8x2=8x1"), ("c", "A100:8x2=8x1")];
    let guests = [
        ("a", "A100 g gpus=8"),
        ("b", "A100 g gpus=8 ends=900000"),
        ("c", "A100 g gpus=8 ends=800000"),
    ];
    let demands = ["gang gpus=8 size=2", "x gpus=8 at=1", "y gpus=8 at=2", "z gpus=8 at=3"];
    check(&pools, &guests, &demands, &["x a", "y b"]);
    // Its own node comes back before: none of what is free is needed.
    let guests = [("a", "A100 g gpus=8 size=2 ends=700000"), ("b", "A100 g gpus=8 ends=900000")];
    check(&pools[..2], &guests, &demands, &["x a", "y b"]);
}

#[test]
fn where_no_end_is_known_nodes_empty_for_it() {
    let pools = [("a", "A100:8x3=8x1,5x1,2x1")];
    let demands = ["gang gpus=8 size=2", "two gpus=2 at=1", "four gpus=4 at=2"];
    check(&pools, &[], &demands, &["two a"]);
}

#[test]
fn whoever_waits_is_told_that_what_is_free_is_kept() {
    let pools = [("a", "A100:8x3=8x1,5x1,2x1"), ("b", "A100:8x1=")];
    let mut facts =
        snapshot(&pools, &["gang gpus=8 size=2", "four gpus=4 at=2", "six gpus=6 at=3"]);
    facts.now = LATER;
    let said = |facts: &Snapshot, job: &str| match &round(facts).waiting[&JobId(job.into())] {
        Waiting::NoPool { refusals } => refusals.clone(),
        other => panic!("{other:?}"),
    };
    let (few, kept) = (Refusal::TooFewFreeGpus, Refusal::KeptForOthers);
    let gang = BTreeMap::from([(Refusal::NeverFits, 1), (few, 1)]);
    assert_eq!(said(&facts, "gang"), gang, "it is kept for this one");
    assert_eq!(said(&facts, "four"), BTreeMap::from([(few, 1), (kept, 1)]));
    assert_eq!(said(&facts, "six"), BTreeMap::from([(few, 1), (kept, 1)]));
    let seen = outlook(&facts, &JobId("four".into())).unwrap();
    assert_eq!(seen.answers[0].1, Answer::Refused(kept));
}

#[test]
fn quota_is_kept_for_a_head_that_waits_long() {
    let mut facts = snapshot(&[("a", "A100:8x9")], &["big gpus=8 size=2", "small at=1"]);
    facts.queues.insert("q".into(), crate::engine::notation::queue("quota=16 used=A100:2"));
    assert_eq!(placed(&round(&facts)), ["small a"]);
    facts.now = LATER;
    assert_eq!(placed(&round(&facts)), [""; 0]);
}

#[test]
fn the_estimate_counts_those_ahead() {
    let facts = with_guests(
        snapshot(&[("a", "A100:8x2=")], &["one gpus=8", "two gpus=8 at=1", "three gpus=8 at=2"]),
        &[("a", "A100 g gpus=8 ends=900"), ("a", "A100 h gpus=8 ends=700")],
    );
    let estimate = |job: &str| outlook(&facts, &JobId(job.into())).unwrap().estimate;
    assert_eq!(["one", "two", "three"].map(estimate), [Some(700), Some(900), None]);
    let facts = snapshot(&[("a", "A100:8x2")], &["one gpus=8"]);
    let seen = outlook(&facts, &JobId("one".into())).unwrap();
    assert_eq!((seen.estimate, seen.waiting), (Some(50), None));
}

#[test]
fn gpus_whose_memory_is_not_known_are_not_counted_on() {
    let facts = with_guests(
        snapshot(&[("a", "A100~40:8x1= A100~80:8x1=")], &["one gpus=8 models=A100~80"]),
        &[("a", "A100 g gpus=8 ends=900")],
    );
    let seen = outlook(&facts, &JobId("one".into())).unwrap();
    assert_eq!(seen.estimate, None);
    let refusals = BTreeMap::from([(Refusal::TooFewFreeGpus, 1)]);
    assert_eq!(seen.waiting, Some(Waiting::NoPool { refusals }));
}
