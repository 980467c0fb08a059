//! Which nodes a selector, an affinity or a toleration lets through, as Kubernetes reads them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A taint that keeps pods from being bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// Effect.
    pub effect: String,
}

impl Taint {
    /// `None` for taints that only advise, and for those that repeat what the node says otherwise
    /// (unready and cordoned nodes are told apart before taints are looked at).
    #[must_use]
    pub fn slim(taint: core::Taint) -> Option<Self> {
        let node_state = taint.key.starts_with("node.kubernetes.io/");
        (taint.effect != "PreferNoSchedule" && !node_state).then(|| Self {
            key: taint.key,
            value: taint.value.unwrap_or_default(),
            effect: taint.effect,
        })
    }
}

/// What a pod tolerates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Toleration {
    key: Option<String>,
    value: Option<String>,
    effect: Option<String>,
}

impl Toleration {
    /// Reads one; the default operator is `Equal`.
    #[must_use]
    pub fn slim(toleration: &core::Toleration) -> Self {
        let exists = toleration.operator.as_deref() == Some("Exists");
        Self {
            key: toleration.key.clone().filter(|key| !key.is_empty()),
            value: (!exists).then(|| toleration.value.clone().unwrap_or_default()),
            effect: toleration.effect.clone().filter(|effect| !effect.is_empty()),
        }
    }

    fn covers(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
    }
}

/// Whether all `taints` are tolerated.
#[must_use]
pub fn tolerated(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    taints.iter().all(|taint| tolerations.iter().any(|one| one.covers(taint)))
}

/// How one label must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The value is one of these.
    In(String, BTreeSet<String>),
    /// The value is none of these, or the label is absent.
    NotIn(String, BTreeSet<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    Absent(String),
    /// The node has one of these names.
    Named(BTreeSet<String>),
}

impl Rule {
    fn read(key: &str, operator: &str, values: Option<&Vec<String>>) -> Option<Self> {
        let values = || values.into_iter().flatten().cloned().collect();
        Some(match operator {
            "In" => Self::In(key.into(), values()),
            "NotIn" => Self::NotIn(key.into(), values()),
            "Exists" => Self::Exists(key.into()),
            "DoesNotExist" => Self::Absent(key.into()),
            // Gt and Lt: counting the pod as fitting more nodes keeps more for the owner.
            _ => return None,
        })
    }

    /// Whether a node of that name and those labels passes.
    #[must_use]
    pub fn passes(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Whether `selector` takes a node with these labels. An empty selector takes none: a pool lends
/// nothing that its owner did not name.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.as_ref();
    let rules = selector.match_expressions.as_ref();
    if exact.is_none_or(BTreeMap::is_empty) && rules.is_none_or(Vec::is_empty) {
        return false;
    }
    exact.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && rules.into_iter().flatten().all(|rule| {
            Rule::read(&rule.key, &rule.operator, rule.values.as_ref())
                .is_some_and(|rule| rule.passes("", labels))
        })
}

/// Where a pod may go: its node selector, its required affinity and its tolerations.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    all: Vec<Rule>,
    any: Vec<Vec<Rule>>,
    tolerations: Vec<Toleration>,
}

impl Reach {
    /// Reads what `spec` demands of nodes.
    #[must_use]
    pub fn slim(spec: &core::PodSpec) -> Self {
        let selector = spec.node_selector.iter().flatten();
        let all =
            selector.map(|(key, value)| Rule::In(key.clone(), BTreeSet::from([value.clone()])));
        let tolerations = spec.tolerations.iter().flatten();
        Self {
            all: all.collect(),
            any: required(spec).iter().map(term).collect(),
            tolerations: tolerations.map(Toleration::slim).collect(),
        }
    }

    /// Whether a node of that name, labels and taints can take the pod.
    #[must_use]
    pub fn passes(&self, name: &str, labels: &BTreeMap<String, String>, taints: &[Taint]) -> bool {
        let fits = |rules: &Vec<Rule>| rules.iter().all(|rule| rule.passes(name, labels));
        fits(&self.all)
            && (self.any.is_empty() || self.any.iter().any(fits))
            && tolerated(&self.tolerations, taints)
    }
}

/// The terms of the required node affinity of a pod; one of them must hold.
#[must_use]
pub fn required(spec: &core::PodSpec) -> &[core::NodeSelectorTerm] {
    spec.affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref())
        .map_or(&[], |required| required.node_selector_terms.as_slice())
}

fn term(term: &core::NodeSelectorTerm) -> Vec<Rule> {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    labels
        .filter_map(|rule| Rule::read(&rule.key, &rule.operator, rule.values.as_ref()))
        .chain(
            fields
                .filter(|rule| rule.operator == "In")
                .map(|rule| Rule::Named(rule.values.iter().flatten().cloned().collect())),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.into(), value.into())).collect()
    }

    #[track_caller]
    fn check(selector: serde_json::Value, node: &str, want: bool) {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        assert_eq!(selects(&selector, &labels(node)), want, "{selector:?} {node}");
    }

    #[test]
    fn selectors_take_what_they_name_and_nothing_else() {
        check(json!({"matchLabels": {"lend": "a"}}), "lend=a zone=x", true);
        check(json!({"matchLabels": {"lend": "a"}}), "lend=b", false);
        check(json!({}), "lend=a", false);
        let rules = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "lend", "operator": operator, "values": values}]});
        check(rules("In", &["a", "b"]), "lend=b", true);
        check(rules("NotIn", &["a"]), "zone=x", true);
        check(rules("Exists", &[]), "zone=x", false);
        check(rules("DoesNotExist", &[]), "zone=x", true);
        check(rules("Nonsense", &[]), "lend=a", false);
    }

    #[test]
    fn a_pod_reaches_nodes_by_selector_affinity_and_toleration() {
        let spec: core::PodSpec = serde_json::from_value(json!({
            "containers": [],
            "nodeSelector": {"disk": "ssd"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}},
            "tolerations": [{"key": "gpu", "operator": "Exists"}]
        }))
        .unwrap();
        let reach = Reach::slim(&spec);
        let taint = |key: &str| {
            vec![Taint { key: key.into(), value: String::new(), effect: "NoSchedule".into() }]
        };
        assert!(reach.passes("n1", &labels("disk=ssd"), &taint("gpu")));
        assert!(!reach.passes("n2", &labels("disk=ssd"), &[]));
        assert!(!reach.passes("n1", &labels(""), &[]));
        assert!(!reach.passes("n1", &labels("disk=ssd"), &taint("other")));
    }
}
