//! Members that fall silent, and work that is run elsewhere because of it.

use serde_json::{Value, json};

use super::member::Mood;
use super::world::World;

/// Time passes in which members beat and nobody else acts.
fn beat_for(world: &mut World, seconds: u64) {
    for _ in 0..seconds / 15 {
        world.after(15_000);
        world.hear(0);
    }
}

/// A job that runs on the largest one of three members, which then falls silent.
async fn cut_off(failover: Value) -> World {
    let mut world = World::new(&[("north", 8), ("south", 4), ("west", 1)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({"failover": failover}));
    world.settle().await;
    assert_eq!(clusters(&world), json!(["north"]));
    world.members[0].mood = Mood::Silent;
    world
}

fn clusters(world: &World) -> Value {
    world.job("train")["status"]["clusters"].clone()
}

fn withdrawn(world: &World) -> Vec<Value> {
    world.leases().iter().map(|lease| lease["spec"]["withdrawn"]["reason"].clone()).collect()
}

#[tokio::test]
async fn work_of_a_silent_member_is_run_elsewhere_once_after_its_tolerance() {
    let mut world = cut_off(json!({"tolerationSeconds": 60})).await;
    world.pass_time(50).await;
    assert_eq!((clusters(&world), withdrawn(&world)), (json!(["north"]), vec![Value::Null]));
    let (status, reason, message) = world.condition("train", "Reachable");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "MemberSilent"));
    assert!(message.ends_with("run elsewhere after 60 s of silence"), "{message}");
    assert_eq!(world.job("train")["status"]["failoverBoundSeconds"], json!(60));
    world.pass_time(30).await;
    assert_eq!(clusters(&world), json!(["south"]));
    assert_eq!(world.phase("train"), "Running");
    let status = world.job("train")["status"].clone();
    assert_eq!(status["evictions"]["clusterLost"], json!(1));
    assert_eq!(status["attempts"][0]["reason"], json!("ClusterLost"));
    assert_eq!(
        withdrawn(&world).iter().filter(|reason| **reason == json!("Superseded")).count(),
        1
    );
    assert_eq!(world.starts().len(), 2, "once here and once there");
    // The member comes back, ends the old copy, and its lease goes.
    world.members[0].mood = Mood::Runs;
    world.pass_time(20).await;
    assert_eq!((world.leases().len(), clusters(&world)), (1, json!(["south"])));
    assert_eq!(world.members[0].held.len(), 0);
    world.members[1].mood = Mood::Works;
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    world.is_silent().await;
}

#[tokio::test]
async fn a_new_leader_neither_forgets_the_silence_nor_counts_it_anew() {
    let mut world = cut_off(json!({"tolerationSeconds": 120})).await;
    world.pass_time(70).await;
    world.reborn(0);
    world.pass(0).await;
    assert_eq!(clusters(&world), json!(["north"]), "not at once");
    world.pass_time(40).await;
    assert_eq!(clusters(&world), json!(["north"]));
    // What was not written down yet is counted again: fifteen seconds at most.
    world.pass_time(30).await;
    assert_eq!(clusters(&world), json!(["south"]));
}

#[tokio::test]
async fn work_stays_where_it_is_by_default_until_its_pods_are_surely_dead() {
    for failover in [json!({}), json!({"tolerationSeconds": 60, "duplicatePolicy": "Never"})] {
        let mut world = cut_off(failover).await;
        beat_for(&mut world, 3_600);
        world.pass_time(60).await;
        assert_eq!((clusters(&world), withdrawn(&world)), (json!(["north"]), vec![Value::Null]));
        // A day, the grace, and what clocks may differ by.
        let bound = world.job("train")["status"]["failoverBoundSeconds"].as_u64().unwrap();
        assert!((86_400..88_300).contains(&bound), "{bound}");
        beat_for(&mut world, bound);
        world.pass_time(60).await;
        assert_eq!(clusters(&world), json!(["south"]));
    }
}

#[tokio::test]
async fn a_hub_that_hears_few_of_its_members_suspects_itself() {
    let mut world = cut_off(json!({"tolerationSeconds": 60})).await;
    world.members[1].mood = Mood::Silent;
    // Two of three are more than half; the third beats, so that the hub is not deaf.
    world.pass_time(600).await;
    assert_eq!((clusters(&world), withdrawn(&world)), (json!(["north"]), vec![Value::Null]));
    let message = world.condition("train", "Reachable").2;
    assert!(message.contains("2 of 3 members fell silent at once"), "{message}");
    world.members[1].mood = Mood::Runs;
    world.pass_time(30).await;
    assert_eq!(clusters(&world), json!(["north"]), "it may be the next to come back");
    world.pass_time(90).await;
    assert_ne!(clusters(&world), json!(["north"]), "it is rather lost");
}
