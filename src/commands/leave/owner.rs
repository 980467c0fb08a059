//! `leave` in a member: its owner ends what it lends to a hub, whether that hub answers or not.
//!
//! Invariant: nothing here waits for a hub for long, and nothing is left that a hub would have to
//! take away: the grant goes in any case.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::super::{Error, say};
use super::gone;
use crate::api::gpulease::LeasePhase;
use crate::api::{
    GUEST_NAMESPACE, GuestLease, HubGrant, JOIN_SECRET_MEMBER, LABEL_GUEST_LEASE, SYSTEM_NAMESPACE,
    TOKEN_SECRET, conditions,
};
use crate::cluster::{self, Outcome, within};

/// How often it is looked what is left.
const EVERY: Duration = Duration::from_secs(1);
/// The owner is told what is left when that changed, at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(5);
/// How long a hub that answers may take to put on record how its guests ended.
const RECORDED_WITHIN: Duration = Duration::from_secs(20);
/// How long pods may take to go once the record that owns them was deleted.
const COLLECTED_WITHIN: Duration = Duration::from_secs(45);

/// What `leave` is told in a member.
#[derive(Clone, Debug)]
pub struct Leave {
    /// ID of the hub, or name of its `HubGrant`; `None` = every hub.
    pub hub: Option<String>,
    /// Longest wait for guests to go by themselves.
    pub timeout: Duration,
}

/// Ends what the hubs of `args` may do here, with the owner's credentials. Their guests get notice;
/// those left when the time is over lose the record that owns their pods. Calling it again continues.
///
/// # Errors
/// If the hub has no grant here, or the API server refuses.
pub async fn run(client: Client, args: Leave, out: &mut dyn Write) -> Result<(), Error> {
    let owner = Owner::new(&client);
    let all = present(within("list grants", owner.grants.list(&ListParams::default())).await)?;
    let grants: Vec<HubGrant> =
        all.into_iter().filter(|grant| is_of(grant, args.hub.as_deref())).collect();
    if let Some(hub) = args.hub.as_ref().filter(|_| grants.is_empty()) {
        return Err(Error::Refused(format!(
            "no HubGrant lets {hub} place work here; kubectl get hubgrants -n {SYSTEM_NAMESPACE} \
             lists them"
        )));
    }
    let everything = args.hub.is_none();
    let names: BTreeSet<String> = grants.iter().map(ResourceExt::name_any).collect();
    let ours = |guest: &GuestLease| everything || names.contains(&guest.spec.grant);
    for grant in &grants {
        owner.close(grant).await?;
    }
    owner.emptied(args.timeout, &names, &ours, out).await?;
    for grant in &grants {
        owner.dismiss(grant).await?;
        let (hub, member) = (&grant.spec.hub_id, &grant.spec.member);
        say(
            out,
            &format!(
                "{hub} may place nothing here any more; its operator ends the membership with \
                 kubectl idlewild leave {member}"
            ),
        )?;
    }
    owner.remove_left(&ours, out).await?;
    if grants.is_empty() {
        return say(out, "no hub may place work here");
    }
    Ok(())
}

fn is_of(grant: &HubGrant, hub: Option<&str>) -> bool {
    hub.is_none_or(|hub| grant.spec.hub_id == hub || grant.name_any() == hub)
}

fn is_connected(grant: &HubGrant) -> bool {
    let status = grant.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, "Connected"))
}

fn is_over(guest: &GuestLease) -> bool {
    let phase = guest.status.as_ref().and_then(|status| status.phase);
    matches!(phase, Some(LeasePhase::Released | LeasePhase::Refused))
}

/// Whether it has pods; what is not confirmed never had any.
fn runs(guest: &GuestLease) -> bool {
    guest.spec.confirmed && !is_over(guest)
}

/// Whether its hub does not have on record yet how it ended.
fn is_owed(guest: &GuestLease) -> bool {
    let phase = guest.status.as_ref().and_then(|status| status.phase);
    guest.spec.confirmed && phase == Some(LeasePhase::Released) && !guest.spec.forgotten
}

/// Where nothing is installed, or was removed by half, there is nothing to list.
fn present<K: Clone>(listed: Result<ObjectList<K>, cluster::Error>) -> Result<Vec<K>, Error> {
    match listed {
        Err(error) if error.outcome() == Outcome::Gone => Ok(Vec::new()),
        listed => Ok(listed?.items),
    }
}

/// What the owner reaches in the member.
struct Owner {
    grants: Api<HubGrant>,
    guests: Api<GuestLease>,
    pods: Api<Pod>,
    secrets: Api<Secret>,
}

impl Owner {
    fn new(client: &Client) -> Self {
        Self {
            grants: Api::namespaced(client.clone(), SYSTEM_NAMESPACE),
            guests: Api::namespaced(client.clone(), GUEST_NAMESPACE),
            pods: Api::namespaced(client.clone(), GUEST_NAMESPACE),
            secrets: Api::namespaced(client.clone(), SYSTEM_NAMESPACE),
        }
    }

    /// Lends nothing to the hub of `grant`. While the grant stands, the agent gives its guests
    /// notice and still tells the hub how they ended.
    async fn close(&self, grant: &HubGrant) -> Result<(), Error> {
        let patch = Patch::Merge(json!({
            "metadata": { "uid": grant.uid() }, "spec": { "maxGpus": 0 } }));
        let (name, params) = (grant.name_any(), PatchParams::default());
        gone(within("close grant", self.grants.patch(&name, &params, &patch)).await.map(drop))
    }

    async fn found(&self, ours: &impl Fn(&GuestLease) -> bool) -> Result<Vec<GuestLease>, Error> {
        let all = within("list guest leases", self.guests.list(&ListParams::default())).await;
        Ok(present(all)?.into_iter().filter(|guest| ours(guest)).collect())
    }

    /// Waits until nothing of `ours` runs and a hub that answers has it on record, or until the time
    /// is over.
    async fn emptied(
        &self,
        timeout: Duration,
        grants: &BTreeSet<String>,
        ours: &impl Fn(&GuestLease) -> bool,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let mut told: Option<(Instant, usize)> = None;
        let mut empty: Option<Instant> = None;
        while began.elapsed() < timeout {
            let found = self.found(ours).await?;
            let left = found.iter().filter(|guest| runs(guest)).count();
            let owed = found.iter().any(is_owed) && self.is_connected(grants).await?;
            if left == 0 {
                let since = *empty.get_or_insert_with(Instant::now);
                if !owed || since.elapsed() > RECORDED_WITHIN {
                    return Ok(());
                }
            }
            let old = |(at, before): (Instant, usize)| before != left && at.elapsed() > TOLD_EVERY;
            if left > 0 && told.is_none_or(old) {
                let which = if left == 1 { "lease" } else { "leases" };
                say(
                    out,
                    &format!("{left} {which} of guests got notice and end within their grace"),
                )?;
                told = Some((Instant::now(), left));
            }
            tokio::time::sleep(EVERY).await;
        }
        Ok(())
    }

    /// Whether a hub of these grants answers, as far as the agent knows.
    async fn is_connected(&self, grants: &BTreeSet<String>) -> Result<bool, Error> {
        let all = present(within("list grants", self.grants.list(&ListParams::default())).await)?;
        Ok(all.iter().any(|grant| grants.contains(&grant.name_any()) && is_connected(grant)))
    }

    /// Takes the grant away, and the tokens that were kept for it.
    async fn dismiss(&self, grant: &HubGrant) -> Result<(), Error> {
        let name = grant.name_any();
        delete(&self.grants, grant, "delete grant").await?;
        for secret in [TOKEN_SECRET, JOIN_SECRET_MEMBER] {
            let patch = Patch::Merge(json!({ "data": { &name: null } }));
            let params = PatchParams::default();
            let removed = within("remove token", self.secrets.patch(secret, &params, &patch));
            gone(removed.await.map(drop))?;
        }
        Ok(())
    }

    /// Removes the records of guests that did not end, as when no agent runs, and waits a while for
    /// their pods, which the cluster collects.
    async fn remove_left(
        &self,
        ours: &impl Fn(&GuestLease) -> bool,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let found = self.found(ours).await?;
        let left: Vec<_> = found.iter().filter(|guest| !is_over(guest)).collect();
        for guest in &left {
            delete(&self.guests, *guest, "delete guest lease").await?;
        }
        let late = left.iter().filter(|guest| runs(guest)).count();
        if late == 0 {
            return Ok(());
        }
        say(out, &format!("{late} did not end in time: their records and pods are deleted"))?;
        let names: BTreeSet<String> = left.iter().map(|guest| guest.name_any()).collect();
        let began = Instant::now();
        loop {
            let pods = self.pods_of(&names).await?;
            if pods == 0 {
                return Ok(());
            }
            if began.elapsed() > COLLECTED_WITHIN {
                let what =
                    format!("{pods} of their pods are still within their grace; they go alone");
                return say(out, &what);
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn pods_of(&self, guests: &BTreeSet<String>) -> Result<usize, Error> {
        let params = ListParams::default().labels(LABEL_GUEST_LEASE);
        let pods = present(within("list pods", self.pods.list(&params)).await)?;
        let is_theirs =
            |pod: &&Pod| pod.labels().get(LABEL_GUEST_LEASE).is_some_and(|of| guests.contains(of));
        Ok(pods.iter().filter(is_theirs).count())
    }
}

/// Deletes this very object, and what it owns after it; another one of its name stays.
async fn delete<K>(api: &Api<K>, object: &K, what: &'static str) -> Result<(), Error>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match within(what, api.delete(&object.name_any(), &params)).await {
        Err(error) if error.outcome() == Outcome::Conflict => Ok(()),
        deleted => gone(deleted.map(drop)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::HubGrantSpec;

    fn guest(confirmed: bool, forgotten: bool, phase: &Value) -> GuestLease {
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GuestLease", "metadata": {"name": "one"},
            "spec": {"hubId": "hub", "grant": "g", "leaseName": "l", "leaseUid": "u",
                "job": {"namespace": "a", "name": "a", "uid": "u", "generation": 1}, "pool": "p",
                "epoch": {"incarnation": 1, "attempt": 0}, "indexes": "0", "size": 1,
                "gpu": {"count": 1, "model": "A100"}, "graceSeconds": 30,
                "activeDeadlineSeconds": 60, "digest": "d", "template": {},
                "confirmed": confirmed, "forgotten": forgotten},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn what_runs_and_what_is_owed() {
        for (confirmed, forgotten, phase, want) in [
            (false, false, json!(null), (false, false)),
            (false, false, json!("Reserved"), (false, false)),
            (true, false, json!("Reserved"), (true, false)),
            (true, false, json!("Running"), (true, false)),
            (true, false, json!("Releasing"), (true, false)),
            (true, false, json!("Released"), (false, true)),
            (true, true, json!("Released"), (false, false)),
            (true, false, json!("Refused"), (false, false)),
        ] {
            let guest = guest(confirmed, forgotten, &phase);
            assert_eq!((runs(&guest), is_owed(&guest)), want, "{confirmed} {forgotten} {phase}");
        }
    }

    #[test]
    fn a_hub_is_named_by_its_id_or_its_grant() {
        let spec = HubGrantSpec { hub_id: "hub".into(), ..HubGrantSpec::default() };
        let grant = HubGrant::new("renamed", spec);
        let hubs = [(None, true), (Some("hub"), true), (Some("renamed"), true), (Some("h"), false)];
        for (hub, want) in hubs {
            assert_eq!(is_of(&grant, hub), want, "{hub:?}");
        }
    }
}
