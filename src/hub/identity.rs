//! Who this hub is: its ID, and the incarnation in which it issues leases.
//!
//! Invariant: the incarnation never goes back, and it is above every attempt that members know of and
//! this store does not, before a lease is issued.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tracing::{info, warn};

use super::Settings;
use super::facts::Answer;
use super::work::{Hand, delay};
use crate::api::HUB_CONFIG_MAP;
use crate::cluster::{Error, within};

/// Key of the hub's `ConfigMap` with the length of a lease.
const LEASE_SECONDS: &str = "leaseSeconds";
/// Lengths that a lease may have: members renew every ten seconds, and tell their own cluster so no more
/// than once a minute for long ones.
const LEASES: std::ops::RangeInclusive<u64> = 60..=86_400;

/// Who this hub is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Its configured ID.
    pub(super) id: String,
    /// Its incarnation.
    pub(super) incarnation: u32,
    /// Length of a lease, in seconds: for so long a member may be without contact before guests stop
    /// whose job wants that.
    pub(super) lease_seconds: u64,
}

/// Who this hub is, from its `ConfigMap`; a restored hub is another incarnation.
pub(super) async fn read(client: &Client, settings: &Settings) -> Result<Identity, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.namespace);
    let map = within("read the hub's identity", api.get(HUB_CONFIG_MAP)).await?;
    let data = map.data.clone().unwrap_or_default();
    let id = data.get("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| wrong(&settings.namespace, "id is missing"))?;
    let number = incarnation(&map, &settings.namespace)?;
    let text = data.get(LEASE_SECONDS).map_or("900", String::as_str);
    let lease_seconds = text.parse().ok().filter(|seconds| LEASES.contains(seconds));
    let lease_seconds = lease_seconds.ok_or_else(|| {
        let (least, most) = (LEASES.start(), LEASES.end());
        let what = format!("{LEASE_SECONDS} must be {least} to {most} seconds, not {text:?}");
        wrong(&settings.namespace, &what)
    })?;
    let identity = Identity { id: id.clone(), incarnation: number, lease_seconds };
    if !settings.restored {
        return Ok(identity);
    }
    write(&api, &map, number.saturating_add(1)).await?;
    Ok(Identity { incarnation: number.saturating_add(1), ..identity })
}

fn wrong(namespace: &str, what: &str) -> Error {
    Error::Unfit {
        reason: format!(
            "ConfigMap {namespace}/{HUB_CONFIG_MAP}: {what}; the chart idlewild-hub makes it"
        ),
    }
}

fn incarnation(map: &ConfigMap, namespace: &str) -> Result<u32, Error> {
    let text = map.data.as_ref().and_then(|data| data.get("incarnation"));
    let text = text.map_or("1", String::as_str);
    text.parse().map_err(|_| wrong(namespace, "incarnation must be a whole number"))
}

/// Writes a higher incarnation, onto what was read.
async fn write(api: &Api<ConfigMap>, map: &ConfigMap, incarnation: u32) -> Result<(), Error> {
    let patch = json!({
        "metadata": { "resourceVersion": map.resource_version() },
        "data": { "incarnation": incarnation.to_string() },
    });
    let params = PatchParams::default();
    within("raise the incarnation", api.patch(HUB_CONFIG_MAP, &params, &Patch::Merge(&patch)))
        .await
        .map(drop)
}

impl Hand {
    /// Makes the incarnation `least`, or takes on the higher one that another process has written.
    pub(super) async fn raise(&self, least: u32) {
        let answer = match self.raised(least).await {
            Ok(number) => Answer::Raised(number, None),
            Err(error) => Answer::Raised(0, Some(delay(&error, "raise the incarnation"))),
        };
        self.tell(answer).await;
    }

    async fn raised(&self, least: u32) -> Result<u32, Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.home);
        let map = within("read the hub's identity", api.get(HUB_CONFIG_MAP)).await?;
        let stored = incarnation(&map, &self.home)?;
        if stored < least {
            write(&api, &map, least).await?;
            warn!(incarnation = least, "members know more than this store does: was it restored?");
        } else {
            info!(incarnation = stored, "another process has raised the incarnation");
        }
        Ok(stored.max(least))
    }
}
