//! Joining the way a stranger does: the operator invites, the owner applies what the invitation
//! printed, the operator accepts the fingerprint.

use std::path::Path;
use std::time::Duration;

use kube::Api;

use super::accounts::{OPERATOR, OWNER};
use super::error::Error;
use super::federation::Federation;
use super::hub::Hub;
use super::tool;
use super::wait::eventually;
use crate::api::conditions::{find, is_true};
use crate::api::{JoinRequest, MEMBER_NAMESPACE_PREFIX, MemberCluster};
use crate::cluster::{chain, within};

/// The agent asks within seconds, and polls every three for the answer.
const ASKS_WITHIN: Duration = Duration::from_mins(1);
/// From acceptance to the first heartbeat and the pools' first pictures.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// The one name that a join request may have.
const REQUEST: &str = "join";

impl Federation {
    /// Joins the member `name` and returns when the hub calls it ready and knows all its pools.
    ///
    /// # Errors
    /// If a command fails or the member is not ready in time.
    pub async fn join(&self, name: &str) -> Result<(), Error> {
        self.join_hub(&self.hub, name).await
    }

    /// Joins the member `name` to one hub after another: its owner applies one invitation at a time,
    /// and all are keys of one Secret.
    pub(super) async fn join_all_hubs(&self, name: &str) -> Result<(), Error> {
        for hub in self.hubs() {
            self.join_hub(hub, name).await?;
        }
        Ok(())
    }

    /// Joins the member `name` to `hub`, one of ours; as [`Federation::join`].
    ///
    /// # Errors
    /// If a command fails or the member is not ready in time.
    pub async fn join_hub(&self, hub: &Hub, name: &str) -> Result<(), Error> {
        let invitation = self.operate_hub(hub, &["invite", name]).await?;
        let step = format!("{name}: join {}", hub.cluster.name);
        self.timeline.step(&step, self.enrol(hub, name, &invitation)).await
    }

    /// What `idlewild invite` prints for the owner of `name`, run by the operator.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn invite(&self, name: &str) -> Result<String, Error> {
        self.operate(&["invite", name]).await
    }

    /// Runs `idlewild` with `arguments` and the operator's credentials, and returns what it printed.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn operate(&self, arguments: &[&str]) -> Result<String, Error> {
        self.operate_hub(&self.hub, arguments).await
    }

    /// The same on `hub`.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn operate_hub(&self, hub: &Hub, arguments: &[&str]) -> Result<String, Error> {
        let kubeconfig = hub.cluster.kubeconfig_for(OPERATOR)?;
        idlewild(&self.settings.idlewild, arguments, &kubeconfig).await
    }

    /// The same on the first hub with the credentials of `user`.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn command(&self, user: &str, arguments: &[&str]) -> Result<String, Error> {
        let kubeconfig = self.hub.cluster.kubeconfig_for(user)?;
        idlewild(&self.settings.idlewild, arguments, &kubeconfig).await
    }

    async fn enrol(&self, hub: &Hub, name: &str, invitation: &str) -> Result<(), Error> {
        let Some(member) = self.members.get(name) else {
            return Err(Error::Program {
                what: format!("join {name}"),
                said: "the sandbox has no such member".into(),
            });
        };
        member.cluster.kubectl(OWNER, &["apply", "-f", "-"], invitation).await?;
        Self::asked(hub, name).await?;
        let jurisdiction = member.settings.jurisdiction.as_str();
        let accept = ["accept", name, "--yes", "--jurisdictions", jurisdiction];
        self.operate_hub(hub, &accept).await?;
        self.ready_on(hub, name).await
    }

    async fn asked(hub: &Hub, name: &str) -> Result<(), Error> {
        let namespace = format!("{MEMBER_NAMESPACE_PREFIX}{name}");
        let api = Api::<JoinRequest>::namespaced(hub.cluster.admin.clone(), &namespace);
        eventually(&format!("{name}: join request"), ASKS_WITHIN, async || {
            let call = api.get(REQUEST);
            within("get join request", call).await.map_err(|error| chain(&error)).map(drop)
        })
        .await
    }

    /// Returns when the hub calls the member ready and knows all its pools.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn member_ready(&self, name: &str) -> Result<(), Error> {
        self.ready_on(&self.hub, name).await
    }

    async fn ready_on(&self, hub: &Hub, name: &str) -> Result<(), Error> {
        let pools = self.members.get(name).map_or(0, |member| member.settings.pools.len());
        let api = Api::<MemberCluster>::all(hub.cluster.admin.clone());
        eventually(&format!("{name}: ready on the hub"), READY_WITHIN, async || {
            let call = api.get(name);
            let member = within("get member", call).await.map_err(|error| chain(&error))?;
            let status = member.status.unwrap_or_default();
            let known = usize::try_from(status.pools).unwrap_or(0);
            if is_true(&status.conditions, "Ready") && known >= pools {
                return Ok(());
            }
            let reason = find(&status.conditions, "Ready")
                .map_or("no condition Ready", |found| found.reason.as_str());
            Err(format!("{reason}, {known} of {pools} pools"))
        })
        .await
    }
}

async fn idlewild(program: &Path, arguments: &[&str], kubeconfig: &Path) -> Result<String, Error> {
    let kubeconfig = kubeconfig.display().to_string();
    let mut all = arguments.to_vec();
    all.extend(["--kubeconfig", &kubeconfig]);
    tool::run(program, &all, "").await
}
