//! How jobs end, or stop: by their users, their queue, time, or a mistake in them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::member::Mood;
use super::objects::job_at;
use super::world::World;

/// A world with one running job of two replicas.
async fn running(spec: Value) -> World {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 2, spec);
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    world.forget_calls();
    world
}

#[tokio::test]
async fn a_suspended_job_gives_its_gpus_back_and_goes_on_when_resumed() {
    let mut world = running(json!({})).await;
    world.edit("gpujobs", "team", "train", json!({"suspend": true}));
    world.pass(0).await;
    assert_eq!(world.leases()[0]["spec"]["withdrawn"]["reason"], json!("Suspended"));
    world.settle().await;
    assert_eq!(world.phase("train"), "Suspended");
    assert_eq!(world.condition("train", "Suspended").0, "True");
    assert!(world.leases().is_empty());
    assert_eq!(world.job("train")["status"]["replicas"]["failed"], json!(0));
    world.is_silent().await;
    world.after(300_000);
    world.is_silent().await;
    world.edit("gpujobs", "team", "train", json!({"suspend": false}));
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    assert_eq!(world.condition("train", "Suspended").1, "Resumed");
    world.is_silent().await;
}

#[tokio::test]
async fn a_deleted_job_takes_its_leases_with_it() {
    let mut world = running(json!({})).await;
    world.delete("gpujobs", "team", "train");
    world.pass(0).await;
    assert_eq!(world.leases()[0]["spec"]["withdrawn"]["reason"], json!("JobDeleted"));
    world.settle().await;
    assert!(world.leases().is_empty());
    assert_eq!(world.shorts(), ["PATCH gpuleases", "DELETE gpuleases"]);
    world.is_silent().await;
}

#[tokio::test]
async fn a_job_keeps_away_from_where_the_owner_just_came_back() {
    // The large member would be chosen again: it keeps the larger share free.
    let mut world = World::new(&[("large", 100), ("small", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 1, json!({}));
    world.settle().await;
    let cluster = |world: &World| world.leases()[0]["metadata"]["namespace"].clone();
    assert_eq!(cluster(&world), json!("member-large"));
    let lease = world.leases().remove(0);
    world.members[0].reclaim(&mut world.server.store(), &lease);
    world.settle().await;
    assert_eq!(cluster(&world), json!("member-small"));
    // It is no rule: where nothing else is free it goes back.
    let lease = world.leases().remove(0);
    world.members[1].reclaim(&mut world.server.store(), &lease);
    world.settle().await;
    world.after(10_000);
    world.settle().await;
    assert_eq!(world.leases().len(), 1);
    assert_eq!(world.phase("train"), "Running");
}

#[tokio::test]
async fn the_lease_of_a_deleted_job_waits_for_its_silent_member() {
    let mut world = running(json!({})).await;
    world.mood(Mood::Silent);
    world.delete("gpujobs", "team", "train");
    world.settle().await;
    world.after(600_000);
    assert_eq!(world.leases().len(), 1, "a tombstone");
    world.mood(Mood::Works);
    world.settle().await;
    assert!(world.leases().is_empty());
    world.is_silent().await;
}

#[tokio::test]
async fn a_job_of_the_same_name_is_another_job() {
    let mut world = running(json!({})).await;
    world.delete("gpujobs", "team", "train");
    world.submit("train", 1, json!({}));
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    assert_eq!(world.job("train")["status"]["nextAttempt"], json!(1));
    assert!(world.leases().is_empty());
    world.is_silent().await;
}

#[tokio::test]
async fn a_drained_queue_evicts_what_runs_and_keeps_its_place() {
    let mut world = running(json!({})).await;
    world.edit("gpuqueues", "", "default", json!({"stopPolicy": "HoldAndDrain"}));
    world.settle().await;
    assert_eq!(world.phase("train"), "Requeued");
    assert!(world.leases().is_empty());
    let attempts = world.job("train")["status"]["attempts"].clone();
    assert_eq!(attempts[0]["reason"], json!("QueueDrained"));
    world.is_silent().await;
    world.after(600_000);
    world.is_silent().await;
    world.edit("gpuqueues", "", "default", json!({"stopPolicy": "None"}));
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    world.is_silent().await;
}

#[tokio::test]
async fn a_finished_job_is_deleted_when_its_time_is_over() {
    let mut world = running(json!({"ttlSecondsAfterFinished": 60})).await;
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    world.after(50_000);
    world.is_silent().await;
    world.forget_calls();
    world.after(10_000);
    world.settle().await;
    assert!(!world.server.store().objects.contains_key(&job_at("train")));
    assert_eq!(world.shorts(), ["DELETE gpujobs"]);
    let preconditions = &world.calls()[0].body["preconditions"];
    assert!(preconditions["uid"].is_string() && preconditions["resourceVersion"].is_string());
    world.is_silent().await;
}

#[tokio::test]
async fn a_job_that_cannot_work_is_told_everything_that_is_wrong_at_once() {
    let mut world = World::new(&[("north", 4)]).await;
    let container = json!({"name": "c", "image": "i", "securityContext": {"privileged": true}});
    let template = json!({"spec": {"hostNetwork": true, "containers": [container]}});
    world.submit("train", 1, json!({ "template": template }));
    world.settle().await;
    let (status, reason, message) = world.condition("train", "Placed");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Misconfigured"));
    assert!(message.contains("hostNetwork") && message.contains("privileged"), "{message}");
    assert!(world.leases().is_empty());
    world.is_silent().await;
    world.after(600_000);
    world.is_silent().await;
}

#[tokio::test]
async fn many_leases_of_a_member_are_removed_with_few_requests_once_they_are_on_record() {
    let mut world = World::new(&[("north", 200)]).await;
    let names: Vec<_> = (0..120).map(|n| format!("train-{n}")).collect();
    for name in &names {
        world.submit(name, 1, json!({}));
    }
    world.settle().await;
    assert!(names.iter().all(|name| world.phase(name) == "Succeeded"));
    assert!(world.leases().is_empty());
    let (mut removed, mut requests, mut recorded) = (0, 0, BTreeSet::new());
    for call in world.calls() {
        if call.body["status"]["completionTime"].is_string() {
            recorded.insert(call.body["metadata"]["uid"].as_str().unwrap().to_owned());
        }
        if call.short() == "DELETE gpuleases" {
            requests += 1;
            let labels = call.labels.as_ref().and_then(|labels| labels.split_once(" in ("));
            let names = labels.map_or(call.at.2.as_str(), |(_, names)| names.trim_end_matches(')'));
            let jobs = names.split(',').map(|name| name.strip_suffix("-1-0").unwrap());
            assert!(jobs.clone().count() <= 50, "{names}");
            removed += jobs.clone().count();
            assert!(jobs.clone().all(|uid| recorded.contains(uid)), "{names} are not on record");
        }
    }
    assert_eq!(removed, 120);
    assert!(requests <= 10, "{requests} requests");
    world.is_silent().await;
}
