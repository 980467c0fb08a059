//! How long guests take to go, and who is late.

use k8s_openapi::jiff::SignedDuration;
use serde_json::json;

use super::run_to_start;
use crate::agent::executor::state::State;
use crate::agent::executor::world::World;

/// A member whose guests `l-0` to `l-2` run on two GPUs each, and nothing counted so far.
fn running() -> (World, State) {
    let mut world = World::new(1, &json!({"noticeSeconds": 30}));
    let mut state = world.listed();
    world.propose("l", "0-2", 1, 2);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    drop(state.tally(world.now));
    (world, state)
}

/// What was counted of ends since the last time: reasons and seconds.
fn vacated(world: &World, state: &mut State) -> Vec<(&'static str, i64)> {
    let vacated = state.tally(world.now).vacated.into_iter();
    vacated.map(|(reason, took)| (reason, took.as_secs())).collect()
}

fn on_the_way(world: &World, state: &mut State) -> (i64, i64) {
    let tally = state.tally(world.now);
    (tally.vacating["a"], tally.overdue["a"])
}

#[test]
fn a_preempted_guest_is_measured_from_its_notice_until_it_is_gone() {
    let (mut world, mut state) = running();
    world.preempt("l-1");
    world.settle(&mut state);
    assert_eq!(on_the_way(&world, &mut state), (2, 0));
    world.pass(7);
    assert_eq!(vacated(&world, &mut state), [], "it has not gone yet");
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(vacated(&world, &mut state), [("OwnerReclaimed", 7)]);
    assert_eq!(on_the_way(&world, &mut state), (0, 0));
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(vacated(&world, &mut state), [], "its object went later, and counts once");
}

#[test]
fn guests_that_we_send_away_are_measured_from_when_we_told_them() {
    let (mut world, mut state) = running();
    world.put_pool(
        "a",
        json!({"nodeSelector": {"matchLabels": {"lend": "a"}},
            "offer": {"paused": true, "noticeSeconds": 30}}),
    );
    world.settle(&mut state);
    assert_eq!(on_the_way(&world, &mut state), (6, 0));
    world.pass(40);
    assert_eq!(on_the_way(&world, &mut state), (6, 0), "ten seconds are forgiven");
    world.pass(1);
    assert_eq!(on_the_way(&world, &mut state), (6, 6));
    world.remove_pod("l-0");
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(vacated(&world, &mut state), [("PoolClosed", 41); 3]);
    assert_eq!(on_the_way(&world, &mut state), (0, 0));
}

#[test]
fn what_ends_by_itself_or_was_on_its_way_before_we_came_is_not_measured() {
    let (mut world, mut state) = running();
    world.end("l-0", 0);
    world.settle(&mut state);
    world.preempt("l-1");
    let mut state = {
        drop(state);
        world.listed()
    };
    world.settle(&mut state);
    world.pass(5);
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(vacated(&world, &mut state), []);
}

#[test]
fn what_guests_hold_is_metered_by_the_second() {
    let (mut world, mut state) = running();
    world.pass(10);
    let held = |state: &mut State, world: &World| state.tally(world.now).held["a"];
    assert_eq!(held(&mut state, &world), SignedDuration::from_secs(60));
    world.pass(5);
    world.end("l-0", 0);
    world.settle(&mut state);
    assert_eq!(held(&mut state, &world), SignedDuration::from_secs(30), "it held two until now");
    world.pass(10);
    assert_eq!(held(&mut state, &world), SignedDuration::from_secs(40));
}
