//! Runs in each member: measures idle GPUs, accepts or refuses leases, runs them as pods.
//!
//! Invariant: link and executor are two tasks with a client each, so that a hub that hangs never
//! delays what an owner asks for.

pub mod executor;
pub mod link;

use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;
use prometheus::Registry;
use tracing::info;

use crate::cluster::{Error, chain};
use crate::http;

/// Clients of the member's own API server.
pub struct Clients {
    /// For the half that talks to hubs.
    pub link: Client,
    /// For the half that owns guests.
    pub executor: Client,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the agent, its `GpuPools` and `HubGrants`.
    pub namespace: String,
    /// Namespace of guests.
    pub guest_namespace: String,
    /// Where metrics and probes are served.
    pub listen: SocketAddr,
    /// Whether annotations of the sandbox pass to pods.
    pub sandbox: bool,
}

/// Runs until the process is told to stop. Guests go on meanwhile.
///
/// # Errors
/// If the listening address cannot be used, or one of the two halves breaks.
pub async fn run(
    clients: Clients,
    registry: Registry,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let metrics = executor::metrics::Metrics::new(&registry)
        .map_err(|error| Error::Unfit { reason: format!("register metrics: {error}") })?;
    let executing = Arc::new(executor::Health::default());
    let linked = Arc::new(link::Health::default());
    let gates = {
        let (executing, linked) = (executing.clone(), linked.clone());
        move || {
            let closed = executing.closed().into_iter().chain(linked.closed());
            closed.map(ToOwned::to_owned).collect()
        }
    };
    let server = tokio::spawn(http::serve(settings.listen, registry, Arc::new(gates)));
    let links = link::Settings {
        namespace: settings.namespace.clone(),
        guest_namespace: settings.guest_namespace.clone(),
    };
    let guests = executor::Settings {
        namespace: settings.namespace,
        guest_namespace: settings.guest_namespace,
        sandbox: settings.sandbox,
    };
    info!(namespace = links.namespace, guests = links.guest_namespace, "agent starts");
    let link = tokio::spawn(link::run(clients.link, links, linked));
    let executor = tokio::spawn(executor::run(clients.executor, guests, executing, metrics));
    let (link_task, executor_task) = (link.abort_handle(), executor.abort_handle());
    let result = tokio::select! {
        ended = link => Err(broken("link", &format!("{ended:?}"))),
        ended = executor => Err(match ended {
            Ok(Err(error)) => broken("executor", &chain(&error)),
            other => broken("executor", &format!("{other:?}")),
        }),
        ended = server => Err(Error::Unfit {
            reason: format!("cannot serve on {}: {ended:?}", settings.listen),
        }),
        () = stop => Ok(()),
    };
    link_task.abort();
    executor_task.abort();
    result
}

fn broken(half: &str, how: &str) -> Error {
    Error::Unfit { reason: format!("the agent's {half} broke: {how}") }
}
