//! A member: a control plane with simulated GPU nodes, its owner's pools, and the agent as a local
//! process.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::{try_join_all, try_join3};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::accounts::{
    OWNER, OWNER_NAMESPACE, apply, kubeconfig_of_service_account, people_of_member,
};
use super::controlplane::{ControlPlane, Site};
use super::error::Error;
use super::federation::{PATIENCE, Service};
use super::flags::Role;
use super::gate::Gate;
use super::settings::{MemberSettings, Reach, Settings};
use super::wait::eventually;
use super::{charts, nodes};
use crate::api::{GpuPool, SYSTEM_NAMESPACE};
use crate::cluster::{chain, within};

/// The service account of the member's chart.
const SERVICE_ACCOUNT: &str = "idlewild-agent";
/// kwok makes hundreds of nodes ready within seconds.
const NODES_WITHIN: Duration = Duration::from_mins(1);

/// A running member.
pub struct Member {
    /// Its control plane.
    pub cluster: ControlPlane,
    /// Its agent; none below [`Reach::Installed`].
    pub agent: Option<Service>,
    /// What it was started from.
    pub settings: MemberSettings,
    gate: Gate,
}

impl Member {
    pub(super) async fn start(
        member: &MemberSettings,
        settings: &Settings,
        site: Site<'_>,
    ) -> Result<Self, Error> {
        let name = &member.name;
        let cluster = ControlPlane::start(name, Role::Member, site).await?;
        let gate = Gate::start(&cluster.admin);
        let installed = async {
            if settings.reach < Reach::Installed {
                return Ok(None);
            }
            let install = Self::install(settings, &cluster);
            site.timeline.step(&format!("{name}: helm install"), install).await?;
            Self::lend(member, &cluster).await?;
            Self::run(&cluster, settings, site).await.map(Some)
        };
        let nodes = async {
            nodes::create(&cluster.admin, member).await?;
            nodes_ready(&cluster, member).await
        };
        let step = format!("{name}: nodes ready");
        let nodes = site.timeline.step(&step, nodes);
        let (agent, (), ()) = try_join3(installed, nodes, people(&cluster)).await?;
        if let Some(agent) = &agent {
            // Ready with no hub to talk to: it waits for its owner's grant.
            site.timeline.step(&format!("{name}: agent ready"), agent.ready()).await?;
        }
        Ok(Self { cluster, agent, settings: member.clone(), gate })
    }

    /// Runs the agent, once somebody has installed the chart.
    pub(super) async fn serve(&mut self, settings: &Settings, site: Site<'_>) -> Result<(), Error> {
        let agent = Self::run(&self.cluster, settings, site).await?;
        agent.ready().await?;
        self.agent = Some(agent);
        Ok(())
    }

    async fn run(
        cluster: &ControlPlane,
        settings: &Settings,
        site: Site<'_>,
    ) -> Result<Service, Error> {
        let kubeconfig = kubeconfig_of_service_account(cluster, SERVICE_ACCOUNT).await?;
        let process = format!("{}-agent", cluster.name);
        let verb = ("agent", &["--sandbox"][..]);
        Service::start(&process, verb, &settings.idlewild, &kubeconfig, site)
    }

    async fn install(settings: &Settings, cluster: &ControlPlane) -> Result<(), Error> {
        let chart = settings.charts.join("idlewild-member");
        let helm = settings.binaries.join("helm");
        charts::install(&helm, &chart, cluster, &[("replicas", "0")]).await
    }

    /// The owner lends the pools.
    async fn lend(member: &MemberSettings, cluster: &ControlPlane) -> Result<(), Error> {
        let owner = cluster.client_for(OWNER).await?;
        let pools = nodes::pools(member);
        let applied = pools.iter().map(|pool| {
            let api = Api::<GpuPool>::namespaced(owner.clone(), SYSTEM_NAMESPACE);
            async move { apply(api, &pool.name_any(), &json!(pool)).await }
        });
        try_join_all(applied).await.map(drop)
    }

    pub(super) fn agent_kubeconfig(&self) -> PathBuf {
        self.cluster.directory().join(format!("{SERVICE_ACCOUNT}.kubeconfig"))
    }

    /// Its agent.
    ///
    /// # Panics
    /// If the federation was started below [`Reach::Installed`].
    #[must_use]
    pub fn agent(&self) -> &Service {
        self.agent.as_ref().expect("a member that is installed has an agent")
    }

    pub(super) async fn stop(&self) -> Result<(), Error> {
        self.gate.close();
        let ended = match &self.agent {
            Some(agent) => agent.process.terminate(PATIENCE).await,
            None => Ok(()),
        };
        ended.and(self.cluster.stop().await)
    }
}

/// Sets up the owner and waits until pods can be created in the owner's namespace.
async fn people(cluster: &ControlPlane) -> Result<(), Error> {
    people_of_member(cluster).await?;
    let accounts = Api::<ServiceAccount>::namespaced(cluster.admin.clone(), OWNER_NAMESPACE);
    let what = format!("{}: service account of pods", cluster.name);
    eventually(&what, NODES_WITHIN, async || {
        let call = accounts.get("default");
        within("get service account", call).await.map_err(|error| chain(&error)).map(drop)
    })
    .await
}

async fn nodes_ready(cluster: &ControlPlane, member: &MemberSettings) -> Result<(), Error> {
    let wanted: u32 = member.pools.iter().map(|pool| pool.nodes).sum();
    let nodes = Api::<Node>::all(cluster.admin.clone());
    eventually(&format!("{}: nodes ready", cluster.name), NODES_WITHIN, async || {
        let list = within("list nodes", nodes.list(&ListParams::default())).await;
        let list = list.map_err(|error| chain(&error))?;
        let ready = list.iter().filter(|node| is_ready(node)).count();
        if u32::try_from(ready).is_ok_and(|ready| ready >= wanted) {
            return Ok(());
        }
        Err(format!("{ready} of {wanted} nodes are ready"))
    })
    .await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .is_some_and(|all| all.iter().any(|found| found.type_ == "Ready" && found.status == "True"))
}
