use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::engine::model::{Hold, Plan, Snapshot, Waiting};
use crate::engine::notation::{queue, snapshot, with_guests};
use crate::engine::round::round;

fn victims(plan: &Plan) -> Vec<String> {
    let shown = |preemption: &Preemption| {
        let victims: Vec<&str> = preemption.victims.iter().map(|(job, _)| job.0.as_str()).collect();
        format!("{} {}: {}", preemption.job.0, preemption.pool.pool, victims.join(" "))
    };
    let told = plan.preemptions.iter().filter(|preemption| !preemption.victims.is_empty());
    told.map(shown).collect()
}

#[track_caller]
fn check(pools: &[(&str, &str)], guests: &[(&str, &str)], demands: &[&str], want: &[&str]) {
    let mut facts = with_guests(snapshot(pools, demands), guests);
    facts.now = 50_000;
    assert_eq!(victims(&round(&facts)), want);
}

#[test]
fn lower_priority_goes_and_equal_stays() {
    let full = [("a", "A100:8x1=")];
    check(&full, &[("a", "A100 low gpus=8")], &["job gpus=8 prio=1"], &["job a: low"]);
    check(&full, &[("a", "A100 low gpus=8 prio=1")], &["job gpus=8 prio=1"], &[]);
    check(&full, &[("a", "A100 low gpus=8 sticky")], &["job gpus=8 prio=1"], &[]);
    check(&full, &[("a", "A100 low gpus=8")], &["job gpus=8"], &[]);
}

#[test]
fn none_goes_that_could_stay() {
    let pools = [("a", "A100:8x4=8x1")];
    let guests = [
        ("a", "A100 young gpus=8 since=40000"),
        ("a", "A100 old gpus=8 since=10000"),
        ("a", "A100 mid gpus=8 since=20000"),
    ];
    check(&pools, &guests, &["job gpus=8 size=2 prio=1 at=1"], &["job a: young"]);
    check(&pools, &guests, &["job gpus=8 size=3 prio=1 at=1"], &["job a: young mid"]);
    check(&pools, &guests, &["job gpus=8 size=4 prio=1 at=1"], &["job a: young mid old"]);
    check(&pools, &guests, &["job gpus=8 size=5 prio=1 at=1"], &[]);
    let gang = [("a", "A100 gang gpus=8 size=2 since=10000"), ("a", "A100 one gpus=8 since=30000")];
    check(&pools, &gang, &["job gpus=8 size=2 prio=1"], &["job a: one"]);
    check(&pools, &gang, &["job gpus=8 size=3 prio=1"], &["job a: gang"]);
}

#[test]
fn least_priority_then_least_lost_work_goes() {
    let pools = [("a", "A100:8x1="), ("b", "A100:8x1="), ("c", "A100:8x1=")];
    let guests = [
        ("a", "A100 lower gpus=8 since=10"),
        ("b", "A100 higher gpus=8 prio=1 since=49000"),
        ("c", "A100 young gpus=8 since=30"),
    ];
    let mut facts = with_guests(snapshot(&pools, &["job gpus=8 prio=2"]), &guests);
    facts.now = 50_000;
    assert_eq!(victims(&round(&facts)), ["job a: lower"], "the same lost, whole seconds: by id");
    Arc::make_mut(&mut facts.guests).values_mut().next().unwrap()[0].since = -9_000;
    assert_eq!(victims(&round(&facts)), ["job c: young"]);
}

#[test]
fn guests_of_one_node_go_together_and_others_do_not_help() {
    let pools = [("a", "A100:8x2=")];
    let shared = [
        ("a", "A100 x gpus=4 nodes=1:1"),
        ("a", "A100 y gpus=4 nodes=1:1"),
        ("a", "A100 z gpus=4 nodes=2:1"),
    ];
    check(&pools, &shared, &["job gpus=8 prio=1"], &["job a: x y"]);
    let apart = [("a", "A100 x gpus=4 nodes=1:1"), ("a", "A100 y gpus=4 nodes=2:1")];
    check(&pools, &apart, &["job gpus=8 prio=1"], &[]);
}

#[test]
fn of_other_queues_only_those_over_their_share() {
    let pools = [("a", "A100:8x4=")];
    let guests = |mine: &'static str| [("a", "A100 big gpus=8 size=3 queue=r"), ("a", mine)];
    let over = guests("A100 own gpus=1 sticky");
    let mut facts = with_guests(snapshot(&pools, &["job gpus=8 prio=1"]), &over);
    assert_eq!(victims(&round(&facts)), ["job a: big"], "24 against 9");
    facts.queues.get_mut("r").unwrap().weight = 3;
    assert_eq!(victims(&round(&facts)), [""; 0], "24 of three shares against 9 of one");
    let level = guests("A100 own gpus=8 size=2 sticky");
    let mut facts = with_guests(snapshot(&[("a", "A100:8x5=")], &["job gpus=8 prio=1"]), &level);
    assert_eq!(victims(&round(&facts)), [""; 0], "24 against 24 is not over its share");
    facts.queues.get_mut("r").unwrap().past.insert("A100".into(), 1_000_000);
    assert_eq!(victims(&round(&facts)), ["job a: big"]);
}

#[test]
fn what_was_borrowed_comes_back() {
    let pools = [("a", "A100:8x9")];
    let guests = [("a", "A100 loan gpus=8 queue=r"), ("a", "A100 own gpus=8 queue=r since=-90000")];
    let mut facts = with_guests(snapshot(&pools, &["job gpus=8 prio=1"]), &guests);
    facts.queues.insert("q".into(), queue("quota=8 cohort=c"));
    let borrower = queue("quota=8 cohort=c used=A100:16 weight=1000");
    facts.queues.insert("r".into(), borrower);
    let plan = round(&facts);
    assert_eq!(victims(&plan), ["job a: loan"], "only what is beyond its own");
    let waits = plan.waiting.values().next().cloned();
    let pool = crate::engine::notation::id("a");
    assert_eq!(waits, Some(Waiting::Preempting { pool, victims: 1 }));
    facts.demands[0].priority = 0;
    assert_eq!(victims(&round(&facts)), [""; 0], "never among equals");
}

#[test]
fn those_told_to_go_are_waited_for_and_their_place_is_kept() {
    let pools = [("a", "A100:8x2=")];
    let guests = [("a", "A100 going gpus=8 leaving"), ("a", "A100 stays gpus=8")];
    let mut facts = with_guests(
        snapshot(&pools, &["job gpus=8 prio=1 hold=a", "thief gpus=8 prio=9 queue=r"]),
        &guests,
    );
    facts.queues.insert("r".into(), crate::engine::model::Queue::default());
    let plan = round(&facts);
    assert_eq!(victims(&plan), ["thief a: stays"], "the place that is made is not its");
    assert_eq!(plan.placements, []);
    let mut gone = facts.clone();
    Arc::make_mut(&mut gone.guests).values_mut().next().unwrap().remove(0);
    gone.pools.values_mut().next().unwrap().shapes =
        vec![crate::engine::notation::shape("A100:8x2=8x1")];
    gone.pools.values_mut().next().unwrap().lendable = 8;
    let plan = round(&gone);
    assert_eq!(plan.placements[0].job.0, "job", "it goes first");
}

fn some_guests() -> impl Strategy<Value = Vec<(String, String)>> {
    let words = prop::sample::subsequence(
        vec![
            "gpus=4",
            "gpus=8",
            "size=2",
            "prio=2",
            "prio=4",
            "queue=r",
            "sticky",
            "leaving",
            "nodes=1:1",
            "nodes=2:1",
            "since=-9000",
        ],
        0..5,
    );
    let guest = ("[ab]", words).prop_map(|(pool, words)| (pool, words.join(" ")));
    prop::collection::vec(guest, 0..12).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named.map(|(at, (pool, text))| (pool, format!("A100 g{at} {text}"))).collect()
    })
}

fn facts_of(guests: &[(String, String)], demands: &[String], free: &str) -> Snapshot {
    let guests: Vec<(&str, &str)> =
        guests.iter().map(|(pool, text)| (pool.as_str(), text.as_str())).collect();
    let demands: Vec<&str> = demands.iter().map(String::as_str).collect();
    let shape = format!("A100:8x9={free}");
    let mut facts = snapshot(&[("a", &shape), ("b", "A100:8x9=")], &demands);
    facts.queues.insert("r".into(), queue("weight=2"));
    with_guests(facts, &guests)
}

/// The same facts once these guests are gone, each GPU on a node of its own if it is not known.
fn without(facts: &Snapshot, preemption: &Preemption, victims: &[(JobId, Epoch)]) -> Snapshot {
    let mut after = facts.clone();
    after.demands.retain(|demand| demand.job == preemption.job);
    after.queues.clone_from(&facts.queues);
    let guests = Arc::make_mut(&mut after.guests).get_mut(&preemption.pool).unwrap();
    let mut nodes: BTreeMap<crate::engine::guests::Spot, (u32, u64, u64)> = BTreeMap::new();
    let mut gpus = 0;
    for (place, guest) in guests.iter().enumerate() {
        let goes = guest.leaving || victims.contains(&(guest.job.clone(), guest.epoch));
        for (spot, pods) in guest.spots(place).filter(|_| goes) {
            let node = nodes.entry(spot).or_default();
            node.0 += guest.need.gpus * pods;
            node.1 += guest.need.milli_cpu * u64::from(pods);
            node.2 += guest.need.memory * u64::from(pods);
        }
        gpus += if goes { guest.gpus() } else { 0 };
    }
    guests.clear();
    let pool = after.pools.get_mut(&preemption.pool).unwrap();
    pool.lendable += gpus;
    let free = nodes.values().map(|(gpus, milli_cpu, memory)| crate::engine::model::Free {
        gpus: *gpus,
        nodes: 1,
        milli_cpu: *milli_cpu,
        memory: *memory,
    });
    pool.shapes[0].free.extend(free);
    for other in after.pools.iter_mut().filter(|(id, _)| **id != preemption.pool) {
        other.1.lendable = 0;
    }
    after
}

proptest! {
    #[test]
    fn victims_suffice_and_none_is_spared_for_nothing(
        guests in some_guests(),
        words in prop::sample::subsequence(vec!["gpus=4", "gpus=8", "size=2", "size=3"], 0..3),
        priority in 0_i32..6,
        free in prop::sample::select(vec!["", "8x1", "4x2", "8x2,4x1"]),
    ) {
        let demands = [format!("job prio={priority} {}", words.join(" "))];
        let facts = facts_of(&guests, &demands, free);
        let plan = round(&facts);
        for preemption in &plan.preemptions {
            let starts = |victims: &[(JobId, Epoch)]| {
                !round(&without(&facts, preemption, victims)).placements.is_empty()
            };
            prop_assert!(starts(&preemption.victims), "all of them make room");
            for at in 0..preemption.victims.len() {
                let mut fewer = preemption.victims.clone();
                fewer.remove(at);
                prop_assert!(!starts(&fewer), "{at} of {preemption:?} could stay");
            }
            for guest in &facts.guests[&preemption.pool] {
                if preemption.victims.contains(&(guest.job.clone(), guest.epoch)) {
                    prop_assert!(guest.priority < priority && guest.preemptible && !guest.leaving);
                }
            }
        }
    }

    /// Whoever was told to go is leaving in the next round, which tells nobody else.
    #[test]
    fn a_second_round_tells_nobody_to_go(
        guests in some_guests(),
        demands in prop::collection::vec(
            (prop::sample::subsequence(vec!["gpus=4", "gpus=8", "size=2", "queue=r"], 0..3), 0_i32..6),
            1..5,
        ),
    ) {
        let demands: Vec<String> = demands.iter().enumerate().map(|(at, (words, priority))| {
            format!("job{at} at={at} prio={priority} {}", words.join(" "))
        }).collect();
        let facts = facts_of(&guests, &demands, "8x1,4x1");
        let plan = round(&facts);
        let mut told: Vec<(JobId, Epoch)> =
            plan.preemptions.iter().flat_map(|preemption| preemption.victims.clone()).collect();
        let all = told.len();
        told.sort();
        told.dedup();
        prop_assert_eq!(told.len(), all, "nobody is told twice");
        let (mut after, _) = crate::engine::notation::carried_out(&facts, &plan);
        for guest in Arc::make_mut(&mut after.guests).values_mut().flatten() {
            guest.leaving |= told.contains(&(guest.job.clone(), guest.epoch));
        }
        for (turn, preemption) in plan.preemptions.iter().enumerate() {
            let mut demands = after.demands.iter_mut();
            let demand = demands.find(|demand| demand.job == preemption.job).unwrap();
            demand.hold = Some(Hold {
                pool: preemption.pool.clone(),
                victims: preemption.victims.iter().cloned().collect(),
                turn: turn as u64,
                ..Hold::default()
            });
        }
        let again = round(&after);
        prop_assert_eq!(victims(&again), Vec::<String>::new());
        prop_assert_eq!(again.placements, Vec::new());
    }
}
