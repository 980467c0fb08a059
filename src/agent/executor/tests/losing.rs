//! Nodes that do not answer, and pods that go without their kubelet's word.

use serde_json::json;

use super::super::state::State;
use super::super::world::World;
use super::run_to_start;
use crate::api::gpujob::DuplicatePolicy;
use crate::api::gpulease::LeasePhase;

/// Two nodes, and a lease of two single pods or of one gang of two, on both.
fn running(size: i32, policy: Option<DuplicatePolicy>) -> (World, State) {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    let indexes = if size == 1 { "0-1" } else { "0" };
    world.propose("lost", indexes, size, 8);
    world.edit("lost", |lease| {
        lease.spec.duplicate_policy = policy;
        lease.spec.active_deadline_seconds = 3_000;
    });
    world.settle(&mut state);
    world.confirm("lost");
    run_to_start(&mut world, &mut state);
    // A gang runs once its gate is open.
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.status("lost").phase, Some(LeasePhase::Running));
    (world, state)
}

/// The name of the node of the first pod, and of that pod.
fn first(world: &World) -> (String, String) {
    let (name, pod) = world.pods.iter().find(|(name, _)| name.starts_with("lost-0")).unwrap();
    (pod.spec.as_ref().unwrap().node_name.clone().unwrap(), name.clone())
}

fn turn_node(world: &mut World, name: &str, ready: &str, boot: &str) {
    let mut node = serde_json::to_value(&world.nodes[name]).unwrap();
    node["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
    node["status"]["nodeInfo"]["bootID"] = boot.into();
    world.put_node(node);
}

fn ended(world: &World) -> Vec<(String, String)> {
    let groups = world.status("lost").ended.into_iter();
    groups.map(|group| (group.reason, group.indexes)).collect()
}

fn told(world: &World, pod: &str) -> bool {
    world.pods[pod].metadata.deletion_timestamp.is_some()
}

#[test]
fn a_replica_on_a_node_that_stays_away_is_given_up_and_its_pod_is_never_forced_away() {
    let (mut world, mut state) = running(1, None);
    let (node, pod) = first(&world);
    turn_node(&mut world, &node, "Unknown", "one");
    world.settle(&mut state);
    world.pass(299);
    world.settle(&mut state);
    assert_eq!((ended(&world), told(&world, &pod)), (vec![], false));
    world.pass(2);
    world.settle(&mut state);
    assert_eq!(ended(&world), [("NodeFailure".into(), "0".into())]);
    assert!(told(&world, &pod), "with its grace: the kubelet stops it should it come back");
    assert_eq!(world.status("lost").phase, Some(LeasePhase::Running), "the other one runs");
    // All of it ended, and one pod may still be there: it is not released before the kubelet says so.
    world.end("lost-1", 0);
    world.settle(&mut state);
    let status = world.status("lost");
    assert_eq!((status.phase, status.gpus), (Some(LeasePhase::Releasing), 8));
    world.pass(100_000);
    world.settle(&mut state);
    assert_eq!(world.status("lost").phase, Some(LeasePhase::Releasing));
    turn_node(&mut world, &node, "True", "one");
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.status("lost").phase, Some(LeasePhase::Released));
    let all = [("NodeFailure".into(), "0".into()), ("Succeeded".into(), "1".into())];
    assert_eq!(ended(&world), all, "what it said later counts for nothing");
}

#[test]
fn a_node_that_comes_back_in_time_loses_nothing() {
    let (mut world, mut state) = running(1, None);
    let (node, pod) = first(&world);
    for _ in 0..3 {
        turn_node(&mut world, &node, "Unknown", "one");
        world.settle(&mut state);
        world.pass(200);
        turn_node(&mut world, &node, "True", "one");
        world.settle(&mut state);
    }
    assert_eq!((ended(&world), told(&world, &pod)), (vec![], false));
}

#[test]
fn where_most_nodes_are_away_nobody_is_given_up() {
    let (mut world, mut state) = running(1, None);
    for node in ["n0", "n1"] {
        turn_node(&mut world, node, "Unknown", "one");
    }
    world.settle(&mut state);
    world.pass(2_000);
    world.settle(&mut state);
    assert_eq!(ended(&world), []);
    // One of them comes back: the other one has its time again.
    turn_node(&mut world, "n1", "True", "one");
    world.settle(&mut state);
    world.pass(299);
    world.settle(&mut state);
    assert_eq!(ended(&world), []);
    world.pass(2);
    world.settle(&mut state);
    assert_eq!(ended(&world).len(), 1);
}

#[test]
fn a_gang_whose_node_is_lost_ends_whole() {
    let (mut world, mut state) = running(2, None);
    let (node, _) = first(&world);
    turn_node(&mut world, &node, "Unknown", "one");
    world.settle(&mut state);
    world.pass(301);
    world.settle(&mut state);
    assert!(world.pods.values().all(|pod| pod.metadata.deletion_timestamp.is_some()));
    assert_eq!(ended(&world), [], "the other one has its grace");
    let other =
        world.pods.values().find(|pod| pod.spec.as_ref().unwrap().node_name != Some(node.clone()));
    let other = other.unwrap().metadata.name.clone().unwrap();
    world.pass(2);
    world.end(&other, 143);
    world.settle(&mut state);
    assert_eq!(ended(&world), [("NodeFailure".into(), "0".into())]);
}

/// What must never run twice, on a node that is away, with its pod deleted by force.
fn forced() -> (World, State, String) {
    let (mut world, mut state) = running(1, Some(DuplicatePolicy::Never));
    let (node, pod) = first(&world);
    turn_node(&mut world, &node, "Unknown", "one");
    world.settle(&mut state);
    world.pass(1_000);
    world.settle(&mut state);
    assert_eq!((ended(&world), told(&world, &pod)), (vec![], false), "nobody knows");
    world.remove_pod(&pod);
    world.settle(&mut state);
    assert_eq!(ended(&world), [], "absent is not finished");
    assert!(!world.pods.contains_key(&pod), "nor is it begun again");
    (world, state, node)
}

#[test]
fn a_pod_that_was_deleted_by_force_has_ended_once_its_machine_started_anew() {
    let (mut world, mut state, node) = forced();
    turn_node(&mut world, &node, "True", "one");
    world.settle(&mut state);
    assert_eq!(ended(&world), [], "the same start of the machine");
    world.pass(2);
    turn_node(&mut world, &node, "True", "two");
    world.settle(&mut state);
    assert_eq!(ended(&world).len(), 1);
}

#[test]
fn a_pod_that_was_deleted_by_force_has_ended_once_its_time_is_over_whoever_was_restarted() {
    for restarts in [false, true] {
        let (mut world, mut state, _) = forced();
        if restarts {
            state = world.listed();
        }
        // 3000 s, 10 s of grace and 10 s for the kubelet, of which 1000 s are over.
        world.pass(2_015);
        world.settle(&mut state);
        assert_eq!(ended(&world), [], "restarted: {restarts}");
        world.pass(10);
        world.settle(&mut state);
        assert_eq!(ended(&world).len(), 1, "restarted: {restarts}");
    }
}

#[test]
fn where_a_replica_may_run_twice_a_pod_that_is_gone_has_ended() {
    let (mut world, mut state) = running(1, None);
    let (_, pod) = first(&world);
    world.pass(2);
    world.remove_pod(&pod);
    world.settle(&mut state);
    assert_eq!(ended(&world), [("Unknown".into(), "0".into())]);
}
