//! The hub's gateway as a local process. The chart's Service names `localhost` here, since nothing
//! runs inside the cluster; all else is as in production.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service as KubeService;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::accounts::kubeconfig_of_service_account;
use super::controlplane::{ControlPlane, Site};
use super::error::Error;
use super::federation::Service;
use super::ports;
use super::wait::eventually;
use crate::api::SYSTEM_NAMESPACE;
use crate::cluster::{chain, within};

/// The chart's names for account, Service and process.
const NAME: &str = "idlewild-gateway";
/// The chart's registration.
const REGISTRATION: &str = "v1alpha1.gateway.idlewild.dev";
/// An API server looks at a registration again after failures, with growing pauses.
const AVAILABLE_WITHIN: Duration = Duration::from_mins(1);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its process, and where it serves metrics and probes.
    pub service: Service,
    /// Where it serves the API server: `127.0.0.1:port`.
    pub secure_address: String,
}

impl Gateway {
    /// Starts it with the chart's account, and returns once the API server passes requests on.
    pub(super) async fn start(
        hub: &str,
        idlewild: &std::path::Path,
        cluster: &ControlPlane,
        site: Site<'_>,
    ) -> Result<Self, Error> {
        let port = ports::free()?;
        let secure_address = format!("127.0.0.1:{port}");
        let kubeconfig = kubeconfig_of_service_account(cluster, NAME).await?;
        point(cluster, port).await?;
        let extra = [format!("--secure-listen={secure_address}")];
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        let service = Service::start(
            &format!("{hub}-gateway"),
            ("gateway", &extra),
            idlewild,
            &kubeconfig,
            site,
        )?;
        service.ready().await?;
        let gateway = Self { service, secure_address };
        gateway.available(cluster).await?;
        Ok(gateway)
    }

    /// Returns when the API server says that it reaches the gateway.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn available(&self, cluster: &ControlPlane) -> Result<(), Error> {
        let api = Api::<APIService>::all(cluster.admin.clone());
        eventually("the gateway is available", AVAILABLE_WITHIN, async || {
            let found = within("get APIService", api.get(REGISTRATION)).await;
            let status = found.map_err(|error| chain(&error))?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let available = conditions.iter().find(|condition| condition.type_ == "Available");
            match available {
                Some(condition) if condition.status == "True" => Ok(()),
                other => Err(format!("{:?}", other.and_then(|other| other.message.clone()))),
            }
        })
        .await
    }
}

/// Makes the chart's Service and registration lead to a port of this machine.
async fn point(cluster: &ControlPlane, port: u16) -> Result<(), Error> {
    let params = PatchParams::default();
    let services = Api::<KubeService>::namespaced(cluster.admin.clone(), SYSTEM_NAMESPACE);
    let local = Patch::Merge(json!({ "spec": {
        "type": "ExternalName", "externalName": "localhost", "selector": null, "clusterIP": null,
        "clusterIPs": null } }));
    within("patch Service", services.patch(NAME, &params, &local))
        .await
        .map_err(Error::cluster(format!("patch Service {NAME}")))?;
    let registrations = Api::<APIService>::all(cluster.admin.clone());
    let local = Patch::Merge(json!({ "spec": { "service": { "port": port } } }));
    within("patch APIService", registrations.patch(REGISTRATION, &params, &local))
        .await
        .map_err(Error::cluster(format!("patch APIService {REGISTRATION}")))
        .map(drop)
}
