use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::*;
use crate::agent::executor::lost::Nodes;
use crate::agent::executor::step::{Memory, Verdict};
use crate::api::GuestLease;

fn lease(phase: &str, indexes: &str, size: i32) -> GuestLease {
    serde_json::from_value(json!({
        "apiVersion": "idlewild.dev/v1alpha1", "kind": "GuestLease",
        "metadata": {"name": "l", "namespace": "g", "uid": "u"},
        "spec": {"hubId": "hub", "grant": "g", "leaseName": "l", "leaseUid": "x",
            "job": {"namespace": "n", "name": "j", "uid": "j", "generation": 1}, "pool": "a",
            "epoch": {"incarnation": 1, "attempt": 1}, "indexes": indexes, "size": size,
            "gpu": {"count": 1, "model": "A100"}, "graceSeconds": 30, "activeDeadlineSeconds": 100,
            "digest": "d", "template": {}, "confirmed": true},
        "status": {"phase": phase, "serial": 1}}))
    .unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// A pod of the lease on node `n`, first seen at 0.
fn pod(index: u32, status: Value) -> (Key, (String, Guest)) {
    let pod: core::Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("l-{index}"), "namespace": "g", "uid": format!("p{index}"),
            "labels": {"idlewild.dev/replica-index": index.to_string()},
            "ownerReferences": [{"apiVersion": "v1", "kind": "GuestLease", "name": "l", "uid": "u",
                "controller": true}]},
        "spec": {"nodeName": "n", "containers": []}, "status": status}))
    .unwrap();
    let guest = Guest { seen: at(0), trouble_seen: at(0), ..Guest::slim(&pod, "g").unwrap() };
    (Key { index, rank: 0 }, (format!("p{index}"), guest))
}

fn steps(lease: &GuestLease, pods: Vec<(Key, (String, Guest))>, seconds: i64) -> Vec<Step> {
    let run = Run {
        lease,
        pool: None,
        pods: &pods.into_iter().collect(),
        memory: &Memory::default(),
        verdict: None,
        contact: None,
        nodes: &Nodes::default(),
    };
    decide(&run, at(seconds)).steps
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}}}]})
}

#[track_caller]
fn stops(steps: &[Step], want: &str) {
    let why = steps.iter().find_map(|step| match step {
        Step::Delete(_, Why::Stop(reason, _)) => Some(reason.as_str()),
        _ => None,
    });
    assert_eq!(why, Some(want), "{steps:?}");
}

#[test]
fn images_that_cannot_be_pulled_or_need_root_end_the_lease() {
    let pull = || vec![pod(0, waiting("ImagePullBackOff", "no such image"))];
    assert_eq!(steps(&lease("Starting", "0", 1), pull(), 59).len(), 1, "its count of bound pods");
    stops(&steps(&lease("Starting", "0", 1), pull(), 60), outcome::IMAGE_PULL_FAILED);
    let root = waiting(
        "CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root",
    );
    stops(&steps(&lease("Starting", "0", 1), vec![pod(0, root)], 1), outcome::IMAGE_NEEDS_ROOT);
    let gate = waiting("CreateContainerConfigError", "configmap \"l\" not found");
    let quiet = steps(&lease("Starting", "0", 1), vec![pod(0, gate)], 1);
    assert!(quiet.iter().all(|step| !matches!(step, Step::Delete(..))));
}

#[test]
fn what_never_runs_or_runs_too_long_is_stopped() {
    let pending = || vec![pod(0, json!({"phase": "Pending"}))];
    stops(&steps(&lease("Starting", "0", 1), pending(), 600), outcome::PODS_READY_TIMEOUT);
    let running = json!({"phase": "Running", "startTime": at(0)});
    let running = || vec![pod(0, running.clone())];
    assert!(
        steps(&lease("Running", "0", 1), running(), 159)
            .iter()
            .all(|step| matches!(step, Step::Report(_)))
    );
    stops(&steps(&lease("Running", "0", 1), running(), 160), outcome::DEADLINE_EXCEEDED);
}

#[test]
fn nothing_happens_before_confirmation_and_after_the_end() {
    let mut proposed = lease("Reserved", "0", 1);
    proposed.spec.confirmed = false;
    assert_eq!(steps(&proposed, vec![], 0), []);
    assert_eq!(steps(&lease("Released", "0", 1), vec![], 0), []);
}

#[test]
fn a_result_is_recorded_before_its_pod_goes() {
    let ended = || pod(0, json!({"phase": "Succeeded"}));
    let running = || pod(1, json!({"phase": "Running"}));
    let first = steps(&lease("Running", "0-1", 1), vec![ended(), running()], 1);
    let [Step::Report(status)] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!(status.ended[0].indexes, "0");
    let mut reported = lease("Running", "0-1", 1);
    reported.status = Some(*status.clone());
    let second = steps(&reported, vec![ended(), running()], 1);
    assert_eq!(second, [Step::Delete(Key { index: 0, rank: 0 }, Why::Recorded)]);
    assert_eq!(steps(&reported, vec![running()], 1), []);
}

#[test]
fn writes_in_flight_are_not_decided_again() {
    let lease = lease("Running", "0", 1);
    let pods = [pod(0, json!({"phase": "Running"}))].into_iter().collect();
    let verdict = Verdict { reason: outcome::POOL_CLOSED, only: None };
    let busy = |tasks: &[Task]| {
        let memory = Memory { busy: tasks.iter().copied().collect(), ..Memory::default() };
        let verdict = Some(&verdict);
        let run = Run {
            lease: &lease,
            pool: None,
            pods: &pods,
            memory: &memory,
            verdict,
            contact: None,
            nodes: &Nodes::default(),
        };
        decide(&run, at(0)).steps.len()
    };
    let key = Key { index: 0, rank: 0 };
    assert_eq!(
        [busy(&[]), busy(&[Task::Status]), busy(&[Task::Status, Task::Pod(key)])],
        [2, 1, 0]
    );
}

#[test]
fn a_stray_pod_of_an_ended_lease_is_stopped() {
    let stray = steps(&lease("Released", "0", 1), vec![pod(0, json!({"phase": "Running"}))], 0);
    stops(&stray, outcome::UNKNOWN);
}

#[test]
fn what_a_status_says_can_be_stored_whatever_pods_and_hubs_say() {
    let conditions: Vec<_> =
        (0..30).map(|number| json!({"type": format!("C{number:02}"), "status": "True"})).collect();
    let long = "x".repeat(5000);
    let mut lease = lease("Running", "0", 1);
    let withdrawn = crate::api::gpulease::Withdrawal { reason: long.clone(), grace_seconds: 1 };
    lease.spec.withdrawn = Some(withdrawn);
    let memory = Memory { refused: (1, long), ..Memory::default() };
    let gone = BTreeMap::new();
    let ended = [pod(0, json!({"phase": "Failed", "conditions": conditions}))].into();
    for pods in [&gone, &ended] {
        let run = Run {
            lease: &lease,
            pool: None,
            pods,
            memory: &memory,
            verdict: None,
            contact: None,
            nodes: &Nodes::default(),
        };
        let steps = decide(&run, at(0)).steps;
        let [Step::Report(status)] = steps.as_slice() else { panic!("{steps:?}") };
        let group = &status.ended[0];
        assert!(group.reason.len() <= 64 && group.conditions.len() <= 16);
        assert!(group.message.as_ref().is_none_or(|message| message.len() <= 1024));
        assert!(status.end_reason.as_ref().unwrap().len() <= 64);
    }
}
