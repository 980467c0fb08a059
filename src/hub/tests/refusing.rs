//! Members that say no, or nothing.

use serde_json::json;

use super::member::Mood;
use super::world::World;

#[tokio::test]
async fn a_refused_job_goes_elsewhere() {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.members[0].mood = Mood::Refuses;
    world.submit("train", 1, json!({}));
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    assert_eq!(world.job("train")["status"]["nextAttempt"], json!(2));
    assert_eq!(world.members[1].starts.len(), 1, "the larger pool was asked first");
    assert!(world.leases().is_empty());
    world.is_silent().await;
}

#[tokio::test]
async fn a_refused_lease_stays_while_its_job_lives_and_is_not_counted_again() {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.members[0].mood = Mood::Refuses;
    world.members[1].mood = Mood::Runs;
    world.submit("train", 1, json!({}));
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    let phases = |world: &World| {
        let leases = world.leases();
        let phase =
            |lease: &serde_json::Value| lease["status"]["phase"].as_str().map(str::to_owned);
        leases.iter().filter_map(phase).collect::<Vec<_>>()
    };
    assert_eq!(phases(&world), ["Refused", "Running"], "it is in the way of a late create");
    world.is_silent().await;
    world.reborn(0);
    world.settle().await;
    world.mood(Mood::Works);
    world.settle().await;
    assert!(world.leases().is_empty(), "{:?}", phases(&world));
    world.is_silent().await;
}

#[tokio::test]
async fn a_pool_that_refused_is_asked_again_only_after_a_newer_picture() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Refuses);
    world.submit("train", 1, json!({}));
    world.settle().await;
    world.after(600_000);
    world.settle().await;
    assert_eq!(world.phase("train"), "Queued");
    assert_eq!(world.job("train")["status"]["nextAttempt"], json!(1), "it was asked once");
    assert_eq!(world.condition("train", "Placed").1, "MemberRefused");
    world.is_silent().await;
    world.mood(Mood::Works);
    world.after(60_000);
    world.settle().await;
    assert_eq!(world.phase("train"), "Queued", "nothing new was published");
    world.members[0].serial += 1;
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    world.is_silent().await;
}

#[tokio::test]
async fn an_unanswered_lease_is_withdrawn_after_10_s_and_its_replica_goes_elsewhere() {
    let mut world = World::new(&[("north", 8), ("south", 4)]).await;
    world.members[0].mood = Mood::Mute;
    world.submit("train", 1, json!({}));
    world.settle().await;
    world.forget_calls();
    world.after(10_000);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    assert_eq!(world.members[1].starts.len(), 1);
    let calls = world.calls();
    let withdrawal = calls.iter().find(|call| call.short() == "PATCH gpuleases").unwrap();
    assert!(withdrawal.body["metadata"]["resourceVersion"].is_string(), "{withdrawal:#?}");
    assert_eq!(world.leases().len(), 1, "the member has not confirmed the withdrawal");
    world.is_silent().await;
    world.mood(Mood::Works);
    world.settle().await;
    assert!(world.leases().is_empty());
    assert!(world.members[0].starts.is_empty());
    world.is_silent().await;
}

#[tokio::test]
async fn an_acceptance_that_comes_first_beats_the_withdrawal() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Mute);
    world.submit("train", 1, json!({}));
    world.settle().await;
    world.after(10_000);
    world.forget_calls();
    // The hub decides on what it knew; the member accepts before the write arrives.
    world.hear(0);
    world.mood(Mood::Runs);
    world.members_act();
    world.hubs[0].inner.pass(world.now);
    super::world::rest().await;
    assert_eq!(world.shorts()[..2], ["PATCH gpuleases", "GET gpuleases"]);
    world.settle().await;
    assert!(world.leases()[0]["spec"].get("withdrawn").is_none());
    assert_eq!(world.phase("train"), "Running");
    assert_eq!(world.starts().len(), 1);
    world.is_silent().await;
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    world.is_silent().await;
}

#[tokio::test]
async fn a_pool_that_refuses_for_another_reason_than_its_gpus_is_not_asked_in_a_loop() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Refuses);
    world.submit("train", 1, json!({}));
    for _ in 0..300 {
        world.after(1_000);
        world.members[0].serial += 1;
        world.members_act();
        world.pass(0).await;
        world.hear(0);
    }
    let attempts = world.job("train")["status"]["nextAttempt"].as_u64().unwrap();
    assert!((4..=12).contains(&attempts), "asked {attempts} times in 5 minutes");
}

#[tokio::test]
async fn what_is_placed_in_part_is_on_record_before_its_lease() {
    let mut world = World::new(&[("north", 100)]).await;
    world.mood(Mood::Mute);
    for n in 0..31 {
        world.submit(&format!("train-{n}"), 1, json!({}));
    }
    world.pass(0).await;
    // One more lease may be sent, and this job wants two.
    world.submit("gangs", 2, json!({"size": 2}));
    world.pass(0).await;
    assert_eq!(world.leases().len(), 32);
    assert_eq!(world.server.store().unrecorded, Vec::<String>::new());
    assert_eq!(world.job("gangs")["status"]["nextAttempt"], json!(1));
}

#[tokio::test]
async fn a_member_is_sent_no_more_than_32_leases_that_it_has_not_answered() {
    let mut world = World::new(&[("north", 100)]).await;
    world.mood(Mood::Mute);
    for n in 0..40 {
        world.submit(&format!("train-{n}"), 1, json!({}));
    }
    world.pass(0).await;
    world.pass(0).await;
    assert_eq!(world.leases().len(), 32);
    world.mood(Mood::Works);
    world.settle().await;
    assert_eq!(world.starts().len(), 40);
    world.is_silent().await;
}

#[tokio::test]
async fn those_that_wait_for_answers_are_placed_as_they_come_not_with_the_next_picture() {
    let mut world = World::new(&[("north", 100)]).await;
    world.mood(Mood::Mute);
    for n in 0..60 {
        world.submit(&format!("train-{n}"), 1, json!({}));
    }
    world.pass(0).await;
    world.pass(0).await;
    assert_eq!(world.leases().len(), 32);
    // The member answers, and publishes nothing.
    {
        let mut store = world.server.store();
        for lease in store.all("gpuleases").into_iter().take(16) {
            world.members[0].step(&mut store, &lease, Mood::Runs);
        }
    }
    world.pass(0).await;
    world.pass(0).await;
    assert_eq!(world.leases().len(), 48);
}
