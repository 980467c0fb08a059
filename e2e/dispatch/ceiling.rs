//! What the machine can write at all: create and status patch of a small object, many at once, spread
//! over the same API servers that the jobs use.

use std::time::{Duration, Instant};

use futures::future::join_all;
use idlewild::sandbox::Federation;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::processes;
use crate::harness::{SOON, eventually};

/// Writers at once.
const WRITERS: usize = 64;
/// How long they write.
const LASTS: Duration = Duration::from_secs(10);
/// Makes an object about 1.2 kB.
const FILLING: usize = 900;
const PATH: &str = "/apis/bench.idlewild.dev/v1/loads";
const DEFINITION: &str = "loads.bench.idlewild.dev";

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceiling {
    /// Writes a second of all API servers together.
    pub(super) rate: f64,
    /// Milliseconds of processor time of API servers and etcd for one write.
    pub(super) millis: f64,
}

/// Finds the ceiling of `federation`, which has nothing else to do.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) async fn ceiling(federation: &Federation) -> Ceiling {
    let clusters = std::iter::once(&federation.hub.cluster)
        .chain(federation.members.values().map(|member| &member.cluster));
    let clients: Vec<Client> = clusters.map(|cluster| cluster.admin.clone()).collect();
    join_all(clients.iter().map(define)).await;
    let (before, began) = (processes::uses(federation), Instant::now());
    let until = began + LASTS;
    let writers = (0..WRITERS).map(|writer| {
        let client = clients[writer % clients.len()].clone();
        tokio::spawn(async move {
            let mut written = 0_usize;
            while Instant::now() < until {
                pair(&client, &format!("load-{writer}-{written}")).await;
                written += 2;
            }
            written
        })
    });
    let written: usize = join_all(writers).await.into_iter().map(Result::unwrap).sum();
    let took = began.elapsed();
    let used = processes::since(&before, &processes::uses(federation));
    let serving = used.iter().filter(|(kind, _)| kind.starts_with("API") || **kind == "etcd");
    let processor: f64 = serving.map(|(_, used)| used.processor).sum();
    join_all(clients.iter().map(async |client| {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        api.delete(DEFINITION, &DeleteParams::default()).await.unwrap();
    }))
    .await;
    Ceiling { rate: written as f64 / took.as_secs_f64(), millis: processor / written as f64 }
}

/// One object, and its status.
async fn pair(client: &Client, name: &str) {
    let filling = "x".repeat(FILLING);
    let object = json!({ "apiVersion": "bench.idlewild.dev/v1", "kind": "Load",
        "metadata": { "name": name, "labels": { "load": "yes" } }, "spec": { "filling": filling } });
    send(client, ("POST", PATH.to_owned(), "application/json"), &object).await;
    let status =
        json!({ "status": { "phase": "Running", "note": "as long as a phase and a time" } });
    let path = format!("{PATH}/{name}/status");
    send(client, ("PATCH", path, "application/merge-patch+json"), &status).await;
}

async fn send(client: &Client, (method, path, kind): (&str, String, &str), body: &Value) {
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(body.to_string().into_bytes()).expect("the literal is valid");
    client.request_text(request).await.expect("the API server writes");
}

/// Defines the object, and waits until it is served.
async fn define(client: &Client) {
    let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = json!({ "type": "object", "properties": { "spec": open, "status": open } });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": DEFINITION },
        "spec": {
            "group": "bench.idlewild.dev", "scope": "Cluster",
            "names": { "plural": "loads", "singular": "load", "kind": "Load" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} }, "schema": { "openAPIV3Schema": schema } }],
        },
    });
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = serde_json::from_value(definition).expect("the literal is a definition");
    api.create(&PostParams::default(), &definition).await.unwrap();
    eventually("the bench's object is served", SOON, async || {
        let request = http::Request::get(PATH).body(Vec::new()).map_err(|e| e.to_string())?;
        client.request_text(request).await.map_err(|error| error.to_string()).map(drop)
    })
    .await;
}
