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

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const OURS: &str = "/apis/idlewild.dev/v1alpha1";

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

/// Requests that must all be forbidden; `{other}` is another member's namespace.
fn beyond() -> Vec<(&'static str, &'static str, String, Value)> {
    let other = "member-uni-north";
    let own = INVITED_NAMESPACE;
    let binding = json!({ "metadata": { "name": "mine" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": "agent", "namespace": own }] });
    let token = json!({ "spec": {} });
    let status = json!({ "status": { "phase": "Released" } });
    let none = Value::Null;
    let at = |namespace: &str, rest: &str| format!("{OURS}/namespaces/{namespace}/{rest}");
    let core = |namespace: &str, rest: &str| format!("/api/v1/namespaces/{namespace}/{rest}");
    let beat = |namespace: &str, name: &str| {
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
    };
    let mut all = Vec::new();
    let mut add =
        |who, method, path: String, body: &Value| all.push((who, method, path, body.clone()));
    for who in ["join", "renew", "agent"] {
        add(who, "GET", at(other, "gpuleases"), &none);
        add(who, "GET", format!("{OURS}/gpuleases"), &none);
        add(who, "GET", format!("{OURS}/memberclusters"), &none);
        add(who, "GET", format!("{OURS}/gpujobs"), &none);
        add(who, "GET", core(own, "secrets"), &none);
        add(who, "GET", core(own, "secrets/join"), &none);
        add(who, "POST", core(other, "serviceaccounts/agent/token"), &token);
        add(who, "POST", core("idlewild-system", "serviceaccounts/idlewild-hub/token"), &token);
        add(who, "POST", at(other, "joinrequests"), &json!({ "metadata": { "name": "join" } }));
        add(who, "POST", format!("{RBAC}/namespaces/{own}/rolebindings"), &binding);
        add(who, "POST", format!("{RBAC}/clusterrolebindings"), &binding);
    }
    add("join", "POST", core(own, "serviceaccounts/agent/token"), &token);
    add("join", "POST", core(own, "serviceaccounts/join/token"), &token);
    add("join", "GET", at(own, "joinrequests"), &none);
    add("join", "DELETE", at(own, "joinrequests/join"), &none);
    add("renew", "POST", core(own, "serviceaccounts/join/token"), &token);
    add("renew", "GET", at(own, "gpuleases"), &none);
    add("agent", "POST", core(own, "serviceaccounts/renew/token"), &token);
    add("agent", "POST", core(own, "serviceaccounts/agent/token"), &token);
    add("agent", "PATCH", at(other, "gpuleases/any/status"), &status);
    add("agent", "PATCH", at(own, "gpuleases/any"), &json!({ "spec": { "withdrawn": null } }));
    add("agent", "DELETE", at(own, "gpuleases/any"), &none);
    add("agent", "POST", at(other, "gpupools"), &json!({ "metadata": { "name": "any" } }));
    add("agent", "DELETE", at(other, "gpupools/a100"), &none);
    add("agent", "PATCH", beat(other, "member"), &json!({ "spec": {} }));
    add("agent", "PATCH", beat("idlewild-system", "idlewild-hub"), &json!({ "spec": {} }));
    add("agent", "PATCH", format!("{OURS}/memberclusters/matrix"), &json!({ "spec": {} }));
    add("hub", "POST", format!("{RBAC}/namespaces/{own}/rolebindings"), &binding);
    add("hub", "POST", format!("{RBAC}/clusterrolebindings"), &binding);
    add("hub", "DELETE", format!("{RBAC}/namespaces/team-a/rolebindings/alice"), &none);
    add("hub", "GET", core(own, "secrets/join"), &none);
    add("hub", "GET", "/api/v1/secrets".into(), &none);
    add("hub", "GET", core("team-a", "secrets"), &none);
    add("hub", "POST", core(own, "serviceaccounts/agent/token"), &token);
    add("hub", "POST", core("idlewild-system", "serviceaccounts/idlewild-hub/token"), &token);
    add(
        "hub",
        "PATCH",
        format!("{OURS}/memberclusters/matrix"),
        &json!({ "spec": { "accepted": true, "fingerprint": "f" } }),
    );
    add("hub", "DELETE", format!("{OURS}/memberclusters/matrix"), &none);
    add("hub", "PATCH", at("team-a", "gpujobs/any"), &json!({ "spec": { "suspend": true } }));
    add("hub", "POST", core("team-a", "pods"), &json!({ "metadata": { "name": "any" } }));
    add("hub", "DELETE", core(own, ""), &none);
    add("operator", "GET", core(own, "secrets/join"), &none);
    add("operator", "GET", core("team-a", "secrets"), &none);
    add("operator", "POST", core(own, "serviceaccounts/agent/token"), &token);
    add("operator", "POST", core(own, "serviceaccounts/renew/token"), &token);
    add("operator", "POST", format!("{RBAC}/namespaces/{own}/rolebindings"), &binding);
    add("operator", "POST", format!("{RBAC}/clusterrolebindings"), &binding);
    // What its role allows everywhere, the policy idlewild-operator-limits allows for members only.
    let named = |name: &str| json!({ "metadata": { "name": name } });
    let tried = |path: String| path + "?dryRun=All";
    let full = json!({ "metadata": { "name": "any" }, "data": { "a": "YQ==" } });
    let typed = json!({ "metadata": { "name": "any" }, "type": "bootstrap.kubernetes.io/token" });
    add("operator", "DELETE", tried(core("team-a", "")), &none);
    add("operator", "DELETE", tried(core("kube-system", "")), &none);
    add("operator", "POST", tried("/api/v1/namespaces".into()), &named("any"));
    add("operator", "POST", tried(core("kube-system", "secrets")), &named("any"));
    add("operator", "POST", tried(core("team-a", "serviceaccounts")), &named("any"));
    add("operator", "POST", tried(beat("kube-system", "")), &named("any"));
    add("operator", "POST", tried(core(own, "secrets")), &full);
    add("operator", "POST", tried(core(own, "secrets")), &typed);
    let join = json!({ "metadata": { "name": "mine" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "idlewild-member-agent" },
        "subjects": binding["subjects"] });
    add("operator", "POST", tried(format!("{RBAC}/namespaces/kube-system/rolebindings")), &join);
    add("operator", "DELETE", at(own, "gpuleases/any"), &none);
    add("operator", "PATCH", at("team-a", "gpujobs/any"), &json!({ "spec": { "suspend": true } }));
    add("alice", "GET", at(other, "gpuleases"), &none);
    add("alice", "GET", format!("{OURS}/memberclusters/matrix"), &none);
    add(
        "alice",
        "PATCH",
        format!("{OURS}/memberclusters/matrix"),
        &json!({ "spec": { "unschedulable": true } }),
    );
    add("alice", "GET", at("default", "gpujobs"), &none);
    add("alice", "PATCH", at("team-a", "gpujobs/any/status"), &status);
    add("alice", "POST", format!("{OURS}/gpuqueues"), &json!({ "metadata": { "name": "any" } }));
    add("guests", "GET", core("idlewild-guests", "secrets"), &none);
    add("guests", "GET", at("idlewild-guests", "guestleases"), &none);
    for (method, path) in [
        ("GET", core("owner", "secrets")),
        ("GET", core("idlewild-system", "secrets")),
        ("GET", core("owner", "configmaps")),
        ("GET", core("owner", "pods/any/log")),
        ("DELETE", core("owner", "pods/any")),
        ("DELETE", core("idlewild-guests", "")),
        ("DELETE", core("idlewild-guests", "resourcequotas/idlewild-guests")),
        ("DELETE", "/apis/scheduling.k8s.io/v1/priorityclasses/idlewild-guest".into()),
        ("DELETE", at("idlewild-system", "hubgrants/any")),
        ("DELETE", at("idlewild-system", "gpupools/a100")),
        ("DELETE", "/api/v1/nodes/any".into()),
    ] {
        add("member", method, path, &none);
    }
    add("member", "POST", core("owner", "pods"), &json!({ "metadata": { "name": "any" } }));
    add("member", "POST", core("idlewild-system", "serviceaccounts/idlewild-agent/token"), &token);
    add("member", "POST", format!("{RBAC}/clusterrolebindings"), &binding);
    add("member", "PATCH", at("idlewild-system", "gpupools/a100"), &json!({ "spec": {} }));
    all
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
        ("guests", client_of(member, "idlewild-guests", "default").await),
    ];
    let client = |who: &str| &clients.iter().find(|(name, _)| *name == who).expect("a client").1;
    // The same way to ask does get through where a right exists.
    let own = format!("{OURS}/namespaces/{INVITED_NAMESPACE}/gpuleases");
    assert_eq!(code(client("agent"), "GET", &own, &Value::Null).await, 200);
    let all = beyond();
    for (who, method, path, body) in &all {
        let path = path.replace("/?", "?");
        let path = path.trim_end_matches('/');
        let found = code(client(who), method, path, body).await;
        assert_eq!(found, 403, "{who}: {method} {path}");
    }
    all.len()
}
