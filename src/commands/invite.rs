//! `invite`: opens a slot for a cluster and prints what its owner applies.
//!
//! Invariant: a namespace that exists already is never taken over, and each invitation ends the
//! one before.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde_json::json;

use super::{
    ENROL_ROLE, Error, HubIdentity, account, binding, check_name, delete, ensure, hub_identity,
    named, namespace_of, say,
};
use crate::api::{
    HEARTBEAT_LEASE, HubGrant, HubGrantSpec, JOIN_REQUEST, JOIN_SECRET_HUB, JOIN_SECRET_MEMBER,
    JoinRequest, LABEL_MEMBER, MEMBER_FINALIZER, MemberCluster, MemberClusterSpec,
    SYSTEM_NAMESPACE,
};
use crate::cluster::{self, within};

/// Life of an invitation.
const INVITATION_SECONDS: i64 = 3_600;

/// What `invite` is told.
#[derive(Clone, Debug, Default)]
pub struct Invite {
    /// Name of the member on this hub.
    pub name: String,
    /// `https://host:port` of the hub's API server as the member reaches it; default: what the
    /// hub's chart was given, else the server of the kubeconfig in use.
    pub address: Option<String>,
    /// File with the CA certificates of that server in PEM; default: those of the kubeconfig.
    pub ca_file: Option<PathBuf>,
    /// True: invite a member again that was accepted, because its tokens ended.
    pub again: bool,
}

/// Opens a slot for `args.name` with the operator's credentials in `config`, and writes the YAML
/// for the owner to `out`.
///
/// # Errors
/// If the name cannot be used, the hub is not set up, or the API server refuses.
pub async fn run(config: Config, args: Invite, out: &mut dyn Write) -> Result<(), Error> {
    let name = &args.name;
    check_name(name)?;
    let ca = authority(&config, &args)?;
    let server = config.cluster_url.to_string();
    let client = cluster::client::client(config)?;
    let hub = hub_identity(&client).await?;
    let address = address(&args, &hub, &server)?;
    let namespace = namespace_of(name);
    open(&client, &args, &namespace).await?;
    furnish(&client, &namespace, name).await?;
    let token = token(&client, &namespace).await?;
    let spec = HubGrantSpec {
        hub_id: hub.id,
        address,
        ca,
        member: name.clone(),
        namespace,
        max_gpus: None,
        priority: 0,
    };
    say(out, &invitation(&spec, &token))
}

/// The CA certificates that the member shall trust, in PEM.
fn authority(config: &Config, args: &Invite) -> Result<String, Error> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|source| Error::Files { what: format!("read {}", path.display()), source })
    };
    let pem = match (&args.ca_file, &config.root_cert_file, &config.root_cert) {
        (Some(path), ..) | (None, Some(path), _) => read(path)?,
        (None, None, Some(certificates)) => certificates.iter().map(|it| pem(it)).collect(),
        (None, None, None) => String::new(),
    };
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(pem);
    }
    Err(Error::Refused(
        "no CA certificate for the member to trust: give the hub's with --ca-file, since a member \
         never trusts the system's"
            .into(),
    ))
}

/// One DER certificate in PEM.
fn pem(der: &[u8]) -> String {
    let base64 = serde_json::to_value(ByteString(der.to_vec())).unwrap_or_default();
    let base64 = base64.as_str().unwrap_or_default();
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn address(args: &Invite, hub: &HubIdentity, server: &str) -> Result<String, Error> {
    let configured = Some(hub.address.as_str()).filter(|address| !address.is_empty());
    let address = args.address.as_deref().or(configured).unwrap_or(server).trim_end_matches('/');
    if address.starts_with("https://") {
        return Ok(address.into());
    }
    Err(Error::Refused(format!(
        "the hub's address {address:?} must start with https://; give one with --address"
    )))
}

/// Makes sure that the slot is `args.name`'s: `MemberCluster` first, then its namespace.
async fn open(client: &Client, args: &Invite, namespace: &str) -> Result<(), Error> {
    let name = &args.name;
    let members: Api<MemberCluster> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let member = within("get member", members.get_opt(name)).await?;
    let found = within("get namespace", namespaces.get_opt(namespace)).await?;
    if let Some(why) = objection(args, namespace, member.as_ref(), found.as_ref()) {
        return Err(Error::Refused(why));
    }
    if member.is_none() {
        let mut member = MemberCluster::new(name, MemberClusterSpec::default());
        member.metadata.finalizers = Some(vec![MEMBER_FINALIZER.into()]);
        ensure(&members, &member, "create member").await?;
    }
    if found.is_none() {
        let labels = BTreeMap::from([(LABEL_MEMBER.to_owned(), name.clone())]);
        let metadata = ObjectMeta {
            name: Some(namespace.into()),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        let object = Namespace { metadata, ..Namespace::default() };
        // Not `ensure`: one that appeared in between is not ours to take.
        within("create namespace", namespaces.create(&PostParams::default(), &object)).await?;
    }
    Ok(())
}

/// Why the slot cannot be opened; a sentence with the remedy.
fn objection(
    args: &Invite,
    namespace: &str,
    member: Option<&MemberCluster>,
    found: Option<&Namespace>,
) -> Option<String> {
    let name = &args.name;
    let leaving = member.is_some_and(|member| member.metadata.deletion_timestamp.is_some());
    if leaving {
        return Some(format!("{name} is leaving: wait until kubectl get mc {name} finds nothing"));
    }
    if member.is_some_and(|member| member.spec.accepted) && !args.again {
        return Some(format!(
            "{name} was accepted already; only if its agent says ReEnrolNeeded, invite it with --again"
        ));
    }
    let found = found?;
    if found.metadata.deletion_timestamp.is_some() {
        return Some(format!("namespace {namespace} is being deleted: try again when it is gone"));
    }
    if member.is_none() || found.labels().get(LABEL_MEMBER) != Some(name) {
        return Some(format!(
            "namespace {namespace} exists already and is not that of an invited member: choose \
             another name, or delete the namespace if nobody needs it"
        ));
    }
    None
}

/// Creates what the slot holds besides the token; what is there already stays. Rights to work are given
/// by `accept` alone: a revoked member's old tokens must not come alive with a new invitation.
async fn furnish(client: &Client, namespace: &str, member: &str) -> Result<(), Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    for name in ["join", "renew", "agent"] {
        ensure(&accounts, &account(name), "create service account").await?;
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let mut heartbeat = Lease { metadata: named(HEARTBEAT_LEASE), ..Lease::default() };
    heartbeat.labels_mut().insert(LABEL_MEMBER.into(), member.into());
    ensure(&leases, &heartbeat, "create heartbeat").await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    for (role, account, home) in [
        ("idlewild-member-revoke", "idlewild-hub", SYSTEM_NAMESPACE),
        ("idlewild-member-join", "join", namespace),
    ] {
        ensure(&bindings, &binding(role, account, home), "create role binding").await?;
    }
    Ok(())
}

/// A new join token. The Secret that it is bound to replaces the one before, which ends the token
/// of an earlier invitation, and so does what an earlier guest of the slot asked.
async fn token(client: &Client, namespace: &str) -> Result<String, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    // First, so that no holder of the new token can use what was accepted for an earlier one.
    delete(&bindings, ENROL_ROLE, "delete the earlier acceptance").await?;
    delete(&secrets, JOIN_SECRET_HUB, "delete the earlier invitation").await?;
    delete(&requests, JOIN_REQUEST, "delete the earlier join request").await?;
    let secret = Secret { metadata: named(JOIN_SECRET_HUB), ..Secret::default() };
    let params = PostParams::default();
    let secret = within("create join secret", secrets.create(&params, &secret)).await?;
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Secret".into()),
        name: Some(JOIN_SECRET_HUB.into()),
        uid: secret.uid(),
    };
    let ask = TokenRequest {
        spec: TokenRequestSpec {
            bound_object_ref: Some(bound),
            expiration_seconds: Some(INVITATION_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let made = within("create join token", accounts.create_token_request("join", &params, &ask));
    let status = made.await?.status;
    status.map(|status| status.token).ok_or_else(|| {
        Error::Refused("the API server made no token for service account join".into())
    })
}

/// What the owner applies: the Secret with the token, and the grant.
fn invitation(spec: &HubGrantSpec, token: &str) -> String {
    let grant_name = &spec.hub_id;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": JOIN_SECRET_MEMBER, "namespace": SYSTEM_NAMESPACE},
        "stringData": {grant_name: token},
    });
    let grant = json!({
        "apiVersion": HubGrant::api_version(&()), "kind": HubGrant::kind(&()),
        "metadata": {"name": grant_name, "namespace": SYSTEM_NAMESPACE},
        "spec": spec,
    });
    let yaml = |value| serde_yaml::to_string(&value).unwrap_or_default();
    format!(
        "# Invites this cluster, as {member}, to lend GPUs to the hub {hub}.\n\
         # Good for one hour and for one cluster; keep it secret until then. The owner applies it\n\
         # where the chart idlewild-member is installed; then the hub's operator runs\n\
         #   kubectl idlewild accept {member}\n\
         ---\n{}---\n{}",
        yaml(secret),
        yaml(grant).trim_end(),
        member = spec.member,
        hub = spec.hub_id,
    )
}

#[cfg(test)]
mod tests;
