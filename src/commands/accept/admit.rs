//! What `accept` writes.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::super::{Error, account, delete, ensure};
use super::asked::Asked;
use crate::api::{JOIN_SECRET_HUB, MemberCluster, RENEW_SECONDS};
use crate::cluster::{Outcome, within};

/// Writes the acceptance onto the member that was read.
pub(super) async fn admit(
    members: &Api<MemberCluster>,
    asked: &Asked,
    jurisdictions: Option<Vec<String>>,
) -> Result<(), Error> {
    let mut spec = json!({
        "accepted": true,
        "fingerprint": asked.fingerprint,
        "clusterIdentity": asked.cluster_identity,
    });
    if let Some(jurisdictions) = jurisdictions {
        spec["jurisdictions"] = json!(jurisdictions);
    }
    let member = &asked.member;
    let patch = Patch::Merge(json!({
        "metadata": { "uid": member.uid(), "resourceVersion": member.resource_version() },
        "spec": spec,
    }));
    let (name, params) = (member.name_any(), PatchParams::default());
    match within("accept member", members.patch(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.outcome() == Outcome::Conflict => Err(Error::Refused(format!(
            "{name} was changed by somebody else just now: look at it and accept again"
        ))),
        Err(error) => Err(error.into()),
    }
}

/// The roles of a member that works, and their accounts.
pub(super) const WORKING: [(&str, &str); 2] =
    [("idlewild-member-renew", "renew"), ("idlewild-member-agent", "agent")];
/// An API server remembers for ten seconds who a token was, whatever became of its account.
const FORGOTTEN: Duration = Duration::from_secs(15);

/// Ends every token of the accounts that a member works with: a token is good only for the account
/// that it was made for, and these are made anew. Until API servers have noticed that, the accounts
/// have no rights, or else an old token could still fetch itself a new one. Calling it again continues.
pub(super) async fn end_tokens(client: &Client, namespace: &str) -> Result<(), Error> {
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    for (role, name) in WORKING {
        delete(&bindings, role, "delete role binding").await?;
        delete(&accounts, name, "delete service account").await?;
        ensure(&accounts, &account(name), "create service account").await?;
    }
    tokio::time::sleep(FORGOTTEN).await;
    Ok(())
}

/// Seconds that a renew token of this hub will live; `None` if it cannot be said now.
///
/// The limit is one of the API server and the same for every account, so a token is asked for of the
/// one account whose tokens operators may make. It is looked at and dropped; bound to the invitation,
/// it ends with it.
pub(super) async fn renewal_life(client: &Client, namespace: &str) -> Result<Option<u64>, Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Secret".into()),
        name: Some(JOIN_SECRET_HUB.into()),
        ..BoundObjectReference::default()
    };
    let spec = TokenRequestSpec {
        bound_object_ref: Some(bound),
        expiration_seconds: Some(RENEW_SECONDS),
        ..TokenRequestSpec::default()
    };
    let ask = TokenRequest { spec, ..TokenRequest::default() };
    let params = PostParams::default();
    let made = accounts.create_token_request("join", &params, &ask);
    let answer = match within("look how long tokens live", made).await {
        Ok(answer) => answer,
        // It has joined meanwhile, which ended the invitation.
        Err(error) if error.outcome() == Outcome::Gone => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let made = answer.metadata.creation_timestamp.map(|made| made.0.as_second());
    let ends = answer.status.map(|status| status.expiration_timestamp.0.as_second());
    let seconds = made.zip(ends).map(|(made, ends)| ends - made);
    Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()))
}
