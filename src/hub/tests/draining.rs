//! Members that an operator cordons, drains and taints.

use serde_json::{Value, json};

use super::member::Mood;
use super::world::World;

fn taint(key: &str, effect: &str) -> Value {
    json!([{ "key": key, "effect": effect }])
}

/// What `drain` writes.
fn drained() -> Value {
    json!({ "unschedulable": true, "taints": taint("idlewild.dev/drain", "NoExecute") })
}

fn opened() -> Value {
    json!({ "unschedulable": false, "taints": [] })
}

/// Jobs run on `north`, the larger of two members; each tolerates everything.
async fn running(names: &[&str]) -> World {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.mood(Mood::Runs);
    world.members[1].mood = Mood::Refuses;
    for name in names {
        let tolerations = json!({ "clusterTolerations": [{ "operator": "Exists" }] });
        world.submit(name, 1, json!({ "placement": tolerations }));
    }
    world.settle().await;
    assert_eq!(world.members[0].starts.len(), names.len());
    world.members[1].mood = Mood::Runs;
    world
}

fn cluster(world: &World, name: &str) -> String {
    let allocations = &world.job(name)["status"]["allocations"];
    allocations[0]["cluster"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_cordoned_member_keeps_what_runs_and_gets_nothing_new() {
    let mut world = running(&["old"]).await;
    world.edit("memberclusters", "", "north", json!({ "unschedulable": true }));
    world.submit("new", 1, json!({}));
    world.settle().await;
    assert_eq!((cluster(&world, "old"), cluster(&world, "new")), ("north".into(), "south".into()));
    world.is_silent().await;
    world.edit("memberclusters", "", "north", opened());
    world.submit("later", 1, json!({}));
    world.settle().await;
    assert_eq!(cluster(&world, "later"), "north", "it is the larger one again");
    world.is_silent().await;
}

#[tokio::test]
async fn a_drained_member_gives_everything_back_whatever_it_tolerates() {
    let mut world = running(&["one", "two"]).await;
    world.edit("memberclusters", "", "north", drained());
    world.pass(0).await;
    let leases = world.leases();
    let reasons: Vec<_> =
        leases.iter().map(|lease| &lease["spec"]["withdrawn"]["reason"]).collect();
    assert_eq!(reasons, ["MemberDrained", "MemberDrained"]);
    world.settle().await;
    for name in ["one", "two"] {
        let status = &world.job(name)["status"];
        assert_eq!(status["attempts"][0]["reason"], json!("MemberDrained"));
        assert_eq!(status["evictions"]["other"], json!(1), "no failure, nobody's reclaim");
        assert_eq!(cluster(&world, name), "south");
        let (_, reason, message) = world.condition(name, "Evicted");
        assert_eq!(reason, "MemberDrained");
        assert!(message.contains("the hub's operator drained the member"), "{message}");
    }
    assert!(world.members[0].held.is_empty());
    world.is_silent().await;
    world.edit("memberclusters", "", "north", opened());
    world.submit("later", 1, json!({}));
    world.settle().await;
    assert_eq!(cluster(&world, "later"), "north");
    world.is_silent().await;
}

#[tokio::test]
async fn what_a_silent_member_runs_is_withdrawn_and_placed_once_it_answered() {
    let mut world = running(&["one"]).await;
    world.members[0].mood = Mood::Silent;
    for _ in 0..12 {
        world.after(5_000);
        world.pass(0).await;
    }
    world.edit("memberclusters", "", "north", drained());
    world.settle().await;
    assert_eq!(world.leases()[0]["spec"]["withdrawn"]["reason"], json!("MemberDrained"));
    assert_eq!(cluster(&world, "one"), "north", "unreachable is not gone");
    world.is_silent().await;
    world.members[0].mood = Mood::Runs;
    world.settle().await;
    assert_eq!(cluster(&world, "one"), "south");
    world.is_silent().await;
}

#[tokio::test]
async fn a_taint_ends_what_does_not_tolerate_it() {
    let mut world = running(&["tolerant"]).await;
    world.submit("plain", 1, json!({}));
    world.settle().await;
    assert_eq!(cluster(&world, "plain"), "north");
    world.edit("memberclusters", "", "north", json!({ "taints": taint("k", "NoSchedule") }));
    world.settle().await;
    assert_eq!(cluster(&world, "plain"), "north", "what runs goes on");
    world.edit("memberclusters", "", "north", json!({ "taints": taint("k", "NoExecute") }));
    world.settle().await;
    assert_eq!(cluster(&world, "plain"), "south");
    assert_eq!(cluster(&world, "tolerant"), "north");
    assert_eq!(world.condition("plain", "Evicted").1, "MemberTainted");
    world.is_silent().await;
}

#[tokio::test]
async fn what_was_placed_just_before_the_drain_goes_as_well() {
    let mut world = World::new(&[("north", 8)]).await;
    world.mood(Mood::Runs);
    world.submit("one", 1, json!({}));
    world.pass(0).await;
    assert_eq!(world.leases().len(), 1, "its member has not answered");
    world.edit("memberclusters", "", "north", drained());
    world.settle().await;
    assert!(world.members[0].held.is_empty());
    assert_eq!(cluster(&world, "one"), "");
    let (status, _, message) = world.condition("one", "Placed");
    assert_eq!(status, "False");
    assert!(message.contains("cordoned"), "{message}");
    world.is_silent().await;
}

#[tokio::test]
async fn the_taint_alone_keeps_new_work_away() {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.mood(Mood::Runs);
    let taints = taint("idlewild.dev/drain", "NoExecute");
    world.edit("memberclusters", "", "north", json!({ "taints": taints }));
    world.submit("one", 1, json!({}));
    world.settle().await;
    assert_eq!(cluster(&world, "one"), "south");
    assert!(world.members[0].starts.is_empty());
    world.is_silent().await;
}
