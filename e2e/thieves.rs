//! Attacks on joining and renewing, against a real API server: none gets anything.

mod forged;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join;
use idlewild::api::applicant::{Applicant, encoded, public_key};
use idlewild::api::{JOIN_REQUEST, SYSTEM_NAMESPACE};
use idlewild::cluster::chain;
use idlewild::sandbox::{ControlPlane, Federation, OPERATOR};
use k8s_openapi::ByteString;
use kube::{Client, Config};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use forged::forged_tokens;

use crate::harness::{SOON, eventually, shared};

const VICTIM: &str = "member-victim";
/// A name of which the victim's is a prefix.
const NEIGHBOUR: &str = "member-victim-x";
/// A member of the shared federation.
const NORTH: &str = "member-uni-north";

/// A request: verb, path, body.
pub(crate) type Try<'a> = (&'a str, String, Value);

/// Counts what was tried, and what was not refused as it should be.
#[derive(Default)]
struct Siege {
    tried: usize,
    wrong: Vec<String>,
}

impl Siege {
    /// Tries each of `all` as `client`, which must be refused with one of `codes`.
    async fn refused(&mut self, who: &str, client: &Client, codes: &[u16], all: Vec<Try<'_>>) {
        for (verb, path, body) in all {
            self.tried += 1;
            match send(client, (verb, path.clone(), body)).await {
                Err(code) if codes.contains(&code) => {}
                // What was granted may be a token.
                other => {
                    let other = other.map(|_| "granted");
                    self.wrong.push(format!("{who}: {verb} {path}: {other:?}"));
                }
            }
        }
    }

    /// Runs a command of the operator, which must refuse with `words`.
    async fn not_accepted(&mut self, federation: &Federation, arguments: &[&str], words: &str) {
        self.tried += 1;
        match federation.operate(arguments).await {
            Err(error) if chain(&error).contains(words) => {}
            Err(error) => self.wrong.push(format!("{arguments:?}: {}", chain(&error))),
            Ok(said) => self.wrong.push(format!("{arguments:?}: {said}")),
        }
    }
}

/// What `client` is answered; `Err` is the code.
pub(crate) async fn send(client: &Client, (verb, path, body): Try<'_>) -> Result<Value, u16> {
    let kind = if verb == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = http::Request::builder()
        .method(verb)
        .uri(path)
        .header(http::header::CONTENT_TYPE, kind)
        .body(body)
        .unwrap();
    match client.request_text(request).await {
        Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error:?}"),
    }
}

/// Whoever holds `token` at `cluster`; without one, anybody.
pub(crate) fn holder(cluster: &ControlPlane, token: Option<&str>) -> Client {
    let mut config = Config::new(cluster.endpoint.address.parse().unwrap());
    let root = CertificateDer::from_pem_slice(cluster.endpoint.authority.as_bytes()).unwrap();
    config.root_cert = Some(vec![root.to_vec()]);
    config.auth_info.token = token.map(|token| token.to_owned().into());
    Client::try_from(config).unwrap()
}

fn core(namespace: &str, rest: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{rest}")
}

fn ours(namespace: &str, rest: &str) -> String {
    format!("/apis/idlewild.dev/v1alpha1/namespaces/{namespace}/{rest}")
}

fn member(name: &str) -> String {
    format!("/apis/idlewild.dev/v1alpha1/memberclusters/{name}")
}

fn bindings(namespace: &str) -> String {
    format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings")
}

fn heartbeat(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/member")
}

pub(crate) fn token_of<'a>(namespace: &str, account: &str) -> Try<'a> {
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "audiences": [], "expirationSeconds": 3600 } });
    ("POST", core(namespace, &format!("serviceaccounts/{account}/token")), body)
}

fn get<'a>(path: String) -> Try<'a> {
    ("GET", path, Value::Null)
}

fn accept_oneself<'a>(name: &str) -> Try<'a> {
    ("PATCH", member(name), json!({ "spec": { "accepted": true, "fingerprint": "x" } }))
}

fn bind_oneself<'a>(role: &str, account: &str) -> Try<'a> {
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": format!("{role}-again") },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": VICTIM }],
    });
    ("POST", bindings(VICTIM), body)
}

/// A cluster that asks to join, played by hand.
struct Player {
    key: Ed25519KeyPair,
    identity: String,
}

impl Player {
    fn new(identity: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Self { key, identity: format!("sha256:{identity}") }
    }

    fn request(&self, member: &str) -> Value {
        let key = public_key(self.key.public_key().as_ref());
        let us = Applicant {
            cluster_identity: &self.identity,
            public_key: &key,
            hub_id: "sandbox",
            member,
        };
        json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "JoinRequest",
            "metadata": { "name": JOIN_REQUEST },
            "spec": {
                "fingerprint": us.fingerprint(),
                "clusterIdentity": self.identity,
                "publicKey": key,
                "proof": encoded(self.key.sign(us.statement().as_bytes()).as_ref()),
                "agentVersion": "0",
            },
        })
    }
}

fn post<'a>(namespace: &str, request: &Value) -> Try<'a> {
    ("POST", ours(namespace, "joinrequests"), request.clone())
}

/// Lets the operator invite, and returns the join token.
async fn invite(federation: &Federation, arguments: &[&str]) -> String {
    let all: Vec<&str> = ["invite"].into_iter().chain(arguments.iter().copied()).collect();
    let yaml = federation.operate(&all).await.unwrap();
    let secret = yaml.split("---").find(|part| part.contains("stringData")).unwrap();
    let secret: Value = serde_yaml::from_str(secret).unwrap();
    secret["stringData"]["sandbox"].as_str().unwrap().to_owned()
}

async fn token(client: &Client, namespace: &str, account: &str) -> String {
    let answer = send(client, token_of(namespace, account)).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[test]
fn no_attack_on_joining_or_renewing_gets_anything() {
    shared(async |federation| {
        let mut siege = Siege::default();
        let hub = &federation.hub.cluster;
        let replaced = invite(federation, &["victim"]).await;
        let join = invite(federation, &["victim"]).await;
        let neighbour = invite(federation, &["victim-x"]).await;
        let victim = Player::new("victim");
        let request = victim.request("victim");

        let old = holder(hub, Some(&replaced));
        siege.refused("a replaced invitation", &old, &[401], join_and_enrol(&request)).await;
        let nobody = holder(hub, None);
        siege.refused("nobody", &nobody, &[401, 403], join_and_enrol(&request)).await;

        let joining = holder(hub, Some(&join));
        before_asking(&mut siege, &joining, &request).await;
        send(&joining, post(VICTIM, &request)).await.expect("the one request is taken");
        let second = Player::new("second").request("victim");
        siege.refused("a second poster", &joining, &[409], vec![post(VICTIM, &second)]).await;
        before_accepted(&mut siege, &joining).await;
        forgers(&mut siege, federation, (&neighbour, &request)).await;

        let print = request["spec"]["fingerprint"].as_str().unwrap();
        federation.operate(&["accept", "victim", "--fingerprint", print]).await.unwrap();
        let renew = token(&joining, VICTIM, "renew").await;
        let renewing = holder(hub, Some(&renew));
        let agent = token(&renewing, VICTIM, "agent").await;
        let working = holder(hub, Some(&agent));
        beat(federation, &working).await;
        eventually("the invitation is over", SOON, async || {
            match send(&joining, get(ours(VICTIM, "joinrequests/join"))).await {
                Err(401) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        siege.refused("a used invitation", &joining, &[401], join_and_enrol(&request)).await;
        as_renew(&mut siege, &renewing).await;
        as_agent(&mut siege, &working).await;
        forged_tokens(&mut siege, federation, &agent).await;
        privileged(&mut siege, federation).await;
        again(&mut siege, federation, (&request, &renewing, &working)).await;
        for name in ["victim", "victim-x", "forger"] {
            federation.operate(&["leave", name]).await.unwrap();
        }
        println!("{} attacks on joining and renewing", siege.tried);
        assert!(siege.wrong.is_empty(), "{}", siege.wrong.join("\n"));
        assert!(siege.tried >= 40, "{}", siege.tried);
    });
}

fn join_and_enrol<'a>(request: &Value) -> Vec<Try<'a>> {
    vec![
        post(VICTIM, request),
        get(ours(VICTIM, "joinrequests/join")),
        token_of(VICTIM, "renew"),
        token_of(VICTIM, "agent"),
    ]
}

async fn before_asking(siege: &mut Siege, joining: &Client, request: &Value) {
    let mut named = request.clone();
    named["metadata"]["name"] = json!("join-2");
    let generated = json!({ "generateName": "join" });
    let mut unnamed = request.clone();
    unnamed["metadata"] = generated;
    let mut keyless = request.clone();
    keyless["spec"].as_object_mut().unwrap().remove("publicKey");
    let invalid = vec![post(VICTIM, &named), post(VICTIM, &unnamed), post(VICTIM, &keyless)];
    siege.refused("a request of another shape", joining, &[400, 422], invalid).await;
    let elsewhere =
        [NEIGHBOUR, NORTH, SYSTEM_NAMESPACE, "member-vic", "member-"].map(|it| post(it, request));
    siege.refused("a request elsewhere", joining, &[403], elsewhere.to_vec()).await;
}

async fn before_accepted(siege: &mut Siege, joining: &Client) {
    let own = ours(VICTIM, "joinrequests/join");
    let told = json!({ "status": { "conditions": [{ "type": "Accepted", "status": "True",
        "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    let all = vec![
        token_of(VICTIM, "renew"),
        token_of(VICTIM, "agent"),
        token_of(VICTIM, "join"),
        token_of(VICTIM, "default"),
        token_of(NEIGHBOUR, "renew"),
        token_of(NORTH, "renew"),
        get(ours(VICTIM, "joinrequests")),
        get(ours(NEIGHBOUR, "joinrequests/join")),
        ("PATCH", own.clone(), json!({ "spec": { "fingerprint": "x" } })),
        ("PATCH", format!("{own}/status"), told),
        ("DELETE", own, Value::Null),
        get(core(VICTIM, "secrets/join")),
        ("DELETE", core(VICTIM, "secrets/join"), Value::Null),
        bind_oneself("idlewild-member-enrol", "join"),
        accept_oneself("victim"),
        get(member("victim")),
    ];
    siege.refused("join before it is accepted", joining, &[403], all).await;
}

/// A change of a request, the flags with which it shall be accepted, and what the refusal says.
type Forgery<'a> = (&'a dyn Fn(&mut Value), &'a [&'a str], &'a str);

/// Requests that the API server takes and `accept` does not.
async fn forgers(siege: &mut Siege, federation: &Federation, (neighbour, request): (&str, &Value)) {
    let hub = &federation.hub.cluster;
    let print = request["spec"]["fingerprint"].as_str().unwrap();
    let beside = holder(hub, Some(neighbour));
    send(&beside, post(NEIGHBOUR, request)).await.unwrap();
    siege.not_accepted(federation, &["accept", "victim-x", "--yes"], "do not accept it").await;
    let theirs = vec![token_of(NEIGHBOUR, "renew"), token_of(VICTIM, "renew")];
    siege.refused("a copied request", &beside, &[403], theirs).await;
    let (liar, other) = (Player::new("liar"), Player::new("liar"));
    let copied = request["spec"].clone();
    let edits: [Forgery<'_>; 4] = [
        (&|spec| spec["fingerprint"] = json!(print), &["--yes"], "do not accept it"),
        (
            &|spec| spec["proof"] = other.request("forger")["spec"]["proof"].clone(),
            &["--yes"],
            "signed",
        ),
        (&|spec| spec["clusterIdentity"] = copied["clusterIdentity"].clone(), &["--yes"], "do not"),
        (&|_| {}, &["--fingerprint", print], "another cluster used the invitation"),
    ];
    for (edit, flags, words) in edits {
        let forging = holder(hub, Some(&invite(federation, &["forger"]).await));
        let mut forged = liar.request("forger");
        edit(&mut forged["spec"]);
        send(&forging, post("member-forger", &forged)).await.unwrap();
        let accept: Vec<&str> = ["accept", "forger"].iter().chain(flags).copied().collect();
        siege.not_accepted(federation, &accept, words).await;
        let tokens = vec![token_of("member-forger", "renew")];
        siege.refused("a forged request", &forging, &[403], tokens).await;
    }
}

/// The heartbeat that ends the invitation, signed with the request that was accepted.
async fn beat(federation: &Federation, working: &Client) {
    let admin = &federation.hub.cluster.admin;
    let found = send(admin, get(ours(VICTIM, "joinrequests/join"))).await.unwrap();
    let uid = found["metadata"]["uid"].as_str().unwrap();
    let spec = json!({ "holderIdentity": format!("victim {uid}"), "leaseDurationSeconds": 40,
        "renewTime": "2026-01-01T00:00:00.000000Z" });
    send(working, ("PATCH", heartbeat(VICTIM), json!({ "spec": spec }))).await.unwrap();
}

async fn as_renew(siege: &mut Siege, renewing: &Client) {
    let all = vec![
        token_of(VICTIM, "join"),
        token_of(VICTIM, "default"),
        token_of(NEIGHBOUR, "renew"),
        token_of(NEIGHBOUR, "agent"),
        token_of(NORTH, "agent"),
        token_of(SYSTEM_NAMESPACE, "idlewild-hub"),
        get(ours(VICTIM, "gpuleases")),
        ("PATCH", heartbeat(VICTIM), json!({ "spec": { "holderIdentity": "x" } })),
        get(core(VICTIM, "secrets")),
        get(core(VICTIM, "serviceaccounts/renew")),
        ("DELETE", core(VICTIM, "serviceaccounts/renew"), Value::Null),
        bind_oneself("cluster-admin", "renew"),
        get(ours(VICTIM, "joinrequests/join")),
    ];
    siege.refused("renew", renewing, &[403], all).await;
}

async fn as_agent(siege: &mut Siege, working: &Client) {
    let pool = json!({ "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuPool",
        "metadata": { "name": "theirs" }, "spec": {} });
    let root = core(VICTIM, "configmaps/kube-root-ca.crt");
    let all = vec![
        token_of(VICTIM, "renew"),
        token_of(VICTIM, "agent"),
        get(ours(NORTH, "gpuleases")),
        get("/apis/idlewild.dev/v1alpha1/gpuleases".into()),
        get(ours(NORTH, "gpupools")),
        ("POST", ours(NORTH, "gpupools"), pool.clone()),
        ("POST", ours(NEIGHBOUR, "gpupools"), pool),
        ("PATCH", ours(NORTH, "gpupools/a100/status"), json!({ "status": { "serial": 99 } })),
        ("DELETE", ours(NORTH, "gpupools/a100"), Value::Null),
        ("PATCH", heartbeat(NORTH), json!({ "spec": { "holderIdentity": "x" } })),
        ("POST", ours(VICTIM, "gpuleases"), json!({})),
        ("PATCH", ours(VICTIM, "gpuleases/x"), json!({ "spec": {} })),
        ("DELETE", ours(VICTIM, "gpuleases/x"), Value::Null),
        ("POST", ours(VICTIM, "joinrequests"), json!({})),
        get(core(VICTIM, "secrets")),
        get(core(VICTIM, "configmaps")),
        ("PATCH", root, json!({ "data": { "ca.crt": "x" } })),
        get(core(NORTH, "configmaps/kube-root-ca.crt")),
        get(core(SYSTEM_NAMESPACE, "configmaps/idlewild-hub")),
        get(ours("team-a", "gpujobs")),
        ("POST", ours("team-a", "gpujobs"), json!({})),
        get(member("victim")),
        accept_oneself("victim"),
        bind_oneself("idlewild-member-renew", "agent"),
        ("POST", core(VICTIM, "pods"), json!({})),
    ];
    siege.refused("agent", working, &[403], all).await;
}

/// The hub's controller and its operator, should their credentials be stolen.
async fn privileged(siege: &mut Siege, federation: &Federation) {
    let hub = &federation.hub.cluster;
    let path = hub.directory().join("idlewild-hub.kubeconfig");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let controller = holder(hub, file["users"][0]["user"]["token"].as_str());
    let minting = ["join", "renew", "agent"].map(|it| token_of(VICTIM, it));
    siege.refused("the controller", &controller, &[403], minting.to_vec()).await;
    let accepting = vec![
        accept_oneself("victim-x"),
        bind_oneself("idlewild-member-enrol", "join"),
        get(core(VICTIM, "secrets/join")),
        ("POST", ours(VICTIM, "joinrequests"), json!({})),
        ("DELETE", core(VICTIM, "serviceaccounts/renew"), Value::Null),
    ];
    siege.refused("the controller", &controller, &[403, 422], accepting).await;
    let operator = hub.client_for(OPERATOR).await.unwrap();
    let minting = vec![
        token_of(VICTIM, "renew"),
        token_of(VICTIM, "agent"),
        token_of(SYSTEM_NAMESPACE, "idlewild-hub"),
        bind_oneself("cluster-admin", "join"),
        get(core(VICTIM, "secrets/join")),
        ("DELETE", core(SYSTEM_NAMESPACE, "serviceaccounts/idlewild-hub"), Value::Null),
    ];
    siege.refused("the operator", &operator, &[403], minting).await;
}

/// A thief's renew token that renews itself without a pause; returns what it got.
async fn clings(renewing: &Client, stopped: &AtomicBool) -> Vec<String> {
    let mut minted = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        if let Ok(answer) = send(renewing, token_of(VICTIM, "renew")).await {
            minted.push(answer["status"]["token"].as_str().unwrap().to_owned());
        }
    }
    minted.split_off(minted.len().saturating_sub(3))
}

/// A second invitation: it takes back the first one's rights, and ends all tokens once accepted.
async fn again(
    siege: &mut Siege,
    federation: &Federation,
    (request, renewing, working): (&Value, &Client, &Client),
) {
    let hub = &federation.hub.cluster;
    siege.not_accepted(federation, &["invite", "victim"], "invite it with --again").await;
    let joining = holder(hub, Some(&invite(federation, &["victim", "--again"]).await));
    let early = || vec![token_of(VICTIM, "renew"), token_of(VICTIM, "agent")];
    siege.refused("a second invitation", &joining, &[403], early()).await;
    let other = Player::new("other").request("victim");
    send(&joining, post(VICTIM, &other)).await.unwrap();
    siege
        .not_accepted(federation, &["accept", "victim", "--yes"], "another cluster asks now")
        .await;
    siege.refused("another cluster", &joining, &[403], early()).await;
    token(renewing, VICTIM, "agent").await; // nothing of the member's died before it was accepted

    let mut rekeyed = Player::new("victim").request("victim");
    let last = holder(hub, Some(&invite(federation, &["victim", "--again"]).await));
    // An API server remembers for ten seconds who a token was; the right is gone at once.
    siege.refused("the invitation before the last", &joining, &[401, 403], early()).await;
    send(&last, post(VICTIM, &rekeyed)).await.unwrap();
    siege.not_accepted(federation, &["accept", "victim", "--yes"], "--fingerprint").await;
    let old = request["spec"]["fingerprint"].as_str().unwrap();
    siege.not_accepted(federation, &["accept", "victim", "--fingerprint", old], "another").await;
    let print = rekeyed["spec"]["fingerprint"].take();
    let accept = ["accept", "victim", "--fingerprint", print.as_str().unwrap()];
    let stopped = AtomicBool::new(false);
    let accepting = async {
        let accepted = federation.operate(&accept).await;
        stopped.store(true, Ordering::Relaxed);
        accepted
    };
    let (accepted, minted) = join(accepting, clings(renewing, &stopped)).await;
    accepted.unwrap();
    println!("{} tokens were tried to be renewed while they ended", minted.len());
    for token in minted {
        let clung = holder(hub, Some(&token));
        siege.refused("a token fetched at the last moment", &clung, &[401], early()).await;
    }
    // At once, although an API server remembers for ten seconds who a token was.
    let minting = vec![token_of(VICTIM, "renew"), token_of(VICTIM, "agent")];
    siege.refused("a renew token of before", renewing, &[401], minting).await;
    let reading = vec![get(ours(VICTIM, "gpuleases"))];
    siege.refused("an agent's token of before", working, &[401], reading).await;
    let renew = token(&last, VICTIM, "renew").await;
    token(&holder(hub, Some(&renew)), VICTIM, "agent").await;
}
