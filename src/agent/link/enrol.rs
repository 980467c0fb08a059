//! Joining a hub: from an invitation to a renew token of our own.
//!
//! Invariant: the renew token is stored before it is used, since the first heartbeat ends the
//! invitation.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};

use super::Link;
use super::key::Key;
use super::record::Standing;
use super::tokens::{self, Tokens, is_refusal, is_unknown_token};
use crate::api::applicant::Applicant;
use crate::api::digest::{cluster_identity, text_hash};
use crate::api::grant::HubGrantStatus;
use crate::api::{JOIN_REQUEST, JOIN_SECRET_MEMBER, JoinRequest, JoinRequestSpec};
use crate::cluster::{Error, Outcome, within};

/// How far joining has come.
pub(super) enum Progress {
    /// The renew token is stored, and lives this long.
    Enrolled(Duration),
    /// Somebody else must act first.
    Waiting(Standing),
}

/// One attempt to join; it may be repeated at any time.
///
/// # Errors
/// If the own cluster or the hub does not answer, or refuses what it should not.
pub(super) async fn attempt(link: &Link, tokens: &Tokens, key: &Key) -> Result<Progress, Error> {
    let grant = &link.grant;
    let wanted = request(link, key).await?;
    let print = wanted.spec.fingerprint.clone();
    link.record.change(|status| status.fingerprint = Some(print.clone())).await?;
    let Some(invitation) = tokens::invitation(link).await? else {
        let message = format!(
            "Secret {JOIN_SECRET_MEMBER} in namespace {} has no key {}: apply what the hub's \
             operator got from kubectl idlewild invite {}",
            grant.home, grant.name, grant.spec.member
        );
        return Ok(Progress::Waiting(Standing::new("WaitingForInvitation", message)));
    };
    tokens.renew_with(&invitation);
    let asked = match ask(link, &tokens.renewing, &wanted).await? {
        Ok(asked) => asked,
        Err(standing) => return Ok(Progress::Waiting(standing)),
    };
    match tokens.fetch_renew(link).await {
        Ok(life) => {
            // After the token: a crash in between asks again, with an invitation that still stands.
            let public = key.public();
            let edit = |status: &mut HubGrantStatus| {
                status.public_key = Some(public.clone());
                status.join_request = asked.uid();
                status.invitation = Some(mark(&invitation));
            };
            link.record.change(edit).await?;
            Ok(Progress::Enrolled(life))
        }
        Err(error) if is_unknown_token(&error) => Ok(Progress::Waiting(ended(link))),
        Err(error) if is_refusal(&error) => {
            let message = format!(
                "the hub's operator must compare the fingerprint {print} and run kubectl idlewild \
                 accept {}",
                grant.spec.member
            );
            Ok(Progress::Waiting(Standing::new("WaitingForAcceptance", message)))
        }
        Err(error) => Err(error),
    }
}

/// What is remembered of an invitation, to know it again: nothing of the token can be told from it.
pub(super) fn mark(invitation: &str) -> String {
    text_hash(&format!("idlewild-invitation\n{}", invitation.trim()))
}

fn ended(link: &Link) -> Standing {
    let message = format!(
        "the hub does not take the invitation: it is good for one hour and for one cluster; ask for \
         a new one with kubectl idlewild invite {}",
        link.grant.spec.member
    );
    Standing::new("Unauthorized", message)
}

/// Who we say we are.
async fn request(link: &Link, key: &Key) -> Result<JoinRequest, Error> {
    let namespaces: Api<Namespace> = Api::all(link.local.clone());
    let system = within("get namespace kube-system", namespaces.get("kube-system")).await?;
    let cluster_identity = cluster_identity(&system.metadata.uid.unwrap_or_default());
    let (hub_id, member) = (&link.grant.spec.hub_id, &link.grant.spec.member);
    let public_key = key.public();
    let us =
        Applicant { cluster_identity: &cluster_identity, public_key: &public_key, hub_id, member };
    let (fingerprint, proof) = (us.fingerprint(), key.sign(&us.statement()));
    Ok(JoinRequest {
        metadata: ObjectMeta { name: Some(JOIN_REQUEST.into()), ..ObjectMeta::default() },
        spec: JoinRequestSpec {
            fingerprint,
            proof,
            cluster_identity,
            public_key,
            agent_version: env!("CARGO_PKG_VERSION").into(),
        },
        status: None,
    })
}

/// Makes sure that the hub holds our request; otherwise says what stands in the way.
async fn ask(
    link: &Link,
    hub: &Client,
    wanted: &JoinRequest,
) -> Result<Result<JoinRequest, Standing>, Error> {
    let api: Api<JoinRequest> = Api::namespaced(hub.clone(), &link.grant.spec.namespace);
    let found = match within("get join request", api.get(JOIN_REQUEST)).await {
        Ok(found) => found,
        Err(error) if error.outcome() == Outcome::Gone => {
            let params = PostParams::default();
            match within("create join request", api.create(&params, wanted)).await {
                Ok(made) => made,
                Err(error) if is_refusal(&error) => return Ok(Err(ended(link))),
                Err(error) if error.outcome() == Outcome::Exists => {
                    within("get join request", api.get(JOIN_REQUEST)).await?
                }
                Err(error) => return Err(error),
            }
        }
        Err(error) if is_refusal(&error) => return Ok(Err(ended(link))),
        Err(error) => return Err(error),
    };
    // The version may be of before an upgrade; the signature is the same for the same content.
    let same = |request: &JoinRequest| {
        let JoinRequestSpec { fingerprint, cluster_identity, public_key, proof, .. } =
            request.spec.clone();
        [fingerprint, cluster_identity, public_key, proof]
    };
    if same(&found) == same(wanted) {
        return Ok(Ok(found));
    }
    let message = format!(
        "another cluster or key used this invitation (fingerprint {}): tell the hub's operator not to \
         accept it, and ask for a new one with kubectl idlewild invite {}",
        found.spec.fingerprint, link.grant.spec.member
    );
    Ok(Err(Standing::new("InvitationUsed", message)))
}
