//! What holds for every round, whatever waits and whatever is free.

use proptest::prelude::*;

use super::*;
use crate::engine::notation::carried_out;

fn some_pool() -> impl Strategy<Value = String> {
    let model = prop::sample::select(vec!["A100", "A100~80", "H100~80"]);
    let shape = (model, 1_u32..9, 1_u32..6, 0_u32..9, 0_u32..6, 0_u32..20_000).prop_map(
        |(model, gpus, nodes, free, some, cpu)| {
            let (free, some) = (free.min(gpus), some.min(nodes));
            format!("{model}:{gpus}x{nodes}={free}x{some}/{cpu}")
        },
    );
    let word = prop::sample::select(vec!["", "", "", "silent", "lend=0", "in=EU", "taint=k:v"]);
    (prop::collection::vec(shape, 0..4), word)
        .prop_map(|(shapes, word)| format!("{} {word}", shapes.join(" ")))
}

fn some_demand() -> impl Strategy<Value = String> {
    let words = prop::sample::subsequence(
        vec![
            "gpus=2",
            "gpus=4",
            "size=2",
            "size=5",
            "models=H100,A100",
            "models=A100~80",
            "in=EU",
            "tolerate=k",
            "queue=r",
            "queue=none",
            "after=99",
            "barred=a/x:1",
            "avoid=a/x",
            "prio=3",
            "cpu=5000",
        ],
        0..4,
    );
    let wanted = prop_oneof![1_u32..4, 1_u32..700];
    (wanted, 0_u32..4, words)
        .prop_map(|(wanted, at, words)| format!("x{wanted} at={at} {}", words.join(" ")))
}

pub(in crate::engine) fn some_facts() -> impl Strategy<Value = Snapshot> {
    let pools = prop::collection::btree_map("[ab]/[xyz]", some_pool(), 0..5);
    let demands = prop::collection::vec(some_demand(), 0..9);
    let quotas = prop::collection::vec((prop::option::of(0_u64..99), 0_u64..20), 2);
    (pools, demands, quotas, 0_u32..40).prop_map(|(pools, demands, quotas, unanswered)| {
        let pools: Vec<(&str, &str)> =
            pools.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        let demands: Vec<String> =
            demands.iter().enumerate().map(|(place, text)| format!("j{place} {text}")).collect();
        let demands: Vec<&str> = demands.iter().map(String::as_str).collect();
        let mut facts = snapshot(&pools, &demands);
        // Some pools lend less than is free.
        if let Some(mut entry) = facts.pools.first_entry() {
            entry.get_mut().lendable /= 2;
        }
        for (name, (quota, used)) in ["q", "r"].into_iter().zip(quotas) {
            facts.queues.insert(name.into(), queue(quota, used));
        }
        facts.unanswered.insert("a".into(), unanswered);
        facts
    })
}

fn gpus_of(facts: &Snapshot, placement: &Placement) -> u64 {
    let demand = facts.demands.iter().find(|demand| demand.job == placement.job).unwrap();
    gpus(&demand.request) * u64::from(placement.indexes.len())
}

proptest! {
    #[test]
    fn nothing_is_given_out_that_is_not_free(facts in some_facts()) {
        // `carried_out` panics where a pool lends less than it gives.
        let plan = round(&facts);
        let (_, missing) = carried_out(&facts, &plan);
        prop_assert_eq!(missing, 0);
        let taken: u32 = parts(&facts).iter().map(|(_, _, _, count)| count).sum();
        let given: u32 = plan.placements.iter().map(|given| given.indexes.len()).sum();
        prop_assert_eq!(given, taken);
        prop_assert!(plan.placements.iter().all(|given| facts.pools[&given.pool].closed.is_none()));
    }

    #[test]
    fn no_queue_passes_its_quota(facts in some_facts()) {
        let (after, _) = carried_out(&facts, &round(&facts));
        for (name, queue) in &after.queues {
            let sum = |queue: &Queue| queue.used.values().sum::<u64>();
            let within = queue.quota.first().is_none_or(|quota| sum(queue) <= quota.gpus);
            prop_assert!(within || sum(queue) == sum(&facts.queues[name]), "{name}: {queue:?}");
        }
    }

    #[test]
    fn whoever_wants_more_has_a_reason_and_nobody_else(facts in some_facts()) {
        let plan = round(&facts);
        let (after, _) = carried_out(&facts, &plan);
        for demand in &after.demands {
            prop_assert_eq!(!demand.wanted.is_empty(), plan.waiting.contains_key(&demand.job));
        }
        for waiting in plan.waiting.values() {
            if let Waiting::NoPool { refusals } = waiting {
                prop_assert_eq!(refusals.values().sum::<u32>() as usize, facts.pools.len());
            }
        }
    }

    #[test]
    fn the_order_of_facts_decides_nothing(facts in some_facts(), turn in 0_usize..9) {
        let mut turned = facts.clone();
        turned.demands.reverse();
        let turn = turn.min(turned.demands.len());
        turned.demands.rotate_left(turn);
        for pool in turned.pools.values_mut() {
            pool.shapes.reverse();
        }
        for shape in turned.pools.values_mut().flat_map(|pool| &mut pool.shapes) {
            shape.free.reverse();
        }
        prop_assert_eq!(round(&facts), round(&turned));
    }

    #[test]
    fn a_second_round_gives_out_nothing(facts in some_facts()) {
        let plan = round(&facts);
        let (after, _) = carried_out(&facts, &plan);
        let again = round(&after);
        prop_assert_eq!(leases(&again), Vec::<String>::new());
        let waiting = |plan: &Plan| plan.waiting.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(waiting(&again), waiting(&plan));
        // Quota that others took meanwhile may be another reason, which time alone can change.
        if again.waiting == plan.waiting {
            prop_assert_eq!(again.wake_at, plan.wake_at);
        }
    }

    #[test]
    fn leases_hold_whole_gangs_and_at_most_256_wanted_indexes_once(facts in some_facts()) {
        let plan = round(&facts);
        for demand in &facts.demands {
            let given: Vec<_> =
                plan.placements.iter().filter(|given| given.job == demand.job).collect();
            let all: Indexes = given.iter().flat_map(|given| given.indexes.iter()).collect();
            let counted: u32 = given.iter().map(|given| given.indexes.len()).sum();
            prop_assert_eq!(all.len(), counted);
            prop_assert!(all.minus(&demand.wanted).is_empty());
            let most = if demand.request.size > 1 { 1 } else { LEASED };
            prop_assert!(given.iter().all(|given| (1..=most).contains(&given.indexes.len())));
        }
    }

    #[test]
    fn no_member_gets_more_than_it_can_answer(facts in some_facts()) {
        let plan = round(&facts);
        let (after, _) = carried_out(&facts, &plan);
        for (member, number) in &after.unanswered {
            let before = facts.unanswered.get(member).copied().unwrap_or(0);
            prop_assert!(*number <= UNANSWERED.max(before));
        }
    }

    #[test]
    fn the_first_in_order_loses_nothing_to_those_behind(all in some_facts()) {
        let line = all.demands.iter().filter(|demand| demand.queue == "q").cloned().collect();
        let facts = Snapshot { demands: line, ..all };
        let first = facts.demands.iter().min_by_key(|demand| {
            (Reverse(demand.priority), demand.queued_at, demand.job.clone())
        });
        let Some(first) = first else { return Ok(()) };
        let alone = Snapshot { demands: vec![first.clone()], ..facts.clone() };
        let given = |plan: &Plan| -> u64 {
            let own = plan.placements.iter().filter(|given| given.job == first.job);
            own.map(|given| gpus_of(&facts, given)).sum()
        };
        prop_assert_eq!(given(&round(&facts)), given(&round(&alone)));
    }
}
