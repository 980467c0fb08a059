//! Kubelets, and what truly runs on their nodes.
//!
//! Invariant: what runs is known here and nowhere else; the API server is only told of it, when it
//! and the node's way to it work. Invariants about what runs are judged by this.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::server::{At, Store};
use super::reading::{
    GPU, delete, gpus, has, is_leaving, is_over, node_of, patch, quantity, uid, with_condition,
};

/// A kubelet that says nothing for so long makes its node not ready.
const LOST_AFTER: SignedDuration = SignedDuration::from_secs(40);
/// Exit code of what was killed.
const KILLED: i64 = 137;

/// What a program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// How long it runs if nobody ends it.
    pub(crate) runs: Option<SignedDuration>,
    /// How it ends then.
    pub(crate) exit: i64,
    /// How long it takes to leave when told to; `None` = until it is killed.
    pub(crate) leaves: Option<SignedDuration>,
    /// How it ends when told to.
    pub(crate) told_exit: i64,
    /// What it writes into its termination log.
    pub(crate) message: String,
    /// How long its image takes to come.
    pub(crate) pull: SignedDuration,
}

/// One pod on its node, as it truly is.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) node: String,
    pub(crate) at: At,
    pub(crate) uid: String,
    /// The pod as it was when the kubelet took it on.
    pub(crate) pod: Value,
    pub(crate) gpus: i64,
    /// When the kubelet took it on.
    pub(crate) admitted: Timestamp,
    /// When user code began.
    pub(crate) began: Option<Timestamp>,
    /// When it was told to stop, and when it is killed.
    pub(crate) told: Option<(Timestamp, Timestamp)>,
    /// When nothing of it ran any more, exit code, and the kubelet's word.
    pub(crate) ended: Option<(Timestamp, i64, &'static str)>,
    program: Program,
    waits: bool,
}

/// All kubelets of a cluster.
#[derive(Default)]
pub(crate) struct Kubelet {
    /// What is on nodes, by UID of the pod; what ended is kept until its end is told.
    pub(crate) runs: BTreeMap<String, Run>,
    /// Everything that ended and was told.
    pub(crate) past: Vec<Run>,
    /// Nodes that are cut off, and since when.
    pub(crate) cut: BTreeMap<String, Timestamp>,
}

impl Kubelet {
    /// Time passes on all nodes; `store` is what their kubelets can reach. Returns when to be called
    /// again, if nothing else happens.
    pub(crate) fn step(
        &mut self,
        store: Option<&mut Store>,
        now: Timestamp,
        program: &mut dyn FnMut(&Value) -> Program,
    ) -> Option<Timestamp> {
        for run in self.runs.values_mut() {
            run.pass(now);
        }
        if let Some(store) = store {
            self.admit(store, now, program);
            self.follow(store, now);
            for run in self.runs.values_mut() {
                run.pass(now);
            }
            self.tell(store, now);
            self.judge_nodes(store, now);
        }
        let own = self.runs.values().filter_map(|run| run.next(now));
        own.chain(self.lost().filter(|at| *at > now)).min()
    }

    /// What user code runs now.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(|run| run.began.is_some() && run.ended.is_none())
    }

    /// All that ever ran.
    pub(crate) fn history(&self) -> impl Iterator<Item = &Run> {
        self.past.iter().chain(self.runs.values())
    }

    /// A node loses power and comes back: nothing that ran on it does.
    pub(crate) fn reboot(&mut self, node: &str, now: Timestamp) {
        // What had not begun begins when it is back.
        let on = self.runs.values_mut().filter(|run| run.node == node);
        for run in on.filter(|run| run.began.is_some() && run.ended.is_none()) {
            run.ended = Some((now, KILLED, "ContainerStatusUnknown"));
        }
    }

    fn lost(&self) -> impl Iterator<Item = Timestamp> {
        self.cut.values().filter_map(|since| since.checked_add(LOST_AFTER).ok())
    }

    /// Takes on pods that were bound.
    fn admit(
        &mut self,
        store: &mut Store,
        now: Timestamp,
        program: &mut dyn FnMut(&Value) -> Program,
    ) {
        let new: Vec<(At, Value)> = store
            .of_kind("pods", "")
            .filter(|(_, pod)| !is_over(pod) && node_of(pod).is_some())
            .filter(|(_, pod)| !self.runs.contains_key(uid(pod)) && !self.has_been(uid(pod)))
            .map(|(at, pod)| (at.clone(), Value::clone(pod)))
            .collect();
        for (at, pod) in new {
            let node = node_of(&pod).unwrap_or_default().to_owned();
            if self.cut.contains_key(&node) {
                continue;
            }
            let (uid, need) = (uid(&pod).to_owned(), gpus(&pod));
            let held: i64 =
                self.on(&node).filter(|run| run.ended.is_none()).map(|run| run.gpus).sum();
            let machine = store.get("nodes", "", &node);
            let all = machine.map_or(0, |node| quantity(&node["status"]["allocatable"][GPU]));
            let refused = held + need > all;
            let program = program(&pod);
            let ended = refused.then_some((now, KILLED, "OutOfnvidia.com/gpu"));
            let run = Run {
                node,
                at,
                uid: uid.clone(),
                pod,
                gpus: need,
                admitted: now,
                began: None,
                told: None,
                ended,
                program,
                waits: true,
            };
            self.runs.insert(uid, run);
        }
    }

    fn has_been(&self, uid: &str) -> bool {
        self.past.iter().rev().any(|run| run.uid == uid)
    }

    fn on(&self, node: &str) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(move |run| run.node == node)
    }

    /// Takes in what the API server says of pods: gates, and who is to go.
    fn follow(&mut self, store: &Store, now: Timestamp) {
        let cut: BTreeSet<&String> = self.cut.keys().collect();
        for run in self.runs.values_mut().filter(|run| !cut.contains(&run.node)) {
            let pod = store.objects.get(&run.at).filter(|pod| uid(pod) == run.uid);
            let Some(pod) = pod else {
                // Its object is gone: the kubelet ends it as it would have been asked to.
                run.tell(now, run.pod["spec"]["terminationGracePeriodSeconds"].as_i64());
                continue;
            };
            if is_leaving(pod) {
                run.tell(now, pod["metadata"]["deletionGracePeriodSeconds"].as_i64());
            }
            run.waits =
                !gates(pod).all(|gate| store.get("configmaps", &run.at.namespace, &gate).is_some());
        }
    }

    /// Tells the API server what changed, and takes away what has ended and was to go.
    fn tell(&mut self, store: &mut Store, now: Timestamp) {
        let mut done = Vec::new();
        for run in self.runs.values().filter(|run| !self.cut.contains_key(&run.node)) {
            let pod = store.objects.get(&run.at).filter(|pod| uid(pod) == run.uid).cloned();
            let Some(pod) = pod else {
                if run.ended.is_some() {
                    done.push(run.uid.clone());
                }
                continue;
            };
            if let Some(status) = run.status(&pod, now) {
                let body = json!({"metadata": {"uid": run.uid}, "status": status});
                patch(store, "kubelet", (&run.at, "/status"), &body);
            }
            if run.ended.is_some() {
                if is_leaving(&pod) {
                    delete(store, "kubelet", &run.at, Some(0));
                }
                done.push(run.uid.clone());
            }
        }
        for uid in done {
            self.past.extend(self.runs.remove(&uid));
        }
    }

    /// Nodes whose kubelets are not heard of are not ready, and are again when they are.
    fn judge_nodes(&mut self, store: &mut Store, now: Timestamp) {
        let nodes: Vec<(At, Value)> =
            store.of_kind("nodes", "").map(|(at, node)| (at.clone(), Value::clone(node))).collect();
        for (at, node) in nodes {
            let since = self.cut.get(&at.name);
            let lost = since.is_some_and(|since| now.duration_since(*since) >= LOST_AFTER);
            let reason = if lost { "NodeStatusUnknown" } else { "KubeletReady" };
            let told = ("Ready", !lost, reason);
            if has(&node, told) || (since.is_some() && !lost) {
                continue;
            }
            let conditions = with_condition(&node, told, now);
            patch(
                store,
                "node-lifecycle",
                (&at, "/status"),
                &json!({"status": {"conditions": conditions}}),
            );
            let taints = if lost {
                json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
                    {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])
            } else {
                json!(null)
            };
            patch(store, "node-lifecycle", (&at, ""), &json!({"spec": {"taints": taints}}));
        }
    }
}

/// `ConfigMaps` that a pod's variables need.
fn gates(pod: &Value) -> impl Iterator<Item = String> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let variables = containers.filter_map(|one| one["env"].as_array()).flatten();
    let names = variables
        .filter_map(|one| Some(one["valueFrom"]["configMapKeyRef"]["name"].as_str()?.to_owned()));
    names.collect::<BTreeSet<_>>().into_iter()
}

impl Run {
    fn tell(&mut self, now: Timestamp, grace: Option<i64>) {
        let grace = SignedDuration::from_secs(grace.unwrap_or(30).max(0));
        let kill = now.checked_add(grace).unwrap_or(now);
        // Grace may be made shorter, never longer.
        self.told = Some(self.told.map_or((now, kill), |(told, before)| (told, before.min(kill))));
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod["spec"]["activeDeadlineSeconds"].as_i64()?;
        self.admitted.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn pulled(&self) -> Timestamp {
        self.admitted.checked_add(self.program.pull).unwrap_or(self.admitted)
    }

    /// When it ends by itself.
    fn finish(&self) -> Option<Timestamp> {
        self.began?.checked_add(self.program.runs?).ok()
    }

    /// When it is gone after it was told to go.
    fn left(&self) -> Option<Timestamp> {
        let (told, kill) = self.told?;
        let own = self.program.leaves.and_then(|leaves| told.checked_add(leaves).ok());
        Some(own.map_or(kill, |own| own.min(kill)))
    }

    /// What happens on the node until `now`, whoever can be reached.
    fn pass(&mut self, now: Timestamp) {
        if self.ended.is_some() {
            return;
        }
        if let Some(deadline) = self.deadline().filter(|deadline| *deadline <= now)
            && self.told.is_none()
        {
            self.tell(deadline, self.pod["spec"]["terminationGracePeriodSeconds"].as_i64());
        }
        if self.began.is_none() {
            if self.told.is_some() {
                self.ended = Some((now, KILLED, self.word()));
            } else if !self.waits && self.pulled() <= now {
                self.began = Some(now);
            }
            return;
        }
        let finish = self.finish().filter(|at| *at <= now).map(|at| (at, self.program.exit, ""));
        let left = self.left().filter(|at| *at <= now).map(|at| {
            let killed =
                self.told.is_some_and(|(_, kill)| kill == at) && self.program.leaves.is_none();
            (at, if killed { KILLED } else { self.program.told_exit }, self.word())
        });
        self.ended = [finish, left].into_iter().flatten().min_by_key(|(at, ..)| *at);
    }

    /// The kubelet's word for an end that was ordered.
    fn word(&self) -> &'static str {
        let told = self.told.map(|(told, _)| told);
        let late = self.deadline().is_some_and(|deadline| told >= Some(deadline));
        if late { "DeadlineExceeded" } else { "" }
    }

    /// When something happens by time alone.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.ended.is_some() {
            return None;
        }
        let pulled = self.began.is_none().then(|| self.pulled());
        let all = [pulled, self.finish(), self.left(), self.deadline()];
        all.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The status that its pod should have; `None` if it has it.
    fn status(&self, pod: &Value, now: Timestamp) -> Option<Value> {
        let phase = match (&self.ended, self.began) {
            (Some((_, 0, _)), Some(_)) => "Succeeded",
            (Some(_), _) => "Failed",
            (None, Some(_)) => "Running",
            (None, None) => "Pending",
        };
        let known = pod["status"]["phase"].as_str().unwrap_or("Pending") == phase;
        if known && (phase != "Pending" || pod["status"].get("startTime").is_some()) {
            return None;
        }
        let mut status = json!({"phase": phase, "startTime": self.admitted, "podIP": "10.0.0.9"});
        let ready = phase == "Running";
        status["conditions"] = with_condition(pod, ("Ready", ready, ""), now);
        let state = match (self.ended, self.began) {
            (Some((at, code, _)), Some(began)) => json!({"terminated": {"exitCode": code,
                "startedAt": began, "finishedAt": at, "message": self.message(code),
                "reason": self.last_word(code)}}),
            (Some(_), None) => return Some(self.refused(status)),
            (None, Some(began)) => json!({"running": {"startedAt": began}}),
            (None, None) => json!({"waiting": {"reason": "ContainerCreating"}}),
        };
        let containers = self.pod["spec"]["containers"].as_array().into_iter().flatten();
        status["containerStatuses"] = containers
            .map(|one| {
                json!({"name": one["name"], "image": one["image"], "imageID": "",
                "ready": ready, "restartCount": 0, "state": state})
            })
            .collect();
        let of_pod = |word: &str| !word.is_empty() && word != "ContainerStatusUnknown";
        if let Some((_, _, word)) = self.ended.filter(|(_, _, word)| of_pod(word)) {
            status["reason"] = word.into();
        }
        Some(status)
    }

    /// What the kubelet says of a container that ended so.
    fn last_word(&self, code: i64) -> &'static str {
        match self.ended {
            Some((_, _, word @ "ContainerStatusUnknown")) => word,
            _ if code == 0 => "Completed",
            _ => "Error",
        }
    }

    fn refused(&self, mut status: Value) -> Value {
        if let Some((_, _, word)) = self.ended.filter(|(_, _, word)| !word.is_empty()) {
            status["reason"] = word.into();
        }
        status
    }

    fn message(&self, code: i64) -> &str {
        if code == KILLED { "" } else { &self.program.message }
    }
}
