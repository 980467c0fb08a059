//! The hub: a control plane without nodes, and its controllers as local processes.

use std::path::PathBuf;

use futures::future::{join_all, try_join};

use super::accounts::{kubeconfig_of_service_account, people_of_hub};
use super::charts;
use super::controlplane::{ControlPlane, Site};
use super::error::Error;
use super::federation::{Controller, PATIENCE, Service};
use super::flags::Role;
use super::gateway::Gateway;
use super::settings::{Reach, Settings};

/// Name of the first hub's cluster.
pub(super) const NAME: &str = "hub";
/// The service account of the hub's chart.
const SERVICE_ACCOUNT: &str = "idlewild-hub";

/// Whether a controller leads only while it holds the election lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// It waits until it leads.
    On,
    /// It leads at once, whoever else does.
    Off,
}

/// A running hub.
pub struct Hub {
    /// Its ID.
    pub id: String,
    /// Its control plane.
    pub cluster: ControlPlane,
    /// Its controllers; none below [`Reach::Installed`].
    pub controllers: Vec<Service>,
    /// Its gateway; none below [`Reach::Installed`].
    pub gateway: Option<Gateway>,
}

impl Hub {
    /// Starts the hub `id` on a cluster named `name`.
    pub(super) async fn start(
        (name, id): (&str, &str),
        settings: &Settings,
        site: Site<'_>,
    ) -> Result<Self, Error> {
        let own = Site { flags: &settings.hub_flags, ..site };
        let cluster = ControlPlane::start(name, Role::Hub, own).await?;
        let mut hub = Self { id: id.into(), cluster, controllers: vec![], gateway: None };
        if settings.reach < Reach::Installed {
            people_of_hub(&hub.cluster).await?;
            return Ok(hub);
        }
        let cluster = &hub.cluster;
        let install = Self::install(id, settings, cluster);
        let step = format!("{name}: helm install");
        let helm = site.timeline.step(&step, install);
        try_join(people_of_hub(cluster), helm).await?;
        hub.serve(settings, site).await?;
        Ok(hub)
    }

    /// Runs the first controller and the gateway, once the chart is installed.
    pub(super) async fn serve(&mut self, settings: &Settings, site: Site<'_>) -> Result<(), Error> {
        let (name, cluster) = (self.cluster.name.clone(), &self.cluster);
        let controller = async {
            let kubeconfig = kubeconfig_of_service_account(cluster, SERVICE_ACCOUNT).await?;
            let (number, election) = (1, settings.election);
            let start = Controller { hub: &name, number, election, kubeconfig: &kubeconfig };
            let service = start.run(&settings.idlewild, site)?;
            site.timeline.step(&format!("{name}: controller ready"), service.ready()).await?;
            Ok(service)
        };
        let step = format!("{name}: gateway ready");
        let gateway = Box::pin(Gateway::start(&name, &settings.idlewild, cluster, site));
        let gateway = site.timeline.step(&step, gateway);
        let (service, gateway) = try_join(controller, gateway).await?;
        self.controllers.push(service);
        self.gateway = Some(gateway);
        Ok(())
    }

    async fn install(id: &str, settings: &Settings, cluster: &ControlPlane) -> Result<(), Error> {
        let chart = settings.charts.join("idlewild-hub");
        let values = [
            ("replicas", "0"),
            ("gateway.replicas", "0"),
            ("hub.id", id),
            ("hub.address", cluster.endpoint.address.as_str()),
        ];
        charts::install(&settings.binaries.join("helm"), &chart, cluster, &values).await
    }

    pub(super) fn controller_kubeconfig(&self) -> PathBuf {
        self.cluster.directory().join(format!("{SERVICE_ACCOUNT}.kubeconfig"))
    }

    /// The first controller.
    ///
    /// # Panics
    /// If the federation was started below [`Reach::Installed`].
    #[must_use]
    pub fn controller(&self) -> &Service {
        self.controllers.first().expect("a hub that is installed has a controller")
    }

    /// The gateway.
    ///
    /// # Panics
    /// If the federation was started below [`Reach::Installed`].
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("a hub that is installed has a gateway")
    }

    pub(super) async fn stop(&self) -> Result<(), Error> {
        let gateway = self.gateway.iter().map(|gateway| &gateway.service);
        let all = self.controllers.iter().chain(gateway);
        let all = all.map(|service| service.process.terminate(PATIENCE));
        let ended: Result<(), Error> = join_all(all).await.into_iter().collect();
        ended.and(self.cluster.stop().await)
    }
}
