//! Why a job waits, asked through the hub's own API server; and what pools lend.

use std::path::Path;

use idlewild::api::explanation::{Effect, Position};
use idlewild::api::gpujob::Phase;
use idlewild::api::{GpuJob, GpuJobExplanation};
use idlewild::cluster::chain;
use idlewild::sandbox::{Federation, USER, USER_NAMESPACES, get, metric, run};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, settings};
use crate::work::{condition, create, job_with};

/// Sees the first namespace of the user, and nothing else.
const VIEWER: &str = "vera";
/// Has a certificate and no right at all.
const STRANGER: &str = "mallory";
const GROUP: &str = "/apis/gateway.idlewild.dev/v1alpha1";

fn path(namespace: &str, job: &str) -> String {
    format!("{GROUP}/namespaces/{namespace}/gpujobs/{job}/explain")
}

/// What `kubectl get --raw` shows to `who`.
async fn raw(federation: &Federation, who: &str, path: &str) -> Result<String, String> {
    let hub = &federation.hub.cluster;
    hub.kubectl(who, &["get", "--raw", path], "").await.map_err(|error| chain(&error))
}

async fn explained(federation: &Federation, job: &str) -> GpuJobExplanation {
    let text = raw(federation, VIEWER, &path(USER_NAMESPACES[0], job)).await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Waits until the explanation of `job` is as it should be.
async fn says(
    federation: &Federation,
    job: &str,
    wanted: impl Fn(&GpuJobExplanation) -> bool,
) -> GpuJobExplanation {
    eventually(&format!("{job} is explained"), SOON, async || {
        let said = explained(federation, job).await;
        if wanted(&said) { Ok(said) } else { Err(format!("{said:?}")) }
    })
    .await
}

async fn command(federation: &Federation, who: &str, arguments: &[&str]) -> Result<String, String> {
    federation.command(who, arguments).await.map_err(|error| chain(&error))
}

#[test]
fn users_learn_why_a_job_waits_and_nobody_else_does() {
    fresh(&settings("explain", vec![member("solo", 2, 8)]), async |federation| {
        a_viewer_exists(federation).await;
        let api = jobs(federation).await;
        // Both nodes are taken; three wait behind each other.
        create(&api, job_with("holder", 8, "1h", json!({ "size": 2 }))).await;
        job_in(&api, "holder", &[Phase::Running], SOON).await;
        for (name, gpus, extra) in [
            ("first", 8, json!({})),
            ("second", 4, json!({})),
            ("picky", 2, json!({ "gpu": { "anyOf": [{ "model": "H100" }] } })),
        ] {
            // Ages in order of seconds decide who is first.
            create(&api, job_with(name, gpus, "1h", extra)).await;
            job_in(&api, name, &[Phase::Queued], SOON).await;
        }
        a_viewer_learns_reason_and_place(federation, &api).await;
        the_command_shows_it(federation).await;
        strangers_learn_nothing(federation).await;
        only_the_api_server_gets_in(federation).await;
        the_change_that_is_named_helps(federation, &api).await;
        kubectl_works_as_before(federation, &api).await;
        namespaces_can_be_deleted(federation).await;
        top_shows_pools_and_queues(federation).await;
        a_gateway_that_is_gone_is_named(federation).await;
    });
}

async fn a_viewer_exists(federation: &Federation) {
    let bindings: Api<RoleBinding> =
        Api::namespaced(federation.hub.cluster.admin.clone(), USER_NAMESPACES[0]);
    let binding = json!({
        "metadata": { "name": VIEWER },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": VIEWER }],
    });
    let binding = serde_json::from_value(binding).unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();
}

async fn a_viewer_learns_reason_and_place(federation: &Federation, api: &Api<GpuJob>) {
    let said = says(federation, "second", |said| said.queue.position.is_some()).await;
    // Jobs of one second are ordered by UID, so either may be before the other.
    let first = says(federation, "first", |said| said.queue.position.is_some()).await;
    let places = [&said, &first].map(|said| said.queue.position.unwrap());
    assert!(places.iter().all(|position| position.of == 3), "{places:?}");
    assert_ne!(places[0].place, places[1].place);
    assert_eq!((said.phase, said.reason.as_str()), (Some(Phase::Queued), "WaitingForCapacity"));
    let written = condition(&api.get("second").await.unwrap(), "Placed").unwrap();
    assert_eq!((said.reason, said.message), (written.1, written.2), "the hub says the same");
    assert_eq!(said.pools.len(), 1);
    assert_eq!(said.pools[0].reason, "TooFewFreeGpus", "{:?}", said.pools);
    assert!(said.pools[0].passing && said.next.is_empty());
    let holder = explained(federation, "holder").await;
    assert_eq!((holder.phase, holder.reason.as_str()), (Some(Phase::Running), ""));
    assert_eq!(holder.runs[0].cluster, "solo");
    let picky = explained(federation, "picky").await;
    assert_eq!(picky.reason, "NoMatchingModel");
    assert_eq!(picky.changes[0].change, "gpu.anyOf that includes A100");
    assert_eq!(picky.changes[0].effect, Effect::Later, "there is no free GPU of those either");
}

async fn the_command_shows_it(federation: &Federation) {
    let namespace = USER_NAMESPACES[0];
    let explain = |output: &'static str| ["explain", "second", "-n", namespace, "-o", output];
    let text = command(federation, VIEWER, &["explain", "second", "-n", namespace]).await.unwrap();
    for words in ["team-a/second is Queued, WaitingForCapacity", " of 3 in its queue", "solo"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colour outside of a terminal");
    let json: GpuJobExplanation =
        serde_json::from_str(&command(federation, VIEWER, &explain("json")).await.unwrap())
            .unwrap();
    let yaml: GpuJobExplanation =
        serde_yaml::from_str(&command(federation, VIEWER, &explain("yaml")).await.unwrap())
            .unwrap();
    assert_eq!(json.kind, "GpuJobExplanation");
    assert_eq!(json.queue, yaml.queue);
    let nobody = command(federation, VIEWER, &["explain", "nobody", "-n", namespace]).await;
    assert!(nobody.unwrap_err().contains("kubectl get gpujobs -n team-a lists them"));
}

async fn strangers_learn_nothing(federation: &Federation) {
    let [mine, other] = USER_NAMESPACES;
    for (who, namespace) in [(STRANGER, mine), (VIEWER, other)] {
        let refused = raw(federation, who, &path(namespace, "second")).await.unwrap_err();
        assert!(refused.contains("orbidden"), "{who} in {namespace}: {refused}");
        let said = command(federation, who, &["explain", "second", "-n", namespace]).await;
        assert!(said.unwrap_err().contains("--clusterrole=view"), "{who} in {namespace}");
    }
    // Headers that name another user are dropped by the API server.
    let client = federation.hub.cluster.client_for(STRANGER).await.unwrap();
    let refused = ask(&client, &path(mine, "second"), Some("admin")).await.unwrap_err();
    assert!(refused.contains("mallory"), "{refused}");
}

/// What a server answers who is told that `user` asks.
async fn ask(client: &Client, path: &str, user: Option<&str>) -> Result<String, String> {
    let mut request = http::Request::get(path);
    if let Some(user) = user {
        request = request.header("X-Remote-User", user).header("X-Remote-Group", "system:masters");
    }
    let request = request.body(Vec::new()).unwrap();
    client.request_text(request).await.map_err(|error| format!("{error:?}"))
}

/// A client that connects to the gateway itself, with this certificate and key.
fn direct(federation: &Federation, pair: Option<(&Path, &Path)>) -> Client {
    let address = &federation.hub.gateway().secure_address;
    let mut config = kube::Config::new(format!("https://{address}").parse().unwrap());
    config.accept_invalid_certs = true;
    if let Some((certificate, key)) = pair {
        config.auth_info.client_certificate = Some(certificate.display().to_string());
        config.auth_info.client_key = Some(key.display().to_string());
    }
    Client::try_from(config).unwrap()
}

async fn only_the_api_server_gets_in(federation: &Federation) {
    let hub = &federation.hub.cluster;
    let file = |name: &str| hub.directory().join(name);
    let question = path(USER_NAMESPACES[0], "second");
    let stranger = hub.authority().client("front-proxy-client", None).unwrap();
    for (name, text) in [("forged.crt", stranger.certificate), ("forged.key", stranger.key)] {
        std::fs::write(file(name), text).unwrap();
    }
    let (fake, own) = (
        (file("forged.crt"), file("forged.key")),
        (file("front-proxy.crt"), file("front-proxy.key")),
    );
    let nobody = direct(federation, None);
    let forger = direct(federation, Some((&fake.0, &fake.1)));
    for (who, client) in [("no certificate", nobody), ("a certificate of the other CA", forger)] {
        for path in [question.as_str(), GROUP, "/healthz"] {
            let answer = ask(&client, path, Some("admin")).await;
            let refused = answer.expect_err(&format!("{who} is answered at {path}"));
            assert!(!refused.contains("Api("), "{who} gets an answer: {refused}");
        }
    }
    // The same questions with the API server's own certificate.
    let proxy = direct(federation, Some((&own.0, &own.1)));
    assert!(ask(&proxy, &question, Some("admin")).await.unwrap().contains("GpuJobExplanation"));
    let unnamed = ask(&proxy, &question, None).await.unwrap_err();
    assert!(unnamed.contains("401"), "{unnamed}");
    let request = http::Request::get(&question).header("X-Remote-User", STRANGER);
    let answer = proxy.request_text(request.body(Vec::new()).unwrap()).await;
    let refused = format!("{:?}", answer.unwrap_err());
    assert!(refused.contains("403") && refused.contains("mallory"), "{refused}");
}

async fn the_change_that_is_named_helps(federation: &Federation, api: &Api<GpuJob>) {
    for name in ["holder", "first", "second"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let now = |said: &GpuJobExplanation| {
        said.changes.first().is_some_and(|change| change.effect == Effect::Now)
    };
    let said = says(federation, "picky", now).await;
    assert_eq!(said.queue.position, Some(Position { place: 1, of: 1 }));
    assert_eq!(said.changes[0].pools, ["solo/a100"]);
    create(api, job_with("large", 16, "1h", json!({}))).await;
    let said = says(federation, "large", now).await;
    assert_eq!(said.reason, "NoPoolFits");
    assert_eq!(said.changes[0].change, "gpu.count of at most 8");
    // Its user does as told.
    let model = json!({ "gpu": { "anyOf": [{ "model": "H100" }, { "model": "A100" }] } });
    create(api, job_with("content", 2, "1h", model)).await;
    create(api, job_with("smaller", 8, "1h", json!({}))).await;
    for name in ["content", "smaller"] {
        job_in(api, name, &[Phase::Running], SOON).await;
    }
    for name in ["picky", "large", "content", "smaller"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

/// The group is there for discovery, and `gpujobs` still means those that are stored.
async fn kubectl_works_as_before(federation: &Federation, api: &Api<GpuJob>) {
    let hub = &federation.hub.cluster;
    create(api, job_with("plain", 1, "1h", json!({}))).await;
    for name in ["gpujobs", "gpujob/plain", "gj"] {
        let shown = hub.kubectl(USER, &["get", name, "-n", USER_NAMESPACES[0]], "").await.unwrap();
        assert!(shown.contains("plain"), "{name}: {shown}");
    }
    let versions = hub.kubectl(USER, &["api-versions"], "").await.unwrap();
    assert!(versions.contains("gateway.idlewild.dev/v1alpha1"), "{versions}");
    let resources = raw(federation, USER, GROUP).await.unwrap();
    assert!(resources.contains("gpujobs/explain"), "{resources}");
    let schema = raw(federation, USER, &format!("/openapi/v3{GROUP}")).await.unwrap();
    assert!(schema.contains("/gpujobs/{name}/explain"), "{schema}");
    api.delete("plain", &DeleteParams::default()).await.unwrap();
}

async fn namespaces_can_be_deleted(federation: &Federation) {
    let admin = &federation.hub.cluster.admin;
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "passing" } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    create(&Api::namespaced(admin.clone(), "passing"), job_with("in", 1, "1h", json!({}))).await;
    namespaces.delete("passing", &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", SOON, async || {
        match namespaces.get_opt("passing").await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(namespace) => Err(format!("{:?}", namespace.status)),
        }
    })
    .await;
}

async fn top_shows_pools_and_queues(federation: &Federation) {
    let pools = command(federation, USER, &["top"]).await.unwrap();
    let lines: Vec<&str> = pools.lines().collect();
    assert!(lines[0].starts_with("MEMBER") && lines[0].ends_with("READY"), "{pools}");
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(cells[..5], ["solo", "a100", "A100", "2", "16"], "{pools}");
    assert!(lines[2].starts_with("TOTAL"), "{pools}");
    let queues = command(federation, USER, &["top", "queues"]).await.unwrap();
    assert!(queues.contains("default") && queues.contains("WAITING"), "{queues}");
    let json = command(federation, USER, &["top", "-o", "json"]).await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["total"]["offered"], json!(16));
    let wide = command(federation, USER, &["top", "pools", "-o", "wide"]).await.unwrap();
    assert!(wide.contains("eu-north"), "{wide}");
    let refused = command(federation, VIEWER, &["top"]).await.unwrap_err();
    assert!(refused.contains("--clusterrole=idlewild-top"), "{refused}");
    // A reader that goes away is no failure.
    let script = format!(
        "set -o pipefail; {} top --kubeconfig {} | true",
        federation.settings.idlewild.display(),
        federation.hub.cluster.kubeconfig_for(USER).unwrap().display()
    );
    run(Path::new("/bin/bash"), &["-c", &script], "").await.expect("a broken pipe is a clean exit");
}

async fn a_gateway_that_is_gone_is_named(federation: &Federation) {
    let (hub, gateway) = (&federation.hub.cluster, federation.hub.gateway());
    let page = get(&gateway.service.address, "/metrics").await.unwrap().1;
    let value = |name: &str| metric(&page, name, &[]);
    println!(
        "gateway: {:.1} MiB resident, {:.1} ms for an explanation",
        value("process_resident_memory_bytes") / f64::from(1 << 20),
        1000.0 * value("idlewild_gateway_explain_seconds_sum")
            / value("idlewild_gateway_explain_seconds_count"),
    );
    for code in ["200", "403", "404"] {
        let labels = [("subresource", "explain"), ("code", code)];
        assert!(metric(&page, "idlewild_gateway_requests_total", &labels) > 0.0, "{code}: {page}");
    }
    let api = jobs(federation).await;
    create(&api, job_with("waits", 1, "1h", json!({ "size": 64 }))).await;
    gateway.service.process.kill().await.unwrap();
    let explain = ["explain", "waits", "-n", USER_NAMESPACES[0]];
    let said = eventually("it is said to be gone", SOON, async || {
        command(federation, USER, &explain).await.map_or_else(Ok, Err)
    })
    .await;
    assert!(said.contains("gateway does not answer") && said.contains("describe gpujob"), "{said}");
    hub.kubectl(USER, &["get", "gpujobs", "-n", USER_NAMESPACES[0]], "").await.unwrap();
    gateway.service.process.restart().await.unwrap();
    gateway.service.ready().await.unwrap();
    gateway.available(hub).await.unwrap();
    let said = command(federation, USER, &explain).await.unwrap();
    assert!(said.contains("NoPoolFits"), "{said}");
    an_upgrade_keeps_the_certificate(federation).await;
    // Without the registration, as with gateway.enabled=false.
    let name = "v1alpha1.gateway.idlewild.dev";
    hub.kubectl("admin", &["delete", "apiservice", name], "").await.unwrap();
    let said = eventually("it is said to be missing", SOON, async || {
        match command(federation, USER, &explain).await {
            Err(said) if said.contains("gateway.enabled=true") => Ok(said),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(said.contains("kubectl describe gpujob"), "{said}");
}

/// The chart holds neither the certificate nor whom to trust for it, so that no upgrade takes them.
async fn an_upgrade_keeps_the_certificate(federation: &Federation) {
    let (hub, settings) = (&federation.hub.cluster, &federation.settings);
    let secrets: Api<Secret> = Api::namespaced(hub.admin.clone(), "idlewild-system");
    let registrations: Api<APIService> = Api::all(hub.admin.clone());
    let held = async || {
        let registration = registrations.get("v1alpha1.gateway.idlewild.dev").await.unwrap();
        let secret = secrets.get("idlewild-gateway-tls").await.unwrap();
        (secret.data, registration.spec.and_then(|spec| spec.ca_bundle))
    };
    let before = held().await;
    assert!(before.0.as_ref().is_some_and(|data| data.contains_key("tls.key")));
    assert!(before.1.is_some());
    let chart = settings.charts.join("idlewild-hub").display().to_string();
    let kubeconfig = format!("--kubeconfig={}", hub.admin_kubeconfig.display());
    let own = |what: &str| format!("--{what}={}", hub.directory().join(what).display());
    let homes = ["registry-config", "repository-config", "repository-cache"].map(own);
    let mut arguments = vec!["upgrade", "idlewild-hub", &chart, &kubeconfig];
    arguments.extend(["--namespace=idlewild-system", "--reuse-values"]);
    arguments.extend(["--set", "gateway.resources.limits.memory=300Mi"]);
    arguments.extend(homes.iter().map(String::as_str));
    run(&settings.binaries.join("helm"), &arguments, "").await.unwrap();
    assert_eq!(held().await, before);
}
