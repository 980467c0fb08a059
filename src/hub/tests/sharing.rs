//! Queues that share, wait for each other, and make room for what is more important.

use serde_json::{Value, json};

use super::member::Mood;
use super::world::World;

fn class(world: &mut World, name: &str, value: i32) {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {}, "value": value});
    world.put("priorityclasses", "", name, class);
}

/// A member whose four GPUs a job of low priority holds.
async fn full() -> World {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    class(&mut world, "high", 10);
    world.submit("low", 4, json!({}));
    world.settle().await;
    assert_eq!(world.phase("low"), "Running");
    world
}

fn status(world: &World, job: &str) -> Value {
    world.job(job)["status"].clone()
}

#[tokio::test]
async fn a_job_of_higher_priority_takes_the_place_of_guests() {
    let mut world = full().await;
    world.submit("urgent", 2, json!({"priorityClassName": "high"}));
    world.pass(0).await;
    let reasons: Vec<_> =
        world.leases().iter().map(|lease| lease["spec"]["withdrawn"]["reason"].clone()).collect();
    assert_eq!(reasons, ["Preempted"]);
    let (placed, reason, message) = world.condition("urgent", "Placed");
    assert_eq!((placed.as_str(), reason.as_str()), ("False", "WaitingForPreemptedWorkloads"));
    assert_eq!(message, "guests of lower priority make room for it in north/lab");
    // What comes back is not for others, whoever is first in line.
    world.submit("thief", 4, json!({}));
    world.settle().await;
    assert_eq!(world.phase("urgent"), "Running");
    let low = status(&world, "low");
    assert_eq!(low["evictions"]["preempted"], json!(1));
    assert_eq!(low["evictions"]["total"], json!(1));
    assert_eq!(low["attempts"][0]["reason"], json!("Preempted"));
    assert_eq!(low["replicas"]["failed"], json!(0), "no failure of its own");
    let (_, reason, message) = world.condition("low", "Evicted");
    assert_eq!(reason, "Preempted");
    assert!(message.contains("a job of higher priority"), "{message}");
    world.is_silent().await;
    // What is left goes to the older one; then all is taken, and nobody is told to go again.
    world.after(1_000);
    world.settle().await;
    assert_eq!(status(&world, "low")["allocations"][0]["indexes"], json!("0-1"));
    world.is_silent().await;
}

#[tokio::test]
async fn guests_that_share_a_node_make_room_together() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    world.members[0].one_node = true;
    world.members[0].serial += 1;
    world.members_act();
    class(&mut world, "high", 10);
    for name in ["one", "two", "three", "four"] {
        world.submit(name, 1, json!({}));
        world.settle().await;
    }
    world.submit("urgent", 1, json!({"priorityClassName": "high", "gpu": {"count": 3}}));
    world.settle().await;
    assert_eq!(world.phase("urgent"), "Running");
    let running = ["one", "two", "three", "four"].map(|name| world.phase(name) == "Running");
    assert_eq!(running.iter().filter(|runs| **runs).count(), 1, "{running:?}: whole, and no more");
    world.is_silent().await;
}

#[tokio::test]
async fn a_job_that_is_not_preemptible_stays() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    class(&mut world, "high", 10);
    world.submit("low", 4, json!({"preemptibility": "NonPreemptible"}));
    world.settle().await;
    world.submit("urgent", 2, json!({"priorityClassName": "high"}));
    world.settle().await;
    assert_eq!(world.phase("low"), "Running");
    assert_eq!(world.condition("urgent", "Placed").1, "WaitingForCapacity");
    world.is_silent().await;
}

#[tokio::test]
async fn a_hub_that_starts_anew_tells_nobody_else_to_go() {
    let mut world = full().await;
    world.submit("urgent", 2, json!({"priorityClassName": "high"}));
    world.pass(0).await;
    world.reborn(0);
    world.settle().await;
    assert_eq!(world.phase("urgent"), "Running");
    assert_eq!(status(&world, "low")["evictions"]["preempted"], json!(1));
    world.after(1_000);
    world.settle().await;
    world.is_silent().await;
}

#[tokio::test]
async fn a_queue_says_which_priority_classes_it_takes() {
    let mut world = full().await;
    world.edit("gpuqueues", "", "default", json!({"allowedPriorityClasses": ["normal"]}));
    world.submit("urgent", 2, json!({"priorityClassName": "high"}));
    world.settle().await;
    let (_, reason, message) = world.condition("urgent", "QuotaReserved");
    assert_eq!(reason, "Misconfigured");
    assert_eq!(
        message,
        "priorityClassName: GpuQueue default does not allow high; see its allowedPriorityClasses"
    );
    assert_eq!(world.phase("low"), "Running");
    world.is_silent().await;
}

#[tokio::test]
async fn nobody_passes_a_head_that_has_waited_long() {
    let mut world = full().await;
    world.submit("gang", 1, json!({"size": 6}));
    world.settle().await;
    world.after(700_000);
    // Two GPUs come free, and a small job comes: they are kept for the gang.
    world.members[0].gpus = 6;
    world.members[0].serial += 1;
    world.members_act();
    world.submit("small", 1, json!({"ttlSecondsAfterFinished": 1}));
    world.settle().await;
    assert_eq!(world.phase("gang"), "Queued");
    assert_eq!(world.phase("small"), "Queued", "all that is free is kept");
    // One that surely ends before the guests' limits may pass.
    world.submit("brief", 1, json!({"maxRunningSeconds": 60}));
    world.settle().await;
    assert_eq!(world.phase("brief"), "Running");
    world.is_silent().await;
}

#[tokio::test]
async fn a_queue_remembers_what_it_used_and_so_does_the_next_leader() {
    let mut world = full().await;
    world.after(24 * 3600 * 1000);
    world.settle().await;
    let usage = |world: &World| {
        let queue =
            world.server.store().objects[&super::objects::at("gpuqueues", "", "default")].clone();
        queue["status"].clone()
    };
    let before = usage(&world);
    assert_eq!(before["usage"][0]["model"], json!("A100"));
    assert_eq!(before["usage"][0]["gpus"], json!(4));
    let mean = before["usage"][0]["recentMilliGpus"].as_i64().unwrap();
    assert!((1900..=2100).contains(&mean), "half of four after a day: {mean}");
    assert!(before["sharePpm"].as_i64().unwrap() > 1_000_000, "all that there is, and its past");
    world.reborn(0);
    world.settle().await;
    assert_eq!(usage(&world), before, "nothing changed, so nothing is written");
    world.is_silent().await;
}
