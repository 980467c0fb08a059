//! A real server and the simulated one, and what both have said so far.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{AsyncBufReadExt, FutureExt, StreamExt};
use http::{Method, Request};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::simulated::{Call, Server};
use super::words::{Names, is_foreign};
use crate::harness::{SOON, eventually};

/// The same of the real server and the simulated one.
pub(super) type Pair<T> = [T; 2];

/// A request, as each of the two gets it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: &'static str,
    pub(super) uri: Pair<String>,
    pub(super) body: Pair<Value>,
    pub(super) content: &'static str,
    /// Where the object is remembered that the answer may be.
    pub(super) key: (String, String),
}

impl Asked {
    pub(super) fn words(&self) -> String {
        let body = if self.body[1].is_null() { String::new() } else { self.body[1].to_string() };
        format!("{} {} {body}", self.method, self.uri[1])
    }
}

/// How long the real server may take to tell of what happened.
const TOLD: Duration = Duration::from_secs(5);
/// Events that should not come come within this time, if they come.
const MORE: Duration = Duration::from_millis(30);

/// Both servers.
pub(super) struct Twins {
    client: Client,
    server: Server,
    names: Pair<Names>,
    pub(super) namespace: String,
    /// Versions of objects.
    pub(super) versions: Vec<Pair<String>>,
    /// Versions of lists: those of the whole server, so an object has them by chance only.
    pub(super) lists: Vec<Pair<String>>,
    pub(super) uids: Vec<Pair<String>>,
    /// The last answers that were objects.
    pub(super) objects: BTreeMap<(String, String), Pair<Value>>,
    /// The list that goes on, and where.
    pub(super) more: Option<(Asked, Pair<String>)>,
}

pub(super) fn namespace(seed: u64) -> String {
    format!("c-{seed}")
}

/// Makes the namespace of a sequence and waits until pods can be made in it.
pub(super) async fn make_namespace(client: &Client, seed: u64) {
    let name = namespace(seed);
    let body = json!({"metadata": {"name": name}});
    let (code, answer) = send(client, "POST", "/api/v1/namespaces", &body, "").await;
    assert_eq!(code, 201, "{answer}");
    let uri = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    eventually("an account for pods", SOON, async || {
        match send(client, "GET", &uri, &Value::Null, "").await {
            (200, _) => Ok(()),
            (_, answer) => Err(answer.to_string()),
        }
    })
    .await;
}

fn request(method: &str, uri: &str, body: &Value, content: &str) -> Request<Body> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let content = if content.is_empty() { "application/json" } else { content };
    let request = Request::builder().method(method).uri(uri).header("content-type", content);
    request.body(Body::from(bytes)).unwrap()
}

/// A request as the simulated server reads it.
pub(super) fn call(method: &str, uri: &str, body: &Value, content: &str) -> Call {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Call::parse(&method, uri, &bytes, content.to_owned())
}

/// What a real server answers.
pub(super) async fn send(
    client: &Client,
    method: &str,
    uri: &str,
    body: &Value,
    content: &str,
) -> (u16, Value) {
    let answer = client.send(request(method, uri, body, content)).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (code, serde_json::from_str(&text).unwrap_or(json!(text)))
}

impl Twins {
    pub(super) fn new(client: Client, seed: u64) -> Self {
        let (server, namespace) = (Server::default(), namespace(seed));
        server.store().add_namespace(&namespace);
        // Whatever is asked for must be younger than the server: as with the real one.
        server.store().compact();
        Self {
            client,
            server,
            names: Pair::default(),
            namespace,
            versions: Vec::new(),
            lists: Vec::new(),
            uids: Vec::new(),
            objects: BTreeMap::new(),
            more: None,
        }
    }

    /// Sends a request to both; the answer that both gave, or what differs.
    pub(super) async fn ask(&mut self, asked: &Asked) -> Result<Value, String> {
        let [uri, simulated] = &asked.uri;
        let (code, real) =
            send(&self.client, asked.method, uri, &asked.body[0], asked.content).await;
        let call = call(asked.method, simulated, &asked.body[1], asked.content);
        self.server.store().now = Timestamp::now();
        let other = self.server.answer("conformance", &call);
        let said = [
            self.names[0].answer(code, &self.inside(&real)),
            self.names[1].answer(other.0, &self.inside(&other.1)),
        ];
        self.remember(asked, [&real, &other.1]);
        compare(&said).map_err(|difference| format!("{difference}\n(it says {real})"))?;
        let [_, said] = said;
        Ok(said)
    }

    /// A list without what is in other namespaces: all sequences share the real server.
    fn inside(&self, answer: &Value) -> Value {
        let mut answer = answer.clone();
        if let Some(items) = answer.get_mut("items").and_then(Value::as_array_mut) {
            items.retain(|item| {
                let namespace = item["metadata"]["namespace"].as_str();
                namespace.is_none_or(|namespace| namespace == self.namespace)
            });
        }
        answer
    }

    fn remember(&mut self, asked: &Asked, answers: Pair<&Value>) {
        let word = |pointer: &str| -> Option<Pair<String>> {
            let [real, simulated] =
                answers.map(|answer| answer.pointer(pointer).and_then(Value::as_str));
            Some([real?.to_owned(), simulated?.to_owned()])
        };
        if answers[1]["code"] == 404 {
            self.objects.remove(&asked.key);
        }
        let tokens = word("/metadata/continue").filter(|tokens| !tokens[0].is_empty());
        self.more = tokens.map(|tokens| (asked.clone(), tokens));
        let version = word("/metadata/resourceVersion");
        let Some(uid) = word("/metadata/uid") else { return self.lists.extend(version) };
        self.versions.extend(version);
        self.uids.push(uid);
        self.objects.insert(asked.key.clone(), answers.map(Value::clone));
    }

    /// Opens the same watch at both; the types of the events that agreed, or what differs.
    pub(super) async fn watch(&mut self, asked: &Asked) -> Result<Vec<String>, String> {
        let call = call("GET", &asked.uri[1], &Value::Null, "");
        let mut simulated = Vec::new();
        match self.server.watch("conformance", &call) {
            Ok(mut watch) => {
                while let Some(Some(line)) = watch.next().now_or_never() {
                    simulated.push(serde_json::from_str(&line).unwrap());
                }
            }
            Err((code, answer)) => return Err(format!("refused: {code} {answer}")),
        }
        let real = self.real_events(&asked.uri[0], simulated.len()).await;
        let said = [(0, &real), (1, &simulated)].map(|(side, events): (usize, &Vec<Value>)| {
            events.iter().map(|event| self.names[side].event(event)).collect()
        });
        let types = simulated.iter().map(|event| event["type"].as_str().unwrap_or("").to_owned());
        compare(&said).map(|()| types.collect())
    }

    /// What the real server tells, until it has told of so many events and of no more.
    async fn real_events(&self, uri: &str, count: usize) -> Vec<Value> {
        let request = Request::get(uri).body(Vec::new()).unwrap();
        let mut lines = Box::pin(self.client.request_stream(request).await.unwrap()).lines();
        let mut events = Vec::new();
        loop {
            let patience = if events.len() < count { TOLD } else { MORE };
            match tokio::time::timeout(patience, lines.next()).await {
                Ok(Some(Ok(line))) => {
                    let event: Value = serde_json::from_str(&line).unwrap();
                    events.extend(Some(event).filter(|event| !is_foreign(&event["object"])));
                }
                Ok(_) | Err(_) => return events,
            }
        }
    }
}

/// What differs between a real answer and a simulated one.
fn compare([real, simulated]: &Pair<Value>) -> Result<(), String> {
    if real == simulated {
        return Ok(());
    }
    let mut lines = Vec::new();
    differences("", real, simulated, &mut lines);
    Err(lines.join("\n"))
}

fn differences(path: &str, real: &Value, simulated: &Value, lines: &mut Vec<String>) {
    let (Value::Object(left), Value::Object(right)) = (real, simulated) else {
        match (real, simulated) {
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
                for (index, (left, right)) in left.iter().zip(right).enumerate() {
                    differences(&format!("{path}/{index}"), left, right, lines);
                }
            }
            (Value::Array(left), Value::Array(right)) if left.iter().all(Value::is_object) => {
                let short = |item: &Value| {
                    let object = item.get("object").unwrap_or(item);
                    let metadata = &object["metadata"];
                    format!("{} {} {}", item["type"], metadata["name"], metadata["resourceVersion"])
                };
                let all = |items: &[Value]| items.iter().map(short).collect::<Vec<_>>().join(", ");
                lines.push(format!("  {path}: real {}", all(left)));
                lines.push(format!("  {path}: simulated {}", all(right)));
            }
            _ if real == simulated => {}
            _ => lines.push(format!("  {path}: real {real}, simulated {simulated}")),
        }
        return;
    };
    let absent = json!("<absent>");
    let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let (left, right) = (left.get(key), right.get(key));
        let path = format!("{path}/{key}");
        differences(&path, left.unwrap_or(&absent), right.unwrap_or(&absent), lines);
    }
}
