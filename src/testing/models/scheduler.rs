//! kube-scheduler: binds what fits, and makes room for what is more important.
//!
//! It knows GPUs, node names, labels, taints and priorities; other resources are never scarce here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::server::{At, Store};
use super::reading::{
    GPU, delete, gpus, has, is_leaving, is_over, node_of, patch, quantity, time, with_condition,
};

const WHO: &str = "kube-scheduler";

/// A pod as the scheduler sees it.
struct Pod {
    at: At,
    object: Value,
    priority: i64,
    may_preempt: bool,
}

/// One pass over everything that waits; whether it wrote anything.
pub(crate) fn schedule(store: &mut Store) -> bool {
    let before = store.revision();
    let pods = store.of_kind("pods", "").filter(|(_, pod)| waits(pod));
    let mut waiting: Vec<Pod> = pods.map(|(at, pod)| read(store, at, pod)).collect();
    waiting.sort_by_key(|pod| {
        let made = time(&pod.object["metadata"]["creationTimestamp"]);
        (Reverse(pod.priority), made, pod.at.name.clone())
    });
    for pod in waiting {
        place(store, &pod);
    }
    store.revision() != before
}

fn waits(pod: &Value) -> bool {
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    let scheduler = pod["spec"]["schedulerName"].as_str().unwrap_or("default-scheduler");
    node_of(pod).is_none()
        && !is_leaving(pod)
        && !is_over(pod)
        && !gated
        && scheduler == "default-scheduler"
}

/// With its priority, which admission would have written into it.
fn read(store: &Store, at: &At, pod: &Value) -> Pod {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let class = store.get("priorityclasses", "", class);
    let value = class.and_then(|class| class["value"].as_i64());
    let priority = pod["spec"]["priority"].as_i64().or(value).unwrap_or(0);
    let policy = pod["spec"]["preemptionPolicy"].as_str();
    let policy = policy.or_else(|| class?["preemptionPolicy"].as_str());
    Pod { at: at.clone(), object: pod.clone(), priority, may_preempt: policy != Some("Never") }
}

fn place(store: &mut Store, pod: &Pod) {
    let need = gpus(&pod.object);
    let mut fitting: Vec<(i64, String)> = nodes(store, &pod.object)
        .map(|(name, all)| (all - taken(store, &name, pod.priority, &pod.at), name))
        .filter(|(free, _)| *free >= need)
        .collect();
    // The least loaded first; by name where that is the same.
    fitting.sort_by_key(|(free, name)| (Reverse(*free), name.clone()));
    match fitting.into_iter().next() {
        Some((_, node)) => bind(store, pod, &node),
        None => refuse(store, pod),
    }
}

/// Nodes that may take the pod, with their GPUs.
fn nodes<'a>(store: &'a Store, pod: &'a Value) -> impl Iterator<Item = (String, i64)> + 'a {
    store.of_kind("nodes", "").filter(|(_, node)| admits(node, pod)).map(|(at, node)| {
        let own = quantity(&node["status"]["allocatable"][GPU]);
        (at.name.clone(), own)
    })
}

fn admits(node: &Value, pod: &Value) -> bool {
    let name = &node["metadata"]["name"];
    let labels = &node["metadata"]["labels"];
    let selector = pod["spec"]["nodeSelector"].as_object();
    let selected = selector.is_none_or(|all| all.iter().all(|(key, value)| labels[key] == *value));
    let affinity = &pod["spec"]["affinity"]["nodeAffinity"];
    let terms = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let named = terms.as_array().is_none_or(|terms| {
        let fields = terms.iter().filter_map(|term| term["matchFields"].as_array()).flatten();
        fields.filter_map(|field| field["values"].as_array()).flatten().any(|value| value == name)
    });
    let cordoned = node["spec"]["unschedulable"] == true;
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let barred = taints.filter(|taint| taint["effect"] == "NoSchedule");
    selected && named && !cordoned && barred.into_iter().all(|taint| tolerates(pod, taint))
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    let all = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    all.into_iter().any(|one| {
        let effect = one["effect"].as_str().is_none_or(|effect| taint["effect"] == effect);
        let key = one["key"].as_str().is_none_or(|key| taint["key"] == key);
        let exists = one["operator"] == "Exists";
        effect && key && (exists || one["value"] == taint["value"])
    })
}

/// GPUs of the node that pods hold, or that were promised to pods at least as important.
fn taken(store: &Store, node: &str, priority: i64, but: &At) -> i64 {
    let pods = store.of_kind("pods", "").filter(|(at, pod)| *at != but && !is_over(pod));
    let holds = |(at, pod): &(&At, &std::sync::Arc<Value>)| {
        let nominated = pod["status"]["nominatedNodeName"] == node && node_of(pod).is_none();
        node_of(pod) == Some(node) || (nominated && read(store, at, pod).priority >= priority)
    };
    pods.filter(holds).map(|(_, pod)| gpus(pod)).sum()
}

fn bind(store: &mut Store, pod: &Pod, node: &str) {
    let name = &pod.at.name;
    let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    let path = format!("/api/v1/namespaces/{}/pods/{name}/binding", pod.at.namespace);
    let call = super::super::server::Call::parse(
        &http::Method::POST,
        &path,
        body.to_string().as_bytes(),
        "application/json".into(),
    );
    let (code, answer) = store.answer(WHO, &call);
    assert!(code < 300, "bind {name}: {answer}");
}

/// Says that the pod fits nowhere, and makes room if it may.
fn refuse(store: &mut Store, pod: &Pod) {
    let victims = pod.may_preempt.then(|| preempt(store, pod)).flatten();
    let now = store.now;
    let told = ("PodScheduled", false, "Unschedulable");
    let mut status = json!({});
    if !has(&pod.object, told) {
        status["conditions"] = with_condition(&pod.object, told, now);
    }
    if let Some((node, _)) = &victims {
        status["nominatedNodeName"] = node.as_str().into();
    }
    if status != json!({}) {
        patch(store, WHO, (&pod.at, "/status"), &json!({ "status": status }));
    }
    for victim in victims.into_iter().flat_map(|(_, victims)| victims) {
        evict(store, &victim);
    }
}

fn evict(store: &mut Store, victim: &At) {
    let Some(pod) = store.objects.get(victim).map(|pod| Value::clone(pod)) else { return };
    let told = ("DisruptionTarget", true, "PreemptionByScheduler");
    let conditions = with_condition(&pod, told, store.now);
    patch(store, WHO, (victim, "/status"), &json!({"status": {"conditions": conditions}}));
    delete(store, WHO, victim, pod["spec"]["terminationGracePeriodSeconds"].as_i64());
}

/// The node where room is made, and who goes; `None` if nobody need or can.
fn preempt(store: &Store, pod: &Pod) -> Option<(String, Vec<At>)> {
    let need = gpus(&pod.object);
    let mut lower: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    for (at, other) in store.of_kind("pods", "").filter(|(_, pod)| !is_over(pod)) {
        let (Some(node), other) = (node_of(other), read(store, at, other)) else { continue };
        if other.priority < pod.priority {
            lower.entry(node.to_owned()).or_default().push(other);
        }
    }
    // Whoever waits for victims to go waits on.
    let nominated = pod.object["status"]["nominatedNodeName"].as_str();
    let leaving = nominated.and_then(|node| lower.get(node));
    if leaving.is_some_and(|pods| pods.iter().any(|pod| is_leaving(&pod.object))) {
        return None;
    }
    let options = nodes(store, &pod.object).filter_map(|(name, all)| {
        let lower = lower.remove(&name)?;
        let free = all - taken(store, &name, pod.priority, &pod.at);
        let victims = chosen(lower, free, need)?;
        let highest = victims.iter().map(|pod| pod.priority).max()?;
        let youngest = victims.iter().filter_map(|pod| began(&pod.object)).min();
        Some(((highest, victims.len(), Reverse(youngest), name.clone()), name, victims))
    });
    let (_, node, victims) = options.min_by(|a, b| a.0.cmp(&b.0))?;
    let going = victims.into_iter().filter(|pod| !is_leaving(&pod.object));
    Some((node, going.map(|pod| pod.at).collect()))
}

fn began(pod: &Value) -> Option<k8s_openapi::jiff::Timestamp> {
    time(&pod["status"]["startTime"])
}

/// Of those less important, all go but who can be spared, the most important and oldest first.
fn chosen(mut lower: Vec<Pod>, free: i64, need: i64) -> Option<Vec<Pod>> {
    let mut free = free + lower.iter().map(|pod| gpus(&pod.object)).sum::<i64>();
    if free < need {
        return None;
    }
    lower.sort_by_key(|pod| (Reverse(pod.priority), began(&pod.object), pod.at.name.clone()));
    lower.retain(|pod| {
        let own = gpus(&pod.object);
        let spared = free - own >= need;
        free -= if spared { own } else { 0 };
        !spared
    });
    (!lower.is_empty()).then_some(lower)
}
