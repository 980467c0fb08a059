//! Hubs whose store is older than what their members know.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::member::Mood;
use super::objects::{at, identity, identity_at};
use super::process::{Hub, incarnation};
use super::server::At;
use super::world::World;

/// All that the hub's store holds.
fn backup(world: &World) -> BTreeMap<At, Value> {
    world.server.store().objects.clone()
}

/// The store is what it was; a hub that was told so starts on it.
fn restore(world: &mut World, backup: &BTreeMap<At, Value>) {
    world.server.store().objects.clone_from(backup);
    world.hubs[0] = Hub::start_restored(&world.server, world.now);
}

fn epochs(world: &World, job: &str) -> Vec<String> {
    let job = world.job(job);
    let allocations = job["status"]["allocations"].as_array().into_iter().flatten();
    let epoch =
        |one: &Value| format!("{}.{}", one["epoch"]["incarnation"], one["epoch"]["attempt"]);
    allocations.map(epoch).collect()
}

fn withdrawn(world: &World) -> Vec<String> {
    let all = world.leases();
    all.iter()
        .filter_map(|one| Some(one["spec"]["withdrawn"]["reason"].as_str()?.to_owned()))
        .collect()
}

/// Time passes in steps in which members and hub act.
async fn minute(world: &mut World) {
    world.pass_time(70).await;
}

#[tokio::test]
async fn what_was_placed_after_the_backup_is_taken_up_again_and_runs_on_untouched() {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.submit("old", 2, json!({"suspend": true}));
    world.settle().await;
    let before = backup(&world);
    world.mood(Mood::Runs);
    world.edit("gpujobs", "team", "old", json!({"suspend": false}));
    world.settle().await;
    assert_eq!(
        (world.phase("old").as_str(), epochs(&world, "old")),
        ("Running", vec!["1.0".into()])
    );
    let mut before = before;
    before.get_mut(&at("gpujobs", "team", "old")).unwrap()["spec"]["suspend"] = json!(false);
    restore(&mut world, &before);
    world.pass(0).await;
    let (status, reason, message) = world.condition("old", "Placed");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "HubRestored"), "{message}");
    world.members_act();
    minute(&mut world).await;
    assert_eq!(
        (world.phase("old").as_str(), epochs(&world, "old")),
        ("Running", vec!["1.0".into()])
    );
    assert_eq!(world.starts().len(), 2, "nothing began twice");
    assert!(withdrawn(&world).is_empty());
    assert_eq!(incarnation(&world.server), 2);
    world.is_silent().await;
    // What comes next has a number that nobody has seen.
    world.submit("new", 1, json!({}));
    minute(&mut world).await;
    assert_eq!(epochs(&world, "new"), ["2.0"]);
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(
        (world.phase("old").as_str(), world.phase("new").as_str()),
        ("Succeeded", "Succeeded")
    );
    assert_eq!((world.starts().len(), world.leases().len()), (3, 0));
    world.is_silent().await;
}

#[tokio::test]
async fn a_hub_that_was_not_told_learns_of_it_and_takes_a_new_incarnation_first() {
    let mut world = World::new(&[("north", 8)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({}));
    world.settle().await;
    // The job's record and the lease are lost; the hub goes on as before.
    let mut job = world.job("train");
    job["status"] = json!({});
    let lease = world.leases().remove(0);
    world.delete("gpuleases", "member-north", lease["metadata"]["name"].as_str().unwrap());
    world.members_act();
    world.server.store().put(at("gpujobs", "team", "train"), job);
    world.settle().await;
    assert_eq!((incarnation(&world.server), epochs(&world, "train")), (2, vec!["1.0".into()]));
    assert_eq!((world.phase("train").as_str(), world.starts().len()), ("Running", 1));
    world.is_silent().await;
}

#[tokio::test]
async fn a_hub_whose_incarnation_members_know_to_be_old_takes_a_newer_one() {
    let mut world = World::new(&[("north", 8)]).await;
    world.server.store().put(identity_at(), identity(3));
    world.reborn(0);
    world.submit("one", 1, json!({}));
    world.settle().await;
    assert_eq!(world.phase("one"), "Succeeded");
    world.server.store().put(identity_at(), identity(1));
    world.reborn(0);
    world.submit("two", 1, json!({}));
    world.settle().await;
    assert_eq!((world.phase("two").as_str(), incarnation(&world.server)), ("Succeeded", 3));
    assert_eq!(world.job("two")["status"]["attempts"][0]["epoch"]["incarnation"], json!(3));
    // A member that lies makes it no higher than anybody would believe.
    let mut pool = world.server.store().objects[&at("gpupools", "member-north", "lab")].clone();
    pool["status"]["incarnation"] = json!(u32::MAX);
    world.server.store().put(at("gpupools", "member-north", "lab"), pool);
    world.pass(0).await;
    assert_eq!(incarnation(&world.server), 3);
}

#[tokio::test]
async fn of_two_attempts_the_later_one_is_current_and_the_earlier_one_goes_first() {
    let mut world = World::new(&[("north", 4), ("south", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({"failover": {"tolerationSeconds": 60}}));
    world.settle().await;
    let before = backup(&world);
    let (first, second) = match world.job("train")["status"]["clusters"][0].as_str() {
        Some("north") => (0, 1),
        _ => (1, 0),
    };
    world.members[first].mood = Mood::Silent;
    world.pass_time(90).await;
    assert_eq!(epochs(&world, "train"), ["1.1"]);
    // Restored to when the first attempt ran: to the hub it is the current one.
    restore(&mut world, &before);
    world.members[first].mood = Mood::Runs;
    minute(&mut world).await;
    world.settle().await;
    assert_eq!(epochs(&world, "train"), ["1.1"]);
    let held = |member: usize| world.members[member].held.len();
    assert_eq!((held(first), held(second)), (0, 1));
    assert_eq!((world.starts().len(), world.leases().len()), (2, 1));
    world.is_silent().await;
}

#[tokio::test]
async fn what_is_over_by_the_record_is_told_to_end_and_leaves_nothing() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({"suspend": true}));
    world.settle().await;
    let before = backup(&world);
    world.edit("gpujobs", "team", "train", json!({"suspend": false}));
    world.settle().await;
    assert_eq!(world.members[0].held.len(), 1);
    restore(&mut world, &before);
    minute(&mut world).await;
    world.settle().await;
    assert_eq!((world.members[0].held.len(), world.leases().len()), (0, 0));
    assert_eq!(world.phase("train"), "Suspended");
    world.is_silent().await;
}

#[tokio::test]
async fn what_serves_no_job_here_runs_on() {
    let mut world = World::new(&[("north", 4)]).await;
    let before = backup(&world);
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({}));
    world.settle().await;
    restore(&mut world, &before);
    minute(&mut world).await;
    world.settle().await;
    assert_eq!((world.members[0].held.len(), world.leases().len()), (1, 0));
    let pool = world.server.store().objects[&at("gpupools", "member-north", "lab")].clone();
    assert_eq!(pool["status"]["orphanCount"], json!(1));
    world.is_silent().await;
}

#[tokio::test]
async fn a_lease_that_somebody_deleted_is_made_again_and_its_guest_runs_on() {
    for silent in [false, true] {
        let mut world = World::new(&[("north", 4), ("south", 2)]).await;
        world.mood(Mood::Runs);
        world.submit("train", 1, json!({}));
        world.settle().await;
        world.after(20_000);
        if silent {
            world.members[0].mood = Mood::Silent;
        }
        let lease = world.leases().remove(0);
        world.delete("gpuleases", "member-north", lease["metadata"]["name"].as_str().unwrap());
        world.pass_time(60).await;
        let made = world.leases().remove(0);
        assert_ne!(made["metadata"]["uid"], lease["metadata"]["uid"]);
        assert_eq!(made["spec"]["digest"], lease["spec"]["digest"]);
        world.members[0].mood = Mood::Runs;
        world.settle().await;
        assert_eq!((world.phase("train").as_str(), world.starts().len()), ("Running", 1));
        assert!(withdrawn(&world).is_empty());
        world.is_silent().await;
    }
}

#[tokio::test]
async fn a_restored_lease_of_which_its_member_holds_nothing_begins_nothing_there() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({}));
    world.settle().await;
    let mut before = backup(&world);
    before.retain(|at, _| at.0 != "gpuleases");
    world.members[0].held.clear();
    world.members[0].guests.clear();
    restore(&mut world, &before);
    world.mood(Mood::Works);
    minute(&mut world).await;
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    let attempts = world.job("train")["status"]["attempts"].clone();
    assert_eq!(attempts[0]["epoch"], json!({"incarnation": 2, "attempt": 1}), "another one");
    world.is_silent().await;
}

#[tokio::test]
async fn what_must_never_run_twice_waits_for_every_member_to_say_what_it_runs() {
    let mut world = World::new(&[("north", 4), ("south", 2), ("west", 1)]).await;
    world.submit("train", 1, json!({"suspend": true, "failover": {"duplicatePolicy": "Never"}}));
    world.settle().await;
    let mut before = backup(&world);
    before.get_mut(&at("gpujobs", "team", "train")).unwrap()["spec"]["suspend"] = json!(false);
    world.mood(Mood::Runs);
    world.edit("gpujobs", "team", "train", json!({"suspend": false}));
    world.settle().await;
    assert_eq!(world.members[0].held.len(), 1);
    world.members[0].mood = Mood::Silent;
    restore(&mut world, &before);
    world.pass_time(300).await;
    let (status, reason, message) = world.condition("train", "Placed");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "HubRestored"));
    assert!(message.contains("north has not said"), "{message}");
    assert_eq!(world.starts().len(), 1);
    world.members[0].mood = Mood::Runs;
    minute(&mut world).await;
    assert_eq!(
        (world.phase("train").as_str(), epochs(&world, "train")),
        ("Running", vec!["1.0".into()])
    );
    assert_eq!(world.starts().len(), 1);
    world.is_silent().await;
}
