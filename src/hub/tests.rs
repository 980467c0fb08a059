//! The hub as a whole, against an API server and members in memory.

use serde_json::json;

mod adopting;
mod crashing;
mod draining;
mod ending;
mod explaining;
mod failing;
mod leaders;
mod leaving;
mod member;
mod metrics;
mod objects;
mod process;
mod refusing;
mod request;
mod restoring;
mod server;
mod sharing;
mod world;

use member::Mood;
use world::World;

#[tokio::test]
async fn a_job_costs_four_requests_and_the_removal_of_its_lease() {
    let mut world = World::new(&[("north", 4)]).await;
    world.forget_calls();
    world.submit("train", 3, json!({}));
    world.settle().await;
    assert_eq!(world.phase("train"), "Succeeded");
    assert_eq!(
        world.shorts(),
        [
            "PATCH gpujobs/status",
            "POST gpuleases",
            "PATCH gpujobs/status",
            "PATCH gpujobs/status",
            "DELETE gpuleases",
        ]
    );
    assert!(world.leases().is_empty());
    assert_eq!(world.job("train")["status"]["completedIndexes"], json!("0-2"));
    world.is_silent().await;
    world.after(120_000);
    world.is_silent().await;
}

#[tokio::test]
async fn a_running_job_writes_nothing() {
    let mut world = World::new(&[("north", 4)]).await;
    world.mood(Mood::Runs);
    world.submit("train", 3, json!({}));
    world.settle().await;
    assert_eq!(world.phase("train"), "Running");
    world.is_silent().await;
    world.after(120_000);
    world.is_silent().await;
}
