//! What the pod of a template needs of its node, counted as kube-scheduler counts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::{amount, gpus};
use crate::api::gpus::GPU_RESOURCE;
use crate::api::quantity;

/// CPU that a container without a request counts with and gets, in thousandths of a core.
pub const DEFAULT_MILLI_CPU: u64 = 100;
/// Memory that a container without a request counts with and gets, in bytes (256Mi).
pub const DEFAULT_MEMORY_BYTES: u64 = 256 << 20;
/// Seconds between SIGTERM and SIGKILL if the template does not say.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What one pod needs of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Whole GPUs.
    pub gpus: u32,
    /// Thousandths of a core.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Need {
    fn plus(self, other: Self) -> Self {
        Self {
            gpus: self.gpus,
            milli_cpu: self.milli_cpu.saturating_add(other.milli_cpu),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            gpus: self.gpus,
            milli_cpu: self.milli_cpu.max(other.milli_cpu),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

/// What a pod of `template` needs: the sum of its containers and sidecars, or what the init
/// containers need on their way if that is more; requests, else limits, else the defaults above.
///
/// # Errors
/// All violations of the template, as [`violations`](super::violations) says them.
pub fn need(template: &Value, gpu_count: i32) -> Result<Need, Vec<String>> {
    let violations = super::violations(template, gpu_count);
    if !violations.is_empty() {
        return Err(violations);
    }
    let gpus = u32::try_from(gpu_count).unwrap_or_default();
    let mut sidecars = Need { gpus, ..Need::default() };
    let mut starting = sidecars;
    for container in containers(template, "initContainers") {
        let own = container_need(container)?;
        // A sidecar goes on running; any other init container runs beside those before it.
        let now = sidecars.plus(own);
        if container.get("restartPolicy").is_some() {
            sidecars = now;
        }
        starting = starting.max(now);
    }
    let mut running = sidecars;
    for container in containers(template, "containers") {
        running = running.plus(container_need(container)?);
    }
    Ok(running.max(starting))
}

fn container_need(container: &Value) -> Result<Need, Vec<String>> {
    let asked = |resource: &str| {
        let resources = container.get("resources")?;
        let entry = |kind: &str| resources.get(kind).and_then(|amounts| amounts.get(resource));
        entry("requests").or_else(|| entry("limits")).map(amount)
    };
    let sentence = |error: quantity::QuantityError| vec![error.to_string()];
    Ok(Need {
        gpus: 0,
        milli_cpu: asked("cpu")
            .map_or(Ok(DEFAULT_MILLI_CPU), |text| quantity::milli(&text))
            .map_err(sentence)?,
        memory_bytes: asked("memory")
            .map_or(Ok(DEFAULT_MEMORY_BYTES), |text| quantity::bytes(&text))
            .map_err(sentence)?,
    })
}

fn containers<'a>(template: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    let list = template.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// GPUs of each container of a template without violations, in order: the limits, or `gpu_count`
/// for the first container if there are none.
#[must_use]
pub fn gpu_limits(template: &Value, gpu_count: i32) -> Vec<i32> {
    let mut limits: Vec<i32> = containers(template, "containers")
        .map(|container| {
            let limits = container.get("resources").and_then(|resources| resources.get("limits"));
            limits.and_then(|limits| limits.get(GPU_RESOURCE)).and_then(gpus).unwrap_or(0)
        })
        .collect();
    if limits.iter().all(|limit| *limit == 0)
        && let Some(first) = limits.first_mut()
    {
        *first = gpu_count;
    }
    limits
}

/// Images of all containers of a template, init containers too.
#[must_use]
pub fn images(template: &Value) -> BTreeSet<String> {
    ["containers", "initContainers"]
        .iter()
        .flat_map(|field| containers(template, field))
        .filter_map(|container| container.get("image").and_then(Value::as_str))
        .map(Into::into)
        .collect()
}

/// Seconds between SIGTERM and SIGKILL that a template asks for.
#[must_use]
pub fn grace_seconds(template: &Value) -> i64 {
    template
        .get("spec")
        .and_then(|spec| spec.get("terminationGracePeriodSeconds"))
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_GRACE_SECONDS)
}
