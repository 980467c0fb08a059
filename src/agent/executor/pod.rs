//! A pod, slim: what it takes of its node, and, for a guest, how it fares.
//!
//! Typed pods are dropped as soon as they were read: a member may run tens of thousands.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use super::guest::Guest;
use super::node::Load;
use super::selecting::Reach;

/// The highest priority of guests (gangs have it): who has no more cannot preempt them all.
const GUESTS_PRIORITY: i32 = -999;
/// The scheduler that preempts guests by itself.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Why kube-scheduler will not make room for an owner's pod by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hindrance {
    /// Its priority is no higher than that of guests, or it may not preempt.
    pub priority: bool,
    /// Another scheduler places it.
    pub scheduler: bool,
}

impl Hindrance {
    fn read(spec: &core::PodSpec) -> Self {
        let priority = spec.priority.unwrap_or(0) <= GUESTS_PRIORITY;
        let never = spec.preemption_policy.as_deref() == Some("Never");
        let scheduler = spec.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER);
        Self { priority: priority || never, scheduler: scheduler != DEFAULT_SCHEDULER }
    }
}

/// What an owner's pod that waits for GPUs asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// What it needs.
    pub load: Load,
    /// Where it may go.
    pub reach: Reach,
}

/// What a pod means to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes something of the node, whoever made it.
    Takes {
        /// The node on which it is bound or nominated.
        node: String,
        /// Whether it is only nominated: its scheduler makes room for it there.
        nominated: bool,
        /// Whether its devices come from resource claims, beside the device plugin's count.
        claims: bool,
    },
    /// It waits for GPUs and has no node in sight.
    Waits {
        /// What it asks for.
        wish: Box<Wish>,
        /// Whether its scheduler has tried, and found that it fits nowhere.
        tried: bool,
    },
    /// It is ours, bound or not, ended or not.
    Guest(Box<Guest>),
}

/// A pod that matters to lending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// UID.
    pub uid: String,
    /// Version of the object, for the order of what is seen.
    pub version: u64,
    /// What it takes of its node.
    pub load: Load,
    /// What it means to us.
    pub role: Role,
    /// What keeps kube-scheduler from making room for it, if it is an owner's that wants GPUs.
    pub hindrance: Hindrance,
}

impl Pod {
    /// Keeps what matters; `Err` holds the UID of a pod that does not.
    ///
    /// # Errors
    /// If the pod takes nothing, asks for no GPU, or has ended and is not ours.
    pub fn slim(pod: core::Pod, guest_namespace: &str) -> Result<Self, String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let version = version(pod.metadata.resource_version.as_deref());
        let load = pod.spec.as_ref().map(load).unwrap_or_default();
        if let Some(guest) = Guest::slim(&pod, guest_namespace) {
            let (role, hindrance) = (Role::Guest(Box::new(guest)), Hindrance::default());
            return Ok(Self { uid, version, load, role, hindrance });
        }
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let spec = pod.spec.unwrap_or_default();
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Err(uid);
        }
        let wants = load.gpu_count() > 0;
        let hindrance = if wants { Hindrance::read(&spec) } else { Hindrance::default() };
        let there = |node: &String| !node.is_empty();
        let bound = spec.node_name.clone().filter(there);
        let chosen = status.and_then(|status| status.nominated_node_name.clone()).filter(there);
        let nominated = bound.is_none();
        if let Some(node) = bound.or(chosen) {
            let claims = spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty());
            let role = Role::Takes { node, nominated, claims };
            return Ok(Self { uid, version, load, role, hindrance });
        }
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        if !wants || gated || pod.metadata.deletion_timestamp.is_some() {
            return Err(uid);
        }
        let wish = Wish { load: load.clone(), reach: Reach::slim(&spec) };
        let tried = status.is_some_and(found_no_room);
        let role = Role::Waits { wish: Box::new(wish), tried };
        Ok(Self { uid, version, load, role, hindrance })
    }

    /// The guest, if it is one.
    #[must_use]
    pub fn guest(&self) -> Option<&Guest> {
        match &self.role {
            Role::Guest(guest) => Some(guest),
            Role::Takes { .. } | Role::Waits { .. } => None,
        }
    }

    /// The node on which the pod takes something now.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        match &self.role {
            Role::Takes { node, .. } => Some(node),
            Role::Waits { .. } => None,
            Role::Guest(guest) if guest.is_terminal() => None,
            Role::Guest(guest) => guest.node.as_deref().or(guest.pinned.as_deref()),
        }
    }
}

/// Whether a scheduler has tried, and found that the pod fits nowhere.
fn found_no_room(status: &core::PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })
}

/// A resource version as a number; Kubernetes promises since 1.35 that it is one.
#[must_use]
pub fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What a pod asks for, as kube-scheduler counts it.
#[must_use]
pub fn load(spec: &core::PodSpec) -> Load {
    let mut running = Load::default();
    for container in &spec.containers {
        running.add(&request(container.resources.as_ref()));
    }
    let mut sidecars = Load::default();
    let mut starting = Load::default();
    for container in spec.init_containers.iter().flatten() {
        let mut step = request(container.resources.as_ref());
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&step);
            step = Load::default();
        }
        step.add(&sidecars);
        starting = starting.max(&step);
    }
    running.add(&sidecars);
    let mut total = running.max(&starting);
    let whole = request(spec.resources.as_ref());
    if whole.milli_cpu > 0 {
        total.milli_cpu = whole.milli_cpu;
    }
    if whole.memory > 0 {
        total.memory = whole.memory;
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Load::read(overhead));
    }
    total
}

fn request(resources: Option<&core::ResourceRequirements>) -> Load {
    let Some(resources) = resources else { return Load::default() };
    let mut list: BTreeMap<_, _> = resources.limits.clone().unwrap_or_default();
    list.extend(resources.requests.clone().unwrap_or_default());
    Load::read(&list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slim(pod: serde_json::Value) -> Result<Pod, String> {
        Pod::slim(serde_json::from_value(pod).unwrap(), "idlewild-guests")
    }

    fn gpus(count: u32) -> serde_json::Value {
        json!([{"name": "c", "resources": {"limits": {"nvidia.com/gpu": count.to_string()}}}])
    }

    #[test]
    fn pods_take_what_they_are_bound_or_nominated_to() {
        let bound = slim(json!({"metadata": {"uid": "u", "resourceVersion": "7"},
            "spec": {"nodeName": "n1", "containers": gpus(2)}}))
        .unwrap();
        assert_eq!((bound.place(), bound.load.gpu_count(), bound.version), (Some("n1"), 2, 7));
        let nominated = slim(json!({"metadata": {"uid": "u"}, "spec": {"containers": gpus(1)},
            "status": {"phase": "Pending", "nominatedNodeName": "n2"}}))
        .unwrap();
        assert_eq!(nominated.place(), Some("n2"));
    }

    #[test]
    fn only_pending_pods_that_want_gpus_now_are_wishes() {
        let pod = |phase: &str, spec: serde_json::Value| {
            slim(json!({"metadata": {"uid": "u"}, "spec": spec, "status": {"phase": phase}}))
        };
        let waits = pod("Pending", json!({"containers": gpus(1)})).unwrap();
        assert!(matches!(waits.role, Role::Waits { tried: false, .. }));
        assert_eq!(waits.place(), None);
        pod("Pending", json!({"containers": gpus(0)})).unwrap_err();
        pod("Succeeded", json!({"nodeName": "n", "containers": gpus(1)})).unwrap_err();
        pod("Pending", json!({"containers": gpus(1), "schedulingGates": [{"name": "g"}]}))
            .unwrap_err();
    }

    /// Whether its scheduler has tried, and what hinders kube-scheduler.
    fn waits(spec: serde_json::Value, status: &serde_json::Value) -> (bool, bool, bool) {
        let pod = json!({"metadata": {"uid": "u"}, "spec": spec, "status": status});
        let pod = slim(pod).unwrap();
        let Role::Waits { tried, .. } = pod.role else { panic!("it waits") };
        (tried, pod.hindrance.priority, pod.hindrance.scheduler)
    }

    #[test]
    fn a_pod_says_whether_its_scheduler_tried_and_what_hinders_kube_scheduler() {
        let new = json!({"phase": "Pending"});
        let tried = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
        let plain = json!({"containers": gpus(1)});
        assert_eq!(waits(plain.clone(), &new), (false, false, false), "its turn will come");
        assert_eq!(waits(plain, &tried), (true, false, false));
        let other = json!({"containers": gpus(1), "schedulerName": "batch"});
        assert_eq!(waits(other, &new), (false, false, true));
        let low = json!({"containers": gpus(1), "priority": -999});
        assert_eq!(waits(low, &new), (false, true, false));
        let polite = json!({"containers": gpus(1), "priority": 9, "preemptionPolicy": "Never"});
        assert_eq!(waits(polite, &tried), (true, true, false));
    }

    #[test]
    fn a_load_counts_sidecars_init_steps_overhead_and_pod_level_requests() {
        let cpu = |text: &str| json!({"requests": {"cpu": text}});
        let count = |spec: serde_json::Value| load(&serde_json::from_value(spec).unwrap());
        let spec = json!({
            "containers": [{"name": "a", "resources": cpu("1")}, {"name": "b", "resources": cpu("1")}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": cpu("500m")},
                {"name": "i", "resources": cpu("4")}],
            "overhead": {"cpu": "100m"}});
        assert_eq!(count(spec.clone()).milli_cpu, 4600);
        let mut spec = spec;
        spec["resources"] = cpu("6");
        assert_eq!(count(spec).milli_cpu, 6100);
    }
}
