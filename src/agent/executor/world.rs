//! A member in memory for tests: an API server, a scheduler and a kubelet, each as simple as it can
//! be and still behave like the real one where the executor looks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::event::{Event, Written, noted, noted_node};
use super::pod::{self, Pod};
use super::state::State;
use super::step::Task;
use super::writes::{Delete, Write};
use crate::api::gpulease::GuestLeaseStatus;
use crate::api::{GpuPool, GuestLease, HubGrant};
use crate::cluster::{Outcome, Seen};

pub(super) const GUESTS: &str = "idlewild-guests";

/// Everything that the API server of the member holds.
pub(super) struct World {
    pub nodes: BTreeMap<String, core::Node>,
    pub pods: BTreeMap<String, core::Pod>,
    pub pools: BTreeMap<String, GpuPool>,
    pub leases: BTreeMap<String, GuestLease>,
    pub grants: BTreeMap<String, HubGrant>,
    pub gates: BTreeMap<String, String>,
    pub now: Timestamp,
    pub writes: Vec<String>,
    version: u64,
    /// Events that the watches have not brought yet.
    pub news: Vec<Event>,
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl World {
    /// `nodes` nodes of 8 A100 each, one pool `a` with the given offer, one grant `g` for `hub`.
    pub(super) fn new(nodes: u32, offer: &Value) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            pools: BTreeMap::new(),
            leases: BTreeMap::new(),
            grants: BTreeMap::new(),
            gates: BTreeMap::new(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            writes: Vec::new(),
            version: 0,
            news: Vec::new(),
        };
        for number in 0..nodes {
            let name = format!("n{number}");
            world.put_node(json!({
                "metadata": {"name": name, "uid": name, "labels": {
                    "lend": "a", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}},
                "status": {
                    "allocatable": {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"},
                    "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        world
            .put_pool("a", json!({"nodeSelector": {"matchLabels": {"lend": "a"}}, "offer": offer}));
        world.put_grant("g", None);
        world
    }

    fn next(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(super) fn put_node(&mut self, mut node: Value) {
        node["metadata"]["resourceVersion"] = self.next().into();
        let node: core::Node = read(node);
        self.news.push(Event::Node(Seen::Object(noted_node(node.clone()))));
        self.nodes.insert(node.name_any(), node);
    }

    pub(super) fn put_pool(&mut self, name: &str, spec: Value) {
        let old = self.pools.get(name);
        let generation = old.and_then(|pool| pool.metadata.generation).unwrap_or(0) + 1;
        let status = old.and_then(|pool| pool.status.clone());
        let mut pool: GpuPool =
            read(json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuPool",
            "metadata": {"name": name, "uid": name, "namespace": "idlewild-system",
                "generation": generation, "resourceVersion": self.next()}, "spec": spec}));
        pool.status = status;
        self.news.push(Event::Pool(Seen::Object(noted(pool.clone()))));
        self.pools.insert(name.into(), pool);
    }

    pub(super) fn put_grant(&mut self, name: &str, max: Option<i64>) {
        let grant: HubGrant =
            read(json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "HubGrant",
            "metadata": {"name": name, "uid": name, "resourceVersion": self.next()},
            "spec": {"hubId": "hub", "address": "https://h", "ca": "c", "member": "m",
                "namespace": "member-m", "maxGpus": max}}));
        self.news.push(Event::Grant(Seen::Object(noted(grant.clone()))));
        self.grants.insert(name.into(), grant);
    }

    /// The hub of a grant answers now.
    pub(super) fn contact(&mut self, name: &str) {
        let mut grant = self.grants[name].clone();
        let version = self.next();
        grant.metadata.resource_version = Some(version);
        grant.status.get_or_insert_default().last_contact =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
        self.news.push(Event::Grant(Seen::Object(noted(grant.clone()))));
        self.grants.insert(name.into(), grant);
    }

    pub(super) fn drop_grant(&mut self, name: &str) {
        let grant = self.grants.remove(name).unwrap();
        self.news.push(Event::Grant(Seen::Gone(noted(grant))));
    }

    /// Proposes a lease: `indexes` × `size` pods of `gpus` GPUs.
    pub(super) fn propose(&mut self, name: &str, indexes: &str, size: i32, gpus: i32) {
        let lease = read(json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GuestLease",
            "metadata": {"name": name, "namespace": GUESTS, "uid": name, "generation": 1,
                "creationTimestamp": self.now},
            "spec": {"hubId": "hub", "grant": "g", "leaseName": name, "leaseUid": name,
                "job": {"namespace": "team", "name": "job", "uid": format!("job-{name}"), "generation": 1},
                "pool": "a", "epoch": {"incarnation": 1, "attempt": 1}, "indexes": indexes,
                "size": size, "gpu": {"count": gpus, "model": "A100"}, "graceSeconds": 10,
                "activeDeadlineSeconds": 3600, "digest": "sha256:0",
                "template": {"spec": {"containers": [{"name": "main", "image": "registry.test/i:1"}]}}}}));
        self.put_lease(lease);
    }

    pub(super) fn put_lease(&mut self, mut lease: GuestLease) {
        lease.metadata.resource_version = Some(self.next());
        self.news.push(Event::Lease(Seen::Object(noted(lease.clone()))));
        self.leases.insert(lease.name_any(), lease);
    }

    pub(super) fn drop_lease(&mut self, name: &str) {
        let lease = self.leases.remove(name).unwrap();
        self.news.push(Event::Lease(Seen::Gone(noted(lease))));
    }

    pub(super) fn edit(&mut self, name: &str, change: impl FnOnce(&mut GuestLease)) {
        let mut lease = self.leases[name].clone();
        change(&mut lease);
        self.put_lease(lease);
    }

    pub(super) fn status(&self, name: &str) -> GuestLeaseStatus {
        self.leases[name].status.clone().unwrap_or_default()
    }

    pub(super) fn confirm(&mut self, name: &str) {
        self.edit(name, |lease| lease.spec.confirmed = true);
    }

    fn put_pod(&mut self, mut pod: core::Pod) {
        pod.metadata.resource_version = Some(self.next());
        self.news.push(Event::Pod(Seen::Object(Pod::slim(pod.clone(), GUESTS))));
        self.pods.insert(pod.name_any(), pod);
    }

    fn drop_pod(&mut self, name: &str) {
        let Some(pod) = self.pods.remove(name) else { return };
        self.version += 1;
        self.news.push(Event::Pod(Seen::Gone(Pod::slim(pod, GUESTS))));
    }

    pub(super) fn patch_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let Some(pod) = self.pods.get(name) else { return };
        let mut value = serde_json::to_value(pod).unwrap();
        change(&mut value);
        self.put_pod(read(value));
    }

    /// An owner's pod of `gpus` GPUs that stands bound on `node`.
    pub(super) fn owner_pod(&mut self, name: &str, node: Option<&str>, gpus: u32) {
        let resources = json!({"limits": {"nvidia.com/gpu": gpus.to_string()}});
        let uid = format!("{name}@{}", self.version);
        self.put_pod(read(json!({"metadata": {"name": name, "uid": uid, "namespace": "owner"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": resources}]},
            "status": {"phase": "Pending"}})));
    }

    pub(super) fn put_owners_pod(&mut self, pod: Value) {
        self.put_pod(read(pod));
    }

    pub(super) fn remove_pod(&mut self, name: &str) {
        self.drop_pod(name);
    }

    /// GPUs that living pods hold on each node, guests that are only pinned not counted.
    pub(super) fn bound(&self) -> BTreeMap<String, u32> {
        let mut bound = BTreeMap::new();
        for pod in self.pods.values() {
            let spec = pod.spec.as_ref().unwrap();
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if let Some(node) = spec.node_name.as_ref()
                && !matches!(phase, Some("Succeeded" | "Failed"))
            {
                *bound.entry(node.clone()).or_default() += pod::load(spec).gpu_count();
            }
        }
        bound
    }

    /// kube-scheduler: binds what it can.
    pub(super) fn schedule(&mut self) {
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for name in names {
            let pod = &self.pods[&name];
            let spec = pod.spec.as_ref().unwrap();
            let pinned = super::selecting::required(spec).first().and_then(|term| {
                term.match_fields.as_ref()?.first()?.values.as_ref()?.first().cloned()
            });
            let (None, Some(node)) = (&spec.node_name, pinned) else { continue };
            let wanted = pod::load(spec).gpu_count();
            if self.bound().get(&node).copied().unwrap_or(0) + wanted <= 8 {
                self.patch_pod(&name, |pod| pod["spec"]["nodeName"] = node.into());
            } else {
                let judged = json!([{"type": "PodScheduled", "status": "False",
                    "reason": "Unschedulable"}]);
                self.patch_pod(&name, |pod| pod["status"]["conditions"] = judged);
            }
        }
    }

    /// The kubelet: runs what is bound (gangs once their gate is open), ends what was told to go.
    pub(super) fn kubelet(&mut self) {
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for name in names {
            let pod = self.pods[&name].clone();
            let status = pod.status.clone().unwrap_or_default();
            let phase = status.phase.unwrap_or_default();
            let guest = pod.metadata.namespace.as_deref() == Some(GUESTS);
            let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            let terminal = matches!(phase.as_str(), "Succeeded" | "Failed");
            let lease = pod.owner_references().first().map(|owner| owner.name.clone());
            let gang = pod.labels().contains_key(crate::api::LABEL_RANK);
            let gated = gang && lease.is_none_or(|lease| !self.gates.contains_key(&lease));
            if !guest {
                continue;
            }
            match (pod.metadata.deletion_timestamp.is_some(), terminal) {
                (true, true) => self.drop_pod(&name),
                (true, false) => self.end(&name, 143),
                (false, false) if bound && phase != "Running" => self.start(&name, gated),
                _ => {}
            }
        }
    }

    fn start(&mut self, name: &str, gated: bool) {
        let now = self.now;
        self.patch_pod(name, |pod| {
            pod["status"]["startTime"] = json!(now);
            pod["status"]["podIP"] = "10.0.0.1".into();
            if !gated {
                pod["status"]["phase"] = "Running".into();
            }
        });
    }

    /// The program of a pod ends.
    pub(super) fn end(&mut self, name: &str, code: i32) {
        let now = self.now;
        self.patch_pod(name, |pod| {
            pod["status"]["phase"] = if code == 0 { "Succeeded" } else { "Failed" }.into();
            pod["status"]["containerStatuses"] = json!([{"name": "main", "image": "i", "imageID": "",
                "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]);
        });
    }

    /// kube-scheduler preempts a guest.
    pub(super) fn preempt(&mut self, name: &str) {
        let now = self.now;
        self.patch_pod(name, |pod| {
            pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler", "lastTransitionTime": now}]);
        });
        self.delete(name, 10);
    }

    fn delete(&mut self, name: &str, grace: i64) {
        let Some(pod) = self.pods.get(name) else { return };
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let terminal = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        if !bound || terminal {
            return self.drop_pod(name);
        }
        let ends = self.now.checked_add(SignedDuration::from_secs(grace)).unwrap();
        self.patch_pod(name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(ends);
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        });
    }

    /// Carries out `write` as the API server would; the answer.
    pub(super) fn perform(&mut self, write: Write) -> Event {
        match write {
            Write::Status(lease, status) => {
                let name = lease.name_any();
                let stands = self.leases.get(&name).map(ResourceExt::resource_version);
                if stands == Some(lease.resource_version()) {
                    self.writes.push(format!("status {name} {:?}", status.phase.unwrap()));
                    self.edit(&name, |lease| lease.status = Some(*status));
                } else {
                    self.writes.push(format!("conflict {name}"));
                }
                let written = match self.leases.get(&name) {
                    Some(lease) => Written::Lease(Box::new(lease.clone())),
                    None => Written::Failed(Outcome::Gone, String::new()),
                };
                Event::Written(lease.uid().unwrap(), Task::Status, written)
            }
            Write::Create { lease, key, pod, .. } => {
                let mut pod = pod;
                let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
                self.writes.push(format!("create {name}"));
                if !self.pods.contains_key(&name) {
                    pod["metadata"]["uid"] = format!("{name}@{}", self.version).into();
                    pod["status"] = json!({"phase": "Pending"});
                    self.put_pod(read(pod));
                }
                let stands = Pod::slim(self.pods[&name].clone(), GUESTS).unwrap();
                Event::Written(lease, Task::Pod(key), Written::Pod(Box::new(stands)))
            }
            Write::Gate(lease, gate) => {
                let name = gate["metadata"]["name"].as_str().unwrap().to_owned();
                self.writes.push(format!("gate {name}"));
                self.gates.insert(name, gate["data"]["master-addr"].to_string());
                Event::Written(lease, Task::Gate, Written::Done)
            }
            Write::Delete(delete) => self.perform_delete(delete),
            Write::Picture(pool, status) => {
                let name = pool.name_any();
                self.writes.push(format!("picture {name}"));
                let version = self.next();
                let pool = self.pools.get_mut(&name).unwrap();
                pool.status = Some(*status);
                pool.metadata.resource_version = Some(version);
                self.news.push(Event::Pool(Seen::Object(noted(pool.clone()))));
                Event::Pictured(name, Some(Box::new(pool.clone())))
            }
        }
    }

    fn perform_delete(&mut self, delete: Delete) -> Event {
        self.writes.push(format!("delete {}", delete.name));
        let task = Task::Pod(delete.key);
        if let Some(over) = &delete.over {
            self.sweep(over);
            return Event::Written(delete.lease, task, Written::Deleting(delete.uid));
        }
        let stands = self.pods.get(&delete.name);
        let stands = stands.filter(|pod| pod.uid().as_deref() == Some(&delete.uid));
        let version = stands.map(|pod| pod.meta().resource_version.clone());
        let written = match version {
            None => Written::PodGone(delete.uid),
            Some(version) if delete.version.is_some() && delete.version != version => {
                Written::Failed(Outcome::Conflict, String::new())
            }
            Some(_) => {
                self.delete(&delete.name, delete.grace.unwrap_or(0));
                Written::Deleting(delete.uid)
            }
        };
        Event::Written(delete.lease, task, written)
    }

    /// Removes all pods of the lease `name` that have ended, recorded or not.
    fn sweep(&mut self, name: &str) {
        let ended = |pod: &core::Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
                && pod.labels().get(crate::api::LABEL_GUEST_LEASE).is_some_and(|of| of == name)
        };
        let ended: Vec<_> =
            self.pods.values().filter(|pod| ended(pod)).map(ResourceExt::name_any).collect();
        for pod in &ended {
            self.drop_pod(pod);
        }
    }

    /// What a new process learns from its first lists.
    pub(super) fn listed(&mut self) -> State {
        self.news.clear();
        let mut state = State::default();
        let mut tell = |event| state.apply(event, self.now);
        tell(Event::Node(Seen::Listing));
        tell(Event::Pod(Seen::Listing));
        for node in self.nodes.values() {
            tell(Event::Node(Seen::Object(noted_node(node.clone()))));
        }
        for pod in self.pods.values() {
            tell(Event::Pod(Seen::Object(Pod::slim(pod.clone(), GUESTS))));
        }
        for pool in self.pools.values() {
            tell(Event::Pool(Seen::Object(noted(pool.clone()))));
        }
        for lease in self.leases.values() {
            tell(Event::Lease(Seen::Object(noted(lease.clone()))));
        }
        for grant in self.grants.values() {
            tell(Event::Grant(Seen::Object(noted(grant.clone()))));
        }
        tell(Event::Node(Seen::Listed));
        tell(Event::Pod(Seen::Listed));
        tell(Event::Pool(Seen::Listed));
        tell(Event::Lease(Seen::Listed));
        tell(Event::Grant(Seen::Listed));
        state
    }

    /// One turn of the executor: it hears the news, and its writes are carried out.
    pub(super) fn turn(&mut self, state: &mut State) -> usize {
        for event in std::mem::take(&mut self.news) {
            state.apply(event, self.now);
        }
        let writes = state.turn(true, self.now);
        let count = writes.len();
        for write in writes {
            let answer = self.perform(write);
            state.apply(answer, self.now);
        }
        count
    }

    /// One turn whose answers come only after everything else that happened.
    pub(super) fn slow_turn(&mut self, state: &mut State) {
        for event in std::mem::take(&mut self.news) {
            state.apply(event, self.now);
        }
        for write in state.turn(true, self.now) {
            let answer = self.perform(write);
            self.news.push(answer);
        }
    }

    /// The executor dies after its first `count` writes of a turn, before it hears the answers.
    pub(super) fn die(&mut self, state: &mut State, count: usize) {
        for event in std::mem::take(&mut self.news) {
            state.apply(event, self.now);
        }
        for write in state.turn(true, self.now).into_iter().take(count) {
            self.perform(write);
        }
        *state = self.listed();
    }

    /// Turns until nothing is written any more.
    pub(super) fn settle(&mut self, state: &mut State) {
        for _ in 0..200 {
            if self.turn(state) == 0 && self.news.is_empty() {
                return;
            }
        }
        panic!("never quiet: {:?}", &self.writes[self.writes.len().saturating_sub(20)..]);
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }
}
