//! What `accept` writes.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::super::{Error, account, delete, ensure};
use super::asked::{Asked, Asking};
use crate::api::{JOIN_SECRET_HUB, MemberCluster, RENEW_SECONDS};
use crate::cluster::{Outcome, within};

/// How often somebody else may write to the member while it is accepted; the hub does so for a
/// moment after an invitation.
const TRIES: usize = 10;

/// Writes the acceptance of what the operator `compared`. Whoever writes to the member meanwhile does
/// not disturb, as long as the same cluster asks with the same key.
pub(super) async fn admit(
    asking: &Asking<'_>,
    compared: &Asked,
    jurisdictions: Option<&[String]>,
) -> Result<(), Error> {
    let mut member = compared.member.clone();
    for _ in 0..TRIES {
        if written(&asking.members, &member, compared, jurisdictions).await? {
            return Ok(());
        }
        let now = asking.look().await?;
        if !now.is_as(compared) {
            break;
        }
        member = now.member;
    }
    Err(Error::Refused(format!(
        "{} was changed by somebody else just now: look at it and accept again",
        asking.name
    )))
}

/// Writes the acceptance onto the member that was read; false if it was changed since.
async fn written(
    members: &Api<MemberCluster>,
    member: &MemberCluster,
    compared: &Asked,
    jurisdictions: Option<&[String]>,
) -> Result<bool, Error> {
    let mut spec = json!({
        "accepted": true,
        "fingerprint": compared.fingerprint,
        "clusterIdentity": compared.cluster_identity,
    });
    if let Some(jurisdictions) = jurisdictions {
        spec["jurisdictions"] = json!(jurisdictions);
    }
    let patch = Patch::Merge(json!({
        "metadata": { "uid": member.uid(), "resourceVersion": member.resource_version() },
        "spec": spec,
    }));
    let (name, params) = (member.name_any(), PatchParams::default());
    match within("accept member", members.patch(&name, &params, &patch)).await {
        Ok(_) => Ok(true),
        Err(error) if error.outcome() == Outcome::Conflict => Ok(false),
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, to_value};

    use super::super::asked::tests::{IDENTITY, member, request};
    use super::*;
    use crate::api::JoinRequest;

    /// An API server on which somebody else writes to the member after each of the first `writes`
    /// reads of it; `intruder` asks in its place from the second read on.
    struct Busy {
        request: JoinRequest,
        intruder: Option<JoinRequest>,
        writes: usize,
        reads: usize,
        kept: Vec<Value>,
    }

    impl Busy {
        fn answer(&mut self, call: &str, sent: Value) -> (u16, Value) {
            let mut shown = to_value(member(None, None)).unwrap();
            if call.contains("joinrequests") {
                let intruder = self.intruder.as_ref().filter(|_| self.reads > 1);
                return (200, to_value(intruder.unwrap_or(&self.request)).unwrap());
            }
            if call.starts_with("GET") {
                self.reads += 1;
                shown["metadata"]["resourceVersion"] = json!(self.reads.to_string());
                return (200, shown);
            }
            if self.reads <= self.writes {
                return (409, json!({"kind": "Status", "code": 409, "reason": "Conflict"}));
            }
            assert_eq!(sent["metadata"]["resourceVersion"], json!(self.reads.to_string()));
            self.kept.push(sent);
            (200, shown)
        }
    }

    fn busy(writes: usize, intruder: Option<JoinRequest>) -> (Client, Arc<Mutex<Busy>>) {
        let busy = Busy { request: request(), intruder, writes, reads: 0, kept: Vec::new() };
        let busy = Arc::new(Mutex::new(busy));
        let server = Arc::clone(&busy);
        let service = tower::service_fn(move |call: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let line = format!("{} {}", call.method(), call.uri().path());
                let sent = call.into_body().collect_bytes().await.unwrap();
                let sent = serde_json::from_slice(&sent).unwrap_or_default();
                let (code, body) = server.lock().unwrap().answer(&line, sent);
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        (Client::new(service, "default"), busy)
    }

    async fn try_to_admit(client: &Client) -> Result<(), Error> {
        let asking = Asking::new(client, "north", "hub");
        let compared = asking.look().await.unwrap();
        admit(&asking, &compared, Some(&["EU".into()])).await
    }

    #[tokio::test]
    async fn others_may_write_to_the_member_while_it_is_accepted() {
        let (client, server) = busy(3, None);
        try_to_admit(&client).await.unwrap();
        let kept = &server.lock().unwrap().kept;
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0]["spec"]["clusterIdentity"], json!(IDENTITY));
        assert_eq!(kept[0]["spec"]["jurisdictions"], json!(["EU"]));
    }

    #[tokio::test]
    async fn whoever_asks_in_its_place_meanwhile_is_not_accepted() {
        let (client, server) = busy(3, Some(request()));
        let error = try_to_admit(&client).await.unwrap_err().to_string();
        assert!(error.contains("look at it and accept again"), "{error}");
        assert!(server.lock().unwrap().kept.is_empty());
    }

    #[tokio::test]
    async fn a_member_that_never_rests_is_given_up() {
        let (client, server) = busy(usize::MAX, None);
        assert!(try_to_admit(&client).await.is_err());
        assert!(server.lock().unwrap().kept.is_empty());
    }
}
