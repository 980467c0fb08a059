//! `GpuPool`: what an owner lends, to whom and when; the agent copies it to each hub.

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::gpujob::JobType;

mod orphans;
mod schedule;
mod vacating;

pub use orphans::{MAX_ORPHANS, Orphan};
pub use schedule::{Day, MAX_WINDOWS, Window};
pub use vacating::{TimeToVacate, VACATE_CLASSES, VacateHistory};

/// Most kinds of nodes of a picture; a pool of more offers the most numerous.
pub const MAX_SHAPES: usize = 64;
/// Most groups of nodes of one kind, by free GPUs.
pub const MAX_FREE: usize = 64;
/// Most hubs whose guests are told apart; those with the most GPUs.
pub const MAX_HUBS: usize = 64;
/// Most reasons for which nodes are not lent.
pub const MAX_REASONS: usize = 32;
/// Sizes of blocks of GPUs that a history tells apart: 1, 2, 4 … 128.
pub const MAX_SIZES: usize = 8;
/// Spans of time for which a chance is told: 10 minutes doubling to 21 hours 20 minutes, and a day.
pub const MAX_SPANS: usize = 9;
/// Ages of blocks that a history tells apart: 0, 1, 2, 4 … 1024 minutes.
pub const MAX_AGES: usize = 12;
/// Most characters of a model, a memory, an architecture or a member's name.
pub const MAX_NAME: usize = 63;
/// Most characters of all models, joined.
pub const MAX_MODELS: usize = 1024;

/// GPUs that an owner lends under one policy.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "GpuPool",
    plural = "gpupools",
    namespaced,
    status = "GpuPoolStatus",
    derive = "PartialEq",
    shortname = "gp",
    category = "idlewild",
    doc = "GPUs that an owner lends under one policy. The owner's object, in the member; the agent copies it to each hub.",
    printcolumn(name = "Member", type_ = "string", json_path = ".status.summary.member"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.location.region"),
    printcolumn(name = "Models", type_ = "string", json_path = ".status.summary.models"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus.offered"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.gpus.free"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Guests",
        type_ = "integer",
        json_path = ".status.gpus.guests",
        priority = 1
    ),
    printcolumn(
        name = "Vacate-P99",
        type_ = "integer",
        json_path = ".status.timeToVacate.p99Seconds",
        priority = 1
    ),
    printcolumn(name = "Owner", type_ = "integer", json_path = ".status.gpus.owner", priority = 1),
    printcolumn(
        name = "Orphans",
        type_ = "integer",
        json_path = ".status.orphanCount",
        priority = 1
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.agentVersion",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct GpuPoolSpec {
    /// Nodes that are lent, by label. Absent: none. An empty selector is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)").message(
        "nodeSelector must name at least one label, such as matchLabels: {idlewild.dev/lend: my-pool}; leave it out to lend nothing"))]
    #[schemars(schema_with = "super::selectors::label_selector")]
    pub node_selector: Option<LabelSelector>,
    /// Model and memory of nodes without the labels of GPU Feature Discovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_override: Option<ModelOverride>,
    /// Fields that every guest of the pool gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_defaults: Option<PodDefaults>,
    /// How much is lent, and on what terms.
    #[serde(default)]
    pub offer: Offer,
    /// To whom it is lent.
    #[serde(default)]
    pub allow: Allow,
    /// Where the nodes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// What the nodes' GPUs are, where no label says it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct ModelOverride {
    /// Model, such as `A100`.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9 ./_-]*$')").message(
        "modelOverride.model must be a model name such as A100 or H100"))]
    #[schemars(length(min = 1, max = 63))]
    pub model: String,
    /// Memory of one GPU as a Kubernetes quantity, such as `80Gi`.
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$')").message(
        "modelOverride.memory must be a whole quantity of bytes such as 80Gi"))]
    #[schemars(length(min = 1, max = 20))]
    pub memory: String,
}

/// Fields that every guest gets: GPU nodes are often tainted, k3s needs a `RuntimeClass`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodDefaults {
    /// Tolerations of the pool's guests, at most 16; default none but not-ready and unreachable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::selectors::tolerations")]
    pub tolerations: Vec<Toleration>,
    /// `RuntimeClass` of the pool's guests; default the node's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub runtime_class_name: String,
}

/// How much is lent, and on what terms.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// True: nothing is lent, and guests are told to go. Default false.
    #[serde(default)]
    pub paused: bool,
    /// Most GPUs that guests hold at once, over all hubs; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 10000000").message(
        "offer.maxGpus must be 0 or more GPUs; leave it out for no limit"))]
    pub max_gpus: Option<i64>,
    /// GPUs that are always kept free for the owner; default 0.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 10000000").message(
        "offer.reserveGpus must be 0 or more GPUs"))]
    pub reserve_gpus: i64,
    /// When it is lent; absent = always, `[]` = never. Guests get notice before a window ends, and are
    /// gone when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_WINDOWS))]
    pub schedule: Option<Vec<Window>>,
    /// Seconds promised between notice and kill; jobs that need more are not placed. Default 30.
    #[serde(default = "thirty")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 86400").message(
        "offer.noticeSeconds must be 0 to 86400 seconds"))]
    pub notice_seconds: i64,
    /// Longest that one attempt may run, in seconds; default 86400 (a day).
    #[serde(default = "day")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 31536000").message(
        "offer.maxAttemptSeconds must be 1 to 31536000 seconds (a year)"))]
    pub max_attempt_seconds: i64,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            paused: false,
            max_gpus: None,
            reserve_gpus: 0,
            schedule: None,
            notice_seconds: thirty(),
            max_attempt_seconds: day(),
        }
    }
}

const fn thirty() -> i64 {
    30
}

const fn day() -> i64 {
    86_400
}

/// To whom it is lent. Absent is the default that each field names; `[]` allows nothing.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct Allow {
    /// IDs of hubs; absent = every hub with a `HubGrant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub hubs: Option<Vec<String>>,
    /// Namespaces of jobs on their hub; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub namespaces: Option<Vec<String>>,
    /// Images, a `*` at the end matches any rest, such as `registry.example.org/*`; absent = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 512)))]
    pub images: Option<Vec<String>>,
    /// Types of jobs; absent = Batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub types: Option<Vec<JobType>>,
}

/// Where the nodes are.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct Location {
    /// Region, such as `eu-north`; also the label `topology.kubernetes.io/region` of the pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub region: String,
    /// Zone; also the label `topology.kubernetes.io/zone` of the pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub zone: String,
    /// Jurisdiction, such as `EU`; it counts where the hub's operator vouches for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub jurisdiction: String,
}

/// What the agent measures and publishes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuPoolStatus {
    /// The generation of the owner's spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and why not.
    #[serde(default)]
    #[schemars(schema_with = "super::selectors::conditions")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The pool's `free` counts every change of the member's books up to here.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub serial: i64,
    /// Kinds of nodes and what is free on them: what placement uses. At most 64.
    #[serde(default)]
    #[schemars(length(max = MAX_SHAPES))]
    pub shapes: Vec<NodeShape>,
    /// Sums of GPUs.
    #[serde(default)]
    pub gpus: PoolGpus,
    /// Guests by hub; the owner's eyes only, no hub sees it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_HUBS))]
    pub hubs: Vec<HubGpus>,
    /// The sums of GPUs by model. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SHAPES))]
    pub models: Vec<ModelGpus>,
    /// Nodes that match but are not lent, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_REASONS))]
    pub not_lent: Vec<NotLent>,
    /// The chances that GPUs which are idle now stay idle, by how many; learnt from what the owner did
    /// in the last weeks. Absent sizes are unknown. Changes at most every 10 minutes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SIZES))]
    pub survival: Vec<SizeSurvival>,
    /// What the chances are learnt from; the agent's memory and the owner's eyes only, no hub sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_history: Option<IdleHistory>,
    /// How soon guests leave when the owner wants the GPUs; absent until one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_vacate: Option<TimeToVacate>,
    /// How often guests were told to go for the owner, for each GPU-hour that they held; such as
    /// `0.04`. Absent until guests held a GPU for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_NAME))]
    pub evictions_per_gpu_hour: Option<String>,
    /// What both are told from; the agent's memory and the owner's eyes only, no hub sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vacate_history: Option<VacateHistory>,
    /// Attempts that go on here although the hub has no lease of them, at most 64: in the copy on a hub
    /// only, of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ORPHANS))]
    pub orphans: Vec<Orphan>,
    /// How many they are.
    #[serde(default, skip_serializing_if = "orphans::is_zero")]
    #[schemars(range(min = 0))]
    pub orphan_count: i64,
    /// Highest incarnation of the hub that its member knows: in the copy on a hub only.
    #[serde(default, skip_serializing_if = "orphans::is_zero")]
    #[schemars(range(min = 0))]
    pub incarnation: u32,
    /// What the columns print.
    #[serde(default)]
    pub summary: PoolSummary,
    /// Version of the agent.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub agent_version: String,
}

impl GpuPoolStatus {
    /// The sums by model; agents of an earlier version tell those of the pool only.
    #[must_use]
    pub fn by_model(&self) -> Vec<ModelGpus> {
        if !self.models.is_empty() {
            return self.models.clone();
        }
        let PoolGpus { offered, owner, guests, free } = self.gpus;
        vec![ModelGpus { model: "unknown".into(), offered, owner, guests, free }]
    }
}

/// Nodes of one kind.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeShape {
    /// GPU model.
    #[schemars(length(max = MAX_NAME))]
    pub model: String,
    /// Memory of one GPU as a quantity; empty = unknown.
    #[serde(default)]
    #[schemars(length(max = MAX_NAME))]
    pub memory: String,
    /// Processor architecture.
    #[serde(default)]
    #[schemars(length(max = MAX_NAME))]
    pub arch: String,
    /// GPUs of one node.
    #[schemars(range(min = 0))]
    pub gpus_per_node: i32,
    /// Nodes of this kind.
    #[schemars(range(min = 0))]
    pub nodes: i32,
    /// Nodes with free GPUs, by how many.
    #[serde(default)]
    #[schemars(length(max = MAX_FREE))]
    pub free: Vec<FreeNodes>,
}

/// Nodes with the same number of free GPUs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FreeNodes {
    /// Free GPUs on each of them.
    #[schemars(range(min = 0))]
    pub gpus: i32,
    /// Number of nodes.
    #[schemars(range(min = 0))]
    pub nodes: i32,
    /// Least free CPU among them, in thousandths of a core.
    #[schemars(range(min = 0))]
    pub milli_cpu: i64,
    /// Least free memory among them, in bytes.
    #[schemars(range(min = 0))]
    pub memory_bytes: i64,
}

/// GPUs that guests of one hub hold.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubGpus {
    /// ID of the hub.
    #[schemars(length(max = 253))]
    pub hub_id: String,
    /// GPUs of the pool that its guests hold or are promised.
    #[schemars(range(min = 0))]
    pub gpus: i64,
}

/// How long so many idle GPUs stay idle.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct SizeSurvival {
    /// GPUs: 1, 2, 4 … 128.
    #[schemars(range(min = 1))]
    pub gpus: i32,
    /// Chances in millionths that they stay idle for 10, 20, 40, 80, 160, 320, 640, 1280 and 1440
    /// minutes.
    #[schemars(length(max = MAX_SPANS), inner(range(min = 0, max = 1_000_000)))]
    pub chances: Vec<i32>,
}

/// What was seen of idle GPUs, fading with a half-life of four weeks.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct IdleHistory {
    /// Seen up to this time.
    pub until: Time,
    /// Counts by number of GPUs.
    #[schemars(length(max = MAX_SIZES))]
    pub sizes: Vec<SizeHistory>,
}

/// What was seen of blocks of so many idle GPUs, by the minutes for which they had been idle: less
/// than 1, 2, 4, 8 … 1024, and more. All counts in thousandths.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct SizeHistory {
    /// GPUs of a block: 1, 2, 4 … 128.
    #[schemars(range(min = 1))]
    pub gpus: i32,
    /// Blocks that the owner took back.
    #[schemars(length(max = MAX_AGES), inner(range(min = 0)))]
    pub ends: Vec<i64>,
    /// Minutes for which blocks were idle.
    #[schemars(length(max = MAX_AGES), inner(range(min = 0)))]
    pub minutes: Vec<i64>,
}

/// Sums of GPUs of a pool.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolGpus {
    /// GPUs of the lent nodes, capped by `maxGpus`.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub offered: i64,
    /// Held or demanded by the owner; in the copy on a hub also what other hubs' guests hold.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub owner: i64,
    /// Held by guests; in the copy on a hub only by its own.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub guests: i64,
    /// Free for guests now.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub free: i64,
}

/// Sums of GPUs of one model; over all models they are the pool's.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct ModelGpus {
    /// GPU model.
    #[schemars(length(max = MAX_NAME))]
    pub model: String,
    /// GPUs of the lent nodes, capped by `maxGpus`.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub offered: i64,
    /// Held or demanded by the owner.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub owner: i64,
    /// Held by guests.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub guests: i64,
    /// Free for guests now.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub free: i64,
}

impl ModelGpus {
    /// Its sums with their names.
    #[must_use]
    pub fn states(&self) -> [(&'static str, i64); 4] {
        [
            ("offered", self.offered),
            ("owner", self.owner),
            ("guests", self.guests),
            ("free", self.free),
        ]
    }
}

/// Nodes that match the selector but are not lent.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct NotLent {
    /// One word, such as `NotReady`.
    #[schemars(length(max = super::gpulease::MAX_REASON))]
    pub reason: String,
    /// Number of nodes.
    #[schemars(range(min = 0))]
    pub nodes: i32,
}

/// What the columns print.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct PoolSummary {
    /// Member that lends it.
    #[serde(default)]
    #[schemars(length(max = MAX_NAME))]
    pub member: String,
    /// Models, joined.
    #[serde(default)]
    #[schemars(length(max = MAX_MODELS))]
    pub models: String,
}
