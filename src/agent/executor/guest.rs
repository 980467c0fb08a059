//! A guest's pod, slim: whose it is, how it fares, and what its end means.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::selecting;
use crate::api;
use crate::api::gpulease::is_reference;

/// Conditions that every pod has; they tell nothing about its end.
const USUAL: [&str; 5] =
    ["PodScheduled", "Initialized", "PodReadyToStartContainers", "ContainersReady", "Ready"];

/// Which pod of its lease: replica index and rank inside the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Replica index.
    pub index: u32,
    /// Rank inside the replica; 0 for single pods.
    pub rank: u32,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Not all its containers have started.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// Ended with success, confirmed by the kubelet.
    Succeeded,
    /// Ended without, confirmed by the kubelet.
    Failed,
}

/// What keeps a pod from starting and will not pass by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its image cannot be pulled.
    ImagePull(String),
    /// Its image runs as root, which guests may not.
    NeedsRoot(String),
}

/// A container that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedContainer {
    /// Name.
    pub name: String,
    /// Exit code.
    pub exit_code: i32,
    /// The kubelet's word for it, such as `OOMKilled`.
    pub reason: String,
    /// When it ended.
    pub at: Option<Timestamp>,
    /// What its termination message says.
    pub said: Said,
}

/// What a program says at its end, in the last line of its termination message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `"complete":true`: it did all it had to.
    pub complete: bool,
    /// Its newest save, and when it made that; `None` = it does not say when.
    pub checkpoint: Option<(String, Option<Timestamp>)>,
}

impl Said {
    /// Reads the last line that is not empty, if it is JSON; anything else says nothing.
    fn read(message: &str) -> Self {
        let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let said = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
        let reference = said["checkpoint"].as_str().filter(|text| is_reference(text));
        let at = said["at"].as_str().and_then(|text| text.parse().ok());
        Self {
            complete: said["complete"] == serde_json::Value::Bool(true),
            checkpoint: reference.map(|reference| (reference.to_owned(), at)),
        }
    }
}

/// A guest's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Name of the pod.
    pub name: String,
    /// Version of the object, as the server writes it.
    pub version: String,
    /// UID of the `GuestLease` that owns it.
    pub lease_uid: String,
    /// Which of the lease's pods.
    pub key: Key,
    /// Node to which it is bound.
    pub node: Option<String>,
    /// Node that we chose for it.
    pub pinned: Option<String>,
    /// How far it has come.
    pub stage: Stage,
    /// Whether kube-scheduler has tried and found that it does not fit.
    pub unschedulable: bool,
    /// IP address.
    pub ip: Option<String>,
    /// When the kubelet took it on.
    pub started: Option<Timestamp>,
    /// When its first container began.
    pub ran: Option<Timestamp>,
    /// Whether its deletion was asked for.
    pub deleting: bool,
    /// When it was first told to go, if it was.
    pub notice: Option<Timestamp>,
    /// Reason of its condition `DisruptionTarget`.
    pub disruption: Option<String>,
    /// The kubelet's word for its end, such as `DeadlineExceeded`.
    pub reason: Option<String>,
    /// Types of its true conditions that not every pod has.
    pub conditions: Vec<String>,
    /// Containers that have ended, init containers first.
    pub ended: Vec<EndedContainer>,
    /// What keeps it from starting.
    pub trouble: Option<Trouble>,
    /// When we first saw it, by our clock.
    pub seen: Timestamp,
    /// When we first saw the trouble, by our clock.
    pub trouble_seen: Timestamp,
}

impl Guest {
    /// `None` if the pod is no guest: another namespace, or no `GuestLease` for its controller.
    #[must_use]
    pub fn slim(pod: &core::Pod, guest_namespace: &str) -> Option<Self> {
        if pod.metadata.namespace.as_deref() != Some(guest_namespace) {
            return None;
        }
        let labels = pod.metadata.labels.as_ref()?;
        let owners = pod.metadata.owner_references.as_ref()?;
        let owner = owners
            .iter()
            .find(|owner| owner.kind == "GuestLease" && owner.controller == Some(true))?;
        let number = |label: &str| labels.get(label).and_then(|text| text.parse().ok());
        let key =
            Key { index: number(api::LABEL_INDEX)?, rank: number(api::LABEL_RANK).unwrap_or(0) };
        let spec = pod.spec.clone().unwrap_or_default();
        let mut guest = Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            version: pod.metadata.resource_version.clone().unwrap_or_default(),
            lease_uid: owner.uid.clone(),
            key,
            node: spec.node_name.clone().filter(|node| !node.is_empty()),
            pinned: pinned(&spec),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            notice: deletion_asked(pod),
            ..Self::default()
        };
        if let Some(status) = &pod.status {
            guest.read(status);
        }
        Some(guest)
    }

    fn read(&mut self, status: &core::PodStatus) {
        self.stage = match status.phase.as_deref() {
            Some("Running") => Stage::Running,
            Some("Succeeded") => Stage::Succeeded,
            Some("Failed") => Stage::Failed,
            _ => Stage::Pending,
        };
        self.ip = status.pod_ip.clone().filter(|ip| !ip.is_empty());
        self.started = status.start_time.as_ref().map(|time| time.0);
        self.reason.clone_from(&status.reason);
        for condition in status.conditions.iter().flatten() {
            let holds = condition.status == "True";
            if condition.type_ == "PodScheduled" {
                self.unschedulable = !holds && condition.reason.as_deref() == Some("Unschedulable");
            }
            if holds && condition.type_ == "DisruptionTarget" {
                let since = condition.last_transition_time.as_ref().map(|time| time.0);
                self.notice = [self.notice, since].into_iter().flatten().min();
                self.disruption = Some(condition.reason.clone().unwrap_or_default());
            }
            if holds && !USUAL.contains(&condition.type_.as_str()) {
                self.conditions.push(condition.type_.clone());
            }
        }
        self.conditions.sort_unstable();
        let inits = status.init_container_statuses.iter().flatten();
        for container in inits.chain(status.container_statuses.iter().flatten()) {
            self.read_container(container);
        }
    }

    fn read_container(&mut self, container: &core::ContainerStatus) {
        let Some(state) = &container.state else { return };
        if let Some(waiting) = &state.waiting {
            let why = waiting.reason.as_deref().unwrap_or_default();
            let message = waiting.message.clone().unwrap_or_default();
            self.trouble = self.trouble.take().or_else(|| trouble(why, message));
        }
        let began = state.running.as_ref().and_then(|running| running.started_at.as_ref());
        let ended = state.terminated.as_ref();
        let began = began.or_else(|| ended.and_then(|ended| ended.started_at.as_ref()));
        self.ran = [self.ran, began.map(|time| time.0)].into_iter().flatten().min();
        if let Some(ended) = ended {
            self.ended.push(EndedContainer {
                name: container.name.clone(),
                exit_code: ended.exit_code,
                reason: ended.reason.clone().unwrap_or_default(),
                at: ended.finished_at.as_ref().map(|time| time.0),
                said: ended.message.as_deref().map(Said::read).unwrap_or_default(),
            });
        }
    }

    /// Whether the kubelet has confirmed its end.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.stage, Stage::Succeeded | Stage::Failed)
    }
}

fn pinned(spec: &core::PodSpec) -> Option<String> {
    let fields = selecting::required(spec).first()?.match_fields.as_ref()?;
    let name = fields.iter().find(|field| field.key == "metadata.name")?;
    name.values.as_ref()?.first().cloned()
}

/// When deletion was asked for: the server stores the time at which the grace ends.
fn deletion_asked(pod: &core::Pod) -> Option<Timestamp> {
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    Some(ends.checked_sub(SignedDuration::from_secs(grace)).unwrap_or(ends))
}

fn trouble(reason: &str, message: String) -> Option<Trouble> {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(Trouble::ImagePull(message))
        }
        "CreateContainerConfigError"
            if message.contains("runAsNonRoot") || message.contains("run as root") =>
        {
            Some(Trouble::NeedsRoot(message))
        }
        _ => None,
    }
}
