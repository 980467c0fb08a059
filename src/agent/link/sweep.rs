//! Guest leases whose grant the owner deleted: no link serves their hub, so they are removed here.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tracing::debug;

use super::Settings;
use super::decide::REMEMBERED;
use crate::api::gpulease::LeasePhase;
use crate::api::{GuestLease, HubGrant};
use crate::cluster::{Error, chain, within};

/// How often it is looked for them.
const EVERY: Duration = Duration::from_mins(5);

/// Removes them for ever.
pub(super) async fn run(client: &Client, settings: &Settings) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = sweep(client, settings).await {
            debug!(reason = error.reason(), error = chain(&error), "guest leases not swept");
        }
    }
}

async fn sweep(client: &Client, settings: &Settings) -> Result<(), Error> {
    let guests: Api<GuestLease> = Api::namespaced(client.clone(), &settings.guest_namespace);
    let grants: Api<HubGrant> = Api::namespaced(client.clone(), &settings.namespace);
    // Guests first: what a grant made in between brought is not among them.
    let found = within("list guest leases", guests.list(&ListParams::default())).await?;
    let granted = within("list grants", grants.list(&ListParams::default())).await?;
    let granted: BTreeSet<String> = granted.iter().map(ResourceExt::name_any).collect();
    for guest in found.iter().filter(|guest| !granted.contains(&guest.spec.grant)) {
        if !is_over(guest, settings.clock.wall()) {
            continue;
        }
        let preconditions =
            Preconditions { uid: guest.uid(), resource_version: guest.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        within("delete guest lease", guests.delete(&guest.name_any(), &params)).await?;
    }
    Ok(())
}

/// Whether nobody needs the record any more: it never had pods, or it ended an hour ago.
fn is_over(guest: &GuestLease, now: Timestamp) -> bool {
    let phase = guest.status.as_ref().and_then(|status| status.phase);
    if !guest.spec.confirmed || phase == Some(LeasePhase::Refused) {
        return true;
    }
    let Some(status) = &guest.status else { return false };
    let age = status.end_time.as_ref().map(|end| now.as_second() - end.0.as_second());
    let remembered = i64::try_from(REMEMBERED.as_secs()).unwrap_or(i64::MAX);
    phase == Some(LeasePhase::Released) && age.is_some_and(|age| age >= remembered)
}
