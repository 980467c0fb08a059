//! Guests that go on without their hub, and what makes them current again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::agent::executor::state::State;
use crate::api::gpulease::Adoption;

/// One guest that goes on without its hub, but is expired after 900 s.
fn running() -> (World, State) {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("goes-on", "0", 1, 1);
    world.edit("goes-on", |lease| lease.spec.expires_after_seconds = Some(900));
    world.settle(&mut state);
    world.confirm("goes-on");
    run_to_start(&mut world, &mut state);
    world.contact("g");
    world.settle(&mut state);
    (world, state)
}

fn expired_at(world: &World) -> Option<Time> {
    world.status("goes-on").expired_at
}

#[test]
fn a_guest_that_lost_its_hub_goes_on_expired_until_that_very_expiry_is_adopted() {
    let (mut world, mut state) = running();
    world.pass(880);
    world.settle(&mut state);
    assert_eq!(expired_at(&world), None);
    world.pass(30);
    world.settle(&mut state);
    let first = expired_at(&world);
    assert!(first.is_some());
    assert_eq!(world.status("goes-on").phase, Some(LeasePhase::Running), "it goes on");
    // The hub is there again: its heartbeat alone revives nothing, nor does a restart.
    world.contact("g");
    world.settle(&mut state);
    assert_eq!(expired_at(&world), first);
    drop(state);
    let mut state = world.listed();
    world.settle(&mut state);
    assert_eq!(expired_at(&world), first);
    let adopt = |world: &mut World, at: Option<Time>| {
        world.edit("goes-on", |lease| lease.spec.adopted = Some(Adoption { expired_at: at }));
    };
    adopt(&mut world, Some(crate::api::convert::time(0)));
    world.settle(&mut state);
    assert_eq!(expired_at(&world), first, "another expiry was adopted");
    adopt(&mut world, first.clone());
    world.pass(2);
    world.settle(&mut state);
    assert_eq!(expired_at(&world), None);
    assert_eq!(world.turn(&mut state), 0, "nothing is left to write");
    // The next silence is another expiry.
    world.pass(1_000);
    world.settle(&mut state);
    assert!(expired_at(&world).is_some() && expired_at(&world) != first);
}
