//! Members that fall silent, and members that leave.

use serde_json::{Value, json};

use super::member::Mood;
use super::objects::at;
use super::world::World;

/// A job of two replicas runs on `north`, the larger of two members.
async fn running_in_the_north() -> World {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({}));
    world.settle().await;
    assert_eq!(world.members[0].starts.len(), 1);
    world.forget_calls();
    world
}

fn member(world: &World, name: &str) -> Option<Value> {
    world.server.store().objects.get(&at("memberclusters", "", name)).cloned()
}

/// Reason of a member's `Ready`, and the keys of its taints.
fn standing(world: &World, name: &str) -> (String, Vec<String>) {
    let member = member(world, name).unwrap();
    let conditions = member["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|one| one["type"] == json!("Ready")).unwrap();
    let taints = member["spec"]["taints"].as_array().into_iter().flatten();
    let keys = taints.map(|taint| taint["key"].as_str().unwrap().to_owned());
    (ready["reason"].as_str().unwrap().to_owned(), keys.collect())
}

#[tokio::test]
async fn a_member_that_beats_and_takes_no_notice_of_its_leases_is_silent() {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    assert_eq!(standing(&world, "north"), ("Ready".into(), vec![]));
    world.members[0].mood = Mood::Mute;
    world.submit("train", 1, json!({}));
    world.pass_time(40).await;
    assert_eq!(standing(&world, "north"), ("Ready".into(), vec![]));
    world.pass_time(10).await;
    let unreachable = vec!["idlewild.dev/unreachable".to_owned()];
    assert_eq!(standing(&world, "north"), ("MemberSilent".into(), unreachable));
    assert_eq!(world.phase("train"), "Succeeded", "on the other one, after 10 s");
    world.settle().await;
    world.is_silent().await;
    world.members[0].mood = Mood::Works;
    world.settle().await;
    assert_eq!(standing(&world, "north"), ("Ready".into(), vec![]));
    world.is_silent().await;
}

#[tokio::test]
async fn nothing_is_evicted_when_a_member_falls_silent() {
    let mut world = running_in_the_north().await;
    world.members[0].mood = Mood::Silent;
    world.pass_time(35).await;
    assert_eq!(world.phase("train"), "Running");
    world.pass_time(600).await;
    assert_eq!(world.phase("train"), "Unknown");
    let (status, reason, _) = world.condition("train", "Reachable");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "MemberSilent"));
    assert_eq!(world.shorts(), ["PATCH gpujobs/status"], "once, whatever the silence lasts");
    assert!(world.leases()[0]["spec"].get("withdrawn").is_none());
    let silent = &member(&world, "north").unwrap()["status"]["silentSeconds"];
    assert!(silent.as_i64().unwrap() >= 585, "{silent}");
    world.is_silent().await;
    world.submit("other", 1, json!({}));
    world.settle().await;
    assert_eq!(world.members[1].starts.len(), 1, "nothing new goes there");
    world.members[0].mood = Mood::Runs;
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    assert_eq!(world.condition("train", "Reachable").0, "True");
    assert_eq!(member(&world, "north").unwrap()["status"].get("silentSeconds"), None);
    world.is_silent().await;
}

#[tokio::test]
async fn a_new_hub_does_not_take_a_silent_member_for_one_that_was_heard() {
    let mut world = running_in_the_north().await;
    world.members[0].mood = Mood::Silent;
    world.pass_time(120).await;
    world.forget_calls();
    world.reborn(0);
    world.pass_time(120).await;
    assert_eq!(world.phase("train"), "Unknown");
    assert_eq!(world.shorts(), Vec::<String>::new());
    world.is_silent().await;
}

#[tokio::test]
async fn a_hub_that_could_hear_nobody_gives_no_leaving_member_up() {
    let mut world = running_in_the_north().await;
    world.delete("memberclusters", "", "north");
    // Its API server is away: it leads no more, and hears nobody.
    world.mood(Mood::Silent);
    world.after(90_000);
    let now = world.now.instant;
    world.hubs[0].inner.begin(now);
    world.pass(0).await;
    world.mood(Mood::Runs);
    world.settle().await;
    let status = &world.job("train")["status"];
    assert_eq!(status["attempts"][0]["reason"], json!("MemberLeft"), "it left in order");
    assert_eq!(status["evictions"]["clusterLost"], json!(0));
}

#[tokio::test]
async fn a_member_that_leaves_in_silence_loses_its_leases_which_go_elsewhere() {
    let mut world = running_in_the_north().await;
    world.members[0].mood = Mood::Silent;
    world.pass_time(60).await;
    world.delete("memberclusters", "", "north");
    let mut gone_at = None;
    for step in 0..100 {
        let held = world.job("train")["status"]["allocations"].clone();
        let held = held
            .as_array()
            .is_some_and(|all| all[..].iter().any(|one| one["cluster"] == json!("north")));
        let exists = member(&world, "north").is_some();
        assert!(exists || !held, "the member went before its leases were off the record");
        if !exists {
            gone_at.get_or_insert(step);
        }
        world.after(500);
        world.members_act();
        world.pass(0).await;
    }
    assert!(gone_at.is_some(), "it never went");
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    let status = &world.job("train")["status"];
    assert_eq!(status["attempts"][0]["reason"], json!("ClusterLost"));
    assert_eq!(status["evictions"]["clusterLost"], json!(1));
    assert_eq!(status["allocations"][0]["cluster"], json!("south"));
    assert_eq!(world.members[1].starts.len(), 1);
    assert_eq!(world.leases().len(), 1);
    world.is_silent().await;
}

#[tokio::test]
async fn a_member_that_leaves_in_order_ends_its_leases_first() {
    let mut world = running_in_the_north().await;
    world.delete("memberclusters", "", "north");
    world.pass(0).await;
    world.pass(0).await;
    assert_eq!(world.leases()[0]["spec"]["withdrawn"]["reason"], json!("MemberLeft"));
    assert!(member(&world, "north").is_some(), "its lease has not ended");
    world.settle().await;
    assert!(member(&world, "north").is_none());
    let status = &world.job("train")["status"];
    assert_eq!(status["attempts"][0]["reason"], json!("MemberLeft"));
    assert_eq!(status["allocations"][0]["cluster"], json!("south"));
    assert_eq!(world.leases().len(), 1);
    world.is_silent().await;
}

#[tokio::test]
async fn a_member_that_was_removed_by_force_is_looked_up_before_it_is_given_up() {
    let mut world = running_in_the_north().await;
    world.members[0].mood = Mood::Silent;
    world.pass_time(60).await;
    world.edit_metadata("memberclusters", "north", json!({"finalizers": []}));
    world.delete("memberclusters", "", "north");
    let asked = |world: &World| {
        let store = world.server.store();
        store.calls.iter().any(|call| call.verb == "GET" && call.at.0 == "memberclusters")
    };
    assert!(!asked(&world));
    world.settle().await;
    assert!(asked(&world));
    assert_eq!(world.job("train")["status"]["attempts"][0]["reason"], json!("ClusterLost"));
    assert_eq!(world.members[1].starts.len(), 1);
    world.is_silent().await;
}

#[tokio::test]
async fn a_member_that_is_dismissed_in_silence_keeps_what_must_never_run_twice_until_its_time_is_over()
 {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.mood(Mood::Runs);
    let failover = json!({"duplicatePolicy": "Never"});
    world.submit("train", 1, json!({"failover": failover, "maxRunningSeconds": 600}));
    world.settle().await;
    world.members[0].mood = Mood::Silent;
    world.pass_time(60).await;
    world.delete("memberclusters", "", "north");
    world.pass_time(300).await;
    assert_eq!(world.job("train")["status"]["clusters"], json!(["north"]));
    assert!(member(&world, "north").is_some(), "it holds the record of what it may run");
    world.pass_time(500).await;
    world.settle().await;
    assert!(member(&world, "north").is_none());
    assert_eq!(world.job("train")["status"]["attempts"][0]["reason"], json!("ClusterLost"));
    world.is_silent().await;
}

#[tokio::test]
async fn a_member_whose_heartbeat_is_gone_when_the_hub_starts_is_given_its_time_and_no_more() {
    let mut world = World::new(&[("north", 8), ("south", 4), ("west", 1)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({"failover": {"tolerationSeconds": 120}}));
    world.settle().await;
    world.members[0].mood = Mood::Silent;
    world.delete("leases", "member-north", "member");
    world.reborn(0);
    world.pass_time(100).await;
    let clusters = |world: &World| world.job("train")["status"]["clusters"].clone();
    assert_eq!((clusters(&world), world.phase("train").as_str()), (json!(["north"]), "Unknown"));
    world.pass_time(40).await;
    assert_eq!(clusters(&world), json!(["south"]));
}
