//! Who acts in a sandbox, and with which rights: people by client certificate, hub and agent by the
//! service accounts that the charts install.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::controlplane::ControlPlane;
use super::error::Error;
use super::kubeconfig::{self, Credential};
use super::wait::eventually;
use crate::cluster::{chain, within};

/// Runs the hub: invites, accepts and dismisses members.
pub const OPERATOR: &str = "operator";
/// Owns a member: applies pools and grants, and uses the GPUs first.
pub const OWNER: &str = "owner";
/// Uses the federation: `edit` in her namespaces, sees pools and queues, and nothing else.
pub const USER: &str = "alice";
/// The namespaces of [`USER`] on the hub.
pub const USER_NAMESPACES: [&str; 2] = ["team-a", "team-b"];
/// The namespace of the owner's own pods on a member.
pub const OWNER_NAMESPACE: &str = "owner";

/// Tokens of hub and agent outlive any sandbox: seven days.
const TOKEN_SECONDS: i64 = 7 * 24 * 3600;
/// A chart's objects are there when helm returns; service accounts may take a moment more.
const TOKEN_WITHIN: Duration = Duration::from_secs(20);

/// Binds the operator and the user on the hub, and makes the user's namespaces. The roles may come
/// later with the chart.
pub(super) async fn people_of_hub(hub: &ControlPlane) -> Result<(), Error> {
    bind_everywhere(hub, OPERATOR, "idlewild-operator").await?;
    bind_everywhere(hub, USER, "idlewild-top").await?;
    for namespace in USER_NAMESPACES {
        make_namespace(hub, namespace).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": USER, "namespace": namespace },
            "roleRef": role("edit"),
            "subjects": [user(USER)],
        });
        let api = Api::<RoleBinding>::namespaced(hub.admin.clone(), namespace);
        apply(api, USER, &binding).await?;
    }
    Ok(())
}

/// Makes the owner the administrator of the member, with a namespace for own work.
pub(super) async fn people_of_member(member: &ControlPlane) -> Result<(), Error> {
    bind_everywhere(member, OWNER, "cluster-admin").await?;
    make_namespace(member, OWNER_NAMESPACE).await
}

/// A kubeconfig that holds a token of a service account of `idlewild-system`, minted by the
/// administrator as part of set-up.
///
/// # Errors
/// If the service account does not appear or the file cannot be written.
pub async fn kubeconfig_of_service_account(
    cluster: &ControlPlane,
    name: &str,
) -> Result<PathBuf, Error> {
    let namespace = crate::api::SYSTEM_NAMESPACE;
    let api = Api::<ServiceAccount>::namespaced(cluster.admin.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..Default::default() },
        ..Default::default()
    };
    let what = format!("{}: token of {namespace}/{name}", cluster.name);
    let token = eventually(&what, TOKEN_WITHIN, async || {
        let params = PostParams::default();
        let call = api.create_token_request(name, &params, &request);
        let answer = within("create token", call).await.map_err(|error| chain(&error))?;
        answer.status.map(|status| status.token).ok_or_else(|| "an answer without token".into())
    })
    .await?;
    let path = cluster.directory().join(format!("{name}.kubeconfig"));
    kubeconfig::write(&path, &cluster.endpoint, name, Credential::Token(&token))?;
    Ok(path)
}

async fn bind_everywhere(cluster: &ControlPlane, name: &str, to: &str) -> Result<(), Error> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": role(to),
        "subjects": [user(name)],
    });
    apply(Api::<ClusterRoleBinding>::all(cluster.admin.clone()), name, &binding).await
}

async fn make_namespace(cluster: &ControlPlane, name: &str) -> Result<(), Error> {
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    apply(Api::<Namespace>::all(cluster.admin.clone()), name, &namespace).await
}

fn role(name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name })
}

fn user(name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name })
}

/// Applies `object` on the server's side.
pub(super) async fn apply<K>(api: Api<K>, name: &str, object: &Value) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::apply("idlewild-sandbox");
    within("apply", api.patch(name, &params, &Patch::Apply(object)))
        .await
        .map_err(Error::cluster(format!("apply {} {name}", object["kind"])))
        .map(drop)
}
