//! What the garbage collector and the namespace controller of a real cluster do on their own, the
//! simulated server does when it is told to: where they end is compared.

use std::collections::BTreeMap;

use kube::Client;
use serde_json::{Value, json};

use super::simulated::{Call, Server};
use super::twins::{call, make_namespace, namespace, send};
use crate::harness::{SOON, eventually};

/// Namespaces of their own, beside those of the sequences.
const OWNED: u64 = 1_000_001;
const ENDING: u64 = 1_000_002;

/// Both servers with the same objects, named the same.
struct Both<'c> {
    client: &'c Client,
    server: Server,
}

impl Both<'_> {
    /// Sends a request to both, with the UIDs of each; what both answered.
    async fn ask(&self, method: &str, uri: &str, body: [&Value; 2]) -> [Value; 2] {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "" };
        let (code, real) = send(self.client, method, uri, body[0], content).await;
        let call: Call = call(method, uri, body[1], content);
        let (simulated, other) = self.server.answer("conformance", &call);
        assert_eq!(code, simulated, "{method} {uri}: real {real}, simulated {other}");
        [real, other]
    }

    async fn make(&self, uri: &str, body: [&Value; 2]) -> [Value; 2] {
        let made = self.ask("POST", uri, body).await;
        made.map(|object| object["metadata"]["uid"].clone())
    }
}

/// What is left of the objects of these kinds: who owns them, and whether they are ending.
fn left(lists: &[Value]) -> BTreeMap<String, (usize, bool)> {
    let items = lists.iter().flat_map(|list| list["items"].as_array().into_iter().flatten());
    let named = items.map(|item| {
        let metadata = &item["metadata"];
        let owners = metadata["ownerReferences"].as_array().map_or(0, Vec::len);
        let name = metadata["name"].as_str().unwrap_or("").to_owned();
        (name, (owners, metadata.get("deletionTimestamp").is_some()))
    });
    named.filter(|(name, _)| name != "kube-root-ca.crt").collect()
}

/// An object of a name and, by name and UID, of `ConfigMap`s that own it.
fn owned(name: &str, owners: &[(&str, &Value)]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(name, uid)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}))
        .collect();
    json!({ "metadata": { "name": name, "ownerReferences": owners } })
}

/// Deletes owners at both and waits until the real garbage collector is where the simulated one is.
pub(super) async fn dependents_go_as_a_real_collector_takes_them(client: &Client) {
    let both = Both { client, server: Server::default() };
    make_namespace(client, OWNED).await;
    let namespace = namespace(OWNED);
    both.server.store().add_namespace(&namespace);
    let base = format!("/api/v1/namespaces/{namespace}");
    let uris = [format!("{base}/configmaps"), format!("{base}/pods")];
    let [maps, pods] = &uris;
    let first = both.make(maps, [&owned("first", &[]); 2]).await;
    let second = both.make(maps, [&owned("second", &[]); 2]).await;
    let goes = first.each_ref().map(|first| owned("goes", &[("first", first)]));
    let stays =
        [0, 1].map(|side| owned("stays", &[("first", &first[side]), ("second", &second[side])]));
    let mut held = first.each_ref().map(|first| owned("held", &[("first", first)]));
    for body in &mut held {
        body["metadata"]["finalizers"] = json!(["idlewild.dev/test"]);
    }
    for bodies in [goes, stays, held] {
        both.make(maps, bodies.each_ref()).await;
    }
    for name in ["bound", "unbound"] {
        let mut guests = first.each_ref().map(|first| owned(name, &[("first", first)]));
        for body in &mut guests {
            body["spec"] = json!({"automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "busybox:1"}]});
        }
        both.make(pods, guests.each_ref()).await;
    }
    let binding = json!({"metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "n"}});
    both.ask("POST", &format!("{pods}/bound/binding"), [&binding; 2]).await;
    both.ask("DELETE", &format!("{maps}/first"), [&Value::Null; 2]).await;
    settle(&both.server);
    let wanted = left(&uris.each_ref().map(|uri| listed(&both.server, uri)));
    eventually("the garbage collector", SOON, async || {
        let (_, maps) = send(client, "GET", maps, &Value::Null, "").await;
        let (_, pods) = send(client, "GET", pods, &Value::Null, "").await;
        let found = left(&[maps, pods]);
        if found == wanted { Ok(()) } else { Err(format!("real {found:?}, simulated {wanted:?}")) }
    })
    .await;
    assert_eq!(wanted.keys().collect::<Vec<_>>(), ["bound", "held", "second", "stays"]);
}

/// Collects until nothing is left to collect.
fn settle(server: &Server) {
    let rounds = (0..10).take_while(|_| server.store().collect_garbage()).count();
    assert!(rounds < 10, "collecting garbage does not end");
}

fn listed(server: &Server, uri: &str) -> Value {
    server.answer("conformance", &call("GET", uri, &Value::Null, "")).1
}

/// Ends a namespace at both: it takes nothing new, and waits for what is held in it.
pub(super) async fn namespaces_end_as_real_ones_do(client: &Client) {
    let both = Both { client, server: Server::default() };
    make_namespace(client, ENDING).await;
    let namespace = namespace(ENDING);
    both.server.store().add_namespace(&namespace);
    let whole = format!("/api/v1/namespaces/{namespace}");
    let secrets = format!("{whole}/secrets");
    let free = json!({"metadata": {"name": "free"}});
    let held = json!({"metadata": {"name": "held", "finalizers": ["idlewild.dev/test"]}});
    both.make(&secrets, [&free; 2]).await;
    both.make(&secrets, [&held; 2]).await;
    both.ask("DELETE", &whole, [&Value::Null; 2]).await;
    settle(&both.server);
    let wanted = left(&[listed(&both.server, &secrets)]);
    assert_eq!(wanted.len(), 1, "{wanted:?}");
    eventually("what is free in the namespace goes", SOON, async || {
        let found = left(&[send(client, "GET", &secrets, &Value::Null, "").await.1]);
        if found == wanted { Ok(()) } else { Err(format!("real {found:?}, simulated {wanted:?}")) }
    })
    .await;
    let late = json!({"metadata": {"name": "late"}});
    let refused = both.ask("POST", &secrets, [&late; 2]).await;
    let reasons = refused.each_ref().map(|answer| answer["reason"].clone());
    assert_eq!(reasons, [json!("Forbidden"), json!("Forbidden")]);
    let free = json!({"metadata": {"finalizers": null}});
    both.ask("PATCH", &format!("{secrets}/held"), [&free; 2]).await;
    settle(&both.server);
    assert!(both.server.store().get("namespaces", "", &namespace).is_none());
    eventually("the namespace is gone", SOON, async || {
        match send(client, "GET", &whole, &Value::Null, "").await {
            (404, _) => Ok(()),
            (code, answer) => Err(format!("{code} {answer}")),
        }
    })
    .await;
}
