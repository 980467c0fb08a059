//! Which labels and annotations of a template its guests get.
//!
//! Invariant: what reaches a pod is on a list. Admission refuses the prefixes that it knows to steer
//! a cluster, but an owner may run anything that reads labels and annotations (identities, sidecars,
//! runtimes, networks), and no list of those is ever complete. Whatever else a template holds stays
//! on the hub, where tools of its user may read it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table::{DESCRIBING_PREFIX, RESERVED_KEYS, SANDBOX_ANNOTATIONS};

/// Labels that a guest of `template` gets from it: those without a prefix, and those that describe a
/// program (`app.kubernetes.io/`).
#[must_use]
pub fn guest_labels(template: &Value) -> BTreeMap<String, String> {
    let mut labels = metadata(template, "labels");
    labels.retain(|key, _| {
        let plain = !key.contains('/') || key.starts_with(DESCRIBING_PREFIX);
        plain && !RESERVED_KEYS.contains(&key.as_str())
    });
    labels
}

/// Annotations that a guest of `template` gets from it in a sandbox; anywhere else it gets none.
#[must_use]
pub fn sandbox_annotations(template: &Value) -> BTreeMap<String, String> {
    let mut annotations = metadata(template, "annotations");
    annotations.retain(|key, _| SANDBOX_ANNOTATIONS.contains(&key.as_str()));
    annotations
}

fn metadata(template: &Value, field: &str) -> BTreeMap<String, String> {
    let given = template.get("metadata").and_then(|metadata| metadata.get(field));
    let given = given.and_then(Value::as_object).into_iter().flatten();
    given.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn guests_get_labels_that_describe_and_annotations_of_the_sandbox_only() {
        let labels = [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("app.kubernetes.io/managed-by", false),
            ("aadpodidbinding", false),
            ("azure.workload.identity/use", false),
            ("sidecar.istio.io/inject", false),
            ("example.org/team", false),
            ("idlewild.dev/pool", false),
        ];
        let annotations = [
            ("sandbox.idlewild.dev/run-for", true),
            ("sandbox.idlewild.dev/gate", false),
            ("note", false),
            ("iam.amazonaws.com/role", false),
            ("io.kubernetes.cri-o.Devices", false),
            ("io.katacontainers.config.hypervisor.path", false),
            ("vault.hashicorp.com/agent-inject", false),
            ("k8s.ovn.org/pod-networks", false),
            ("karpenter.sh/do-not-disrupt", false),
        ];
        let all = |list: &[(&str, bool)]| -> Value {
            list.iter().map(|(key, _)| ((*key).to_owned(), json!("x"))).collect()
        };
        let template =
            json!({"metadata": {"labels": all(&labels), "annotations": all(&annotations)}});
        let kept = |list: &[(&str, bool)]| -> Vec<String> {
            let mut kept: Vec<_> =
                list.iter().filter(|(_, kept)| *kept).map(|(key, _)| (*key).to_owned()).collect();
            kept.sort();
            kept
        };
        let found = guest_labels(&template).into_keys().collect::<Vec<_>>();
        assert_eq!(found, kept(&labels));
        let found = sandbox_annotations(&template).into_keys().collect::<Vec<_>>();
        assert_eq!(found, kept(&annotations));
        assert!(guest_labels(&json!([])).is_empty());
    }
}
