//! Driving a real helm against one cluster, and standing in for the nodes that run its hooks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use idlewild::api::SYSTEM_NAMESPACE;
use idlewild::cluster::chain;
use idlewild::sandbox::{self, ControlPlane, Federation, kubeconfig_of_service_account};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{SOON, eventually};

/// The release that every test uses.
const RELEASE: &str = "idlewild";
/// The name that `kubeconfig_for` knows the administrator by.
pub(crate) const ADMIN: &str = "admin";
/// Above what the hook's own deadline allows.
const UNINSTALLED_WITHIN: Duration = Duration::from_mins(4);

/// A side of the federation, and the helm that looks after its chart.
pub(crate) struct Helm<'a> {
    pub(crate) program: PathBuf,
    pub(crate) cluster: &'a ControlPlane,
    /// `hub` or `member`.
    pub(crate) side: &'static str,
}

impl Helm<'_> {
    /// Runs helm in the one namespace; `Err` is what it said.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut all = arguments.to_vec();
        all.push("--namespace=idlewild-system");
        self.anywhere(&all).await
    }

    /// Runs helm without saying in which namespace.
    pub(crate) async fn anywhere(&self, arguments: &[&str]) -> Result<String, String> {
        let run = sandbox::helm(&self.program, self.cluster, arguments);
        run.await.map_err(|error| chain(&error))
    }

    /// `install` of the chart below `charts` without processes, or `upgrade` to it as its README
    /// says; `extra` may say otherwise.
    pub(crate) async fn apply(
        &self,
        verb: &str,
        charts: &Path,
        extra: &[&str],
    ) -> Result<String, String> {
        let chart = self.chart(charts).display().to_string();
        let mut arguments = vec![verb, RELEASE, &chart];
        let values = self.values();
        if verb == "install" {
            arguments.push("--create-namespace");
            arguments.extend(values.iter().map(String::as_str));
        } else {
            arguments.push("--reset-then-reuse-values");
        }
        arguments.extend(extra);
        self.run(&arguments).await
    }

    /// The folder of this side's chart below `charts`.
    pub(crate) fn chart(&self, charts: &Path) -> PathBuf {
        charts.join(format!("idlewild-{}", self.side))
    }

    /// The least that the chart must be told.
    pub(crate) fn values(&self) -> Vec<String> {
        let mut values = vec!["--set=replicas=0".to_owned()];
        if self.side == "hub" {
            let address = &self.cluster.endpoint.address;
            values.push(format!("--set=hub.id=charts,hub.address={address}"));
        }
        values
    }

    /// Status of each revision, oldest first.
    pub(crate) async fn history(&self) -> Vec<String> {
        let text = self.run(&["history", RELEASE, "--output=json"]).await.unwrap();
        let revisions: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        revisions.iter().map(|one| one["status"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Back to the revision before.
    pub(crate) async fn rollback(&self) {
        self.run(&["rollback", RELEASE]).await.unwrap();
        assert_eq!(self.history().await.last().map(String::as_str), Some("deployed"));
    }

    /// Upgrades, and has the API server die and come back while helm is in the middle; then what the
    /// chart's README says to do.
    pub(crate) async fn upgrade_interrupted(&self, charts: &Path) {
        // A webhook that never answers holds helm's change of the Deployment.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hooks = Api::<ValidatingWebhookConfiguration>::all(self.cluster.admin.clone());
        let hook = self.holding_deployments(listener.local_addr().unwrap());
        hooks.create(&PostParams::default(), &hook).await.unwrap();
        let (answer, ()) = tokio::join!(self.apply("upgrade", charts, &[]), async {
            let held = tokio::time::timeout(SOON, listener.accept()).await;
            held.expect("helm changes the Deployment").unwrap();
            self.cluster.api_server.restart().await.unwrap();
            self.cluster.ready().await.unwrap();
            hooks.delete(&hook.name_any(), &DeleteParams::default()).await.unwrap();
        });
        let said = answer.expect_err("the API server went away in the middle");
        println!("{} of {}: {}", self.program.display(), self.side, said.lines().last().unwrap());
        if let Err(said) = self.apply("upgrade", charts, &[]).await {
            assert!(said.contains("another operation"), "{said}");
            self.rollback().await;
            self.apply("upgrade", charts, &[]).await.unwrap();
        }
        assert_eq!(self.history().await.last().map(String::as_str), Some("deployed"));
    }

    fn holding_deployments(&self, by: SocketAddr) -> ValidatingWebhookConfiguration {
        let hook = json!({
            "metadata": { "name": "holds" },
            "webhooks": [{
                "name": "holds.example.org",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 30,
                "failurePolicy": "Ignore",
                "clientConfig": {
                    "url": format!("https://{by}/"),
                    "caBundle": ByteString(self.cluster.authority().pem().into_bytes()),
                },
                "rules": [{
                    "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                    "resources": ["deployments"],
                }],
            }],
        });
        serde_json::from_value(hook).unwrap()
    }

    /// Uninstalls; `hook` runs what the chart's hook asks for, if it has one.
    pub(crate) async fn uninstall(&self, hook: impl Future<Output = ()>) {
        let uninstall = tokio::time::timeout(UNINSTALLED_WITHIN, self.run(&["uninstall", RELEASE]));
        let (answer, ()) = tokio::join!(uninstall, hook);
        answer.expect("helm uninstall hangs").unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.cluster.admin.clone(), SYSTEM_NAMESPACE);
        let left = secrets.list(&ListParams::default().labels("owner=helm")).await.unwrap();
        assert!(left.items.is_empty(), "no release is left");
    }
}

/// Runs the member's pre-delete hook the way its node would: the arguments of its pod, as its
/// account, and what comes of it as the pod's end.
pub(crate) async fn leave_hook(federation: &Federation, cluster: &ControlPlane) {
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), SYSTEM_NAMESPACE);
    let labels = ListParams::default().labels("app.kubernetes.io/component=leave");
    let pod = eventually("the hook's pod runs", SOON, async || {
        let found = pods.list(&labels).await.map_err(|error| error.to_string())?.items;
        let running = found.into_iter().find(|pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        running.ok_or_else(|| "none".to_owned())
    })
    .await;
    let spec = pod.spec.as_ref().unwrap();
    let account = spec.service_account_name.clone().unwrap();
    let kubeconfig = kubeconfig_of_service_account(cluster, &account).await.unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let mut arguments: Vec<&str> =
        spec.containers[0].args.iter().flatten().map(String::as_str).collect();
    arguments.push(&kubeconfig);
    sandbox::run(&federation.settings.idlewild, &arguments, "")
        .await
        .unwrap_or_else(|error| panic!("{arguments:?}: {}", chain(&error)));
    let done = Patch::Merge(json!({ "status": { "phase": "Succeeded" } }));
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &done).await.unwrap();
}
