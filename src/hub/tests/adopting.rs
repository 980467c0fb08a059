//! Leases that expired in a silence, and whether what they say counts.

use serde_json::{Value, json};

use super::member::Mood;
use super::objects::at;
use super::world::World;

const EXPIRED: &str = "2026-01-01T00:30:00Z";

/// A member changes the status of its one lease.
fn say(world: &mut World, status: Value) {
    let lease = world.leases().remove(0);
    let name = lease["metadata"]["name"].as_str().unwrap();
    let place = at("gpuleases", lease["metadata"]["namespace"].as_str().unwrap(), name);
    let mut object = world.server.store().objects[&place].clone();
    for (key, value) in status.as_object().unwrap() {
        object["status"][key] = value.clone();
    }
    world.server.store().put(place, object);
}

async fn running() -> World {
    let mut world = World::new(&[("north", 8)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({}));
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    assert_eq!(world.leases()[0]["spec"]["expiresAfterSeconds"], json!(900));
    world
}

#[tokio::test]
async fn an_expired_lease_is_adopted_before_what_it_says_counts() {
    let mut world = running().await;
    say(
        &mut world,
        json!({"expiredAt": EXPIRED, "phase": "Released", "endReason": "Completed",
            "endTime": EXPIRED, "ended": [{"reason": "Succeeded", "exitCode": 0, "indexes": "0"}]}),
    );
    world.forget_calls();
    world.pass(0).await;
    assert_eq!(world.phase("train"), "Running", "not yet");
    assert_eq!(world.leases()[0]["spec"]["adopted"]["expiredAt"], json!(EXPIRED));
    let shorts = world.shorts();
    assert!(shorts[0].starts_with("GET gpujobs"), "by the newest record: {shorts:?}");
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    world.is_silent().await;
}

#[tokio::test]
async fn an_expired_lease_that_goes_on_is_adopted_once() {
    let mut world = running().await;
    say(&mut world, json!({"expiredAt": EXPIRED}));
    world.settle().await;
    assert_eq!(world.leases()[0]["spec"]["adopted"]["expiredAt"], json!(EXPIRED));
    world.is_silent().await;
    // Another silence.
    say(&mut world, json!({"expiredAt": "2026-01-01T01:00:00Z"}));
    world.settle().await;
    assert_eq!(world.leases()[0]["spec"]["adopted"]["expiredAt"], json!("2026-01-01T01:00:00Z"));
    assert_eq!(world.starts().len(), 1);
}
