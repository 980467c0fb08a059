//! The owner takes GPUs back in ways that kube-scheduler does not help with.

use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::super::state::State;
use super::super::world::World;
use super::run_to_start;
use crate::api::gpulease::LeasePhase;

/// A member of `nodes` nodes of 8 GPUs, each full of guests: the gang `g` of two pods of 4 GPUs is the oldest,
/// then `a` with two pods of 2 GPUs, then `b` with the same.
fn full() -> (World, State) {
    let mut world = World::new(2, &json!({"noticeSeconds": 30}));
    let mut state = world.listed();
    for (name, indexes, size, gpus) in [("g", "0", 2, 4), ("a", "0-1", 1, 2), ("b", "0-1", 1, 2)] {
        world.propose(name, indexes, size, gpus);
        world.settle(&mut state);
        world.confirm(name);
        run_to_start(&mut world, &mut state);
        run_to_start(&mut world, &mut state);
        world.pass(100);
    }
    world.writes.clear();
    (world, state)
}

/// An owner's pod; `spec` and `status` are added to what makes it want `gpus` GPUs.
fn wants(world: &mut World, name: &str, gpus: u32, spec: Value, status: Value) {
    let resources = json!({"limits": {"nvidia.com/gpu": gpus.to_string()}});
    let mut pod = json!({
        "metadata": {"name": name, "uid": name, "namespace": "owner"},
        "spec": {"containers": [{"name": "c", "resources": resources}]},
        "status": {"phase": "Pending"}});
    for (part, more) in [("spec", spec), ("status", status)] {
        pod[part].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    world.put_owners_pod(pod);
}

fn unschedulable() -> Value {
    json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]})
}

fn deleted(world: &World) -> Vec<&str> {
    world.writes.iter().filter_map(|write| write.strip_prefix("delete ")).collect()
}

#[test]
fn a_pod_that_may_not_preempt_gets_the_gpus_of_guests_that_lose_the_least() {
    let (mut world, mut state) = full();
    let never = json!({"preemptionPolicy": "Never"});
    wants(&mut world, "mine", 2, never.clone(), json!({}));
    world.settle(&mut state);
    assert_eq!(deleted(&world), Vec::<&str>::new(), "its scheduler has not looked at it");
    wants(&mut world, "mine", 2, never.clone(), unschedulable());
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["b-0"], "the gang would lose more, `a` ran longer");
    // While it goes, and while its room is there and is not used, nobody else goes.
    let node = world.pods["b-0"].spec.clone().unwrap().node_name;
    wants(&mut world, "mine", 2, never.clone(), unschedulable());
    world.settle(&mut state);
    world.kubelet();
    world.settle(&mut state);
    wants(&mut world, "mine", 2, never, unschedulable());
    world.pass(60);
    world.settle(&mut state);
    assert!(deleted(&world).iter().all(|name| *name == "b-0"));
    // Another pod of the owner's takes it.
    wants(&mut world, "theirs", 2, json!({"nodeName": node}), json!({}));
    world.settle(&mut state);
    assert_eq!(deleted(&world).last(), Some(&"b-1"));
    let ended = world.status("b").ended;
    assert_eq!((ended[0].reason.as_str(), ended[0].indexes.as_str()), ("OwnerReclaimed", "0"));
}

#[test]
fn pods_of_other_schedulers_get_room_when_those_had_their_chance_and_after_a_restart() {
    let (mut world, mut state) = full();
    wants(&mut world, "mine", 2, json!({"schedulerName": "batch"}), json!({}));
    // It dies before its first write of that turn.
    world.die(&mut state, 0);
    assert_eq!(deleted(&world), Vec::<&str>::new());
    world.pass(1);
    world.settle(&mut state);
    assert_eq!(deleted(&world), Vec::<&str>::new(), "its scheduler may have a place for it");
    world.pass(2);
    world.settle(&mut state);
    let ripe = world.now.checked_add(SignedDuration::from_secs(3)).unwrap();
    assert_eq!(state.wake(), Some(ripe));
    world.pass(3);
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["b-0"]);
}

#[test]
fn pods_that_the_scheduler_makes_room_for_are_left_to_it() {
    let (mut world, mut state) = full();
    let nominated = json!({"nominatedNodeName": "n0", "conditions": unschedulable()["conditions"]});
    wants(&mut world, "mine", 4, json!({}), nominated);
    wants(&mut world, "gated", 4, json!({"schedulingGates": [{"name": "g"}]}), unschedulable());
    wants(&mut world, "huge", 9, json!({"preemptionPolicy": "Never"}), unschedulable());
    // Preemption does not help it, for a reason that we do not see.
    wants(&mut world, "plain", 2, json!({}), unschedulable());
    world.settle(&mut state);
    assert_eq!(deleted(&world), Vec::<&str>::new());
}

#[test]
fn pods_that_another_scheduler_bound_beside_guests_drive_them_out() {
    let (mut world, mut state) = full();
    let node = world.pods["a-0"].spec.clone().unwrap().node_name.unwrap();
    wants(&mut world, "mine", 3, json!({"schedulerName": "batch", "nodeName": node}), json!({}));
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["b-0", "b-1"], "three GPUs, in guests of two each");
}

#[test]
fn guests_stop_without_their_hub_only_if_their_job_wants_that() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("stops", "0", 1, 1);
    world.edit("stops", |lease| lease.spec.stop_after_seconds = Some(900));
    world.propose("stays", "0", 1, 1);
    world.settle(&mut state);
    world.confirm("stops");
    world.confirm("stays");
    run_to_start(&mut world, &mut state);
    world.pass(600);
    world.contact("g");
    world.settle(&mut state);
    world.pass(880);
    world.contact("g");
    world.settle(&mut state);
    // What was seen to change is as old as it takes to be seen.
    world.pass(884);
    world.settle(&mut state);
    assert_eq!(world.status("stops").phase, Some(LeasePhase::Running));
    // A restart knows as much as the grant says.
    drop(state);
    let mut state = world.listed();
    world.settle(&mut state);
    assert_eq!(world.status("stops").phase, Some(LeasePhase::Running));
    world.pass(15);
    world.settle(&mut state);
    assert_eq!(world.status("stops").phase, Some(LeasePhase::Running), "by what the grant says");
    world.pass(1);
    world.settle(&mut state);
    assert_eq!(world.status("stops").phase, Some(LeasePhase::Releasing));
    // A lease that the hub makes now counts from now, whatever the grant says.
    world.propose("next", "0", 1, 1);
    world.edit("next", |lease| lease.spec.stop_after_seconds = Some(900));
    world.settle(&mut state);
    world.confirm("next");
    run_to_start(&mut world, &mut state);
    assert_eq!(world.status("next").phase, Some(LeasePhase::Running));
    // The hub comes back too late for the first one.
    world.contact("g");
    world.kubelet();
    world.settle(&mut state);
    let ended = world.status("stops");
    assert_eq!(
        (ended.phase, ended.end_reason.as_deref()),
        (Some(LeasePhase::Released), Some("LeaseExpired"))
    );
    assert_eq!(world.status("stays").phase, Some(LeasePhase::Running));
}

#[test]
fn guests_come_only_in_the_owners_windows_and_are_gone_when_they_end() {
    // It is midnight, the first second of 2026, a Thursday.
    let schedule = json!([{"days": ["Thu"], "from": "00:10", "to": "01:00"}]);
    let mut world = World::new(1, &json!({"noticeSeconds": 60, "schedule": schedule}));
    let mut state = world.listed();
    let ready = |world: &World| {
        let status = world.pools["a"].status.clone().unwrap();
        let free = status.gpus.free;
        let condition = status.conditions.into_iter().find(|one| one.type_ == "Ready").unwrap();
        (condition.reason, free, condition.message)
    };
    world.propose("early", "0", 1, 1);
    world.settle(&mut state);
    let refusal = world.status("early").refusal.unwrap();
    assert_eq!(refusal.reason, "WindowClosed");
    let message = "offer.schedule: lent again from 2026-01-01 00:10 UTC";
    assert_eq!(
        (refusal.message.as_str(), ready(&world)),
        (message, ("WindowClosed".into(), 0, message.into()))
    );
    world.pass(1);
    world.settle(&mut state);
    assert_eq!(state.wake(), Some("2026-01-01T00:10:00Z".parse().unwrap()));
    world.pass(599);
    world.settle(&mut state);
    assert_eq!((ready(&world).0.as_str(), ready(&world).1), ("Ready", 8));
    world.propose("l", "0", 1, 1);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    let deadline = world.pods["l-0"].spec.clone().unwrap().active_deadline_seconds;
    assert_eq!(deadline, Some(3000), "the kubelet ends it with the window");
    world.pass(3000 - 61);
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Running));
    world.pass(1);
    world.settle(&mut state);
    assert_eq!(world.status("l").phase, Some(LeasePhase::Releasing));
    assert_eq!(world.status("l").end_reason.as_deref(), Some("PoolClosed"));
    world.propose("late", "0", 1, 1);
    world.settle(&mut state);
    assert_eq!(world.status("late").refusal.unwrap().reason, "WindowClosed");
}

#[test]
fn a_pod_gets_its_gpus_once_what_stood_in_its_way_besides_guests_is_gone() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0", 1, 4);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    world.owner_pod("own", Some("n0"), 4);
    wants(&mut world, "mine", 8, json!({"preemptionPolicy": "Never"}), unschedulable());
    world.settle(&mut state);
    assert_eq!(deleted(&world), Vec::<&str>::new(), "it would not fit without the guest either");
    world.remove_pod("own");
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["l-0"]);
}

#[test]
fn a_device_plugin_that_restarts_or_loses_a_gpu_drives_nobody_out() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.propose("l", "0-2", 1, 2);
    world.settle(&mut state);
    world.confirm("l");
    run_to_start(&mut world, &mut state);
    let node = serde_json::to_value(&world.nodes["n0"]).unwrap();
    let mut has = |world: &mut World, gpus: &str| {
        let mut node = node.clone();
        node["status"]["allocatable"]["nvidia.com/gpu"] = gpus.into();
        world.put_node(node);
        world.settle(&mut state);
        deleted(world).len()
    };
    assert_eq!(
        (has(&mut world, "0"), has(&mut world, "5")),
        (0, 0),
        "the GPUs are the guests' own"
    );
    // Beside a pod of the owner's one guest goes, as it holds two.
    world.owner_pod("own", Some("n0"), 2);
    assert_eq!(has(&mut world, "7"), 1);
}

#[test]
fn guests_leave_a_node_that_is_cordoned() {
    let (mut world, mut state) = full();
    let node = world.pods["g-0-0"].spec.clone().unwrap().node_name.unwrap();
    let mut value = serde_json::to_value(&world.nodes[&node]).unwrap();
    value["spec"] = json!({"unschedulable": true});
    world.put_node(value);
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["g-0-0", "g-0-1"]);
    assert_eq!(world.status("g").phase, Some(LeasePhase::Releasing));
}

#[test]
fn guests_fill_the_reserve_up_again() {
    let (mut world, mut state) = full();
    let pool = |reserve: u32| {
        json!({"nodeSelector": {"matchLabels": {"lend": "a"}},
            "offer": {"noticeSeconds": 30, "reserveGpus": reserve}})
    };
    let node = world.pods["b-0"].spec.clone().unwrap().node_name;
    world.put_pool("a", pool(3));
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["b-0", "b-1"], "the younger one loses less");
    world.kubelet();
    world.settle(&mut state);
    world.writes.clear();
    // The owner takes what was kept for him; the next three come from `a`.
    wants(&mut world, "mine", 4, json!({"nodeName": node}), json!({}));
    world.settle(&mut state);
    assert_eq!(deleted(&world), ["a-0", "a-1"]);
}

/// Found by the simulation (seed 221): its GPUs stayed the owner's in all pictures to come.
#[test]
fn room_that_a_pod_waited_for_is_lent_again_when_it_no_longer_waits() {
    let mut world = World::new(1, &json!({}));
    let mut state = world.listed();
    world.settle(&mut state);
    wants(&mut world, "mine", 3, json!({}), json!({}));
    world.pass(2);
    world.settle(&mut state);
    assert_eq!(world.pools["a"].status.clone().unwrap().gpus.free, 5);
    // It failed before any scheduler took it on, as one does that was told to go.
    wants(&mut world, "mine", 3, json!({}), json!({"phase": "Failed"}));
    world.pass(2);
    world.settle(&mut state);
    assert_eq!(world.pools["a"].status.clone().unwrap().gpus.free, 8);
}
