//! The kinds that the server knows: some of Kubernetes' own, and this project's from `crds/`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::schema::Schema;

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    Cluster,
}

/// A way in which Kubernetes' own kinds differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trait {
    /// It has a subresource `status`.
    Status,
    /// It has a generation.
    Generation,
    /// It may be replaced without naming the version that was read.
    Unconditional,
    /// Replacing what is not there creates it.
    Upsert,
    /// The answer to a deletion is the object.
    Returned,
}

use Trait::{Generation, Returned, Status, Unconditional, Upsert};

/// What there is to know of a kind.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    /// As objects name it.
    pub(super) named: String,
    pub(super) plural: String,
    pub(super) scope: Scope,
    traits: Vec<Trait>,
    /// Of a custom resource.
    pub(super) schema: Option<Schema>,
}

type BuiltIn = (&'static str, &'static str, &'static str, Scope, &'static [Trait]);

const BUILT_IN: &[BuiltIn] = &[
    ("", "Namespace", "namespaces", Scope::Cluster, &[Status, Unconditional, Returned]),
    ("", "Node", "nodes", Scope::Cluster, &[Status, Unconditional]),
    ("", "Pod", "pods", Scope::Namespaced, &[Status, Generation, Unconditional, Returned]),
    ("", "ConfigMap", "configmaps", Scope::Namespaced, &[Unconditional]),
    ("", "Secret", "secrets", Scope::Namespaced, &[Unconditional]),
    ("", "ServiceAccount", "serviceaccounts", Scope::Namespaced, &[Unconditional, Returned]),
    ("coordination.k8s.io", "Lease", "leases", Scope::Namespaced, &[Upsert]),
    (
        "scheduling.k8s.io",
        "PriorityClass",
        "priorityclasses",
        Scope::Cluster,
        &[Generation, Unconditional],
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        "networkpolicies",
        Scope::Namespaced,
        &[Generation, Unconditional],
    ),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        "rolebindings",
        Scope::Namespaced,
        &[Unconditional, Upsert],
    ),
];

const CUSTOM: &[&str] = &[
    include_str!("../../../crds/gpujobs.yaml"),
    include_str!("../../../crds/gpuleases.yaml"),
    include_str!("../../../crds/gpupools.yaml"),
    include_str!("../../../crds/gpuqueues.yaml"),
    include_str!("../../../crds/guestleases.yaml"),
    include_str!("../../../crds/hubgrants.yaml"),
    include_str!("../../../crds/joinrequests.yaml"),
    include_str!("../../../crds/memberclusters.yaml"),
];

/// All kinds, by plural; no two groups that we use share one. Read once for all servers.
static KINDS: LazyLock<BTreeMap<String, Kind>> = LazyLock::new(|| {
    let all = BUILT_IN.iter().map(built_in).chain(CUSTOM.iter().map(|text| custom(text)));
    all.map(|kind| (kind.plural.clone(), kind)).collect()
});

fn built_in(&(group, kind, plural, scope, traits): &BuiltIn) -> Kind {
    Kind {
        group: group.to_owned(),
        version: "v1".to_owned(),
        named: kind.to_owned(),
        plural: plural.to_owned(),
        scope,
        traits: traits.to_vec(),
        schema: None,
    }
}

fn custom(text: &str) -> Kind {
    let crd: Value = serde_yaml::from_str(text).expect("crds/ is generated");
    let spec = &crd["spec"];
    let [version] = spec["versions"].as_array().expect("versions").as_slice() else {
        panic!("several versions of one resource are not modelled: {spec}")
    };
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    let mut traits = vec![Generation];
    if version["subresources"].get("status").is_some() {
        traits.push(Status);
    }
    let namespaced = spec["scope"] == "Namespaced";
    Kind {
        group: word(&spec["group"]),
        version: word(&version["name"]),
        named: word(&spec["names"]["kind"]),
        plural: word(&spec["names"]["plural"]),
        scope: if namespaced { Scope::Namespaced } else { Scope::Cluster },
        traits,
        schema: Some(Schema::read(&version["schema"]["openAPIV3Schema"])),
    }
}

impl Kind {
    /// The kind of this plural.
    pub(super) fn find(plural: &str) -> Option<&'static Self> {
        KINDS.get(plural)
    }

    /// The kind of this plural, which the caller knows to be there.
    pub(super) fn of(plural: &str) -> &'static Self {
        Self::find(plural).unwrap_or_else(|| panic!("the simulated server knows no {plural}"))
    }

    pub(super) fn is(&self, what: Trait) -> bool {
        self.traits.contains(&what)
    }

    pub(super) fn is_custom(&self) -> bool {
        self.schema.is_some()
    }

    /// Drops the fields that one of Kubernetes' own kinds does not have.
    pub(super) fn drop_unknown(&self, object: &mut Value) {
        let own: &[&str] = match self.plural.as_str() {
            _ if self.is_custom() => return,
            "configmaps" => &["data", "binaryData", "immutable"],
            "secrets" => &["data", "stringData", "type", "immutable"],
            "serviceaccounts" => &["secrets", "imagePullSecrets", "automountServiceAccountToken"],
            "priorityclasses" => &["value", "globalDefault", "description", "preemptionPolicy"],
            "leases" | "networkpolicies" => &["spec"],
            "rolebindings" => &["roleRef", "subjects"],
            _ => &["spec", "status"],
        };
        if let Some(fields) = object.as_object_mut() {
            let always = ["apiVersion", "kind", "metadata"];
            fields.retain(|key, _| own.contains(&key.as_str()) || always.contains(&key.as_str()));
        }
    }

    pub(super) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Such as `gpujobs.idlewild.dev`.
    pub(super) fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }
}
