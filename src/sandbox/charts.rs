//! Working with the charts by the real helm.

use std::path::Path;

use super::controlplane::ControlPlane;
use super::error::Error;
use super::tool;
use crate::api::SYSTEM_NAMESPACE;

/// Installs `chart` (a folder) under its own name into `cluster`.
///
/// # Errors
/// If helm fails: with what it said.
pub async fn install(
    helm: &Path,
    chart: &Path,
    cluster: &ControlPlane,
    values: &[(&str, &str)],
) -> Result<(), Error> {
    let release = chart.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let chart = chart.display().to_string();
    let namespace = format!("--namespace={SYSTEM_NAMESPACE}");
    let mut arguments: Vec<&str> =
        vec!["install", &release, &chart, &namespace, "--create-namespace"];
    let settings: Vec<String> =
        values.iter().map(|(key, value)| format!("{key}={value}")).collect();
    for setting in &settings {
        arguments.extend(["--set", setting]);
    }
    self::helm(helm, cluster, &arguments).await.map(drop)
}

/// Runs `helm` as the administrator of `cluster`, and returns what it printed.
///
/// # Errors
/// If helm fails: with what it said.
pub async fn helm(
    helm: &Path,
    cluster: &ControlPlane,
    arguments: &[&str],
) -> Result<String, Error> {
    let kubeconfig = format!("--kubeconfig={}", cluster.admin_kubeconfig.display());
    // Helm must neither read nor write the home of whoever runs this.
    let own = |what: &str| format!("--{what}={}", cluster.directory().join(what).display());
    let (registries, repositories, cache) =
        (own("registry-config"), own("repository-config"), own("repository-cache"));
    let mut all = arguments.to_vec();
    all.extend([kubeconfig.as_str(), &registries, &repositories, &cache]);
    tool::run(helm, &all, "").await
}
