//! Runs in each member: measures idle GPUs, accepts or refuses leases, runs them as pods.
//!
//! Two halves in one process, each with its own connections, that meet in objects only: `link` talks to
//! hubs and touches no pod, `executor` owns guests and talks to no hub.

pub mod executor;
pub mod link;

use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;
use tracing::info;

use self::link::client::Dial;
use crate::cluster::{Clock, Error};
use crate::http;
use crate::metrics::{self, Process};

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the agent, of `GpuPools` and `HubGrants`.
    pub namespace: String,
    /// Namespace of guests and their leases.
    pub guest_namespace: String,
    /// Where metrics and probes are served.
    pub listen: SocketAddr,
    /// Whether annotations of the sandbox pass to pods.
    pub sandbox: bool,
    /// The way to hubs; the own cluster is always reached directly.
    pub proxy: link::client::Proxy,
}

/// A client for each half, so that neither can slow the other. Both act as the one service account of
/// the agent: its roles are kept apart to be read apart, they are no wall between the halves.
#[derive(Clone)]
pub struct Clients {
    /// Of the half that talks to hubs, for the own cluster.
    pub link: Client,
    /// Of the half that owns guests.
    pub executor: Client,
}

/// What the halves count with, and what they say of themselves.
pub(crate) struct Told {
    executor: (executor::Figures, Arc<executor::Health>),
    link: (link::Figures, Arc<link::Health>),
}

/// Runs until the process is told to stop.
///
/// # Errors
/// If the listening address cannot be used, or a half ends.
pub async fn run(
    clients: Clients,
    process: Process,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let Process { registry, common } = process;
    let told = Told::new(metrics::Executor::new(&registry), metrics::Link::new(&registry), common);
    let (health, linked) = (told.executor.1.clone(), told.link.1.clone());
    let gates =
        move || health.closed().into_iter().chain(linked.closed()).map(str::to_owned).collect();
    let server = tokio::spawn(http::serve(settings.listen, registry, Arc::new(gates)));
    let (listen, dial) = (settings.listen, Dial::new(settings.proxy.clone()));
    tokio::select! {
        biased;
        () = stop => Ok(()),
        ended = serve(clients, settings, told, (dial, Clock::default())) => Err(ended),
        ended = server => {
            Err(Error::Unfit { reason: format!("cannot serve on {listen}: {ended:?}") })
        }
    }
}

impl Told {
    pub(crate) fn new(
        executor: metrics::Executor,
        link: metrics::Link,
        common: metrics::Common,
    ) -> Self {
        Self {
            executor: (executor::Figures::new(executor, common.clone()), Arc::default()),
            link: (link::Figures::new(link, common), Arc::default()),
        }
    }
}

/// Serves owner and hubs; returns only what broke it.
pub(crate) async fn serve(
    clients: Clients,
    settings: Settings,
    told: Told,
    (dial, clock): (Dial, Clock),
) -> Error {
    info!(namespace = settings.namespace, "agent starts");
    let guests = executor::Settings {
        namespace: settings.namespace.clone(),
        guest_namespace: settings.guest_namespace.clone(),
        sandbox: settings.sandbox,
        clock: clock.clone(),
    };
    let hubs = link::Settings {
        namespace: settings.namespace,
        guest_namespace: settings.guest_namespace,
        dial,
        clock,
    };
    // Each half has a task of its own: reclaim never waits for a hub.
    let mut halves = JoinSet::new();
    let (figures, health) = told.executor;
    halves.spawn(executor::run(clients.executor, guests, health, figures));
    let (figures, health) = told.link;
    halves.spawn(async move {
        link::run(clients.link, hubs, health, figures).await;
        Ok(())
    });
    let ended = halves.join_next().await;
    Error::Unfit { reason: format!("a half of the agent ended: {ended:?}") }
}
