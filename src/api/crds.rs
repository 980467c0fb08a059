//! The custom resource definitions as YAML, for `crds/` and the charts.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt;

use super::{
    GpuJob, GpuLease, GpuPool, GpuQueue, GuestLease, HubGrant, JoinRequest, MemberCluster,
};

/// Which cluster a definition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The cluster that holds `GpuJobs`.
    Hub,
    /// A cluster that lends.
    Member,
}

/// The definitions of one side, in a fixed order.
#[must_use]
pub fn definitions(side: Side) -> Vec<CustomResourceDefinition> {
    match side {
        Side::Hub => vec![
            whole(GpuJob::crd(), &["status", "spec.template"]),
            whole(GpuLease::crd(), &["status", "spec"]),
            whole(GpuPool::crd(), &["status"]),
            whole(GpuQueue::crd(), &["status"]),
            JoinRequest::crd(),
            whole(MemberCluster::crd(), &["status"]),
        ],
        Side::Member => vec![
            whole(GpuPool::crd(), &["status"]),
            whole(GuestLease::crd(), &["status", "spec"]),
            HubGrant::crd(),
        ],
    }
}

/// The definition with these parts owned as a whole by whoever writes them.
///
/// Servers keep a list of who wrote each field, bring it up to date with every write, and store it and
/// send it with every object. One writer owns all of each of these parts, so one entry tells as much.
fn whole(mut definition: CustomResourceDefinition, parts: &[&str]) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let Some(schema) = version.schema.as_mut() else { continue };
        for part in parts {
            let root = schema.open_api_v3_schema.as_mut();
            let found = part.split('.').fold(root, |within, name| property(within?, name));
            if let Some(found) = found {
                found.x_kubernetes_map_type = Some("atomic".into());
            }
        }
    }
    definition
}

fn property<'a>(of: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    of.properties.as_mut()?.get_mut(name)
}

/// Name of the file in `crds/` that holds `definition`.
#[must_use]
pub fn file_name(definition: &CustomResourceDefinition) -> String {
    format!("{}.yaml", definition.spec.names.plural)
}

/// One definition as YAML.
///
/// # Panics
/// Never: a definition is a tree of maps, lists and strings.
#[must_use]
pub fn yaml(definition: &CustomResourceDefinition) -> String {
    serde_yaml::to_string(definition).expect("a definition is plain data")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    /// Every generated file: path from the root of the repository, and content.
    fn generated() -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for (side, chart) in [(Side::Hub, "idlewild-hub"), (Side::Member, "idlewild-member")] {
            for definition in definitions(side) {
                let name = file_name(&definition);
                files.insert(format!("crds/{name}"), yaml(&definition));
                files.insert(format!("charts/{chart}/crds/{name}"), yaml(&definition));
            }
        }
        files
    }

    #[test]
    fn the_files_are_what_the_types_generate() {
        let update = std::env::var_os("IDLEWILD_UPDATE").is_some();
        for (path, content) in generated() {
            let path = root().join(path);
            if update {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &content).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == content, "{} is stale: run make generate", path.display());
        }
    }

    #[test]
    fn no_stranger_lies_among_the_files() {
        let files = generated();
        for dir in ["crds", "charts/idlewild-hub/crds", "charts/idlewild-member/crds"] {
            for entry in std::fs::read_dir(root().join(dir)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(files.contains_key(&format!("{dir}/{name}")), "{dir}/{name} is nobody's");
            }
        }
    }

    #[test]
    fn a_client_side_apply_can_store_each_definition() {
        for side in [Side::Hub, Side::Member] {
            for definition in definitions(side) {
                let size = serde_json::to_string(&definition).unwrap().len();
                assert!(size < 262_144, "{} has {size} bytes", definition.spec.names.kind);
            }
        }
    }

    #[test]
    fn the_yaml_reads_back_as_the_same_definition() {
        for definition in definitions(Side::Hub) {
            let read: CustomResourceDefinition = serde_yaml::from_str(&yaml(&definition)).unwrap();
            assert_eq!(read, definition);
        }
    }
}
