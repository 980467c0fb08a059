//! Hub and members together: start, stop, and how people reach them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{join_all, try_join_all, try_join3};

use super::accounts::{OPERATOR, OWNER, USER};
use super::controlplane::Site;
use super::error::Error;
use super::hub::{self, Election, Hub};
use super::member::Member;
use super::process::{Process, Program};
use super::settings::{Reach, Settings};
use super::timeline::Timeline;
use super::wait::eventually;
use super::workplace::Workplace;
use super::{http, ports};

/// A controller or agent reads everything before it is ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// A controller gives up its leadership and an agent finishes its writes.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// A running hub with its members.
///
/// Dropping it kills everything at once; [`Federation::stop`] does so in order.
pub struct Federation {
    /// The hub.
    pub hub: Hub,
    /// More hubs, over the same members.
    pub more_hubs: Vec<Hub>,
    /// The members by name.
    pub members: BTreeMap<String, Member>,
    /// What it was started from.
    pub settings: Settings,
    /// Where the time of the start went.
    pub timeline: Timeline,
    pub(super) workplace: Workplace,
}

/// One of our own processes that serves `/metrics`, `/livez` and `/readyz`.
#[derive(Debug)]
pub struct Service {
    /// The process.
    pub process: Process,
    /// Where it listens: `127.0.0.1:port`.
    pub address: String,
}

impl Federation {
    /// Starts everything that `settings` name, as far as `settings.reach`.
    ///
    /// # Errors
    /// If a program is missing, the directory is in use, or a step fails or takes too long. What was
    /// started by then is killed.
    pub async fn start(settings: &Settings) -> Result<Self, Error> {
        let settings = settings.absolute()?;
        let timeline = Timeline::new();
        let workplace = timeline.step("clean up", Workplace::take(&settings.dir)).await?;
        let site = site(&workplace, &settings, &timeline);
        let members = settings.members.iter().map(|member| Member::start(member, &settings, site));
        let first = Hub::start((hub::NAME, &settings.hub_id), &settings, site);
        let more = settings.more_hubs.iter().map(|id| Hub::start((id, id), &settings, site));
        let (hub, more_hubs, members) =
            try_join3(first, try_join_all(more), try_join_all(members)).await?;
        let members =
            members.into_iter().map(|member| (member.cluster.name.clone(), member)).collect();
        let federation = Self { hub, more_hubs, members, settings, timeline, workplace };
        if federation.settings.reach == Reach::Joined {
            let all = federation.members.keys().map(|name| federation.join_all_hubs(name));
            try_join_all(all).await?;
        }
        Ok(federation)
    }

    /// Stops everything in order, clients first, and removes the stores. Logs stay.
    ///
    /// # Errors
    /// If a process cannot be killed; the others are stopped all the same.
    pub async fn stop(self) -> Result<(), Error> {
        // The hub goes last, so that no agent logs a lost connection.
        let members = join_all(self.members.values().map(Member::stop)).await;
        let hubs = join_all(self.hubs().map(Hub::stop)).await;
        self.workplace.remove_data();
        members.into_iter().chain(hubs).collect()
    }

    /// All hubs.
    pub fn hubs(&self) -> impl Iterator<Item = &Hub> {
        std::iter::once(&self.hub).chain(&self.more_hubs)
    }

    /// Runs the hub's controller after somebody installed the chart in a sandbox that reaches no
    /// further than [`Reach::ControlPlanes`].
    ///
    /// # Errors
    /// If the chart's account is not there or the controller is not ready in time.
    pub async fn serve_hub(&mut self) -> Result<(), Error> {
        let (settings, site) =
            (&self.settings, site(&self.workplace, &self.settings, &self.timeline));
        self.hub.serve(settings, site).await
    }

    /// The same for the agent of the member `name`.
    ///
    /// # Errors
    /// If there is no such member, its chart's account is not there, or the agent is not ready in time.
    pub async fn serve_member(&mut self, name: &str) -> Result<(), Error> {
        let (settings, site) =
            (&self.settings, site(&self.workplace, &self.settings, &self.timeline));
        match self.members.get_mut(name) {
            Some(member) => member.serve(settings, site).await,
            None => Err(Error::Program {
                what: format!("run the agent of {name}"),
                said: "the sandbox has no such member".into(),
            }),
        }
    }

    /// Starts one more hub controller, which shares or fights for the lead.
    ///
    /// # Errors
    /// If it cannot be started; whether it comes up, [`Service::ready`] says.
    pub fn add_controller(&mut self, election: Election) -> Result<&Service, Error> {
        let site = site(&self.workplace, &self.settings, &self.timeline);
        let number = self.hub.controllers.len() + 1;
        let kubeconfig = self.hub.controller_kubeconfig();
        let start = Controller { hub: hub::NAME, number, election, kubeconfig: &kubeconfig };
        let service = start.run(&self.settings.idlewild, site)?;
        self.hub.controllers.push(service);
        Ok(&self.hub.controllers[number - 1])
    }

    /// Starts `program` in this sandbox: it ends with it, and its log lies beside the others.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, program: Program) -> Result<Process, Error> {
        Process::start(program, &self.workplace)
    }

    /// The directory of this sandbox.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.workplace.directory()
    }

    /// Starts one more agent with the credentials of that of `member`, as the process `name` with
    /// `environment` (`KEY=value`).
    ///
    /// # Errors
    /// If it cannot be started; whether it comes up, [`Service::ready`] says.
    pub fn add_agent(
        &self,
        member: &str,
        name: &str,
        environment: &[String],
    ) -> Result<Service, Error> {
        let kubeconfig = self.members.get(member).map(Member::agent_kubeconfig);
        let kubeconfig = kubeconfig.ok_or_else(|| Error::Program {
            what: format!("start {name}"),
            said: format!("the sandbox has no member {member}"),
        })?;
        let address = format!("127.0.0.1:{}", ports::free()?);
        let mut arguments = environment.to_vec();
        arguments.extend([
            self.settings.idlewild.display().to_string(),
            "agent".into(),
            "--sandbox".into(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--namespace={}", crate::api::SYSTEM_NAMESPACE),
            format!("--listen={address}"),
        ]);
        let program = Program { name: name.into(), path: "env".into(), arguments };
        Ok(Service { process: Process::start(program, &self.workplace)?, address })
    }

    /// The lines that a person pastes into a shell to look around, one for each cluster and role.
    ///
    /// # Errors
    /// If a kubeconfig cannot be written.
    pub fn exports(&self) -> Result<Vec<String>, Error> {
        let line =
            |path: PathBuf, who: &str| format!("export KUBECONFIG={}  # {who}", path.display());
        let hub = &self.hub.cluster;
        let mut lines = vec![
            line(hub.kubeconfig_for(USER)?, "hub, as a user (namespaces team-a, team-b)"),
            line(hub.kubeconfig_for(OPERATOR)?, "hub, as its operator"),
            line(hub.admin_kubeconfig.clone(), "hub, as administrator"),
        ];
        for (name, member) in &self.members {
            let path = member.cluster.kubeconfig_for(OWNER)?;
            lines.push(line(path, &format!("{name}, as its owner")));
        }
        let services = self
            .hub
            .controllers
            .iter()
            .chain(self.hub.gateway.iter().map(|gateway| &gateway.service))
            .chain(self.members.values().filter_map(|member| member.agent.as_ref()));
        for Service { process, address } in services {
            lines.push(format!("curl http://{address}/metrics  # {}", process.name()));
        }
        Ok(lines)
    }
}

fn site<'a>(workplace: &'a Workplace, settings: &'a Settings, timeline: &'a Timeline) -> Site<'a> {
    Site { workplace, binaries: &settings.binaries, timeline, flags: &[] }
}

/// A hub controller that is to be started.
pub(super) struct Controller<'a> {
    pub(super) hub: &'a str,
    pub(super) number: usize,
    pub(super) election: Election,
    pub(super) kubeconfig: &'a Path,
}

impl Controller<'_> {
    pub(super) fn run(&self, idlewild: &Path, site: Site<'_>) -> Result<Service, Error> {
        let mut extra = vec![];
        if self.election == Election::Off {
            extra.push("--leader-elect=false");
        }
        let name = format!("{}-controller-{}", self.hub, self.number);
        Service::start(&name, ("hub", &extra), idlewild, self.kubeconfig, site)
    }
}

impl Service {
    /// Starts `idlewild VERB` with the credentials of `kubeconfig`.
    pub(super) fn start(
        name: &str,
        (verb, extra): (&str, &[&str]),
        idlewild: &Path,
        kubeconfig: &Path,
        site: Site<'_>,
    ) -> Result<Self, Error> {
        let address = format!("127.0.0.1:{}", ports::free()?);
        let mut arguments = vec![
            verb.to_string(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--namespace={}", crate::api::SYSTEM_NAMESPACE),
            format!("--listen={address}"),
        ];
        arguments.extend(extra.iter().map(ToString::to_string));
        let program = Program { name: name.into(), path: idlewild.to_path_buf(), arguments };
        Ok(Self { process: Process::start(program, site.workplace)?, address })
    }

    /// Returns when it says that it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub async fn ready(&self) -> Result<(), Error> {
        let what = format!("{} ready", self.process.name());
        let ready = eventually(&what, READY_WITHIN, async || {
            if !self.process.is_running() {
                return Ok(Err(self.process.last_words()));
            }
            match http::get(&self.address, "/readyz").await? {
                (200, _) => Ok(Ok(())),
                (status, body) => Err(format!("{status} {}", body.trim())),
            }
        });
        ready.await?.map_err(|said| Error::Program { what, said })
    }

    /// The page at `path`, such as `/metrics`.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub async fn page(&self, path: &str) -> Result<String, String> {
        match http::get(&self.address, path).await? {
            (200, body) => Ok(body),
            (status, body) => Err(format!("GET {path}: {status} {}", body.trim())),
        }
    }
}
