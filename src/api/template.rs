//! What a pod template may hold: one table, used by the hub, by the members' agents and, as CEL, by
//! the hub's API server.
//!
//! Invariant: [`violations`] and the generated admission policy refuse the same templates, size and
//! absurd digits apart, which CEL cannot see.

mod cel;
mod check;
mod containers;
mod copied;
mod cross;
mod need;
mod policy;
mod table;
mod text;
mod words;

use serde_json::Value;

pub use copied::{guest_labels, sandbox_annotations};
pub use need::{
    DEFAULT_GRACE_SECONDS, DEFAULT_MEMORY_BYTES, DEFAULT_MILLI_CPU, Need, gpu_limits,
    grace_seconds, images, need,
};
pub use policy::{POLICY_NAME, policy};
pub use table::MAX_BYTES;
pub use text::PodTemplate;

/// Everything that is wrong with `template` for pods of `gpu_count` GPUs, each a sentence with the
/// path of the field and what to do. Empty: the template may run as a guest.
#[must_use]
pub fn violations(template: &Value, gpu_count: i32) -> Vec<String> {
    let mut found = Vec::new();
    check::walk(table::Shape::Object(&table::TEMPLATE), template, "spec.template", &mut found);
    let pod = template.get("spec");
    if let Some(pod) = pod.filter(|_| found.is_empty()) {
        found.extend(cross::RULES.iter().flat_map(|rule| (rule.check)(pod, gpu_count)));
    }
    let size = template.to_string().len();
    if size > MAX_BYTES {
        found.push(format!(
            "spec.template: has {size} bytes as JSON, at most {MAX_BYTES} are allowed; fetch large \
             data over the network"
        ));
    }
    found
}

#[cfg(test)]
mod tests;
