//! One file for each verb of `kubectl idlewild`.

pub mod accept;
pub mod cordon;
pub mod drain;
pub mod explain;
pub mod invite;
pub mod leave;
mod standing;
pub mod table;
pub mod top;
pub mod uncordon;

use std::io::{ErrorKind, Write};

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{HUB_CONFIG_MAP, MEMBER_NAMESPACE_PREFIX, SYSTEM_NAMESPACE};
use crate::cluster::{self, Outcome, within};

/// The role by which a newcomer fetches its renew token.
const ENROL_ROLE: &str = "idlewild-member-enrol";

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked cannot be done; the sentence says what to do instead.
    #[error("{0}")]
    Refused(String),
    /// The cluster did not do its part.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// A file or the terminal failed.
    #[error("{what}")]
    Files {
        /// What was read or written.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Writes one line for the user. A reader that went away, such as `head`, is no failure.
///
/// # Errors
/// If the line cannot be written.
pub fn say(out: &mut (impl Write + ?Sized), line: &str) -> Result<(), Error> {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Files { what: "write output".into(), source }),
        Ok(()) => Ok(()),
    }
}

/// The namespace on the hub of the member `name`.
fn namespace_of(name: &str) -> String {
    format!("{MEMBER_NAMESPACE_PREFIX}{name}")
}

/// Refuses what cannot be a member's name.
fn check_name(name: &str) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Refused(format!("{name:?} cannot name a member: {why}")));
    if name.contains('.') {
        return refuse("it must hold no dots, since its namespace is member-<name>");
    }
    if name.is_empty() || name.len() > 56 {
        return refuse("it must have 1 to 56 characters, since its namespace is member-<name>");
    }
    let plain = name.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !plain || name.starts_with('-') || name.ends_with('-') {
        return refuse(
            "it must be lower case letters, digits and dashes inside, such as uni-north",
        );
    }
    Ok(())
}

/// What the hub says of itself.
struct HubIdentity {
    id: String,
    /// Address for members; empty if the operator configured none.
    address: String,
}

/// Reads who the hub is.
async fn hub_identity(client: &Client) -> Result<HubIdentity, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let map = within("get hub's identity", api.get_opt(HUB_CONFIG_MAP)).await?;
    let data = map.and_then(|map| map.data).unwrap_or_default();
    let value = |key: &str| data.get(key).map(|value| value.trim().to_owned()).unwrap_or_default();
    let id = value("id");
    if id.is_empty() {
        return Err(Error::Refused(format!(
            "this cluster is no hub: ConfigMap {HUB_CONFIG_MAP} in namespace {SYSTEM_NAMESPACE} has \
             no key id; install the chart idlewild-hub, or choose another context of your kubeconfig"
        )));
    }
    Ok(HubIdentity { id, address: value("address") })
}

/// Creates `object` unless it exists already.
async fn ensure<K>(api: &Api<K>, object: &K, what: &'static str) -> Result<(), Error>
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    match within(what, api.create(&PostParams::default(), object)).await {
        Ok(_) => Ok(()),
        Err(error) if error.outcome() == Outcome::Exists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes the object `name` unless it is gone already.
async fn delete<K>(api: &Api<K>, name: &str, what: &'static str) -> Result<(), Error>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    match within(what, api.delete(name, &DeleteParams::default())).await {
        Err(error) if error.outcome() != Outcome::Gone => Err(error.into()),
        _ => Ok(()),
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

/// A service account of a member, whose tokens are only ever requested.
fn account(name: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: named(name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The binding, named as the `ClusterRole` that it gives to `account`.
fn binding(role: &str, account: &str, account_namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata: ObjectMeta { name: Some(role.into()), ..ObjectMeta::default() },
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: role.into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account.into(),
            namespace: Some(account_namespace.into()),
            ..Subject::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_a_member_is_refused_with_its_reason() {
        let long = "a".repeat(57);
        for (name, reason) in [
            ("a.b", "no dots"),
            ("", "1 to 56"),
            (long.as_str(), "1 to 56"),
            ("Uni", "lower case"),
            ("-a", "lower case"),
            ("a-", "lower case"),
            ("a/b", "lower case"),
        ] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
        for name in ["uni-north", "a", "0", &"a".repeat(56)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
