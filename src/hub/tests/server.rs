//! An API server in memory behind a real client: versions, preconditions, finalizers, faults.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::request::{Call, Refusal, merge, read, selected, unchanged};

/// Plural, namespace and name.
pub(super) type At = (String, String, String);

/// An object was written, or is gone.
#[derive(Clone, Debug)]
pub(super) struct News {
    pub(super) plural: String,
    pub(super) gone: bool,
    pub(super) object: Value,
}

/// What happens to one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The hub dies before it is carried out.
    DiesBefore,
    /// The hub dies after it was carried out, before it learns so.
    DiesAfter,
    /// It fails, and is not carried out.
    FailsBefore,
    /// It is carried out, and the answer says that it failed.
    FailsAfter,
}

/// All objects, and who wants to hear of changes.
#[derive(Default)]
pub(super) struct Store {
    pub(super) objects: BTreeMap<At, Value>,
    pub(super) calls: Vec<Call>,
    pub(super) news: Vec<Vec<News>>,
    pub(super) now: Timestamp,
    /// The write of this number meets this fault.
    pub(super) fault: Option<(usize, Fault)>,
    /// Hubs that died: nothing of theirs is carried out any more.
    pub(super) dead: BTreeSet<usize>,
    /// Requests wait to be let through, where this is set.
    pub(super) held: Option<Vec<oneshot::Sender<()>>>,
    /// Leases that were created before their epoch was on record.
    pub(super) unrecorded: Vec<String>,
    writes: usize,
    version: u64,
}

/// The store, shared by all clients.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<Store>>);

impl Server {
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }

    /// A client for the hub of this number.
    pub(super) fn client(&self, hub: usize) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.serve(hub, request).await) }
        });
        Client::new(service, "default")
    }

    async fn serve(&self, hub: usize, request: Request<Body>) -> Response<Body> {
        let call = read(request).await;
        let wait = self.store().held.as_mut().map(|held| {
            let (sender, receiver) = oneshot::channel();
            held.push(sender);
            receiver
        });
        if let Some(wait) = wait {
            drop(wait.await);
        }
        let Some((code, value)) = self.store().answer(hub, call) else {
            return std::future::pending().await;
        };
        let body = Body::from(serde_json::to_vec(&value).unwrap());
        Response::builder().status(code).body(body).unwrap()
    }
}

impl Store {
    /// The answer to a call; `None` if there will be none.
    fn answer(&mut self, hub: usize, call: Call) -> Option<(u16, Value)> {
        if self.dead.contains(&hub) {
            return None;
        }
        self.calls.push(call.clone());
        let number = self.writes;
        self.writes += usize::from(call.is_write_of_work());
        let fault = self.fault.filter(|(at, _)| *at == number && call.is_write_of_work());
        let failure =
            Some((500, json!({"kind": "Status", "code": 500, "reason": "InternalError"})));
        match fault.map(|(_, fault)| fault) {
            Some(Fault::DiesBefore) => {
                self.dead.insert(hub);
                return None;
            }
            Some(Fault::FailsBefore) => return failure,
            _ => {}
        }
        let answer = match self.carry_out(&call) {
            Ok(value) => (200, value),
            Err((code, reason)) => (
                code,
                json!({"apiVersion": "v1", "kind": "Status",
                "status": "Failure", "message": reason, "reason": reason, "code": code}),
            ),
        };
        match fault.map(|(_, fault)| fault) {
            Some(Fault::DiesAfter) => {
                self.dead.insert(hub);
                None
            }
            Some(Fault::FailsAfter) => failure,
            _ => Some(answer),
        }
    }

    fn carry_out(&mut self, call: &Call) -> Result<Value, Refusal> {
        match call.verb.as_str() {
            "GET" => self.objects.get(&call.at).cloned().ok_or((404, "NotFound")),
            "POST" => self.create(call),
            "PATCH" => self.patch(call),
            "DELETE" => self.delete(call),
            other => panic!("nobody sends {other}"),
        }
    }

    fn create(&mut self, call: &Call) -> Result<Value, Refusal> {
        let name = call.body["metadata"]["name"].as_str().unwrap().to_owned();
        let at = (call.at.0.clone(), call.at.1.clone(), name);
        if self.objects.contains_key(&at) {
            return Err((409, "AlreadyExists"));
        }
        if at.0 == "gpuleases" && !self.is_recorded(&call.body["spec"]) {
            self.unrecorded.push(at.2.clone());
        }
        let mut object = call.body.clone();
        object.as_object_mut().unwrap().remove("status");
        Ok(self.put(at, object))
    }

    /// Whether the epoch of a lease was allocated once; a job that is gone tells nothing.
    fn is_recorded(&self, lease: &Value) -> bool {
        let word = |key: &str| lease["job"][key].as_str().unwrap().to_owned();
        let job = self.objects.get(&("gpujobs".to_owned(), word("namespace"), word("name")));
        let same = job.filter(|job| job["metadata"]["uid"] == lease["job"]["uid"]);
        // What is taken up again is recorded as such, and what is rejected is not.
        let allocated = |job: &Value| {
            let held = job["status"]["allocations"].as_array().into_iter().flatten();
            held.into_iter().any(|held| held["epoch"] == lease["epoch"])
        };
        let rejected = lease.get("adopted").is_some() && lease.get("withdrawn").is_some();
        same.is_none_or(|job| {
            rejected
                || allocated(job)
                || job["status"]["nextAttempt"].as_u64() > lease["epoch"]["attempt"].as_u64()
        })
    }

    fn patch(&mut self, call: &Call) -> Result<Value, Refusal> {
        let old = self.objects.get(&call.at).cloned().ok_or((404, "NotFound"))?;
        unchanged(&old, &call.body["metadata"])?;
        let mut new = old.clone();
        if call.status {
            merge(&mut new, &json!({ "status": call.body["status"] }));
        } else {
            let mut patch = call.body.clone();
            patch.as_object_mut().unwrap().remove("status");
            merge(&mut new, &patch);
        }
        Ok(if new == old { old } else { self.put(call.at.clone(), new) })
    }

    fn delete(&mut self, call: &Call) -> Result<Value, Refusal> {
        let (plural, namespace, name) = call.at.clone();
        let chosen: Vec<At> = self
            .objects
            .iter()
            .filter(|(at, _)| at.0 == plural && at.1 == namespace)
            .filter(|(at, object)| match name.is_empty() {
                true => selected(call.labels.as_deref(), object),
                false => at.2 == name,
            })
            .map(|(at, _)| at.clone())
            .collect();
        if chosen.is_empty() && !name.is_empty() {
            return Err((404, "NotFound"));
        }
        for at in chosen {
            unchanged(&self.objects[&at], &call.body["preconditions"])?;
            self.remove(&at);
        }
        Ok(json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"}))
    }

    /// Deletes an object, or marks it where finalizers hold it.
    pub(super) fn remove(&mut self, at: &At) {
        let mut object = self.objects[at].clone();
        object["metadata"]["deletionTimestamp"] = json!(self.now);
        self.put(at.clone(), object);
    }

    /// Writes an object, with a new version.
    pub(super) fn put(&mut self, at: At, mut object: Value) -> Value {
        self.version += 1;
        let old = self.objects.get(&at);
        let changed = old.is_none_or(|old| old["spec"] != object["spec"]);
        let metadata = &mut object["metadata"];
        if old.is_none() {
            metadata["uid"] = json!(format!("uid-{}", self.version));
            metadata["creationTimestamp"] = json!(self.now);
        }
        metadata["name"] = json!(at.2);
        if !at.1.is_empty() {
            metadata["namespace"] = json!(at.1);
        }
        let generation = metadata["generation"].as_i64().unwrap_or(0) + i64::from(changed);
        metadata["generation"] = json!(generation);
        metadata["resourceVersion"] = json!(self.version.to_string());
        let free = metadata["finalizers"].as_array().is_none_or(Vec::is_empty);
        let gone = metadata.get("deletionTimestamp").is_some() && free;
        let news = News { plural: at.0.clone(), gone, object: object.clone() };
        self.news.iter_mut().for_each(|all| all.push(news.clone()));
        match gone {
            true => drop(self.objects.remove(&at)),
            false => drop(self.objects.insert(at, object.clone())),
        }
        object
    }

    /// The objects of one kind.
    pub(super) fn all(&self, plural: &str) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|(at, _)| at.0 == plural);
        of_kind.map(|(_, object)| object.clone()).collect()
    }
}
