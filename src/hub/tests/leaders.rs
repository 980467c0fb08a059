//! Two hubs over one store, in any order of everything: leadership is only an optimisation.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::member::Mood;
use super::objects::job_at;
use super::process::Hub;
use super::world::{World, rest};
use crate::engine::indexes::Indexes;

const JOBS: [&str; 3] = ["a", "b", "c"];

/// Lets one request through that waits, if one does.
fn let_through(world: &mut World, any: usize) {
    let mut store = world.server.store();
    let Some(held) = store.held.as_mut().filter(|held| !held.is_empty()) else { return };
    let request = held.remove(any % held.len());
    let _ = request.send(());
}

/// One member takes one step with one lease.
fn member_step(world: &mut World, any: usize, reclaims: bool) {
    let leases = world.leases();
    let Some(lease) = leases.get(any % leases.len().max(1)) else { return };
    let mut store = world.server.store();
    for member in &mut world.members {
        if lease["metadata"]["namespace"] != json!(member.namespace()) {
            continue;
        }
        match reclaims {
            true => member.reclaim(&mut store, lease),
            false => member.step(&mut store, lease, Mood::Works),
        }
        member.publish(&mut store);
    }
}

/// A user stops or resumes one job, or deletes the last.
fn user_step(world: &mut World, any: usize) {
    let exists = |name: &str| world.server.store().objects.contains_key(&job_at(name));
    if any.is_multiple_of(11) && exists("c") {
        return world.delete("gpujobs", "team", "c");
    }
    let suspend = world.job("a")["spec"]["suspend"] != json!(true);
    world.edit("gpujobs", "team", "a", json!({ "suspend": suspend }));
}

async fn turn(world: &mut World, what: u8, any: usize) {
    let (hub, any, now) = (any % 2, any / 2, world.now);
    match what {
        0..=2 => drop(world.hubs[hub].hear(&mut world.server.store(), any, now)),
        3 => world.hear(hub),
        4 => drop(world.hubs[hub].learn(now)),
        5..=7 => world.hubs[hub].inner.pass(now),
        8..=11 => let_through(world, any),
        12..=14 => member_step(world, any, false),
        15 => world.after(u64::try_from(any % 4_000).unwrap()),
        16 => member_step(world, any, true),
        _ => user_step(world, any),
    }
    rest().await;
}

/// Two leases never cover one replica, and none is of an epoch that nobody recorded.
fn check(world: &World) {
    let mut covered: BTreeMap<(String, u32), Value> = BTreeMap::new();
    for lease in world.leases() {
        let job = lease["spec"]["job"]["uid"].as_str().unwrap().to_owned();
        let withdrawn = lease["spec"].get("withdrawn").is_some();
        let live = match lease["status"]["phase"].as_str() {
            None => !withdrawn,
            Some(phase) => phase != "Refused" && phase != "Released",
        };
        let name = lease["spec"]["job"]["name"].as_str().unwrap();
        let stored = world.server.store().objects.get(&job_at(name)).cloned();
        if let Some(stored) = stored {
            let next = stored["status"]["nextAttempt"].as_u64().unwrap_or(0);
            assert!(lease["spec"]["epoch"]["attempt"].as_u64().unwrap() < next, "{lease:#}");
        }
        for index in Indexes::parse(lease["spec"]["indexes"].as_str().unwrap()).unwrap().iter() {
            let other = live.then(|| covered.insert((job.clone(), index), lease.clone())).flatten();
            assert!(other.is_none(), "twice: {index} of {job}\n{other:#?}\n{lease:#}");
        }
    }
    let leases = world.leases();
    for held in world.members.iter().flat_map(|member| member.held.keys()) {
        let known = leases.iter().any(|lease| lease["metadata"]["name"] == json!(held));
        assert!(known, "the lease {held} was removed while its member held GPUs for it");
    }
}

/// Everything that waits goes on, and everybody does what they should.
async fn calm(world: &mut World) {
    while world.server.store().held.as_ref().is_some_and(|held| !held.is_empty()) {
        let_through(world, 0);
        rest().await;
        check(world);
    }
    world.server.store().held = None;
    world.edit("gpujobs", "team", "a", json!({"suspend": false}));
    for _ in 0..60 {
        world.settle().await;
        check(world);
        let left = world.server.store().all("gpujobs");
        if left.iter().all(|job| job["status"]["phase"] == json!("Succeeded")) {
            return;
        }
        world.after(15_000);
    }
    panic!("a job never ends: {:#?}", world.server.store().all("gpujobs"));
}

async fn play(turns: Vec<(u8, usize)>) {
    let mut world = World::new(&[("north", 4), ("south", 3)]).await;
    world.hubs.push(Hub::start(&world.server, world.now));
    world.server.store().held = Some(Vec::new());
    world.submit("a", 3, json!({}));
    world.submit("b", 4, json!({"parallelism": 2}));
    world.submit("c", 2, json!({}));
    for (what, any) in turns {
        turn(&mut world, what, any).await;
        check(&world);
    }
    calm(&mut world).await;
    assert!(world.leases().is_empty(), "{:#?}", world.leases());
    for name in JOBS {
        let job = world.server.store().objects.get(&job_at(name)).cloned();
        let done = job.is_none_or(|job| job["status"]["phase"] == json!("Succeeded"));
        assert!(done, "{name}");
    }
    world.is_silent().await;
}

/// A hub that lags behind hears of a lease before it hears of its job.
async fn lagging(mood: Mood) -> World {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(mood);
    world.hubs.push(Hub::start(&world.server, world.now));
    world.submit("train", 1, json!({}));
    world.pass(0).await;
    world.members_act();
    world.members_act();
    world.members_act();
    world.server.store().news[1].retain(|news| news.plural != "gpujobs");
    world.pass(1).await;
    world.hear(1);
    world.pass(1).await;
    world
}

#[tokio::test]
async fn a_hub_that_has_not_heard_of_a_job_does_not_take_it_for_deleted() {
    let mut world = lagging(Mood::Runs).await;
    assert!(world.leases()[0]["spec"].get("withdrawn").is_none());
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    world.is_silent().await;
}

#[tokio::test]
async fn a_hub_that_has_not_heard_of_a_job_removes_no_result_of_it() {
    let mut world = lagging(Mood::Works).await;
    world.after(2_000);
    world.pass(1).await;
    assert_eq!(world.leases().len(), 1);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    assert_eq!(world.starts().len(), 1, "its result was on no record, so it ran again");
    assert!(world.leases().is_empty());
    world.is_silent().await;
}

/// Two hubs, and a job whose only lease the second has not heard of while the first goes on alone.
async fn unheard() -> World {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Refuses);
    world.hubs.push(Hub::start(&world.server, world.now));
    world.submit("train", 1, json!({}));
    world.pass(0).await;
    world.server.store().news[1].retain(|news| news.plural != "gpuleases");
    world.hear(1);
    world
}

/// The member refuses, the first hub puts that on record, and somebody removes the lease.
async fn refused_and_removed(world: &mut World) {
    let second = world.hubs.pop().unwrap();
    world.settle().await;
    let name = world.leases()[0]["metadata"]["name"].as_str().unwrap().to_owned();
    world.delete("gpuleases", "member-north", &name);
    world.settle().await;
    assert!(world.leases().is_empty());
    world.hubs.push(second);
}

#[tokio::test]
async fn a_lease_that_is_over_is_not_completed_by_a_hub_that_lags() {
    let mut world = unheard().await;
    refused_and_removed(&mut world).await;
    world.forget_calls();
    world.hubs[1].inner.pass(world.now);
    rest().await;
    assert_eq!(world.shorts(), ["GET gpujobs"]);
    assert!(world.leases().is_empty());
    world.settle().await;
    world.is_silent().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_hubs_never_lease_one_replica_twice_and_every_job_ends(
        turns in prop::collection::vec((0_u8..18, 0_usize..100_000), 50..400),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(play(turns));
    }
}
