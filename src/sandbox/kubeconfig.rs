//! Kubeconfig files, readable by their owner only.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::ByteString;
use kube::Client;
use serde_json::{Value, json};

use super::certificates::Pair;
use super::error::Error;
use crate::cluster::client::{Access, client, config};

/// The API server that a kubeconfig leads to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name of the cluster.
    pub cluster: String,
    /// `https://host:port`.
    pub address: String,
    /// The CA's certificate in PEM.
    pub authority: String,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug)]
pub enum Credential<'a> {
    /// A client certificate.
    Certificate(&'a Pair),
    /// A token of a service account.
    Token(&'a str),
}

/// Writes a kubeconfig for `user` at `endpoint` to `path`.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(
    path: &Path,
    endpoint: &Endpoint,
    user: &str,
    credential: Credential<'_>,
) -> Result<(), Error> {
    let identity = match credential {
        Credential::Token(token) => json!({ "token": token }),
        Credential::Certificate(pair) => json!({
            "client-certificate-data": base64(&pair.certificate),
            "client-key-data": base64(&pair.key),
        }),
    };
    let Endpoint { cluster, address, authority } = endpoint;
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [{ "name": cluster, "cluster": {
            "server": address, "certificate-authority-data": base64(authority) } }],
        "users": [{ "name": user, "user": identity }],
        "contexts": [{ "name": cluster, "context": { "cluster": cluster, "user": user } }],
    });
    // JSON is YAML, and every reader of kubeconfigs takes it.
    let text = format!("{file:#}\n");
    write_private(path, &text)
}

/// A client with the credentials of `kubeconfig`, past all proxies.
pub(super) async fn connect(kubeconfig: &Path) -> Result<Client, Error> {
    let what = format!("read {}", kubeconfig.display());
    let access = Access { kubeconfig: Some(kubeconfig.to_path_buf()), context: None };
    let mut config = config(&access).await.map_err(Error::cluster(what.clone()))?;
    config.proxy_url = None;
    client(config).map_err(Error::cluster(what))
}

/// Writes `text` to `path` so that nobody but the owner reads it.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::system(format!("write {}", path.display())))
}

fn base64(text: &str) -> Value {
    // `ByteString` is how Kubernetes writes bytes into JSON.
    json!(ByteString(text.as_bytes().to_vec()))
}
