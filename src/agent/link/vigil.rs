//! What a connection stands on, looked at while it works: the hub's CA and our own key.
//!
//! Invariant: certificates are followed only if they alone vouch for the hub as it is reached now.
//! So a hub behind another CA adds none, and no bundle, however wrong, locks us out.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::Link;
use super::key::{self, Key};
use super::session::End;
use super::tokens::{Tokens, new_key};
use super::trust::{certificates, distrust, news};
use crate::api::ROOT_CA;
use crate::api::grant::FollowedCa;
use crate::cluster::{Error, Outcome, chain, within};

/// How often it is looked; a hub that rotates its CA serves both for days.
const EVERY: Duration = Duration::from_mins(10);
/// Wait before a new key is offered to the hub.
const SOON: Duration = Duration::from_secs(1);

/// Looks now and then, until something changed.
pub(super) async fn run(link: &Link, tokens: &Tokens, key: &Key) -> End {
    let grant = &link.grant.name;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    remember(link, key).await;
    loop {
        ticks.tick().await;
        match key::ours(link).await {
            Ok(found) if found.public() != key.public() => return End::Told(new_key(link), SOON),
            Ok(_) => {}
            Err(error) => debug!(grant, error = chain(&error), "the agent's key was not read"),
        }
        match follow(link, tokens).await {
            Ok(true) => return End::Anew,
            Ok(false) => {}
            Err(error) => debug!(grant, error = chain(&error), "the hub's CA was not read"),
        }
    }
}

/// A cluster that was enrolled before agents had keys is bound to this one from now on.
async fn remember(link: &Link, key: &Key) {
    if link.record.enrolled_key().await.is_some() {
        return;
    }
    let public = key.public();
    if let Err(error) = link.record.change(|it| it.public_key = Some(public.clone())).await {
        debug!(grant = link.grant.name, error = chain(&error), "the key was not written down");
    }
}

/// Follows the CA certificates that the hub publishes; true if what is trusted changed.
async fn follow(link: &Link, tokens: &Tokens) -> Result<bool, Error> {
    let spec = &link.grant.spec;
    let Some(bundle) = published(link, &tokens.working).await? else { return Ok(false) };
    let before = link.record.followed_ca().await;
    let wanted = news(spec, &bundle);
    if wanted == before {
        return Ok(false);
    }
    if let Some(wanted) = &wanted
        && !vouches(link, tokens, wanted).await?
    {
        return Ok(false);
    }
    link.record.change(|status| status.followed_ca.clone_from(&wanted)).await?;
    info!(grant = link.grant.name, "follows the hub's CA certificates");
    Ok(true)
}

/// Whether the certificates of `wanted`, and no others, vouch for the hub as it is reached.
async fn vouches(link: &Link, tokens: &Tokens, wanted: &FollowedCa) -> Result<bool, Error> {
    let roots = certificates(&wanted.bundle).unwrap_or_default();
    let client = tokens.believing(link, roots)?;
    match published(link, &client).await {
        Ok(_) => Ok(true),
        Err(error) if distrust(&error, &link.grant.spec).is_some() => {
            let grant = &link.grant.name;
            warn!(grant, "the CA that the hub publishes is not that of its address: not followed");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The CA certificates that the hub publishes in our namespace.
pub(super) async fn published(link: &Link, hub: &Client) -> Result<Option<String>, Error> {
    let api: Api<ConfigMap> = Api::namespaced(hub.clone(), &link.grant.spec.namespace);
    match within("get the hub's CA", api.get(ROOT_CA)).await {
        Ok(map) => Ok(map.data.and_then(|mut data| data.remove("ca.crt"))),
        Err(error) if error.outcome() == Outcome::Gone => Ok(None),
        Err(error) => Err(error),
    }
}
