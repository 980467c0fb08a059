use std::collections::BTreeMap;

use super::*;
use crate::engine::explain::WaitReason;
use crate::engine::model::Refusal;
use crate::engine::notation::snapshot;
use crate::engine::round;

mod properties;

fn of(snapshot: &Snapshot, job: &str) -> Outlook {
    outlook(snapshot, &JobId(job.into())).unwrap()
}

/// Changes that help the demand, as `effect: text`.
#[track_caller]
fn check(pools: &[(&str, &str)], demand: &str, want: &[&str]) {
    let facts = snapshot(pools, &[demand]);
    let seen = of(&facts, "j");
    let said: Vec<String> = seen
        .changes
        .iter()
        .map(|change| format!("{:?}: {}", change.effect, change.relief.text()))
        .collect();
    assert_eq!(said, want, "{demand} with {pools:?}");
}

#[test]
fn the_smallest_change_that_helps_is_named() {
    let small = [("a", "A100:8x4"), ("b", "H100:4x2")];
    check(&small, "j gpus=8 size=4", &[]);
    check(&small, "j gpus=8 size=5", &["Now: gpu.count of at most 4", "Now: size of at most 4"]);
    check(&small, "j gpus=16", &["Now: gpu.count of at most 8"]);
    check(&small, "j gpus=16 size=64", &["Now: gpu.count 8 and size 4"]);
    check(
        &small,
        "j models=L40S",
        &["Now: gpu.anyOf that includes A100", "Now: gpu.anyOf that includes H100"],
    );
    check(
        &small,
        "j gpus=8 models=H100",
        &["Now: gpu.anyOf that includes A100", "Now: gpu.count of at most 4"],
    );
    check(&[("a", "A100~40:8x4")], "j models=A100~80", &["Now: gpu.anyOf without minMemory"]);
    check(&[("a", "A100:8x4 in=EU")], "j in=US", &["Now: data.residency left out"]);
    let tainted = [("a", "A100:8x4 taint=k:v")];
    check(&tainted, "j", &["Now: placement.clusterTolerations that include k=v"]);
    let twice = [("a", "A100:8x4 taint=k:v taint=l:w")];
    check(&twice, "j", &["Now: placement.clusterTolerations for every taint"]);
    check(&small, "j members=c", &["Now: placement.clusterAffinity.clusterNames left out"]);
    check(&small, "j not=a,b", &["Now: placement.clusterAffinity.exclude left out"]);
    check(
        &small,
        "j label+k",
        &["Now: placement.clusterAffinity.labelSelector without its rule on k"],
    );
    check(&small, "j label+k members=c", &["Now: placement.clusterAffinity left out"]);
    let picky = [("a", "A100:8x4 images=x/*")];
    check(&picky, "j images=x/1,y/1", &["Now: another image than y/1"]);
    check(
        &[("a", "A100:8x4 notice=30")],
        "j grace=60",
        &["Now: terminationGracePeriodSeconds of at most 30"],
    );
    check(
        &[("a", "A100:8x4=8x4/6000")],
        "j gpus=8 cpu=9000",
        &["Now: at most 6000m of CPU for each pod"],
    );
}

#[test]
fn what_helps_only_later_is_said_to() {
    let busy = [("a", "A100:8x4=8x1")];
    check(&busy, "j gpus=8 size=2", &["Now: gpu.count of at most 4", "Now: size of at most 1"]);
    check(&busy, "j gpus=8 size=5", &["Now: gpu.count of at most 1", "Now: size of at most 1"]);
    check(
        &[("a", "A100:8x4=")],
        "j gpus=8 size=5",
        &["Later: gpu.count of at most 4", "Later: size of at most 4"],
    );
    check(&[("a", "A100:8x4 silent")], "j", &[]);
}

#[test]
fn what_would_not_help_is_not_said() {
    // Two rules of different kinds each keep it out: no single change helps.
    check(&[("a", "A100:8x4 in=EU taint=k:v")], "j in=US", &[]);
    check(&[], "j", &[]);
    let mut facts = snapshot(&[("a", "A100:8x4 in=EU")], &["j in=US"]);
    facts.queues.get_mut("q").unwrap().held = true;
    assert_eq!(of(&facts, "j").changes, [], "its queue is held");
}

#[test]
fn a_quota_can_be_what_a_change_is_for() {
    let mut facts = snapshot(&[("a", "A100:8x4")], &["j gpus=8 size=2"]);
    facts.queues.get_mut("q").unwrap().quota =
        vec![crate::engine::queues::Quota { gpus: 9, ..Default::default() }];
    let seen = of(&facts, "j");
    assert!(matches!(seen.waiting, Some(Waiting::ExceedsMaxQuota { .. })));
    let said: Vec<String> = seen.changes.iter().map(|change| change.relief.text()).collect();
    assert_eq!(said, ["gpu.count of at most 4", "size of at most 1"]);
}

#[test]
fn places_are_by_priority_then_age_then_id_and_by_turns_over_all() {
    let pools = [("a", "A100:8x1=")];
    let mut facts = snapshot(
        &pools,
        &["b at=5", "a at=5", "old at=1", "urgent prio=9 at=9", "other queue=r", "done #"],
    );
    facts.queues.insert("r".into(), crate::engine::model::Queue::default());
    let places: Vec<(u32, u32, u32, u32)> = ["urgent", "other", "old", "a", "b"]
        .iter()
        .map(|job| of(&facts, job))
        .map(|seen| (seen.place.place, seen.place.of, seen.overall.place, seen.overall.of))
        .collect();
    assert_eq!(places, [(1, 4, 1, 5), (1, 1, 5, 5), (2, 4, 2, 5), (3, 4, 3, 5), (4, 4, 4, 5)]);
    assert_eq!(outlook(&facts, &JobId("done".into())), None, "it wants nothing");
    assert_eq!(outlook(&facts, &JobId("nobody".into())), None);
}

#[test]
fn those_before_it_get_theirs_first() {
    let facts = snapshot(&[("a", "A100:8x1")], &["first gpus=8", "second at=1 gpus=8"]);
    assert_eq!(of(&facts, "first").answers[0].1, Answer::Fits(1));
    let second = of(&facts, "second");
    assert_eq!(second.answers[0].1, Answer::Refused(Refusal::TooFewFreeGpus));
    assert!(second.placements.is_empty() && second.changes.is_empty());
}
