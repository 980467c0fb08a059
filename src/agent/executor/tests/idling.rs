//! What is learnt of idle GPUs is published, survives a restart and costs no writes of its own.

use serde_json::json;

use super::super::state::State;
use super::super::world::World;
use crate::api::convert::survival;
use crate::api::gpupool::GpuPoolStatus;
use crate::engine::survival::History;

fn status(world: &World) -> GpuPoolStatus {
    world.pools["a"].status.clone().unwrap()
}

fn history(world: &World) -> History {
    survival::history(&status(world), i64::MAX)
}

fn pictures(world: &World) -> usize {
    world.writes.iter().filter(|write| write.starts_with("picture")).count()
}

/// The owner takes the node's 8 GPUs for 5 minutes out of every 20, `times` times.
fn come_and_go(world: &mut World, state: &mut State, times: u32) {
    for _ in 0..times {
        for (present, minutes) in [(true, 5), (false, 15)] {
            match present {
                true => world.owner_pod("train", Some("n0"), 8),
                false => world.remove_pod("train"),
            }
            world.settle(state);
            world.pass(minutes * 60);
        }
    }
    world.settle(state);
}

#[test]
fn what_the_owner_does_is_learnt_and_told_and_outlives_the_agent() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    come_and_go(&mut world, &mut state, 40);
    let told = status(&world);
    let eight = told.survival.iter().find(|size| size.gpus == 8).unwrap();
    assert!(eight.chances[1] < 250_000, "they never stayed for 20 minutes: {eight:?}");
    let ends = |world: &World| history(world).counts()[3].ends.iter().sum::<u64>();
    let before = ends(&world);
    assert!(before >= 35_000, "{before}");
    let mut state = world.listed();
    world.settle(&mut state);
    assert_eq!(status(&world), told, "a restart forgets nothing and says nothing");
    come_and_go(&mut world, &mut state, 3);
    assert!(ends(&world) >= before + 2000, "it goes on where it was");
}

#[test]
fn it_rides_along_with_pictures_at_most_every_ten_minutes() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    let first = status(&world).idle_history.unwrap().until;
    for minute in 1..30 {
        world.pass(60);
        world.owner_pod(&format!("p{minute}"), Some("n0"), 1);
        world.settle(&mut state);
        world.remove_pod(&format!("p{minute}"));
        world.pass(2);
        world.settle(&mut state);
        let until = status(&world).idle_history.unwrap().until;
        let passed = world.now.duration_since(first.0).as_mins();
        assert!(until.0.duration_since(first.0).as_mins() <= passed);
        assert_eq!(until == first, passed < 10, "minute {passed}");
        if passed >= 10 {
            return;
        }
    }
    panic!("never told anew");
}

#[test]
fn a_quiet_pool_is_written_once_in_six_hours_so_that_quiet_is_not_forgotten() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    let before = pictures(&world);
    for half_minute in 0..2 * 60 * 24 {
        world.pass(30);
        world.settle(&mut state);
        let (written, hours) = (pictures(&world) - before, half_minute / 120);
        assert!(written <= hours / 6 + 1, "{written} pictures in {hours} hours");
    }
    assert_eq!(pictures(&world) - before, 4);
    assert!(status(&world).survival[0].chances[0] > 900_000);
}

#[test]
fn a_member_with_older_definitions_is_left_in_peace() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    let mut pool = world.pools["a"].clone();
    let kept = pool.status.as_mut().unwrap();
    (kept.survival, kept.idle_history) = (Vec::new(), None);
    world.pools.insert("a".into(), pool);
    let mut state = world.listed();
    let before = pictures(&world);
    for _ in 0..100 {
        world.pass(3600);
        world.settle(&mut state);
    }
    assert_eq!(pictures(&world), before);
}
