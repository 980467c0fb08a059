//! What the hub's metrics show, and how many they are whatever members say.

use std::collections::BTreeMap;

use prometheus::proto::{MetricFamily, MetricType};
use serde_json::{Value, json};

use super::member::Mood;
use super::world::World;

/// Most series of a hub with three members, each of which fills whatever it may: 32 pairs of pool and
/// model and one for the rest with four states, its silence, age and version; and what every hub has.
const MOST: usize = 3 * (33 * 4 + 3) + 220;

fn families(world: &World) -> Vec<MetricFamily> {
    let hub = &world.hubs[0];
    hub.inner.figures.show(&hub.inner.state, world.now);
    hub.registry.gather()
}

/// The series of `name` by the values of their labels.
fn series(world: &World, name: &str) -> BTreeMap<String, i64> {
    let families = families(world);
    let family = families.iter().find(|family| family.name() == name);
    let all = family.map(MetricFamily::get_metric).unwrap_or_default().iter();
    let value = |one: &prometheus::proto::Metric| match family.map(MetricFamily::get_field_type) {
        Some(MetricType::COUNTER) => one.get_counter().get_value(),
        _ => one.get_gauge().get_value(),
    };
    #[allow(clippy::cast_possible_truncation, reason = "small whole numbers")]
    all.map(|one| {
        let labels: Vec<_> =
            one.get_label().iter().map(prometheus::proto::LabelPair::value).collect();
        (labels.join(" "), value(one) as i64)
    })
    .collect()
}

fn count(world: &World) -> usize {
    let ours = |family: &&MetricFamily| family.name().starts_with("idlewild_");
    let families = families(world);
    let one = |family: &MetricFamily| {
        let series = family.get_metric();
        let of_histogram =
            |one: &prometheus::proto::Metric| one.get_histogram().get_bucket().len() + 3;
        match family.get_field_type() {
            MetricType::HISTOGRAM => series.iter().map(of_histogram).sum(),
            _ => series.len(),
        }
    };
    families.iter().filter(ours).map(one).sum()
}

#[tokio::test]
async fn jobs_leases_and_members_are_shown_as_they_are() {
    let mut world = World::new(&[("north", 2)]).await;
    world.mood(Mood::Runs);
    world.submit("a", 1, json!({}));
    world.submit("b", 5, json!({}));
    world.settle().await;
    let jobs = series(&world, "idlewild_jobs");
    assert_eq!((jobs["Running"], jobs.len()), (2, 10), "{jobs:?}");
    assert_eq!(series(&world, "idlewild_waiting_jobs")["WaitingForCapacity"], 1);
    assert_eq!(series(&world, "idlewild_leases")["Running"], 2);
    assert_eq!(series(&world, "idlewild_member_silent"), [("north".into(), 0)].into());
    let gpus = series(&world, "idlewild_pool_gpus");
    let gpus =
        ["offered", "guests", "free"].map(|state| gpus[&format!("north unknown lab {state}")]);
    assert_eq!(gpus, [2, 2, 0], "agents of an earlier version say no models");
    assert_eq!(series(&world, "idlewild_allocations_total"), [(String::new(), 2)].into());
    let placed = families(&world);
    let placed = placed.iter().find(|family| family.name() == "idlewild_placement_seconds");
    let placed = placed.unwrap().get_metric()[0].get_histogram().get_sample_count();
    assert_eq!(placed, 2, "each job is placed for the first time once");
    world.mood(Mood::Silent);
    world.after(60_000);
    world.pass(0).await;
    assert_eq!(series(&world, "idlewild_member_silent"), [("north".into(), 1)].into());
    assert_eq!(series(&world, "idlewild_heartbeat_age_seconds")["north"], 60);
    world.hubs[0].inner.figures.hide();
    let hub = &world.hubs[0];
    let shown = hub.registry.gather();
    let gone = ["idlewild_jobs", "idlewild_pool_gpus", "idlewild_member_silent"];
    assert!(shown.iter().all(|family| !gone.contains(&family.name())), "another one leads");
}

/// A pool with `models` kinds of GPUs that nobody has heard of.
fn strange_pool(number: usize, models: usize) -> Value {
    let of_model = |model: usize| {
        json!({"model": format!("made-up-{number}-{model}"), "offered": 2, "owner": 1,
            "guests": 0, "free": 1})
    };
    let models: Vec<_> = (0..models).map(of_model).collect();
    json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuPool", "metadata": {}, "spec": {},
        "status": {"agentVersion": format!("me {number}\n"), "models": models,
            "gpus": {"offered": 128, "owner": 64, "free": 64}}})
}

#[tokio::test]
async fn series_are_bounded_whatever_members_say() {
    let members = ["north", "south", "west"];
    let mut world = World::new(&members.map(|name| (name, 1))).await;
    let quiet = count(&world);
    for member in members {
        for number in 0..20 {
            let namespace = format!("member-{member}");
            world.put("gpupools", &namespace, &format!("p{number}"), strange_pool(number, 64));
        }
    }
    world.hear(0);
    world.pass(0).await;
    let gpus = series(&world, "idlewild_pool_gpus");
    assert_eq!(gpus.len(), 3 * 33 * 4, "not one for each of 3,840 models");
    let offered = gpus.iter().filter(|(labels, _)| labels.ends_with(" offered"));
    let told = 3 * (1 + 20 * 64 * 2);
    assert_eq!(offered.map(|(_, gpus)| gpus).sum::<i64>(), told, "the sums are right all the same");
    assert!(!series(&world, "idlewild_member_info").keys().any(|one| one.contains('\n')));
    let busy = count(&world);
    assert!(busy <= MOST, "{quiet} series, then {busy}");
    for member in members {
        for number in 0..20 {
            world.delete("gpupools", &format!("member-{member}"), &format!("p{number}"));
        }
    }
    world.hear(0);
    world.pass(0).await;
    assert_eq!(series(&world, "idlewild_pool_gpus").len(), 3 * 4, "what went is not shown");
}
