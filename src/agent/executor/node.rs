//! A node, slim: what lending needs to know of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::selecting::Taint;
use crate::api::{gpus, quantity};

/// Allocatable of GPUs that a device plugin hands to several pods each.
const SHARED_RESOURCE: &str = "nvidia.com/gpu.shared";
/// Node label with the number of pods that one GPU is handed to.
const REPLICAS_LABEL: &str = "nvidia.com/gpu.replicas";

/// What a node has, or what pods take of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// GPUs by resource name.
    pub gpus: BTreeMap<String, u32>,
    /// Thousandths of a core.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
}

impl Load {
    /// Whole GPUs and slices together; a pod may ask for any number, so the sum stays at the limit.
    #[must_use]
    pub fn gpu_count(&self) -> u32 {
        self.gpus.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        for (resource, count) in &other.gpus {
            let sum = self.gpus.entry(resource.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }

    /// The larger of both, resource by resource.
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        for (resource, count) in &other.gpus {
            let most = self.gpus.entry(resource.clone()).or_default();
            *most = (*most).max(*count);
        }
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self
    }

    /// Reads a resource list; what is no quantity counts as nothing, since the API server lets no
    /// such thing pass.
    #[must_use]
    pub fn read(list: &BTreeMap<String, Quantity>) -> Self {
        let mut load = Self::default();
        for (resource, Quantity(text)) in list {
            match resource.as_str() {
                "cpu" => load.milli_cpu = quantity::milli(text).unwrap_or(0),
                "memory" => load.memory = quantity::bytes(text).unwrap_or(0),
                name if is_gpu(name) => {
                    let count = quantity::bytes(text).unwrap_or(0);
                    load.gpus.insert(name.into(), u32::try_from(count).unwrap_or(u32::MAX));
                }
                _ => {}
            }
        }
        load.gpus.retain(|_, count| *count > 0);
        load
    }
}

fn is_gpu(resource: &str) -> bool {
    resource == gpus::GPU_RESOURCE || resource.starts_with(gpus::MIG_RESOURCE_PREFIX)
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Processor architecture.
    pub arch: String,
    /// Whether its kubelet says that it can run pods.
    pub ready: bool,
    /// Which start of its machine this is.
    pub boot: String,
    /// Whether its owner cordoned it.
    pub cordoned: bool,
    /// Whether its GPUs are handed to several pods each.
    pub shared: bool,
    /// Taints that keep pods away.
    pub taints: Vec<Taint>,
    /// What pods may take.
    pub allocatable: Load,
    /// How many pods it may run.
    pub max_pods: u32,
}

impl Node {
    /// Keeps what lending needs.
    #[must_use]
    pub fn slim(node: core::Node) -> Self {
        let labels = node.metadata.labels.unwrap_or_default();
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let allocatable = status.allocatable.unwrap_or_default();
        let ready = status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let count = |resource: &str| {
            allocatable.get(resource).and_then(|text| quantity::bytes(&text.0).ok()).unwrap_or(0)
        };
        let sharing = labels.get(gpus::SHARING_LABEL).is_some_and(|value| value != "none");
        let replicas = labels.get(REPLICAS_LABEL).and_then(|value| value.parse::<u32>().ok());
        let info = status.node_info.unwrap_or_default();
        Self {
            name: node.metadata.name.unwrap_or_default(),
            arch: info.architecture,
            boot: info.boot_id,
            ready,
            cordoned: spec.unschedulable.unwrap_or(false)
                || node.metadata.deletion_timestamp.is_some(),
            shared: sharing || replicas.is_some_and(|many| many > 1) || count(SHARED_RESOURCE) > 0,
            taints: spec.taints.unwrap_or_default().into_iter().filter_map(Taint::slim).collect(),
            max_pods: u32::try_from(count("pods")).unwrap_or(u32::MAX),
            allocatable: Load::read(&allocatable),
            labels,
        }
    }
}
