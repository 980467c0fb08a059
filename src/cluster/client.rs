//! Clients of API servers, with our own deadlines and no blind retries.
//!
//! Invariant: every call ends within its deadline. The library's own retry repeats POSTs and obeys
//! any `Retry-After`, so it is off; who sends a write decides what its failure means.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::error::Error;

/// Deadline of a read or write of one object.
pub const CALL: Duration = Duration::from_secs(10);
/// A connection that brings nothing for so long is dead, as when a firewall has forgotten it or a
/// virtual address has moved, which resets nothing. Watches are renewed after forty seconds. While it
/// lasts whoever watches is blind, an owner's demand included.
pub const DEAD_AFTER: Duration = Duration::from_secs(50);

/// Where the credentials of a client come from.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig file; absent: `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of that file; absent: its current one.
    pub context: Option<String>,
}

/// The configuration for `access`, hardened.
///
/// # Errors
/// If no usable credentials are found.
pub async fn config(access: &Access) -> Result<Config, Error> {
    let unreadable = |reason: String| Error::Access { reason };
    let options = KubeConfigOptions { context: access.context.clone(), ..Default::default() };
    let config = match (&access.kubeconfig, &access.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path)
                .map_err(|error| unreadable(format!("{}: {error}", path.display())))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| unreadable(format!("{}: {error}", path.display())))?
        }
        (None, Some(_)) => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| unreadable(error.to_string()))?,
        (None, None) => Config::infer().await.map_err(|error| unreadable(error.to_string()))?,
    };
    Ok(hardened(config))
}

/// `config` without blind retries and with a bounded time to connect and write.
#[must_use]
pub fn hardened(mut config: Config) -> Config {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(CALL);
    config.read_timeout = Some(DEAD_AFTER);
    // A pooled connection's idle time must not count as silence of the watch that reuses it.
    config.reset_reader_on_write = true;
    config
}

/// A client of `config`.
///
/// # Errors
/// If the TLS configuration is unusable.
pub fn client(config: Config) -> Result<Client, Error> {
    Client::try_from(config).map_err(|source| Error::call("configure client", source))
}

/// A client for `access`.
///
/// # Errors
/// As [`config`] and [`client`].
pub async fn connect(access: &Access) -> Result<Client, Error> {
    client(config(access).await?)
}

/// The result of `call`, or [`Error::TimedOut`] after [`CALL`].
///
/// # Errors
/// Whatever the call fails with, named `what`.
pub async fn within<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result.map_err(|source| Error::call(what, source)),
        Err(_) => Err(Error::TimedOut { what, limit: CALL }),
    }
}
