//! Runs in each member: measures idle GPUs, accepts or refuses leases, runs them as pods.
//!
//! Two halves in one process, each with its own connections, that meet in objects only: `link` talks to
//! hubs and touches no pod, `executor` owns guests and talks to no hub.

pub mod executor;
pub mod link;

use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;
use tracing::info;

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
    let unfit = |reason: String| Error::Unfit { reason };
    let Process { registry, common } = process;
    let guest_figures = executor::Figures::new(metrics::Executor::new(&registry), common.clone());
    let hub_figures = link::Figures::new(metrics::Link::new(&registry), common);
    let (health, linked) =
        (Arc::new(executor::Health::default()), Arc::new(link::Health::default()));
    let (shown, grants) = (health.clone(), linked.clone());
    let gates =
        move || shown.closed().into_iter().chain(grants.closed()).map(str::to_owned).collect();
    let server = tokio::spawn(http::serve(settings.listen, registry, Arc::new(gates)));
    info!(namespace = settings.namespace, "agent starts");
    let clock = Clock::default();
    let guests = executor::Settings {
        namespace: settings.namespace.clone(),
        guest_namespace: settings.guest_namespace.clone(),
        sandbox: settings.sandbox,
        clock: clock.clone(),
    };
    let hubs = link::Settings {
        namespace: settings.namespace,
        guest_namespace: settings.guest_namespace,
        dial: link::client::Dial::new(settings.proxy),
        clock,
    };
    // Each half has a task of its own: reclaim never waits for a hub.
    let executor = tokio::spawn(executor::run(clients.executor, guests, health, guest_figures));
    let link = tokio::spawn(link::run(clients.link, hubs, linked, hub_figures));
    tokio::select! {
        biased;
        () = stop => Ok(()),
        ended = executor => Err(unfit(format!("the executor ended: {ended:?}"))),
        ended = link => Err(unfit(format!("the link ended: {ended:?}"))),
        ended = server => Err(unfit(format!("cannot serve on {}: {ended:?}", settings.listen))),
    }
}
