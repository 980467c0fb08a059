//! Real requests with real tokens, each beyond the rights of who sends it.

use http::{Method, Request};
use idlewild::sandbox::{ControlPlane, Federation, OPERATOR, USER};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::INVITED_NAMESPACE;

/// A client that acts as a service account, with a token of its own.
pub(crate) async fn client_of(cluster: &ControlPlane, namespace: &str, name: &str) -> Client {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin.clone(), namespace);
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [] } })).unwrap();
    let made = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
    let config: Kubeconfig = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": {
            "server": cluster.endpoint.address,
            "certificate-authority-data": base64(&cluster.endpoint.authority) } }],
        "users": [{ "name": "it", "user": { "token": made.status.unwrap().token } }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    }))
    .unwrap();
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(config, &options).await.unwrap();
    config.proxy_url = None;
    Client::try_from(config).unwrap()
}

fn base64(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}

/// The code that the server answers with.
async fn code(client: &Client, method: &str, path: &str, body: &Value) -> u16 {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path)
        .header("content-type", kind)
        .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() })
        .unwrap();
    match client.request_text(request).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{method} {path}: {other}"),
    }
}

/// One line of `refused.txt`.
struct Attempt {
    who: &'static str,
    method: &'static str,
    path: String,
    body: Value,
}

/// A binding of `role` in the invited member's namespace, to its own agent.
fn binding(role: &str) -> Value {
    json!({
        "metadata": { "name": "mine" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [
            { "kind": "ServiceAccount", "name": "agent", "namespace": INVITED_NAMESPACE }],
    })
}

/// Requests that must all be forbidden.
fn beyond() -> Vec<Attempt> {
    let lines = include_str!("refused.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).flat_map(read).collect()
}

fn read(line: &'static str) -> Vec<Attempt> {
    let mut parts = line.splitn(4, ' ');
    let mut next = || parts.next().unwrap_or_default();
    let (who, method, path, body) = (next(), next(), next(), next());
    let mut path = path.to_owned();
    for (short, long) in [
        ("OURS", "/apis/idlewild.dev/v1alpha1"),
        ("RBAC", "/apis/rbac.authorization.k8s.io/v1"),
        ("BEATS", "/apis/coordination.k8s.io/v1/namespaces"),
        ("NS", "/api/v1/namespaces"),
        ("OWN", INVITED_NAMESPACE),
        ("OTHER", "member-uni-north"),
    ] {
        path = path.replace(short, long);
    }
    let body = match body {
        "" => Value::Null,
        "TOKEN" => json!({ "spec": {} }),
        "ADMIN" => binding("cluster-admin"),
        "AGENT" => binding("idlewild-member-agent"),
        text => serde_json::from_str(text).expect(line),
    };
    let attempt = |who| Attempt { who, method, path: path.clone(), body: body.clone() };
    who.split(',').map(attempt).collect()
}

/// Sends every request; returns how many there were.
///
/// # Panics
/// If one is answered with anything but 403.
pub(crate) async fn refused(federation: &Federation) -> usize {
    let hub = &federation.hub.cluster;
    let member = &federation.members["uni-north"].cluster;
    let clients = [
        ("join", client_of(hub, INVITED_NAMESPACE, "join").await),
        ("renew", client_of(hub, INVITED_NAMESPACE, "renew").await),
        ("agent", client_of(hub, INVITED_NAMESPACE, "agent").await),
        ("hub", client_of(hub, "idlewild-system", "idlewild-hub").await),
        ("operator", hub.client_for(OPERATOR).await.unwrap()),
        ("alice", hub.client_for(USER).await.unwrap()),
        ("member", client_of(member, "idlewild-system", "idlewild-agent").await),
        ("guest", client_of(member, "idlewild-guests", "default").await),
    ];
    let client = |who: &str| &clients.iter().find(|(name, _)| *name == who).expect("a client").1;
    // The same way to ask does get through where a right exists.
    let own = format!("/apis/idlewild.dev/v1alpha1/namespaces/{INVITED_NAMESPACE}/gpuleases");
    assert_eq!(code(client("agent"), "GET", &own, &Value::Null).await, 200);
    let all = beyond();
    for Attempt { who, method, path, body } in &all {
        let found = code(client(who), method, path, body).await;
        assert_eq!(found, 403, "{who}: {method} {path} {body}");
    }
    all.len()
}
