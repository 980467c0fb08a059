//! What must hold in a member whatever happens, and wherever the executor dies.

use proptest::prelude::*;
use serde_json::json;

use super::world::World;
use crate::api::gpulease::{LeasePhase, Withdrawal};

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
        let mut guests = world.pods.keys().filter(|name| name.starts_with('l'));
        guests.nth(usize::from(n)).cloned()
    };
    let name = |n: &u8| format!("l{n}");
    let pool = |offer| json!({"nodeSelector": {"matchLabels": {"lend": "a"}}, "offer": offer});
    match act {
        Act::Propose(n, size, gpus) if !world.leases.contains_key(&name(n)) => {
            let indexes = if *size == 1 { "0-2" } else { "0" };
            world.propose(&name(n), indexes, *size, *gpus);
        }
        Act::Confirm(n) => {
            let lease = world.leases.get(&name(n)).and_then(|lease| lease.status.as_ref());
            if lease.is_some_and(|status| status.phase == Some(LeasePhase::Reserved)) {
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
            (guest.lease_uid == *name && !guest.is_terminal()).then_some(guest.key.index)
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
