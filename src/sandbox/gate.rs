//! The gate player: the part of a kubelet that starts a gang's containers once the `ConfigMap`
//! that they require exists. kwok runs no containers and cannot see it.
//!
//! It belongs to set-up, as kwok does, and acts with set-up's client; hub and agent never do.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use crate::api::{GUEST_NAMESPACE, LABEL_GUEST_LEASE, SANDBOX_GATE};
use crate::cluster::watch::feed;
use crate::cluster::{Error, Seen, chain, within};

/// A member's API server may be paused for a while; the pods wait for it anyway.
const AGAIN: Duration = Duration::from_secs(1);

/// A running gate player; it ends with this value.
#[derive(Debug)]
pub(super) struct Gate {
    tasks: Vec<JoinHandle<()>>,
}

impl Gate {
    /// Opens gates in the member that `client` leads to.
    pub(super) fn start(client: &Client) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let maps = Api::<ConfigMap>::namespaced(client.clone(), GUEST_NAMESPACE);
        let watch = tokio::spawn(async move {
            feed(maps, Some(LABEL_GUEST_LEASE), sender, |seen: Seen<ConfigMap>| seen).await;
        });
        Self { tasks: vec![watch, tokio::spawn(play(client.clone(), receiver))] }
    }
}

impl Gate {
    /// Ends it, so that it misses no API server that is about to stop.
    pub(super) fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}

async fn play(client: Client, mut seen: mpsc::Receiver<Seen<ConfigMap>>) {
    let mut gangs = JoinSet::new();
    while let Some(event) = seen.recv().await {
        let Seen::Object(map) = event else { continue };
        if let Some(lease) = map.labels().get(LABEL_GUEST_LEASE) {
            gangs.spawn(open(client.clone(), lease.clone()));
        }
        while gangs.try_join_next().is_some() {}
    }
}

async fn open(client: Client, lease: String) {
    let pods = Api::<Pod>::namespaced(client, GUEST_NAMESPACE);
    while let Err(error) = open_once(&pods, &lease).await {
        debug!(lease, error = chain(&error), "open gate");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn open_once(pods: &Api<Pod>, lease: &str) -> Result<(), Error> {
    let params = ListParams::default().labels(&format!("{LABEL_GUEST_LEASE}={lease}"));
    let patch = json!({ "metadata": { "annotations": { SANDBOX_GATE: "open" } } });
    for pod in within("list pods", pods.list(&params)).await? {
        if pod.annotations().get(SANDBOX_GATE).is_some_and(|gate| gate == "open") {
            continue;
        }
        let name = pod.name_any();
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match within("open gate", pods.patch(&name, &params, &patch)).await {
            // Evicted meanwhile.
            Err(error) if error.outcome() == crate::cluster::Outcome::Gone => {}
            answer => drop(answer?),
        }
    }
    Ok(())
}
