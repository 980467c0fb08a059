//! Short stories in which nothing goes wrong by itself: whoever writes something dies at it.

use std::time::Duration;

use serde_json::{Value, json};

use super::federation::{Shape, object};
use super::plan::{Act, Plan, Wish};
use super::programs::{Manner, arguments};

/// A story and its name.
pub(crate) type Scenario = (&'static str, Plan);

fn shape() -> Shape {
    Shape {
        hubs: 1,
        processes: 1,
        elect: false,
        members: vec![1, 1],
        gpus_per_node: 4,
        rates: (0, 0),
        lease_seconds: 60,
    }
}

/// A job of so many replicas and pods each, that runs for so long.
fn job(replicas: u32, size: u32, seconds: u32, exit: &str) -> Value {
    let container = json!({"name": "train", "image": "registry.example.org/train:1",
        "args": arguments(seconds, exit, Manner::Polite)});
    object(
        "GpuJob",
        "train",
        &json!({"completions": replicas, "size": size, "backoffLimit": 1,
        "gpu": {"count": 1},
        "template": {"spec": {"terminationGracePeriodSeconds": 3, "containers": [container]}}}),
    )
}

fn with(mut job: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn plan(acts: Vec<(u64, Act)>) -> Plan {
    let at = |(millis, act)| (Duration::from_millis(millis), act);
    Plan { shape: shape(), acts: acts.into_iter().map(at).collect() }
}

fn submit(job: Value) -> (u64, Act) {
    (2_000, Act::Submit { hub: 0, job })
}

fn edit(at: u64, spec: &Value) -> (u64, Act) {
    (at, Act::Edit { hub: 0, name: "train".into(), spec: spec.clone() })
}

fn delete(at: u64) -> (u64, Act) {
    (at, Act::Delete { hub: 0, name: "train".into() })
}

fn owner(at: u64, manner: Wish) -> Vec<(u64, Act)> {
    let own = |member| Act::Owner { member, name: "own".into(), gpus: 4, manner };
    let home = |member| Act::Home { member, name: "own".into() };
    vec![(at, own(0)), (at, own(1)), (at + 6_000, home(0)), (at + 6_000, home(1))]
}

/// All stories.
pub(crate) fn all() -> Vec<Scenario> {
    let long = |replicas, size| job(replicas, size, 10, "0");
    let mut preempted = vec![submit(long(2, 1))];
    preempted.extend(owner(7_000, Wish::Plain));
    let mut asked = vec![submit(long(2, 1))];
    asked.extend(owner(7_000, Wish::Never));
    let mut gang = vec![submit(long(1, 3))];
    gang.extend(owner(7_000, Wish::Low));
    let offer = |at, offer: &Value| {
        let act = |member| Act::Offer { member, offer: offer.clone() };
        vec![(at, act(0)), (at, act(1))]
    };
    let mut paused = vec![submit(long(2, 1))];
    paused.extend(offer(7_000, &json!({"paused": true})));
    paused.extend(offer(12_000, &json!({})));
    let cut = |cut| Act::Node { member: 0, node: 0, cut, rebooted: true };
    let stored = with(long(2, 1), &json!({"checkpoint": {"uri": "s3://bucket/j"}}));
    vec![
        ("one replica succeeds", plan(vec![submit(job(1, 1, 3, "0"))])),
        (
            "an array of five",
            plan(vec![submit(with(job(5, 1, 3, "0"), &json!({"parallelism": 3})))]),
        ),
        ("a gang", plan(vec![submit(job(1, 3, 3, "0"))])),
        ("it fails to its limit", plan(vec![submit(job(2, 1, 2, "1"))])),
        (
            "suspended and resumed",
            plan(vec![
                submit(long(2, 1)),
                edit(7_000, &json!({"suspend": true})),
                edit(12_000, &json!({"suspend": false})),
            ]),
        ),
        ("deleted while it runs", plan(vec![submit(long(3, 1)), delete(7_000)])),
        (
            "deleted and made again",
            plan(vec![
                submit(long(2, 1)),
                delete(7_000),
                (7_100, Act::Submit { hub: 0, job: long(1, 1) }),
            ]),
        ),
        (
            "its time runs out",
            plan(vec![submit(with(long(1, 1), &json!({"maxRunningSeconds": 4})))]),
        ),
        (
            "removed after its end",
            plan(vec![submit(with(job(1, 1, 2, "0"), &json!({"ttlSecondsAfterFinished": 2})))]),
        ),
        ("kube-scheduler makes room", plan(preempted)),
        ("the agent makes room", plan(asked)),
        ("a gang makes room", plan(gang)),
        ("the owner pauses his pool", plan(paused)),
        ("a node loses power", plan(vec![submit(stored), (7_000, cut(true)), (9_000, cut(false))])),
    ]
}
