//! The executor as a whole, against a member in memory.

mod expiring;
mod idling;
mod losing;
mod owners;
mod vacating;

use serde_json::json;

use super::world::World;
use super::writes::Write;
use crate::api::gpulease::{LeasePhase, NodePods, Withdrawal};
use crate::api::gpupool::FreeNodes;

fn run_to_start(world: &mut World, state: &mut super::state::State) {
    world.settle(state);
    world.schedule();
    world.kubelet();
    world.settle(state);
}

#[test]
fn a_single_job_costs_five_writes_and_its_pictures() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    world.writes.clear();
    world.propose("l", "0", 1, 1);
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Reserved));
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.pass(10);
    world.end("l-0", 0);
    world.settle(&mut state);
    let writes: Vec<_> = world.writes.iter().filter(|write| !write.starts_with("pic")).collect();
    let want =
        ["status l Reserved", "create l-0", "status l Running", "status l Released", "delete l-0"];
    assert_eq!(writes, want);
    let status = world.status("l");
    assert_eq!(status.end_reason.as_deref(), Some("Completed"));
    assert_eq!(
        (status.ended[0].reason.as_str(), status.ended[0].indexes.as_str()),
        ("Succeeded", "0")
    );
    assert_eq!((status.pods.succeeded, status.pods.bound, status.gpus), (1, 0, 0));
    assert!(status.start_time.is_some() && status.end_time.is_some());
    assert!(world.pods.is_empty());
}

#[test]
fn leases_say_which_of_their_pods_share_nodes_and_not_which_nodes() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    for (name, indexes, gpus) in [("a", "0-1", 2), ("b", "0", 4), ("c", "0-1", 4)] {
        world.propose(name, indexes, 1, gpus);
        world.settle(&mut state);
        world.confirm(name);
        run_to_start(&mut world, &mut state);
    }
    let nodes = ["a", "b", "c"].map(|name| world.status(name).nodes);
    let (first, second) = (nodes[0][0].node, nodes[2][0].node);
    assert!(first != second && first.min(second) > 1_000, "{nodes:?}: no mere count, no name");
    let on = |node, pods| vec![NodePods { node, pods }];
    assert_eq!(nodes, [on(first, 2), on(first, 1), on(second, 2)]);
    // Definitions older than the agent: the server keeps nothing of it, and is left in peace.
    world.edit("c", |lease| lease.status.as_mut().unwrap().nodes.clear());
    world.writes.clear();
    world.pass(100);
    world.settle(&mut state);
    assert!(world.writes.iter().all(|write| write.starts_with("pic")), "{:?}", world.writes);
    world.end("a-0", 0);
    world.pass(2);
    world.settle(&mut state);
    assert_eq!(world.status("a").nodes, on(first, 1));
    world.end("a-1", 0);
    world.settle(&mut state);
    assert_eq!(world.status("a").nodes, []);
}

#[test]
fn pods_go_with_those_of_other_leases_only_once_all_of_their_lease_is_on_record() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0-1", 1, 1);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    for (pod, alone) in [("l-0", true), ("l-1", false)] {
        world.pass(5);
        world.end(pod, 0);
        let mut over = Vec::new();
        while over.is_empty() {
            for event in std::mem::take(&mut world.news) {
                state.apply(event, world.now);
            }
            for write in state.turn(true, world.now) {
                if let Write::Delete(delete) = &write {
                    over.push((delete.name.clone(), delete.over.is_none()));
                }
                let answer = world.perform(write);
                state.apply(answer, world.now);
            }
        }
        assert_eq!(over, [(pod.to_owned(), alone)]);
    }
}

#[test]
fn the_picture_covers_what_was_reserved_and_is_quiet_when_nothing_changes() {
    let mut world = World::new(2, &json!({"reserveGpus": 4, "maxGpus": 12}));
    let mut state = world.listed();
    world.settle(&mut state);
    let first = world.pools["a"].status.clone().unwrap();
    assert_eq!((first.gpus.offered, first.gpus.free), (12, 12));
    let free = |gpus, nodes| FreeNodes { gpus, nodes, milli_cpu: 64_000, memory_bytes: 512 << 30 };
    assert_eq!(first.shapes[0].free, [free(8, 1), free(4, 1)]);
    assert_eq!(first.conditions[0].status, "True");
    world.propose("l", "0-1", 1, 4);
    world.settle(&mut state);
    world.pass(1);
    world.settle(&mut state);
    let second = world.pools["a"].status.clone().unwrap();
    assert!(second.serial >= world.status("l").serial.unwrap());
    assert_eq!((second.gpus.guests, second.gpus.free), (8, 4));
    let before = world.writes.len();
    world.pass(50);
    world.settle(&mut state);
    let mut restarted = world.listed();
    world.settle(&mut restarted);
    assert_eq!(world.writes.len(), before, "{:?}", world.writes);
}

#[test]
fn books_hold_what_was_reserved_even_over_a_restart() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l1", "0", 1, 6);
    world.settle(&mut state);
    let mut state = world.listed();
    world.propose("l2", "0", 1, 4);
    world.settle(&mut state);
    assert_eq!(world.status("l2").refusal.unwrap().reason, "NotEnoughFree");
    assert!(world.status("l2").serial >= world.status("l1").serial);
}

#[test]
fn preempted_guests_end_as_reclaimed_and_are_told_at_once() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0-2", 1, 2);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.preempt("l-1");
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Running));
    world.pass(2);
    world.kubelet();
    world.settle(&mut state);
    let status = world.status("l");
    assert_eq!(status.ended[0].reason, "OwnerReclaimed");
    assert_eq!(status.ended[0].exit_code, Some(143));
    assert_eq!(status.ended[0].conditions, ["DisruptionTarget"]);
    world.pass(2);
    for pod in ["l-0", "l-2"] {
        world.end(pod, 0);
    }
    world.settle(&mut state);
    assert_eq!(world.status("l").end_reason.as_deref(), Some("OwnerReclaimed"));
    assert_eq!(world.status("l").phase, Some(LeasePhase::Released));
}

#[test]
fn a_gang_starts_once_all_are_bound_and_ends_whole() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    world.propose("g", "3", 4, 4);
    world.settle(&mut state);
    world.confirm("g");
    world.settle(&mut state);
    assert_eq!(world.pods.len(), 4);
    world.schedule();
    world.settle(&mut state);
    assert!(world.gates.is_empty(), "no address yet");
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.gates.len(), 1);
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.status("g").phase, Some(LeasePhase::Running));
    world.pass(5);
    world.end("g-3-2", 7);
    world.settle(&mut state);
    assert_eq!(world.status("g").phase, Some(LeasePhase::Releasing));
    world.pass(1);
    world.kubelet();
    world.settle(&mut state);
    let status = world.status("g");
    assert_eq!((status.ended[0].reason.as_str(), status.ended[0].exit_code), ("Failed", Some(7)));
    assert_eq!(status.end_reason.as_deref(), Some("Completed"));
    world.kubelet();
    world.settle(&mut state);
    assert!(world.pods.is_empty());
}

#[test]
fn a_gang_that_is_not_bound_whole_is_rolled_back() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    world.propose("g", "0", 2, 8);
    world.settle(&mut state);
    world.confirm("g");
    world.settle(&mut state);
    world.owner_pod("own", Some("n1"), 1);
    world.schedule();
    world.kubelet();
    world.settle(&mut state);
    world.pass(61);
    world.settle(&mut state);
    world.kubelet();
    world.settle(&mut state);
    let status = world.status("g");
    assert_eq!(status.end_reason.as_deref(), Some("GangNotBound"), "{:?}", world.writes);
    assert_eq!(status.start_time, None);
    assert!(world.gates.is_empty());
}

#[test]
fn a_pod_whose_node_does_not_take_it_gets_another() {
    let mut world = World::new(2, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 8);
    world.settle(&mut state);
    world.confirm("l");
    world.settle(&mut state);
    world.owner_pod("own", Some("n0"), 1);
    world.schedule();
    world.settle(&mut state);
    world.pass(6);
    world.settle(&mut state);
    world.schedule();
    world.kubelet();
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Running), "{:?}", world.writes);
    assert_eq!(world.pods["l-0"].spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
}

#[test]
fn a_pod_that_no_node_takes_ends_not_bound() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 8);
    world.settle(&mut state);
    world.confirm("l");
    world.settle(&mut state);
    world.owner_pod("own", Some("n0"), 1);
    world.schedule();
    world.settle(&mut state);
    world.pass(6);
    world.settle(&mut state);
    assert_eq!(world.status("l").end_reason.as_deref(), Some("NotBound"), "{:?}", world.writes);
    assert!(!world.pods.contains_key("l-0"));
}

#[test]
fn pausing_and_withdrawing_end_guests_with_their_reason() {
    for restart in [false, true] {
        let mut world = World::new(2, &json!({}));
        let mut state = world.listed();
        for name in ["l1", "l2"] {
            world.propose(name, "0", 1, 1);
            world.settle(&mut state);
            world.confirm(name);
        }
        run_to_start(&mut world, &mut state);
        world.edit("l1", |lease| {
            let withdrawn = Withdrawal { reason: "Suspended".into(), grace_seconds: 3 };
            lease.spec.withdrawn = Some(withdrawn);
        });
        world.settle(&mut state);
        assert_eq!(world.pods["l1-0"].metadata.deletion_grace_period_seconds, Some(3));
        let spec =
            json!({"nodeSelector": {"matchLabels": {"lend": "a"}}, "offer": {"paused": true}});
        world.put_pool("a", spec);
        world.settle(&mut state);
        assert_eq!(world.status("l2").phase, Some(LeasePhase::Releasing));
        world.pass(2);
        world.kubelet();
        if restart {
            state = world.listed();
        }
        world.settle(&mut state);
        let reason = |name: &str| world.status(name).end_reason.unwrap();
        assert_eq!((reason("l1").as_str(), reason("l2").as_str()), ("Suspended", "PoolClosed"));
        let pool = world.pools["a"].status.clone().unwrap();
        assert_eq!((pool.gpus.free, pool.conditions[0].reason.as_str()), (0, "Paused"));
    }
}

#[test]
fn a_pod_that_vanished_while_nobody_looked_ended_unknown() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 1);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.remove_pod("l-0");
    let mut state = world.listed();
    world.settle(&mut state);
    assert_eq!(world.status("l").end_reason.as_deref(), Some("Unknown"));
}

#[test]
fn the_owners_pending_pods_count_before_they_are_bound() {
    let mut world = World::new(1, &json!({}));
    world.owner_pod("own", None, 3);
    let mut state = world.listed();
    world.settle(&mut state);
    let gpus = world.pools["a"].status.clone().unwrap().gpus;
    assert_eq!((gpus.owner, gpus.free), (3, 5));
}

#[test]
fn a_reservation_that_is_never_confirmed_is_given_up() {
    for restart in [false, true] {
        let mut world = World::new(1, &json!({}));
        let mut state = world.listed();
        world.propose("l", "0", 1, 8);
        world.settle(&mut state);
        world.pass(59);
        if restart {
            state = world.listed();
            world.settle(&mut state);
            world.pass(59);
        }
        world.settle(&mut state);
        assert_eq!(world.status("l").phase, Some(LeasePhase::Reserved));
        world.pass(1);
        assert!(state.wake().unwrap() <= world.now, "the loop wakes for it");
        world.settle(&mut state);
        let status = world.status("l");
        assert_eq!((status.phase, status.gpus), (Some(LeasePhase::Refused), 0));
        assert_eq!(status.refusal.unwrap().reason, "NotConfirmed");
        world.pass(1);
        world.settle(&mut state);
        assert_eq!(world.pools["a"].status.clone().unwrap().gpus.free, 8);
        world.confirm("l");
        world.settle(&mut state);
        assert!(world.pods.is_empty(), "what was refused never runs, even if confirmed later");
    }
}

#[test]
fn a_confirmation_that_came_first_wins_over_the_deadline() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 1);
    world.settle(&mut state);
    world.pass(60);
    world.confirm("l");
    let unseen = std::mem::take(&mut world.news);
    world.turn(&mut state);
    assert!(world.writes.contains(&"conflict l".into()), "{:?}", world.writes);
    world.news.extend(unseen);
    run_to_start(&mut world, &mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Running));
}

#[test]
fn absurd_requests_of_the_owners_pods_are_counted_and_not_stumbled_over() {
    let mut world = World::new(1, &json!({}));
    let mut pod = json!({"metadata": {"name": "own", "uid": "own", "namespace": "owner"},
        "spec": {"containers": []}, "status": {"phase": "Pending"}});
    let most = json!({"limits": {"nvidia.com/gpu": "9223372036854775807",
        "nvidia.com/mig-1g.10gb": "9223372036854775807", "cpu": "9E", "memory": "9E"}});
    pod["spec"]["containers"] =
        json!([{"name": "a", "resources": most}, {"name": "b", "resources": most}]);
    world.put_owners_pod(pod.clone());
    pod["metadata"]["uid"] = "bound".into();
    pod["metadata"]["name"] = "bound".into();
    pod["spec"]["nodeName"] = "n0".into();
    world.put_owners_pod(pod);
    let mut state = world.listed();
    world.settle(&mut state);
    assert_eq!(world.pools["a"].status.clone().unwrap().gpus.free, 0);
}
