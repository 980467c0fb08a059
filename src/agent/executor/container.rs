//! One container of a guest: the template's fields, and what every guest gets.

use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::guest::Key;
use crate::api::{GuestLease, gpus, template};

/// Key of the gate's `ConfigMap` under which rank 0's address stands.
pub const GATE_KEY: &str = "master-addr";
/// Port of rank 0 that a gang meets at, as Kubeflow's operator sets it.
const MASTER_PORT: &str = "29500";
/// Fields that pass as they are once the template is found to be allowed.
const PLAIN: [&str; 13] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "restartPolicy",
    "volumeMounts",
    "resources",
];

/// What all containers of a pod share.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Variables that every one gets.
    pub variables: Vec<Value>,
    /// The mount of /dev/shm, unless the template has its own.
    pub shm: Option<Value>,
    /// Resource name of its GPUs.
    pub resource: &'a str,
}

impl Frame<'_> {
    /// `given` with everything that a guest's container needs, and `gpus` GPUs.
    #[must_use]
    pub fn fill(&self, given: &Value, gpus: i32) -> Value {
        let mut filled: Map<String, Value> = PLAIN
            .iter()
            .filter_map(|field| Some(((*field).into(), given.get(*field)?.clone())))
            .collect();
        let mut mounts =
            given.get("volumeMounts").and_then(Value::as_array).cloned().unwrap_or_default();
        mounts.extend(self.shm.clone());
        if !mounts.is_empty() {
            filled.insert("volumeMounts".into(), mounts.into());
        }
        // A node's images may be private ones that the owner pulled: whoever runs one must be able
        // to pull it, whatever the template says.
        filled.insert("imagePullPolicy".into(), "Always".into());
        filled.insert("env".into(), self.env(given, gpus));
        filled.insert("resources".into(), self.resources(given, gpus));
        filled.insert("securityContext".into(), security(given));
        filled.into()
    }

    fn env(&self, given: &Value, gpus: i32) -> Value {
        let mut env = self.variables.clone();
        if gpus == 0 {
            env.push(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}));
        }
        let users = given.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
        let home = users.iter().any(|variable| variable["name"] == "HOME");
        if !home {
            // The default user has no home in most images, and / is not writable.
            env.push(json!({"name": "HOME", "value": "/tmp"}));
        }
        env.extend(users);
        env.into()
    }

    fn resources(&self, given: &Value, gpus: i32) -> Value {
        let part = |kind: &str| {
            let part = given.get("resources").and_then(|resources| resources.get(kind));
            let mut part = part.and_then(Value::as_object).cloned().unwrap_or_default();
            part.remove(gpus::GPU_RESOURCE);
            part
        };
        let (mut requests, mut limits) = (part("requests"), part("limits"));
        let defaults = [
            ("cpu", format!("{}m", template::DEFAULT_MILLI_CPU)),
            ("memory", format!("{}Mi", template::DEFAULT_MEMORY_BYTES >> 20)),
        ];
        for (resource, amount) in defaults {
            if !requests.contains_key(resource) {
                let amount = limits.get(resource).cloned().unwrap_or_else(|| amount.into());
                requests.insert(resource.into(), amount);
            }
        }
        if gpus > 0 {
            requests.insert(self.resource.into(), gpus.to_string().into());
            limits.insert(self.resource.into(), gpus.to_string().into());
        }
        json!({"requests": requests, "limits": limits})
    }
}

fn security(given: &Value) -> Value {
    let context = given.get("securityContext").filter(|context| context.is_object());
    let mut context = context.cloned().unwrap_or_else(|| json!({}));
    context["allowPrivilegeEscalation"] = false.into();
    context["capabilities"] = json!({"drop": ["ALL"]});
    context
}

/// Variables that every container of the pod at `key` gets.
#[must_use]
pub fn variables(lease: &GuestLease, key: Key) -> Vec<Value> {
    let spec = &lease.spec;
    let index = key.index.to_string();
    let mut pairs = vec![
        ("IDLEWILD_JOB", spec.job.name.clone()),
        ("IDLEWILD_NAMESPACE", spec.job.namespace.clone()),
        ("IDLEWILD_EPOCH", spec.epoch.to_string()),
        ("IDLEWILD_REPLICA_INDEX", index.clone()),
        ("JOB_COMPLETION_INDEX", index),
        ("IDLEWILD_NOTICE_SECONDS", spec.grace_seconds.to_string()),
    ];
    if let Some(saves) = &spec.checkpoint {
        let root = saves.root(key.index);
        let earlier: Vec<_> = saves.earlier_epochs.iter().map(ToString::to_string).collect();
        let resume = saves.resume.iter().find(|one| one.index == i64::from(key.index));
        // The kubelet would put variables where it reads $(NAME).
        let plain = |text: String| text.replace('$', "$$");
        let root = plain(root);
        pairs.extend([
            ("IDLEWILD_CHECKPOINT_URI", format!("{root}/{}", spec.epoch)),
            ("IDLEWILD_CHECKPOINT_ROOT", root),
            ("IDLEWILD_EARLIER_EPOCHS", earlier.join(" ")),
            ("IDLEWILD_RESUME", plain(resume.map(|one| one.reference.clone()).unwrap_or_default())),
        ]);
    }
    if spec.size > 1 {
        let (size, rank) = (spec.size.to_string(), key.rank.to_string());
        pairs.extend([
            ("WORLD_SIZE", size.clone()),
            ("RANK", rank.clone()),
            ("MASTER_PORT", MASTER_PORT.into()),
            ("PET_NNODES", size),
            ("PET_NODE_RANK", rank),
            ("PET_NPROC_PER_NODE", spec.gpu.count.to_string()),
            ("PET_MASTER_PORT", MASTER_PORT.into()),
        ]);
    }
    let mut variables: Vec<Value> =
        pairs.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    if spec.size > 1 {
        // Required, in every container: nothing starts until the gate's ConfigMap exists.
        for name in ["MASTER_ADDR", "PET_MASTER_ADDR"] {
            let source = json!({"name": lease.name_any(), "key": GATE_KEY, "optional": false});
            variables.push(json!({"name": name, "valueFrom": {"configMapKeyRef": source}}));
        }
    }
    variables
}
