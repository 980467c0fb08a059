//! Taking rights away from a member, with the controller's own narrow rights in its namespace.
//!
//! Invariant: only deletes by fixed name, so that every call can run again.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::DeleteParams;
use kube::{Api, Client};

use crate::api::JOIN_SECRET_HUB;
use crate::cluster::{Error, Outcome, within};

/// Bindings that let a newcomer ask and fetch its renew token.
const JOINING: [&str; 2] = ["idlewild-member-join", "idlewild-member-enrol"];
/// Bindings that a member works with.
const WORKING: [&str; 2] = ["idlewild-member-renew", "idlewild-member-agent"];

/// The member whose namespace is `namespace` has joined: its invitation dies, and the join token
/// with it. To be called at its first heartbeat and whenever it returns from silence, since a
/// second invitation may have brought it back.
///
/// # Errors
/// If the API server refuses or does not answer; calling again is safe.
pub(super) async fn joined(client: &Client, namespace: &str) -> Result<(), Error> {
    delete_secret(client, namespace).await?;
    delete_bindings(client, namespace, &JOINING).await
}

/// The member whose namespace is `namespace` loses every right on this hub.
///
/// # Errors
/// If the API server refuses or does not answer; calling again is safe.
pub(super) async fn revoke(client: &Client, namespace: &str) -> Result<(), Error> {
    delete_bindings(client, namespace, &WORKING).await?;
    joined(client, namespace).await
}

async fn delete_secret(client: &Client, namespace: &str) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams::default();
    gone(within("delete join secret", secrets.delete(JOIN_SECRET_HUB, &params)).await.map(drop))
}

async fn delete_bindings(client: &Client, namespace: &str, names: &[&str]) -> Result<(), Error> {
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    for name in names {
        let params = DeleteParams::default();
        gone(within("delete role binding", bindings.delete(name, &params)).await.map(drop))?;
    }
    Ok(())
}

/// What is gone already needs no deletion.
fn gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.outcome() == Outcome::Gone => Ok(()),
        other => other,
    }
}
