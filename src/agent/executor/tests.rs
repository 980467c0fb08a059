//! The executor as a whole, against a member in memory.

use proptest::prelude::*;
use serde_json::json;

use super::world::World;
use crate::api::gpulease::{LeasePhase, Withdrawal};
use crate::api::gpupool::FreeNodes;

fn run_to_start(world: &mut World, state: &mut super::state::State) {
    world.settle(state);
    world.schedule();
    world.kubelet();
    world.settle(state);
}

#[test]
fn a_single_job_costs_five_writes_and_its_pictures() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    world.writes.clear();
    world.propose("l", "0", 1, 1);
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Reserved));
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.pass(10);
    world.end("l-0", 0);
    world.settle(&mut state);
    let writes: Vec<_> = world.writes.iter().filter(|write| !write.starts_with("pic")).collect();
    let want =
        ["status l Reserved", "create l-0", "status l Running", "status l Released", "delete l-0"];
    assert_eq!(writes, want);
    let status = world.status("l");
    assert_eq!(status.end_reason.as_deref(), Some("Completed"));
    assert_eq!(
        (status.ended[0].reason.as_str(), status.ended[0].indexes.as_str()),
        ("Succeeded", "0")
    );
    assert_eq!((status.pods.succeeded, status.pods.bound, status.gpus), (1, 0, 0));
    assert!(status.start_time.is_some() && status.end_time.is_some());
    assert!(world.pods.is_empty());
}

#[test]
fn the_picture_covers_what_was_reserved_and_is_quiet_when_nothing_changes() {
    let mut world = World::new(2, &json!({"reserveGpus": 4, "maxGpus": 12}));
    let mut state = world.listed();
    world.settle(&mut state);
    let first = world.pools["a"].status.clone().unwrap();
    assert_eq!((first.gpus.offered, first.gpus.free), (12, 12));
    let free = |gpus, nodes| FreeNodes { gpus, nodes, milli_cpu: 64_000, memory_bytes: 512 << 30 };
    assert_eq!(first.shapes[0].free, [free(8, 1), free(4, 1)]);
    assert_eq!(first.conditions[0].status, "True");
    world.propose("l", "0-1", 1, 4);
    world.settle(&mut state);
    world.pass(1);
    world.settle(&mut state);
    let second = world.pools["a"].status.clone().unwrap();
    assert!(second.serial >= world.status("l").serial.unwrap());
    assert_eq!((second.gpus.guests, second.gpus.free), (8, 4));
    let before = world.writes.len();
    world.pass(60);
    world.settle(&mut state);
    let mut restarted = world.listed();
    world.settle(&mut restarted);
    assert_eq!(world.writes.len(), before, "{:?}", world.writes);
}

#[test]
fn books_hold_what_was_reserved_even_over_a_restart() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l1", "0", 1, 6);
    world.settle(&mut state);
    let mut state = world.listed();
    world.propose("l2", "0", 1, 4);
    world.settle(&mut state);
    assert_eq!(world.status("l2").refusal.unwrap().reason, "NotEnoughFree");
    assert!(world.status("l2").serial >= world.status("l1").serial);
}

#[test]
fn preempted_guests_end_as_reclaimed_and_are_told_at_once() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0-2", 1, 2);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.preempt("l-1");
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Running));
    world.pass(2);
    world.kubelet();
    world.settle(&mut state);
    let status = world.status("l");
    assert_eq!(status.ended[0].reason, "OwnerReclaimed");
    assert_eq!(status.ended[0].exit_code, Some(143));
    assert_eq!(status.ended[0].conditions, ["DisruptionTarget"]);
    world.pass(2);
    for pod in ["l-0", "l-2"] {
        world.end(pod, 0);
    }
    world.settle(&mut state);
    assert_eq!(world.status("l").end_reason.as_deref(), Some("OwnerReclaimed"));
    assert_eq!(world.status("l").phase, Some(LeasePhase::Released));
}

#[test]
fn a_gang_starts_once_all_are_bound_and_ends_whole() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    world.propose("g", "3", 4, 4);
    world.settle(&mut state);
    world.confirm("g");
    world.settle(&mut state);
    assert_eq!(world.pods.len(), 4);
    world.schedule();
    world.settle(&mut state);
    assert!(world.gates.is_empty(), "no address yet");
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.gates.len(), 1);
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.status("g").phase, Some(LeasePhase::Running));
    world.pass(5);
    world.end("g-3-2", 7);
    world.settle(&mut state);
    assert_eq!(world.status("g").phase, Some(LeasePhase::Releasing));
    world.pass(1);
    world.kubelet();
    world.settle(&mut state);
    let status = world.status("g");
    assert_eq!((status.ended[0].reason.as_str(), status.ended[0].exit_code), ("Failed", Some(7)));
    assert_eq!(status.end_reason.as_deref(), Some("Completed"));
    world.kubelet();
    world.settle(&mut state);
    assert!(world.pods.is_empty());
}

#[test]
fn a_gang_that_is_not_bound_whole_is_rolled_back() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    world.propose("g", "0", 2, 8);
    world.settle(&mut state);
    world.confirm("g");
    world.settle(&mut state);
    world.owner_pod("own", Some("n1"), 1);
    world.schedule();
    world.kubelet();
    world.settle(&mut state);
    world.pass(61);
    world.settle(&mut state);
    world.kubelet();
    world.settle(&mut state);
    let status = world.status("g");
    assert_eq!(status.end_reason.as_deref(), Some("GangNotBound"), "{:?}", world.writes);
    assert_eq!(status.start_time, None);
    assert!(world.gates.is_empty());
}

#[test]
fn a_pod_whose_node_does_not_take_it_gets_another() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 8);
    world.settle(&mut state);
    world.confirm("l");
    world.settle(&mut state);
    world.owner_pod("own", Some("n0"), 1);
    world.schedule();
    world.settle(&mut state);
    world.pass(6);
    world.settle(&mut state);
    world.schedule();
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Running), "{:?}", world.writes);
    assert_eq!(world.pods["l-0"].spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
}

#[test]
fn a_pod_that_no_node_takes_ends_not_bound() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 8);
    world.settle(&mut state);
    world.confirm("l");
    world.settle(&mut state);
    world.owner_pod("own", Some("n0"), 1);
    world.schedule();
    world.settle(&mut state);
    world.pass(6);
    world.settle(&mut state);
    assert_eq!(world.status("l").end_reason.as_deref(), Some("NotBound"), "{:?}", world.writes);
    assert!(world.pods.get("l-0").is_none());
}

#[test]
fn pausing_and_withdrawing_end_guests_with_their_reason() {
    for restart in [false, true] {
        let mut world = World::new(2, &json!({}));
        let mut state = world.listed();
        for name in ["l1", "l2"] {
            world.propose(name, "0", 1, 1);
            world.settle(&mut state);
            world.confirm(name);
        }
        run_to_start(&mut world, &mut state);
        world.edit("l1", |lease| {
            let withdrawn = Withdrawal { reason: "Suspended".into(), grace_seconds: 3 };
            lease.spec.withdrawn = Some(withdrawn);
        });
        world.settle(&mut state);
        assert_eq!(world.pods["l1-0"].metadata.deletion_grace_period_seconds, Some(3));
        let spec =
            json!({"nodeSelector": {"matchLabels": {"lend": "a"}}, "offer": {"paused": true}});
        world.put_pool("a", spec);
        world.settle(&mut state);
        assert_eq!(world.status("l2").phase, Some(LeasePhase::Releasing));
        world.pass(2);
        world.kubelet();
        if restart {
            state = world.listed();
        }
        world.settle(&mut state);
        let reason = |name: &str| world.status(name).end_reason.unwrap();
        assert_eq!((reason("l1").as_str(), reason("l2").as_str()), ("Suspended", "PoolClosed"));
        let pool = world.pools["a"].status.clone().unwrap();
        assert_eq!((pool.gpus.free, pool.conditions[0].reason.as_str()), (0, "Paused"));
    }
}

#[test]
fn a_pod_that_vanished_while_nobody_looked_ended_unknown() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 1);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.remove_pod("l-0");
    let mut state = world.listed();
    world.settle(&mut state);
    assert_eq!(world.status("l").end_reason.as_deref(), Some("Unknown"));
}

#[test]
fn the_owners_pending_pods_count_before_they_are_bound() {
    let mut world = World::new(1, &json!({}));
    world.owner_pod("own", None, 3);
    let mut state = world.listed();
    world.settle(&mut state);
    let gpus = world.pools["a"].status.clone().unwrap().gpus;
    assert_eq!((gpus.owner, gpus.free), (3, 5));
}

/// One thing that may happen in a member.
#[derive(Clone, Debug)]
enum Act {
    Propose(u8, i32, i32),
    Confirm(u8),
    Withdraw(u8),
    Schedule,
    Kubelet,
    End(u8, i32),
    Preempt(u8),
    Owner(u8, u32),
    OwnerGone(u8),
    Pause(bool),
    MaxGpus(i64),
    Grant(bool),
    Die(usize),
    Pass(i64),
    Turn,
    SlowTurn,
}

fn act() -> impl Strategy<Value = Act> {
    use Act::{
        Confirm, Die, End, Grant, Kubelet, MaxGpus, Owner, OwnerGone, Pass, Pause, Preempt,
        Propose, Schedule, SlowTurn, Turn, Withdraw,
    };
    prop_oneof![
        4 => (0_u8..8, 1_i32..4, 1_i32..9).prop_map(|(n, size, gpus)| Propose(n, size, gpus)),
        4 => (0_u8..8).prop_map(Confirm),
        1 => (0_u8..8).prop_map(Withdraw),
        4 => Just(Schedule),
        4 => Just(Kubelet),
        3 => (0_u8..16, 0_i32..2).prop_map(|(n, code)| End(n, code)),
        1 => (0_u8..16).prop_map(Preempt),
        1 => (0_u8..4, 1_u32..4).prop_map(|(n, gpus)| Owner(n, gpus)),
        1 => (0_u8..4).prop_map(OwnerGone),
        1 => any::<bool>().prop_map(Pause),
        1 => (0_i64..24).prop_map(MaxGpus),
        1 => any::<bool>().prop_map(Grant),
        3 => (0_usize..4).prop_map(Die),
        4 => (1_i64..70).prop_map(Pass),
        6 => Just(Turn),
        4 => Just(SlowTurn),
    ]
}

fn happen(world: &mut World, state: &mut super::state::State, act: &Act) {
    let pod = |world: &World, n: u8| {
        let guests = world.pods.keys().filter(|name| name.starts_with('l'));
        guests.cloned().nth(usize::from(n))
    };
    let name = |n: &u8| format!("l{n}");
    let pool = |offer| json!({"nodeSelector": {"matchLabels": {"lend": "a"}}, "offer": offer});
    match act {
        Act::Propose(n, size, gpus) if !world.leases.contains_key(&name(n)) => {
            let indexes = if *size == 1 { "0-2" } else { "0" };
            world.propose(&name(n), indexes, *size, *gpus);
        }
        Act::Confirm(n) if world.leases.contains_key(&name(n)) => {
            if world.status(&name(n)).phase == Some(LeasePhase::Reserved) {
                world.confirm(&name(n));
            }
        }
        Act::Withdraw(n)
            if world.leases.get(&name(n)).is_some_and(|lease| lease.spec.confirmed) =>
        {
            world.edit(&name(n), |lease| {
                let withdrawn = Withdrawal { reason: "Suspended".into(), grace_seconds: 1 };
                lease.spec.withdrawn = Some(withdrawn);
            });
        }
        Act::Schedule => world.schedule(),
        Act::Kubelet => world.kubelet(),
        Act::End(n, code) => {
            let running = pod(world, *n).filter(|name| {
                let status = world.pods[name].status.clone().unwrap_or_default();
                status.phase.as_deref() == Some("Running")
            });
            if let Some(name) = running {
                world.end(&name, *code);
            }
        }
        Act::Preempt(n) => {
            if let Some(name) = pod(world, *n) {
                world.preempt(&name);
            }
        }
        Act::Owner(n, gpus) => {
            let node = "n0";
            let free = 8 - world.bound().get(node).copied().unwrap_or(0);
            if free >= *gpus && !world.pods.contains_key(&format!("own{n}")) {
                world.owner_pod(&format!("own{n}"), Some(node), *gpus);
            }
        }
        Act::OwnerGone(n) => world.remove_pod(&format!("own{n}")),
        Act::Pause(paused) => world.put_pool("a", pool(json!({"paused": paused}))),
        Act::MaxGpus(max) => world.put_pool("a", pool(json!({"maxGpus": max}))),
        Act::Grant(true) => world.put_grant("g", None),
        Act::Grant(false) if world.grants.contains_key("g") => world.drop_grant("g"),
        Act::Die(count) => world.die(state, *count),
        Act::Pass(seconds) => world.pass(*seconds),
        Act::Turn => drop(world.turn(state)),
        Act::SlowTurn => world.slow_turn(state),
        _ => {}
    }
}

/// What must hold at every moment.
fn sound(world: &World) -> Result<(), TestCaseError> {
    for (node, gpus) in world.bound() {
        prop_assert!(gpus <= 8, "{node} holds {gpus}");
    }
    for (name, lease) in &world.leases {
        let status = lease.status.clone().unwrap_or_default();
        let living = world.pods.values().filter_map(|pod| {
            let guest = super::guest::Guest::slim(pod, super::world::GUESTS)?;
            (guest.lease == *name && !guest.is_terminal()).then_some(guest.key.index)
        });
        let recorded = super::report::recorded(&status);
        let living: Vec<_> = living.collect();
        let twice = living.iter().any(|index| recorded.contains(*index));
        prop_assert!(!twice, "{name} runs an index that it reported as ended: {living:?}");
        let living = living.len();
        if status.phase == Some(LeasePhase::Released) {
            prop_assert_eq!(&recorded.to_string(), &lease.spec.indexes, "{}", name);
            prop_assert_eq!(living, 0, "{} is released but runs", name);
        }
        prop_assert!(lease.spec.confirmed || living == 0, "{name} runs unconfirmed");
    }
    for pool in world.pools.values() {
        let Some(status) = &pool.status else { continue };
        let groups = status.shapes.iter().flat_map(|shape| &shape.free);
        let free: i64 = groups.map(|free| i64::from(free.gpus) * i64::from(free.nodes)).sum();
        prop_assert!(status.gpus.free >= 0 && status.gpus.free <= free.max(0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_books_hold_and_every_lease_ends(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new(2, &json!({}));
        let mut state = world.listed();
        for act in &acts {
            happen(&mut world, &mut state, act);
            sound(&world)?;
        }
        // The hubs' half drops what it does not confirm.
        for name in world.leases.keys().cloned().collect::<Vec<_>>() {
            if !world.leases[&name].spec.confirmed {
                world.drop_lease(&name);
            }
        }
        // No more faults: everything confirmed runs, ends, and nothing is written afterwards.
        for _ in 0..60 {
            world.pass(20);
            world.settle(&mut state);
            world.schedule();
            world.kubelet();
            world.settle(&mut state);
            for name in world.pods.keys().cloned().collect::<Vec<_>>() {
                let status = world.pods[&name].status.clone().unwrap_or_default();
                if name.starts_with('l') && status.phase.as_deref() == Some("Running") {
                    world.end(&name, 0);
                }
            }
            sound(&world)?;
        }
        for (name, lease) in &world.leases {
            let phase = lease.status.as_ref().and_then(|status| status.phase);
            prop_assert_eq!(phase, Some(LeasePhase::Released), "{}", name);
        }
        prop_assert!(world.pods.keys().all(|name| !name.starts_with('l')));
        let writes = world.writes.len();
        world.pass(100);
        world.settle(&mut state);
        let mut again = world.listed();
        world.settle(&mut again);
        prop_assert_eq!(world.writes.len(), writes, "{:?}", &world.writes[writes..]);
    }
}
