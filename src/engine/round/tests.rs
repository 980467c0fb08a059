use std::collections::BTreeMap;

use super::*;
use crate::engine::model::Refusal;
use crate::engine::model::{JobId, PoolId, Queue};
use crate::engine::notation::{demand, snapshot};
use crate::engine::placement::UNANSWERED;
use crate::engine::queues::{Limit, Quota};

pub(in crate::engine) mod properties;
mod time;

/// What a round takes from pools, turn by turn: job, pool, model and replicas.
pub(in crate::engine) fn parts(facts: &Snapshot) -> Vec<(JobId, PoolId, String, u32)> {
    let variants = Variants::of(facts);
    let mut round = Round::begin(facts, &variants);
    while round.turn().is_some() {}
    let taken = round.taken.iter();
    let part = |(job, place, model, count): &(JobId, usize, String, u32)| {
        (job.clone(), round.book.pool(*place).id.clone(), model.clone(), *count)
    };
    taken.map(part).collect()
}

/// Leases as `job pool model indexes`.
fn leases(plan: &Plan) -> Vec<String> {
    let shown = |placement: &Placement| {
        let Placement { job, pool, model, indexes } = placement;
        format!("{} {} {model} {indexes}", job.0, pool.pool)
    };
    plan.placements.iter().map(shown).collect()
}

#[track_caller]
fn check(pools: &[(&str, &str)], demands: &[&str], want: &[&str]) {
    assert_eq!(leases(&round(&snapshot(pools, demands))), want);
}

fn queue(quota: Option<u64>, used: u64) -> Queue {
    let quota = quota.map(|gpus| Quota { gpus, ..Quota::default() });
    let used = BTreeMap::from([("A100".to_owned(), used)]);
    Queue { quota: quota.into_iter().collect(), used, ..Queue::default() }
}

fn why(plan: &Plan, job: &str) -> Option<Waiting> {
    plan.waiting.get(&JobId(job.into())).cloned()
}

#[test]
fn priority_then_age_then_id_decides_who_goes_first() {
    let one = [("a", "A100:1x1")];
    check(&one, &["old at=1", "new at=2"], &["old a A100 0"]);
    check(&one, &["old at=1", "new at=2 prio=1"], &["new a A100 0"]);
    check(&one, &["b at=1", "a at=1"], &["a a A100 0"]);
}

#[test]
fn smaller_demands_pass_one_that_finds_no_room() {
    let pools = [("a", "A100:8x2=5x2")];
    check(&pools, &["large gpus=8 at=1", "small at=2"], &["small a A100 0"]);
    check(&pools, &["gang gpus=4 size=3 at=1", "small at=2"], &["small a A100 0"]);
}

#[test]
fn a_burst_of_identical_jobs_spreads_by_capacity() {
    let jobs: Vec<String> = (10..24).map(|number| format!("job{number}")).collect();
    let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
    let pools = [("a", "A100:8x5"), ("b", "A100:8x10"), ("c", "A100:4x5")];
    let plan = round(&snapshot(&pools, &jobs));
    let share = |name: &str| plan.placements.iter().filter(|given| given.pool.pool == name).count();
    assert_eq!((share("a"), share("b"), share("c")), (4, 8, 2));
}

#[test]
fn an_array_is_dealt_over_pools_in_few_leases() {
    check(
        &[("a", "A100:8x4"), ("b", "A100:8x2")],
        &["job x24"],
        &["job a A100 0-14", "job b A100 15-23"],
    );
    check(&[("a", "A100:8x1")], &["job #2,5-9,40"], &["job a A100 2,5-9,40"]);
    check(
        &[("a", "A100:8x100")],
        &["job x600"],
        &["job a A100 0-255", "job a A100 256-511", "job a A100 512-599"],
    );
}

#[test]
fn a_gang_is_one_lease_in_one_pool() {
    let pools = [("a", "A100:8x3"), ("b", "A100:8x3")];
    check(&pools, &["gang x3 gpus=8 size=2"], &["gang a A100 0", "gang b A100 1"]);
    check(&pools, &["gang gpus=8 size=4"], &[]);
}

#[test]
fn a_lease_has_one_model() {
    check(
        &[("a", "A100:8x1=3x1 H100:8x1=8x1")],
        &["job x8"],
        &["job a A100 0-2", "job a H100 3-7"],
    );
}

#[test]
fn a_queue_gives_no_more_than_its_quota() {
    let mut facts = snapshot(&[("a", "A100:8x4")], &["one x9 gpus=2 at=1", "two at=2"]);
    facts.queues.insert("q".into(), queue(Some(10), 3));
    let plan = round(&facts);
    assert_eq!(leases(&plan), ["one a A100 0-2", "two a A100 0"]);
    let waits = |quota, used, room, need| {
        let limit = Limit { model: None, quota, most: quota, used, room };
        Some(Waiting::WaitingForQuota { limit, need })
    };
    assert_eq!(why(&plan, "one"), waits(10, 9, 1, 2));
    assert_eq!(why(&plan, "two"), None);
    facts.queues.insert("q".into(), queue(Some(1), 7));
    let plan = round(&facts);
    let exceeds = Waiting::ExceedsMaxQuota { model: None, quota: 1, need: 2 };
    assert_eq!(why(&plan, "one"), Some(exceeds));
    assert_eq!(why(&plan, "two"), waits(1, 7, 0, 1));
}

#[test]
fn a_queue_that_is_held_or_missing_gives_nothing() {
    let mut facts = snapshot(&[("a", "A100:8x4")], &["job", "lost queue=x", "held queue=h"]);
    facts.queues.insert("h".into(), Queue { held: true, ..Queue::default() });
    let plan = round(&facts);
    assert_eq!(leases(&plan), ["job a A100 0"]);
    assert_eq!(why(&plan, "lost"), Some(Waiting::QueueNotAllowed));
    assert_eq!(why(&plan, "held"), Some(Waiting::QueueHeld));
}

#[test]
fn backing_off_ends_at_the_time_said() {
    let mut facts = snapshot(&[("a", "A100:8x4")], &["b after=70", "a after=60", "past after=50"]);
    let plan = round(&facts);
    assert_eq!(leases(&plan), ["past a A100 0"]);
    assert_eq!(why(&plan, "b"), Some(Waiting::BackOff { until: 70 }));
    assert_eq!(plan.wake_at, Some(60));
    facts.now = 70;
    assert_eq!(round(&facts).wake_at, None);
}

#[test]
fn a_barred_pool_is_barred_for_that_job_only() {
    let facts = snapshot(&[("a", "A100:1x2")], &["no at=1 barred=a:1", "yes at=2"]);
    let plan = round(&facts);
    assert_eq!(leases(&plan), ["yes a A100 0"]);
    let refused = Some(Waiting::NoPool { refusals: BTreeMap::from([(Refusal::Refused, 1)]) });
    assert_eq!(why(&plan, "no"), refused);
    let after = ["one x2 at=1", "two at=2", "no at=3 barred=a:1"];
    assert_eq!(why(&round(&snapshot(&[("a", "A100:1x2")], &after)), "no"), refused);
}

#[test]
fn a_member_gets_32_leases_to_answer_and_no_more() {
    let jobs: Vec<String> = (0..40).map(|number| format!("job{number}")).collect();
    let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
    let mut facts = snapshot(&[("a/x", "A100:8x9"), ("a/y", "A100:8x9")], &jobs);
    facts.unanswered.insert("a".into(), 2);
    let plan = round(&facts);
    assert_eq!(plan.placements.len() + 2, UNANSWERED as usize);
    let refusals = BTreeMap::from([(Refusal::TooManyUnanswered, 2)]);
    assert_eq!(why(&plan, "job9"), Some(Waiting::NoPool { refusals }));
}

#[test]
fn the_last_lease_of_a_member_takes_all_that_fits() {
    let mut facts = snapshot(&[("a", "A100:8x9")], &["job x64"]);
    facts.unanswered.insert("a".into(), UNANSWERED - 1);
    assert_eq!(leases(&round(&facts)), ["job a A100 0-63"]);
}

#[test]
fn a_thousand_jobs_and_a_hundred_thousand_are_planned() {
    let pools = [("a", "A100:8x20"), ("b", "A100:8x10"), ("c", "A100:8x10=3x4")];
    let mut facts = snapshot(&pools, &[]);
    for number in 0..100_000 {
        let mut waits = demand("job gpus=1");
        waits.job = JobId(format!("{number:06}"));
        facts.demands.push(waits);
    }
    let plan = round(&facts);
    assert_eq!(plan.placements.len(), 3 * UNANSWERED as usize - 20);
    assert_eq!(plan.placements.len() + plan.waiting.len(), 100_000);
}

fn facts_with(pools: &[(&str, &str)], demands: &[&str], queues: &[(&str, &str)]) -> Snapshot {
    let mut facts = snapshot(pools, demands);
    for (name, text) in queues {
        facts.queues.insert((*name).into(), crate::engine::notation::queue(text));
    }
    facts
}

#[test]
fn the_queue_with_the_least_share_goes_next() {
    let pools = [("a", "A100:8x2")];
    let demands = [
        "q1 gpus=4 at=1",
        "q2 gpus=4 at=2",
        "q3 gpus=4 at=3",
        "r1 gpus=4 at=9 queue=r",
        "r2 gpus=4 at=9 queue=r",
    ];
    let given = |queues: &[(&str, &str)]| {
        let plan = round(&facts_with(&pools, &demands, queues));
        plan.placements.iter().map(|given| given.job.0.clone()).collect::<Vec<_>>()
    };
    assert_eq!(given(&[("r", "")]), ["q1", "r1", "q2", "r2"]);
    assert_eq!(given(&[("r", "weight=2")]), ["q1", "r1", "r2", "q2"]);
    assert_eq!(given(&[("r", "used=A100:4")]), ["q1", "q2", "r1", "q3"]);
    assert_eq!(given(&[("r", "past=A100:16000000")]), ["q1", "q2", "q3", "r1"]);
    assert_eq!(given(&[("q", "lends=16"), ("r", "")]), ["q1", "r1", "q2", "q3"]);
}

#[test]
fn an_array_does_not_take_all_in_one_turn() {
    let demands = ["array x16 at=1", "late gpus=8 at=9 queue=r"];
    let plan = round(&facts_with(&[("a", "A100:8x2")], &demands, &[("r", "")]));
    let given: Vec<(&str, u32)> =
        plan.placements.iter().map(|given| (given.job.0.as_str(), given.indexes.len())).collect();
    assert_eq!(given, [("late", 1), ("array", 8)]);
}

#[test]
fn a_quota_for_one_model_leaves_the_others_open() {
    let pools = [("a", "A100:8x1 H100:8x1")];
    let queues = [("q", "quota=H100:2"), ("r", "quota=A100:1 quota=H100:1")];
    let plan = round(&facts_with(&pools, &["job x9 models=H100,A100"], &queues));
    assert_eq!(leases(&plan), ["job a H100 0-1", "job a A100 2-8"]);
    let plan = round(&facts_with(&pools, &["job x9 queue=r"], &queues));
    assert_eq!(leases(&plan), ["job a A100 0", "job a H100 1"]);
    assert!(matches!(why(&plan, "job"), Some(Waiting::WaitingForQuota { .. })));
    let plan = round(&facts_with(&pools, &["job models=H100 gpus=3"], &queues));
    let model = Some("H100".to_owned());
    assert_eq!(why(&plan, "job"), Some(Waiting::ExceedsMaxQuota { model, quota: 2, need: 3 }));
}

#[test]
fn a_cohort_borrows_and_gives_back() {
    let queues = |used: &str| {
        [("q", "cohort=c quota=4"), ("r", used)].map(|(name, text)| (name, text.to_owned()))
    };
    let given = |used: &str| {
        let queues = queues(used);
        let queues: Vec<(&str, &str)> =
            queues.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let plan = round(&facts_with(&[("a", "A100:8x4")], &["job x9"], &queues));
        plan.placements.iter().map(|given| given.indexes.len()).sum::<u32>()
    };
    assert_eq!(given("cohort=c quota=4"), 8);
    assert_eq!(given("cohort=c quota=4-1"), 5);
    assert_eq!(given("cohort=c quota=4 used=A100:3"), 5);
    assert_eq!(given("cohort=c quota=4 used=A100:6"), 2);
    assert_eq!(given("cohort=d quota=4"), 4);
}
