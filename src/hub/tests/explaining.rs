//! Who only looks says what the hub says.

use serde_json::json;

use super::member::Mood;
use super::objects::job;
use super::process::list;
use super::world::World;
use crate::api::explanation::Position;
use crate::api::gpujob::Phase;
use crate::api::{GpuJob, GpuJobExplanation};
use crate::cluster::Seen;
use crate::hub::facts::Event;
use crate::hub::snapshot::View;

fn view(world: &World) -> View {
    let (_, events) = tokio::sync::mpsc::channel(1);
    let mut view = View::of(events);
    assert!(!view.closed_gates().is_empty());
    list(&world.server, |event| view.take(event, world.now.instant));
    assert!(view.closed_gates().is_empty());
    view
}

fn explain(view: &mut View, world: &World, job: &str) -> GpuJobExplanation {
    let key = ("team".to_owned(), job.to_owned());
    view.explain_at(key, world.now).unwrap_or_else(|| panic!("there is no {job}"))
}

/// A queue of namespace `team` with this spec besides.
fn queue(world: &mut World, name: &str, spec: serde_json::Value) {
    let queue = json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuQueue", "metadata": {},
        "spec": {"namespaceSelector": {"matchLabels": {"of": name}}}});
    world.put("gpuqueues", "", name, queue);
    world.edit("gpuqueues", "", name, spec);
    world.edit_metadata("namespaces", "team", json!({"labels": {"of": name}}));
}

/// Jobs that wait for every reason there is.
async fn waiting() -> World {
    let mut world = World::new(&[("north", 4), ("south", 2)]).await;
    world.mood(Mood::Runs);
    world.members[1].mood = Mood::Refuses;
    world.submit("holder", 4, json!({}));
    world.settle().await;
    queue(&mut world, "small", json!({"quota": [{"gpus": 1}]}));
    queue(&mut world, "held", json!({"stopPolicy": "Hold"}));
    queue(&mut world, "tight", json!({"quota": [{"gpus": 1}]}));
    world.edit_metadata("namespaces", "team", json!({"labels": {"of": "tight"}}));
    let model = json!({"count": 1, "anyOf": [{"model": "H100"}]});
    for (name, completions, spec) in [
        ("waits", 1, json!({"queueName": "default", "size": 4})),
        ("many", 7, json!({"queueName": "default"})),
        ("large", 1, json!({"queueName": "default", "size": 9})),
        ("model", 1, json!({"queueName": "default", "gpu": model})),
        ("land", 1, json!({"queueName": "default", "data": {"residency": ["EU"]}})),
        ("stranger", 1, json!({"queueName": "nowhere"})),
        ("over", 1, json!({"queueName": "tight", "size": 3})),
        ("wrong", 1, json!({"queueName": "default", "priorityClassName": "nope"})),
        ("asleep", 1, json!({"queueName": "default", "suspend": true})),
    ] {
        world.submit(name, completions, spec);
    }
    world.settle().await;
    world.edit("gpuqueues", "", "tight", json!({"stopPolicy": "Hold", "quota": []}));
    world.submit("frozen", 1, json!({"queueName": "tight"}));
    world.settle().await;
    // Messages are reworded once a minute.
    world.after(61_000);
    world.settle().await;
    world
}

#[tokio::test]
async fn an_explanation_says_what_the_hub_wrote() {
    let world = waiting().await;
    let mut view = view(&world);
    let mut reasons = std::collections::BTreeSet::new();
    for job in world.server.store().all("gpujobs") {
        let name = job["metadata"]["name"].as_str().unwrap();
        let said = explain(&mut view, &world, name);
        let written = &job["status"];
        assert_eq!(json!(said.phase), written["phase"], "{name}");
        assert_eq!(json!(said.reason), written["summary"]["reason"], "{name}");
        assert_eq!(json!(said.queue.name), written["summary"]["queue"], "{name}");
        let conditions = written["conditions"].as_array().unwrap();
        let kinds = ["QuotaReserved", "Placed"];
        let waits = |held: &&serde_json::Value| {
            held["status"] == "False" && kinds.iter().any(|kind| held["type"] == *kind)
        };
        if let Some(held) = conditions.iter().find(waits) {
            assert_eq!(json!(said.message), held["message"], "{name}");
        }
        if !said.reason.is_empty() && said.queue.position.is_some() {
            assert_eq!(said.pools.len(), 2, "{name}");
            assert!(said.next.is_empty(), "{name} would have been placed: {:?}", said.next);
        }
        reasons.insert(said.reason);
    }
    let want = [
        "",
        "Misconfigured",
        "NoMatchingModel",
        "NoPoolFits",
        "QueueHeld",
        "QueueNotAllowed",
        "ResidencyUnsatisfied",
        "Suspended",
        "WaitingForCapacity",
    ];
    let seen: Vec<&str> = reasons.iter().map(String::as_str).collect();
    assert_eq!(seen, want);
}

#[tokio::test]
async fn what_is_said_to_be_placed_next_is_placed_there() {
    let mut world = World::new(&[("north", 4), ("south", 8)]).await;
    world.mood(Mood::Runs);
    world.submit("first", 2, json!({}));
    let said = explain(&mut view(&world), &world, "first");
    let place = |said: &GpuJobExplanation| said.next[0].cluster.clone();
    assert_eq!(said.message, "the next round places it");
    assert_eq!(said.queue.position, Some(Position { place: 1, of: 1 }));
    assert_eq!(said.next.iter().map(|next| next.replicas).sum::<u32>(), 2);
    assert!(said.pools.iter().all(|pool| pool.fits > 0) && said.changes.is_empty());
    world.settle().await;
    let said_first = place(&said);
    assert_eq!(world.job("first")["status"]["allocations"][0]["cluster"], json!(said_first));
    let said = explain(&mut view(&world), &world, "first");
    assert_eq!((said.phase, said.reason.as_str()), (Some(Phase::Running), ""));
    assert_eq!(said.runs[0].cluster, said_first);
    assert!(said.queue.position.is_none() && said.pools.is_empty());
}

#[tokio::test]
async fn a_view_that_stays_open_says_what_a_new_one_says() {
    let mut world = World::new(&[("north", 2)]).await;
    world.mood(Mood::Runs);
    let mut open = view(&world);
    for n in 0..4 {
        world.submit(&format!("job-{n}"), 1, json!({}));
        world.settle().await;
        list(&world.server, |event| open.take(event, world.now.instant));
        let mut fresh = view(&world);
        for m in 0..=n {
            let job = format!("job-{m}");
            assert_eq!(explain(&mut open, &world, &job), explain(&mut fresh, &world, &job));
        }
    }
    let position = |n: u32| Some(Position { place: n, of: 2 });
    assert_eq!(explain(&mut open, &world, "job-2").queue.position, position(1));
    assert_eq!(explain(&mut open, &world, "job-3").queue.position, position(2));
    world.delete("gpujobs", "team", "job-2");
    world.settle().await;
    list(&world.server, |event| open.take(event, world.now.instant));
    let last = explain(&mut open, &world, "job-3");
    assert_eq!(last.queue.position, Some(Position { place: 1, of: 1 }));
    assert_eq!(open.explain_at(("team".into(), "job-2".into()), world.now), None);
}

#[tokio::test]
async fn jobs_that_come_and_go_while_nobody_asks_leave_nothing_behind() {
    let world = World::new(&[("north", 2)]).await;
    let mut view = view(&world);
    for n in 0..5000 {
        let mut job = job(1);
        job["metadata"] = json!({"name": format!("job-{n}"), "namespace": "team",
            "uid": format!("uid-{n}"), "resourceVersion": n.to_string()});
        let job: GpuJob = serde_json::from_value(job).unwrap();
        view.take(Event::Job(Seen::Object(job.clone())), world.now.instant);
        view.take(Event::Job(Seen::Gone(job)), world.now.instant);
    }
    assert!(view.backlog() <= 1100, "{}", view.backlog());
}
