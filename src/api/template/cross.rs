//! Rules that compare parts of a template; each exists twice, in Rust and in CEL, side by side.
//!
//! Invariant: they are asked only once every part has its shape, so neither half looks again.

use serde_json::Value;

use super::check::{amount, gpus};
use crate::api::gpus::GPU_RESOURCE;
use crate::api::quantity;

/// One rule.
pub(super) struct Rule {
    /// Name of its variable in the policy.
    pub name: &'static str,
    /// CEL of type string: sentences joined by `. `, empty if all is well. It may use
    /// `variables.containers`, `.inits` and `.every` (lists of `{at, it}`) and `.pod`.
    pub cel: &'static str,
    /// The same, for one pod spec and `gpu.count`.
    pub check: fn(&Value, i32) -> Vec<String>,
}

/// All of them.
pub(super) const RULES: &[Rule] = &[
    Rule { name: "gpuSum", cel: GPU_SUM, check: gpu_sum },
    Rule { name: "gpuRequests", cel: GPU_REQUESTS, check: gpu_requests },
    Rule { name: "requests", cel: REQUESTS, check: requests },
    Rule { name: "containerNames", cel: CONTAINER_NAMES, check: container_names },
    Rule { name: "volumeNames", cel: VOLUME_NAMES, check: volume_names },
    Rule { name: "mounts", cel: MOUNTS, check: mounts },
    Rule { name: "mountPaths", cel: MOUNT_PATHS, check: mount_paths },
    Rule { name: "initProbes", cel: INIT_PROBES, check: init_probes },
];

const ROOT: &str = "spec.template.spec";
const HANDLERS: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];

fn list<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
    pod.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Every container with its path.
fn every(pod: &Value) -> Vec<(String, &Value)> {
    ["containers", "initContainers"]
        .iter()
        .flat_map(|field| {
            let at = move |it| (format!("{ROOT}.{field}[{}]", text(it, "name")), it);
            list(pod, field).iter().map(at)
        })
        .collect()
}

fn entry<'a>(container: &'a Value, kind: &str, resource: &str) -> Option<&'a Value> {
    container.get("resources")?.get(kind)?.get(resource)
}

const GPU_SUM: &str = "variables.containers.filter(c, 'resources' in c.it && 'limits' in c.it.resources && 'nvidia.com/gpu' in c.it.resources.limits).map(c, int(c.it.resources.limits['nvidia.com/gpu'])).sum() in [0, int(object.spec.gpu.count)]
  && !variables.containers.exists(c, 'resources' in c.it && 'limits' in c.it.resources && 'nvidia.com/gpu' in c.it.resources.limits && int(c.it.resources.limits['nvidia.com/gpu']) == 0)
? '' : 'spec.template.spec.containers: their limits of nvidia.com/gpu do not add up to gpu.count (' + string(object.spec.gpu.count) + '); make them agree, or leave the limits out and the first container gets gpu.count'";

fn gpu_sum(pod: &Value, count: i32) -> Vec<String> {
    let limits: Vec<i32> = list(pod, "containers")
        .iter()
        .filter_map(|container| entry(container, "limits", GPU_RESOURCE).and_then(gpus))
        .collect();
    if limits.is_empty() || (limits.iter().sum::<i32>() == count && !limits.contains(&0)) {
        return Vec::new();
    }
    vec![format!(
        "{ROOT}.containers: their limits of nvidia.com/gpu do not add up to gpu.count ({count}); \
         make them agree, or leave the limits out and the first container gets gpu.count"
    )]
}

const GPU_REQUESTS: &str = "variables.containers.filter(c, 'resources' in c.it && 'requests' in c.it.resources && 'nvidia.com/gpu' in c.it.resources.requests
  && !('limits' in c.it.resources && 'nvidia.com/gpu' in c.it.resources.limits && int(c.it.resources.limits['nvidia.com/gpu']) == int(c.it.resources.requests['nvidia.com/gpu'])))
.map(c, c.at + '.resources.requests[nvidia.com/gpu]: must equal the limit of nvidia.com/gpu; remove it').join('. ')";

fn gpu_requests(pod: &Value, _: i32) -> Vec<String> {
    every(pod)
        .iter()
        .filter(|(_, it)| {
            let request = entry(it, "requests", GPU_RESOURCE).and_then(gpus);
            request.is_some() && request != entry(it, "limits", GPU_RESOURCE).and_then(gpus)
        })
        .map(|(at, _)| {
            format!(
                "{at}.resources.requests[nvidia.com/gpu]: must equal the limit of nvidia.com/gpu; \
                 remove it"
            )
        })
        .collect()
}

const REQUESTS: &str = "variables.every.map(c, ['cpu', 'memory', 'ephemeral-storage'].filter(r, 'resources' in c.it && 'requests' in c.it.resources && r in c.it.resources.requests && 'limits' in c.it.resources && r in c.it.resources.limits
  && quantity(string(c.it.resources.requests[r])).compareTo(quantity(string(c.it.resources.limits[r]))) > 0)
  .map(r, c.at + '.resources.requests[' + r + ']: is more than its limit; lower it, or raise the limit').join('. ')).filter(s, s != '').join('. ')";

fn requests(pod: &Value, _: i32) -> Vec<String> {
    let mut found = Vec::new();
    for (at, it) in every(pod) {
        for resource in ["cpu", "memory", "ephemeral-storage"] {
            let milli = |kind| {
                entry(it, kind, resource).and_then(|value| quantity::milli(&amount(value)).ok())
            };
            if let (Some(request), Some(limit)) = (milli("requests"), milli("limits"))
                && request > limit
            {
                found.push(format!(
                    "{at}.resources.requests[{resource}]: is more than its limit; lower it, or \
                     raise the limit"
                ));
            }
        }
    }
    found
}

const CONTAINER_NAMES: &str = "variables.every.filter(c, variables.every.filter(d, d.it.name == c.it.name).size() > 1).map(c, c.at + ': another container has this name; rename one').join('. ')";

fn container_names(pod: &Value, _: i32) -> Vec<String> {
    let all = every(pod);
    let twice = |name: &str| all.iter().filter(|(_, it)| text(it, "name") == name).count() > 1;
    all.iter()
        .filter(|(_, it)| twice(text(it, "name")))
        .map(|(at, _)| format!("{at}: another container has this name; rename one"))
        .collect()
}

const VOLUME_NAMES: &str = "!('volumes' in variables.pod) ? '' : variables.pod.volumes.filter(v, variables.pod.volumes.filter(w, w.name == v.name).size() > 1).map(v, 'spec.template.spec.volumes[' + v.name + ']: another volume has this name; rename one').join('. ')";

fn volume_names(pod: &Value, _: i32) -> Vec<String> {
    let volumes = list(pod, "volumes");
    let twice = |name: &str| volumes.iter().filter(|it| text(it, "name") == name).count() > 1;
    volumes
        .iter()
        .map(|it| text(it, "name"))
        .filter(|name| twice(name))
        .map(|name| format!("{ROOT}.volumes[{name}]: another volume has this name; rename one"))
        .collect()
}

const MOUNTS: &str = "variables.every.map(c, !('volumeMounts' in c.it) ? '' : c.it.volumeMounts.filter(m, !('volumes' in variables.pod) || !variables.pod.volumes.exists(v, v.name == m.name)).map(m, c.at + '.volumeMounts[' + m.name + ']: there is no such volume; add it to volumes, or remove the mount').join('. ')).filter(s, s != '').join('. ')";

fn mounts(pod: &Value, _: i32) -> Vec<String> {
    let known = |name: &str| list(pod, "volumes").iter().any(|volume| text(volume, "name") == name);
    let mut found = Vec::new();
    for (at, it) in every(pod) {
        let names = list(it, "volumeMounts").iter().map(|mount| text(mount, "name"));
        found.extend(names.filter(|name| !known(name)).map(|name| {
            format!(
                "{at}.volumeMounts[{name}]: there is no such volume; add it to volumes, or remove \
                 the mount"
            )
        }));
    }
    found
}

const MOUNT_PATHS: &str = "variables.every.map(c, !('volumeMounts' in c.it) ? '' : c.it.volumeMounts.filter(m, c.it.volumeMounts.filter(n, n.mountPath == m.mountPath).size() > 1).map(m, c.at + '.volumeMounts[' + m.name + ']: another mount has the path ' + m.mountPath + '; change one').join('. ')).filter(s, s != '').join('. ')";

fn mount_paths(pod: &Value, _: i32) -> Vec<String> {
    let mut found = Vec::new();
    for (at, it) in every(pod) {
        let mounts = list(it, "volumeMounts");
        for mount in mounts {
            let path = text(mount, "mountPath");
            if mounts.iter().filter(|other| text(other, "mountPath") == path).count() > 1 {
                let name = text(mount, "name");
                found.push(format!(
                    "{at}.volumeMounts[{name}]: another mount has the path {path}; change one"
                ));
            }
        }
    }
    found
}

const INIT_PROBES: &str = "variables.inits.filter(c, !('restartPolicy' in c.it)).map(c, ['livenessProbe', 'readinessProbe', 'startupProbe', 'lifecycle'].filter(f, f in c.it).map(f, c.at + '.' + f + ': an init container may have it only as a sidecar; set restartPolicy: Always, or remove it').join('. ')).filter(s, s != '').join('. ')";

fn init_probes(pod: &Value, _: i32) -> Vec<String> {
    let mut found = Vec::new();
    for it in list(pod, "initContainers") {
        if it.get("restartPolicy").is_some() {
            continue;
        }
        let name = text(it, "name");
        found.extend(HANDLERS.iter().filter(|field| it.get(**field).is_some()).map(|field| {
            format!(
                "{ROOT}.initContainers[{name}].{field}: an init container may have it only as a \
                 sidecar; set restartPolicy: Always, or remove it"
            )
        }));
    }
    found
}
