//! The one coordination Lease by which a hub knows that its member lives.
//!
//! Invariant: it is renewed only after a fresh read of our own API server, and while the watch of
//! leases runs: a heartbeat promises that what the hub writes is seen and carried out.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::Link;
use super::record::{CONNECTED, Standing};
use super::session::standing;
use super::tokens::is_refusal;
use crate::api::{HEARTBEAT_LEASE, HubGrant, SILENT_AFTER_SECONDS};
use crate::cluster::{Error, chain, within};

/// Time between two heartbeats: three may be lost before a hub calls us silent.
const EVERY: Duration = Duration::from_secs(10);
/// Failures in a row before the owner is told.
const TOLERATED: u32 = 1;

/// Renews the heartbeat for ever.
pub(super) async fn run(link: &Link, hub: &Client) -> Infallible {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        match beat(link, hub).await {
            Ok(true) => {
                failures = 0;
                let message = format!("works for {}", link.grant.spec.hub_id);
                link.show(&Standing::new(CONNECTED, message)).await;
            }
            Ok(false) => failures += 1,
            Err(error) => {
                failures += 1;
                debug!(grant = link.grant.name, error = chain(&error), "no heartbeat");
                if is_refusal(&error) {
                    link.doubt.notify_one();
                }
                if failures > TOLERATED {
                    link.show(&standing(&error)).await;
                }
            }
        }
    }
}

/// Sends one heartbeat. `Ok(false)`: our own cluster does not answer, which is no news for it.
async fn beat(link: &Link, hub: &Client) -> Result<bool, Error> {
    let mut live = link.live.subscribe();
    if timeout(EVERY, live.wait_for(|live| *live)).await.is_err() {
        let reason = "the hub does not answer the watch of its leases".into();
        return Err(Error::Unfit { reason });
    }
    let grants: Api<HubGrant> = Api::namespaced(link.local.clone(), &link.grant.home);
    if let Err(error) = within("get grant", grants.get(&link.grant.name)).await {
        warn!(
            grant = link.grant.name,
            error = chain(&error),
            "no heartbeat: own cluster is silent"
        );
        return Ok(false);
    }
    let leases: Api<Lease> = Api::namespaced(hub.clone(), &link.grant.spec.namespace);
    let patch = Patch::Merge(json!({ "spec": {
        "holderIdentity": link.grant.spec.member,
        "leaseDurationSeconds": SILENT_AFTER_SECONDS,
        "renewTime": MicroTime(Timestamp::now()),
    }}));
    let params = PatchParams::default();
    within("renew heartbeat", leases.patch(HEARTBEAT_LEASE, &params, &patch)).await?;
    Ok(true)
}
