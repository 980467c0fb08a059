//! One real control plane: etcd, API server, controller manager and, for members, a scheduler and
//! kwok, which plays the kubelets of nodes that do not exist.
//!
//! Invariant: managers and schedulers start only after the API server is ready (sooner, their first
//! lists are forbidden and backed off), and clients stop before it, and it before etcd (an API server
//! without etcd may never end).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;

use super::certificates::{Authority, signing_key};
use super::error::Error;
use super::flags::{self, PROXY, Ports, Role};
use super::kubeconfig::{self, Credential, Endpoint, connect, write_private};
use super::process::{Process, Program};
use super::timeline::Timeline;
use super::wait::eventually;
use super::workplace::Workplace;
use super::{ports, tool};
use crate::cluster::{chain, within};

/// How kwok plays the kubelet.
const STAGES: &str = include_str!("stages.yaml");
/// Four API servers that start at once on two busy cores need ten seconds.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Times that a start is tried; another program may win a port that was free a moment ago.
const ATTEMPTS: u32 = 3;
/// An API server with open watches needs a minute to end by itself, so it is not waited for.
const API_SERVER_PATIENCE: Duration = Duration::from_millis(500);

/// Where a control plane comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Holds logs and pid files.
    pub workplace: &'a Workplace,
    /// Folder with etcd, kube-apiserver and the rest.
    pub binaries: &'a Path,
    /// Where the time of each step is written down.
    pub timeline: &'a Timeline,
    /// Flags for the API server besides the usual ones.
    pub flags: &'a [String],
}

/// A running control plane.
pub struct ControlPlane {
    /// Name of the cluster.
    pub name: String,
    /// Client with all rights: for set-up and for tests' eyes, never for hub or agent.
    pub admin: Client,
    /// Kubeconfig with all rights.
    pub admin_kubeconfig: PathBuf,
    /// Where and how the API server is reached.
    pub endpoint: Endpoint,
    /// Its etcd.
    pub etcd: Process,
    /// Its API server.
    pub api_server: Process,
    /// Its controller manager.
    pub controller_manager: Process,
    /// Its scheduler; a hub has none.
    pub scheduler: Option<Process>,
    /// The simulated kubelets; a hub has none.
    pub kwok: Option<Process>,
    authority: Authority,
    directory: PathBuf,
    kubectl: PathBuf,
}

/// Etcd and API server of a cluster that does not serve yet.
struct Core {
    etcd: Process,
    api_server: Process,
    endpoint: Endpoint,
}

impl ControlPlane {
    /// Starts the control plane `name` and returns when the API server is ready and the rest runs.
    ///
    /// # Errors
    /// If a program is missing or ends, or the API server is not ready in time.
    pub async fn start(name: &str, role: Role, site: Site<'_>) -> Result<Self, Error> {
        let directory = site.workplace.directory().join(name);
        fs::create_dir_all(&directory)
            .map_err(Error::system(format!("create {}", directory.display())))?;
        let authority = write_keys(name, &directory)?;
        let admin_kubeconfig = directory.join("admin.kubeconfig");
        let step = format!("{name}: API server");
        let ready = Self::serve(name, &directory, &authority, site);
        let (core, admin) = site.timeline.step(&step, ready).await?;
        let process = |program: &str, arguments| {
            let path = site.binaries.join(program);
            let name = format!("{name}-{}", program.trim_start_matches("kube-"));
            Process::start(Program { name, path, arguments }, site.workplace)
        };
        let member = role == Role::Member;
        Ok(Self {
            controller_manager: process(
                "kube-controller-manager",
                flags::controller_manager(&directory, role),
            )?,
            scheduler: member
                .then(|| process("kube-scheduler", flags::scheduler(&directory)))
                .transpose()?,
            kwok: member
                .then(|| process("kwok", flags::kwok(&directory, &admin_kubeconfig)))
                .transpose()?,
            name: name.into(),
            admin,
            admin_kubeconfig,
            endpoint: core.endpoint,
            etcd: core.etcd,
            api_server: core.api_server,
            authority,
            kubectl: site.binaries.join("kubectl"),
            directory,
        })
    }

    /// Tries ports until an API server is ready on one.
    async fn serve(
        name: &str,
        directory: &Path,
        authority: &Authority,
        site: Site<'_>,
    ) -> Result<(Core, Client), Error> {
        let mut attempt = 1;
        loop {
            let core = Core::start(name, directory, authority, site)?;
            match core.ready(&directory.join("admin.kubeconfig")).await {
                Ok(admin) => return Ok((core, admin)),
                Err(_) if attempt < ATTEMPTS && core.ended().is_some() => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops everything in order and returns when it is gone.
    ///
    /// # Errors
    /// If a process cannot be killed.
    pub async fn stop(&self) -> Result<(), Error> {
        let (kwok, scheduler) = (self.kwok.as_ref(), self.scheduler.as_ref());
        for client in [kwok, scheduler, Some(&self.controller_manager)].into_iter().flatten() {
            client.kill().await?;
        }
        self.api_server.terminate(API_SERVER_PATIENCE).await?;
        self.etcd.kill().await
    }

    /// Returns when the API server answers again, after a pause or a restart.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn ready(&self) -> Result<(), Error> {
        eventually(&format!("{}: API server ready", self.name), READY_WITHIN, async || {
            readyz(&self.admin).await
        })
        .await
    }

    /// A kubeconfig for `user`, who has a client certificate and whatever rights roles bind to that
    /// name. It is made once.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig_for(&self, user: &str) -> Result<PathBuf, Error> {
        let path = self.directory.join(format!("{user}.kubeconfig"));
        if !path.exists() {
            let pair = self.authority.client(user, None)?;
            kubeconfig::write(&path, &self.endpoint, user, Credential::Certificate(&pair))?;
        }
        Ok(path)
    }

    /// A client that acts as `user`; see [`ControlPlane::kubeconfig_for`].
    ///
    /// # Errors
    /// As [`ControlPlane::kubeconfig_for`].
    pub async fn client_for(&self, user: &str) -> Result<Client, Error> {
        connect(&self.kubeconfig_for(user)?).await
    }

    /// Runs `kubectl` as `user` and returns what it printed; `input` is its standard input.
    ///
    /// # Errors
    /// If it ends with an error: the error holds what it said.
    pub async fn kubectl(
        &self,
        user: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, Error> {
        let kubeconfig = self.kubeconfig_for(user)?;
        let access = format!("--kubeconfig={}", kubeconfig.display());
        // The discovery cache would otherwise lie in the home of whoever runs this.
        let cache = format!("--cache-dir={}", self.directory.join("kubectl").display());
        let mut all = vec![access.as_str(), cache.as_str()];
        all.extend(arguments);
        tool::run(&self.kubectl, &all, input).await
    }

    /// The folder with the keys and kubeconfigs of this cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cluster's certificate authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl Core {
    fn start(
        name: &str,
        directory: &Path,
        authority: &Authority,
        site: Site<'_>,
    ) -> Result<Self, Error> {
        let ports =
            Ports { etcd: ports::free()?, etcd_peer: ports::free()?, api_server: ports::free()? };
        let endpoint = Endpoint {
            cluster: name.into(),
            address: format!("https://127.0.0.1:{}", ports.api_server),
            authority: authority.pem(),
        };
        for (file, user, group) in [
            ("admin", "admin", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
        ] {
            let pair = authority.client(user, group)?;
            let path = directory.join(format!("{file}.kubeconfig"));
            kubeconfig::write(&path, &endpoint, user, Credential::Certificate(&pair))?;
        }
        // An earlier attempt on another port may have left data.
        drop(fs::remove_dir_all(directory.join("etcd")));
        let process = |program: &str, arguments| {
            let path = site.binaries.join(program);
            let name = format!("{name}-{}", program.trim_start_matches("kube-"));
            Process::start(Program { name, path, arguments }, site.workplace)
        };
        let mut served = flags::api_server(directory, name, ports);
        served.extend(site.flags.iter().cloned());
        Ok(Self {
            etcd: process("etcd", flags::etcd(directory, ports))?,
            api_server: process("kube-apiserver", served)?,
            endpoint,
        })
    }

    /// The one of the two that ended.
    fn ended(&self) -> Option<&Process> {
        [&self.etcd, &self.api_server].into_iter().find(|process| !process.is_running())
    }

    async fn ready(&self, admin: &Path) -> Result<Client, Error> {
        let client = connect(admin).await?;
        let what = format!("{}: API server ready", self.endpoint.cluster);
        let ready = eventually(&what, READY_WITHIN, async || match self.ended() {
            Some(process) => Ok(Err(process.last_words())),
            None => readyz(&client).await.map(Ok),
        });
        match ready.await? {
            Ok(()) => Ok(client),
            Err(said) => Err(Error::Program { what, said }),
        }
    }
}

async fn readyz(client: &Client) -> Result<(), String> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
    within("read /readyz", client.request_text(request)).await.map_err(|e| chain(&e)).map(drop)
}

/// Writes all keys and certificates that do not depend on a port.
fn write_keys(name: &str, directory: &Path) -> Result<Authority, Error> {
    let authority = Authority::new(name)?;
    let alternatives = ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"];
    let server = authority.server("kube-apiserver", &alternatives)?;
    let (public, private) = signing_key()?;
    // Another authority than that of clients: who has a certificate of those is no proxy.
    let proxies = Authority::new(&format!("{name}-front-proxy"))?;
    let proxy = proxies.client(PROXY, None)?;
    let stages = STAGES.to_string();
    for (file, text) in [
        ("ca.crt", authority.pem()),
        ("apiserver.crt", server.certificate),
        ("apiserver.key", server.key),
        ("front-proxy-ca.crt", proxies.pem()),
        ("front-proxy.crt", proxy.certificate),
        ("front-proxy.key", proxy.key),
        ("sa.pub", public),
        ("sa.key", private),
        ("stages.yaml", stages),
    ] {
        write_private(&directory.join(file), &text)?;
    }
    Ok(authority)
}
