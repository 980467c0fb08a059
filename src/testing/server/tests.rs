//! The server behind a real client.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::{Method, Request};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::client::Body;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::server::{At, Call, Server, Verb, response, streamed};

/// A client of `server` that is called `who`.
fn client(server: &Server, who: &'static str) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let call = Call::read(request).await;
            let answer = match call.verb {
                Verb::Watch => match server.watch(who, &call) {
                    Ok(watch) => streamed(watch),
                    Err((code, body)) => response(code, &body),
                },
                _ => {
                    let (code, body) = server.answer(who, &call);
                    response(code, &body)
                }
            };
            Ok::<_, Infallible>(answer)
        }
    });
    Client::new(service, "default")
}

fn config_map(name: &str, labels: &Value) -> ConfigMap {
    let metadata = json!({ "name": name, "labels": labels });
    serde_json::from_value(json!({ "metadata": metadata, "data": {"a": "1"} })).unwrap()
}

fn config_maps(server: &Server) -> Api<ConfigMap> {
    Api::default_namespaced(client(server, "test"))
}

/// A request from its pieces.
fn call(method: &str, uri: &str, body: &Value) -> Call {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Call::parse(&method, uri, &body, "application/merge-patch+json".into())
}

fn ask(server: &Server, method: &str, uri: &str, body: &Value) -> (u16, Value) {
    server.answer("test", &call(method, uri, body))
}

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<ConfigMap>>> + Send>>;

fn watched(server: &Server, labels: Option<&str>) -> Events {
    let config = watcher::Config::default().timeout(120);
    let config = labels.map_or(config.clone(), |labels| config.labels(labels));
    Box::pin(watcher::watcher(config_maps(server), config))
}

/// The next event in a word.
async fn next(events: &mut Events) -> String {
    match events.next().await.unwrap() {
        Ok(Event::Init) => "init".into(),
        Ok(Event::InitApply(object)) => format!("has {}", object.name_any()),
        Ok(Event::InitDone) => "listed".into(),
        Ok(Event::Apply(object)) => format!("set {}", object.name_any()),
        Ok(Event::Delete(object)) => format!("gone {}", object.name_any()),
        Err(error) => format!("error {error}"),
    }
}

async fn expect(events: &mut Events, words: &[&str]) {
    for word in words {
        assert_eq!(next(events).await, *word);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_lists_and_then_hears_of_every_change() {
    let server = Server::default();
    let api = config_maps(&server);
    let params = PostParams::default();
    api.create(&params, &config_map("a", &json!({}))).await.unwrap();
    let mut events = watched(&server, None);
    expect(&mut events, &["init", "has a", "listed"]).await;
    api.create(&params, &config_map("b", &json!({}))).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"b": "2"}}));
    let changed = api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    let again = api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(changed.resource_version(), again.resource_version(), "nothing changed");
    api.delete("b", &DeleteParams::default()).await.unwrap();
    expect(&mut events, &["set b", "set a", "gone b"]).await;
    // Watches that end in time go on where they were.
    tokio::time::sleep(Duration::from_mins(5)).await;
    api.create(&params, &config_map("c", &json!({}))).await.unwrap();
    expect(&mut events, &["set c"]).await;
}

#[tokio::test(start_paused = true)]
async fn who_no_longer_matches_is_gone_for_a_watch_with_a_selector() {
    let server = Server::default();
    let api = config_maps(&server);
    let params = PostParams::default();
    api.create(&params, &config_map("a", &json!({"team": "red"}))).await.unwrap();
    api.create(&params, &config_map("b", &json!({"team": "blue"}))).await.unwrap();
    let mut events = watched(&server, Some("team in (red,green)"));
    expect(&mut events, &["init", "has a", "listed"]).await;
    for (name, team) in [("b", "green"), ("a", "blue"), ("a", "grey"), ("b", "red")] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"team": team}}}));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
    expect(&mut events, &["set b", "gone a", "set b"]).await;
}

#[tokio::test(start_paused = true)]
async fn after_compaction_a_watch_from_before_it_lists_again() {
    let server = Server::default();
    let api = config_maps(&server);
    let params = PostParams::default();
    let mut events = watched(&server, None);
    expect(&mut events, &["init", "listed"]).await;
    api.create(&params, &config_map("a", &json!({}))).await.unwrap();
    server.cut_watches("test");
    server.store().compact();
    let too_old = next(&mut events).await;
    assert!(too_old.contains("too old resource version"), "{too_old}");
    expect(&mut events, &["init", "has a", "listed"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_saves_a_quiet_watch_from_compaction() {
    let server = Server::default();
    let mut events = watched(&server, None);
    expect(&mut events, &["init", "listed"]).await;
    let quiet = tokio::time::timeout(Duration::from_secs(30), next(&mut events)).await;
    assert!(quiet.is_err());
    server.store().add_namespace("elsewhere");
    let quiet = tokio::time::timeout(Duration::from_secs(40), next(&mut events)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.store().compact();
    server.cut_watches("test");
    let params = PostParams::default();
    config_maps(&server).create(&params, &config_map("a", &json!({}))).await.unwrap();
    expect(&mut events, &["set a"]).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_revisions_go_back_and_a_watch_from_the_future_hears_nothing() {
    let server = Server::default();
    let api = config_maps(&server);
    let params = PostParams::default();
    let first = api.create(&params, &config_map("a", &json!({}))).await.unwrap();
    let backup = server.store().snapshot();
    api.create(&params, &config_map("b", &json!({}))).await.unwrap();
    let mut events = watched(&server, None);
    expect(&mut events, &["init", "has a", "has b", "listed"]).await;
    server.store().restore(&backup);
    let listed = api.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.metadata.resource_version, first.resource_version());
    let again = api.create(&params, &config_map("c", &json!({}))).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_mins(10), next(&mut events)).await;
    assert!(silent.is_err(), "it waits for a revision after that of b, which c has now");
    let other = api.create(&params, &config_map("d", &json!({}))).await.unwrap();
    expect(&mut events, &["set d"]).await;
    assert_ne!(again.uid(), other.uid());
    assert_eq!(server.store().log.len(), 5, "the log keeps what was undone");
}

#[test]
fn writes_meet_their_preconditions() {
    let server = Server::default();
    let all = "/api/v1/namespaces/default/configmaps";
    let one = "/api/v1/namespaces/default/configmaps/a";
    let body = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
    let (code, made) = ask(&server, "POST", all, &body);
    assert_eq!((code, &made["kind"]), (201, &json!("ConfigMap")));
    assert_eq!(ask(&server, "POST", all, &body).1["reason"], "AlreadyExists");
    let reason = |method: &str, body: Value| {
        let (code, answer) = ask(&server, method, one, &body);
        (code, answer["reason"].as_str().unwrap_or("").to_owned())
    };
    let conflict = (409, "Conflict".to_owned());
    assert_eq!(reason("PATCH", json!({"metadata": {"resourceVersion": "1"}})), conflict);
    assert_eq!(reason("PATCH", json!({"metadata": {"uid": "other"}})).0, 422);
    assert_eq!(reason("DELETE", json!({"preconditions": {"uid": "other"}})), conflict);
    assert_eq!(reason("DELETE", json!({"preconditions": {"resourceVersion": "1"}})), conflict);
    assert_eq!(reason("DELETE", json!({"preconditions": {"uid": made["metadata"]["uid"]}})).0, 200);
    assert_eq!(reason("DELETE", Value::Null), (404, "NotFound".to_owned()));
    let nowhere = ask(&server, "POST", "/api/v1/namespaces/none/configmaps", &body);
    assert_eq!((nowhere.0, &nowhere.1["details"]["kind"]), (404, &json!("namespaces")));
    let mut other = call("PATCH", one, &json!({}));
    other.content = "application/strategic-merge-patch+json".into();
    assert_eq!(server.answer("test", &other).0, 415);
}

const QUEUES: &str = "/apis/idlewild.dev/v1alpha1/gpuqueues";

fn queue_of(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuQueue",
        "metadata": {"name": name}, "spec": spec})
}

#[test]
fn custom_resources_have_generations_statuses_defaults_and_schemas() {
    let server = Server::default();
    let mut wanted = queue_of("a", json!({"weight": 5, "nonsense": true}));
    wanted["status"] = json!({"waiting": 3});
    let (code, made) = ask(&server, "POST", QUEUES, &wanted);
    assert_eq!(code, 201, "{made}");
    assert_eq!((&made["metadata"]["generation"], made.get("status")), (&json!(1), None));
    assert!(made["spec"].get("nonsense").is_none(), "{made}");
    let one = format!("{QUEUES}/a");
    let change = json!({"spec": {"weight": 6}, "status": {"waiting": 3}});
    let (_, changed) = ask(&server, "PATCH", &one, &change);
    assert_eq!((&changed["metadata"]["generation"], changed.get("status")), (&json!(2), None));
    let (_, told) = ask(
        &server,
        "PATCH",
        &format!("{one}/status"),
        &json!({
            "metadata": {"labels": {"a": "b"}}, "spec": {"weight": 7},
            "status": {"observedGeneration": 2},
        }),
    );
    assert_eq!(told["metadata"]["generation"], 2);
    assert_eq!((&told["spec"]["weight"], told["metadata"].get("labels")), (&json!(6), None));
    assert_eq!(told["status"]["observedGeneration"], 2);
    let (code, answer) = ask(&server, "PATCH", &one, &json!({"spec": {"weight": "much"}}));
    assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!("spec.weight")));
}

#[test]
fn rules_of_schemas_hold_also_between_versions() {
    let server = Server::default();
    let (code, made) = ask(&server, "POST", QUEUES, &queue_of("a", json!({"weight": 5})));
    assert_eq!(code, 201, "{made}");
    let one = format!("{QUEUES}/a");
    assert_eq!(ask(&server, "PATCH", &one, &json!({"spec": {"weight": 1001}})).0, 422);
    let twice = json!([{"gpus": 1, "model": "A100"}, {"gpus": 2, "model": "A100"}]);
    let (code, told) = ask(&server, "PATCH", &one, &json!({"spec": {"quota": twice}}));
    assert_eq!((code, &told["details"]["causes"][0]["field"]), (422, &json!("spec.quota")));
    let grant = json!({"apiVersion": "idlewild.dev/v1alpha1", "kind": "HubGrant",
        "metadata": {"name": "g"}, "spec": {"hubId": "h", "member": "m", "namespace": "n",
            "address": "https://hub", "ca": "-----BEGIN CERTIFICATE-----"}});
    let grants = "/apis/idlewild.dev/v1alpha1/namespaces/default/hubgrants";
    let (code, made) = ask(&server, "POST", grants, &grant);
    assert_eq!(code, 201, "{made}");
    let other = json!({"spec": {"member": "other"}});
    let (code, told) = ask(&server, "PATCH", &format!("{grants}/g"), &other);
    assert_eq!((code, &told["details"]["causes"][0]["field"]), (422, &json!("spec")));
}

#[test]
fn finalizers_put_a_deletion_off() {
    let server = Server::default();
    let mut wanted = queue_of("a", json!({}));
    wanted["metadata"]["finalizers"] = json!(["idlewild.dev/test"]);
    ask(&server, "POST", QUEUES, &wanted);
    let one = format!("{QUEUES}/a");
    let (code, marked) = ask(&server, "DELETE", &one, &Value::Null);
    assert_eq!((code, &marked["metadata"]["generation"]), (200, &json!(2)));
    let revision = server.store().revision();
    assert_eq!(ask(&server, "DELETE", &one, &Value::Null).1, marked);
    assert_eq!(server.store().revision(), revision);
    let more = json!({"metadata": {"finalizers": ["idlewild.dev/test", "idlewild.dev/more"]}});
    assert_eq!(ask(&server, "PATCH", &one, &more).0, 422);
    assert_eq!(ask(&server, "PATCH", &one, &json!({"metadata": {"finalizers": null}})).0, 200);
    assert_eq!(ask(&server, "GET", &one, &Value::Null).0, 404);
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn make_pod(server: &Server, name: &str) -> Value {
    let pod = json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}});
    ask(server, "POST", PODS, &pod).1
}

#[test]
fn a_bound_pod_has_its_grace_and_any_other_none() {
    let server = Server::default();
    make_pod(&server, "a");
    make_pod(&server, "b");
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(ask(&server, "POST", &format!("{PODS}/a/binding"), &binding).0, 201);
    assert_eq!(ask(&server, "POST", &format!("{PODS}/a/binding"), &binding).0, 409);
    let grace = |name: &str, seconds: Option<i64>| {
        let body = seconds.map_or(Value::Null, |seconds| json!({"gracePeriodSeconds": seconds}));
        let (_, pod) = ask(&server, "DELETE", &format!("{PODS}/{name}"), &body);
        pod["metadata"]["deletionGracePeriodSeconds"].as_i64()
    };
    assert_eq!(grace("b", None), Some(0));
    assert_eq!(ask(&server, "GET", &format!("{PODS}/b"), &Value::Null).0, 404);
    assert_eq!(
        [None, Some(60), Some(10), Some(20)].map(|s| grace("a", s)),
        [Some(30), Some(30), Some(10), Some(10)]
    );
    server.store().remove("kubelet", &At::new("pods", "default", "a"));
    assert_eq!(ask(&server, "GET", &format!("{PODS}/a"), &Value::Null).0, 404);
}

#[tokio::test(start_paused = true)]
async fn typed_clients_read_pods_and_delete_them_with_preconditions() {
    let server = Server::default();
    make_pod(&server, "a");
    let api: Api<Pod> = Api::default_namespaced(client(&server, "test"));
    let pod = api.get("a").await.unwrap();
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
    let preconditions = Preconditions { uid: Some("other".into()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    assert!(api.delete("a", &params).await.is_err());
    let ended = ListParams::default().fields("status.phase!=Pending").labels("app=a");
    api.delete_collection(&DeleteParams::default(), &ended).await.unwrap();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let pending = ListParams::default().fields("status.phase=Pending");
    api.delete_collection(&DeleteParams::default(), &pending).await.unwrap();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 0);
}

#[test]
fn pages_show_one_revision_until_it_is_compacted() {
    let server = Server::default();
    for name in ["a", "b", "c"] {
        make_pod(&server, name);
    }
    let (_, first) = ask(&server, "GET", &format!("{PODS}?limit=2"), &Value::Null);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    ask(&server, "DELETE", &format!("{PODS}/c"), &Value::Null);
    let next = first["metadata"]["continue"].as_str().unwrap().replace(' ', "+");
    let more = format!("{PODS}?limit=2&continue={next}");
    let (_, second) = ask(&server, "GET", &more, &Value::Null);
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    server.store().compact();
    assert_eq!(ask(&server, "GET", &more, &Value::Null).0, 410);
}

#[test]
fn a_replica_that_lags_behind_answers_from_the_past() {
    let server = Server::default();
    let made = make_pod(&server, "a");
    let then = server.store().revision();
    ask(&server, "DELETE", &format!("{PODS}/a"), &Value::Null);
    let get = call("GET", &format!("{PODS}/a"), &Value::Null);
    assert_eq!(server.answer_as_of(then, &get), (200, made));
    assert_eq!(server.answer("test", &get).0, 404);
}

#[test]
fn what_nobody_owns_is_collected_and_so_are_namespaces_that_end() {
    let server = Server::default();
    let owner = make_pod(&server, "owner")["metadata"]["uid"].clone();
    let mut store = server.store();
    let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": owner}]);
    let body = json!({"metadata": {"name": "owned", "ownerReferences": owners}});
    store.create("test", "default", "configmaps", body);
    assert!(!store.collect_garbage());
    store.remove("test", &At::new("pods", "default", "owner"));
    assert!(store.collect_garbage());
    assert!(store.get("configmaps", "default", "owned").is_none());
    store.add_namespace("ends");
    store.create("test", "ends", "secrets", json!({"metadata": {"name": "s"}}));
    drop(store);
    let (_, ends) = ask(&server, "DELETE", "/api/v1/namespaces/ends", &Value::Null);
    assert_eq!(ends["status"]["phase"], "Terminating");
    let secrets = "/api/v1/namespaces/ends/secrets";
    let refused = ask(&server, "POST", secrets, &json!({"metadata": {"name": "t"}}));
    assert_eq!(refused.0, 403);
    while server.store().collect_garbage() {}
    assert_eq!(server.store().of_kind("namespaces", "").count(), 1);
    assert_eq!(server.store().of_kind("secrets", "").count(), 0);
}

#[test]
fn a_dry_run_answers_and_changes_nothing() {
    let server = Server::default();
    let (before, body) = (server.store().revision(), json!({"metadata": {"name": "a"}}));
    let uri = "/api/v1/namespaces/default/configmaps?dryRun=All";
    assert_eq!(ask(&server, "POST", uri, &body).0, 201);
    let store = server.store();
    assert_eq!((store.revision(), store.log.len()), (before, 1));
}

#[test]
fn accounts_get_tokens() {
    let server = Server::default();
    let account = json!({"metadata": {"name": "agent"}});
    server.store().create("test", "default", "serviceaccounts", account);
    let uri = "/api/v1/namespaces/default/serviceaccounts/agent/token";
    let (code, answer) = ask(&server, "POST", uri, &json!({"spec": {"expirationSeconds": 600}}));
    assert_eq!((code, &answer["status"]["token"]), (201, &json!("sim:default:agent:1")));
    assert_eq!(answer["status"]["expirationTimestamp"], "1970-01-01T00:10:00Z");
}

#[test]
fn calls_have_short_names() {
    let patch = call("PATCH", &format!("{PODS}/a/status"), &json!({}));
    assert_eq!((patch.name(), patch.is_write()), ("PATCH pods/status default/a".into(), true));
    let list = call("GET", "/api/v1/pods", &Value::Null);
    assert_eq!((list.name(), list.is_write()), ("LIST pods *".into(), false));
}
