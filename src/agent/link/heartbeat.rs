//! The one coordination Lease by which a hub knows that its member lives.
//!
//! Invariant: it is renewed only after a fresh read of our own API server, and while the watch of
//! leases runs: a heartbeat promises that what the hub writes is seen and carried out.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::Link;
use super::record::{CONNECTED, Standing};
use super::session::standing;
use super::sole::Sole;
use super::tokens::{is_refusal, lives};
use super::vigil::published;
use crate::api::{HEARTBEAT_LEASE, HubGrant, SILENT_AFTER_SECONDS};
use crate::cluster::{Error, Outcome, chain, within};

/// Time between two heartbeats: three may be lost before a hub calls us silent.
const EVERY: Duration = Duration::from_secs(10);
/// Failures in a row before the owner is told.
const TOLERATED: u32 = 1;

/// Renews the heartbeat for ever.
pub(super) async fn run(link: &Link, hub: &Client) -> Infallible {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failures, mut sole) = (0, Sole::default());
    loop {
        ticks.tick().await;
        // A deadline that counts from here is over before one that counts from the hub's answer.
        let before = link.clock.wall();
        match beat(link, hub, &mut sole).await {
            Ok(true) => {
                failures = 0;
                let message = format!("works for {}{}", link.grant.spec.hub_id, lives(link));
                link.show(&Standing::new(CONNECTED, message).asked_at(before)).await;
                link.record.tell(sole.claim(&link.grant.spec.member)).await;
            }
            Ok(false) => failures += 1,
            Err(error) => {
                failures += 1;
                debug!(grant = link.grant.name, error = chain(&error), "no heartbeat");
                if is_refusal(&error) {
                    link.doubt.notify_one();
                }
                // A firewall that forgot this connection has forgotten that of the watch as well, and
                // nothing but time would show it there.
                if error.is_silence() && *link.live.borrow() {
                    link.stale.notify_one();
                }
                if failures > TOLERATED {
                    link.show(&standing(link, &error)).await;
                }
            }
        }
    }
}

/// Sends one heartbeat. `Ok(false)`: our own cluster does not answer, which is no news for it.
async fn beat(link: &Link, hub: &Client, sole: &mut Sole) -> Result<bool, Error> {
    let mut live = link.live.subscribe();
    if timeout(EVERY, live.wait_for(|live| *live)).await.is_err() {
        // The watch keeps its failures to itself; a small question brings the reason.
        published(link, hub).await?;
        return Err(Error::TimedOut { what: "watch leases", limit: EVERY });
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
    match renew(link, &leases, sole.expected()).await {
        Err(error) if error.outcome() == Outcome::Conflict => {
            sole.met();
            let renewed = renew(link, &leases, None).await?;
            sole.wrote(renewed.resource_version());
        }
        Err(error) => {
            sole.lost();
            return Err(error);
        }
        Ok(renewed) => sole.was_alone(renewed.resource_version()),
    }
    Ok(true)
}

/// Writes the heartbeat; with `expected` only onto what we wrote last.
async fn renew(link: &Link, leases: &Api<Lease>, expected: Option<&str>) -> Result<Lease, Error> {
    let mut beat = json!({ "spec": {
        "holderIdentity": link.record.holder(&link.grant.spec.member).await,
        "leaseDurationSeconds": SILENT_AFTER_SECONDS,
        "renewTime": MicroTime(link.clock.wall()),
    }});
    if let Some(expected) = expected {
        beat["metadata"]["resourceVersion"] = json!(expected);
    }
    let params = PatchParams::default();
    within("renew heartbeat", leases.patch(HEARTBEAT_LEASE, &params, &Patch::Merge(beat))).await
}
