//! Carrying out one write, and finding out what became of it.
//!
//! Invariant: an unknown outcome is looked up before it is reported, and a failure is reported only
//! after a pause, so that whoever decides again never spins.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource, ResourceExt};
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::debug;

use super::Settings;
use super::event::{Event, Written};
use super::guest::Key;
use super::pod::Pod;
use super::step::Task;
use super::sweeping::{self, Sweep};
use crate::api::gpulease::{self, GuestLeaseStatus};
use crate::api::gpupool::GpuPoolStatus;
use crate::api::{GpuPool, GuestLease};
use crate::cluster::{Clock, Error, Outcome, apply, chain, within};

/// Status writes and deletions in flight.
const URGENT: usize = 8;
/// Creations in flight: fewer than all, so that answers and reclaim go ahead of new pods.
const CREATES: usize = 8;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause after somebody else wrote first: what they wrote is on its way.
const SHORT: Duration = Duration::from_millis(100);
/// Longest pause after creations were refused again and again.
const LONGEST: u32 = 8;

/// One write.
#[derive(Debug)]
pub enum Write {
    /// The status of a lease.
    Status(Arc<GuestLease>, Box<GuestLeaseStatus>),
    /// A guest.
    Create {
        /// UID of its lease.
        lease: String,
        /// Which of the lease's pods.
        key: Key,
        /// The pod.
        pod: Value,
        /// Creations of this lease that were refused in a row before.
        refused: u32,
    },
    /// The `ConfigMap` that opens the gate of a gang, of the lease with this UID.
    Gate(String, Value),
    /// The end of a guest.
    Delete(Delete),
    /// The status of a pool.
    Picture(Arc<GpuPool>, Box<GpuPoolStatus>),
}

/// The end of a guest.
#[derive(Debug)]
pub struct Delete {
    /// UID of its lease.
    pub lease: String,
    /// Which of the lease's pods.
    pub key: Key,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod: never another of the same name.
    pub uid: String,
    /// Only while the pod stands at this version.
    pub version: Option<String>,
    /// Seconds to stop; `None` = the pod has ended.
    pub grace: Option<i64>,
    /// Name of its lease if that is over: all its pods go, with those of other leases.
    pub over: Option<String>,
}

/// Whoever carries out writes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
    guests: String,
    clock: Clock,
    urgent: Arc<Semaphore>,
    creates: Arc<Semaphore>,
    sweep: Arc<Sweep>,
}

impl Writer {
    /// Writes with `client`: pools in the namespace of the owner's objects, all else in that of guests.
    #[must_use]
    pub fn new(client: Client, settings: &Settings) -> Self {
        Self {
            client,
            namespace: settings.namespace.clone(),
            guests: settings.guest_namespace.clone(),
            clock: settings.clock.clone(),
            urgent: Arc::new(Semaphore::new(URGENT)),
            creates: Arc::new(Semaphore::new(CREATES)),
            sweep: Arc::new(Sweep::new()),
        }
    }

    /// Carries out `write`; the event tells how it ended.
    pub async fn perform(self, write: Write) -> Event {
        match write {
            Write::Status(lease, status) => {
                let uid = lease.uid().unwrap_or_default();
                Event::Written(uid, Task::Status, self.status(&lease, &status).await)
            }
            Write::Create { lease, key, pod, refused } => {
                let written = self.create(&lease, &pod, refused).await;
                Event::Written(lease, Task::Pod(key), written)
            }
            Write::Gate(lease, gate) => {
                let written = self.gate(&lease, &gate).await;
                Event::Written(lease, Task::Gate, written)
            }
            Write::Delete(delete) => {
                let written = self.delete(&delete).await;
                Event::Written(delete.lease, Task::Pod(delete.key), written)
            }
            Write::Picture(pool, status) => {
                let uid = pool.uid().unwrap_or_default();
                Event::Pictured(uid, self.picture(&pool, &status).await.map(Box::new))
            }
        }
    }

    async fn status(&self, lease: &GuestLease, status: &GuestLeaseStatus) -> Written {
        let api: Api<GuestLease> = Api::namespaced(self.client.clone(), &self.guests);
        let old = lease.status.as_ref();
        let mut status = status.clone();
        status.observed_generation = lease.meta().generation;
        status.conditions = gpulease::conditions(
            old.map(|old| old.conditions.clone()).unwrap_or_default(),
            status.phase,
            status.refusal.as_ref(),
            status.end_reason.as_deref(),
            (lease.meta().generation, self.clock.wall()),
        );
        let call = apply::status(&api, lease, old, &status, "write status of guest lease");
        let error = match turn(&self.urgent, call).await {
            Ok(Some(lease)) => return Written::Lease(Box::new(lease)),
            Ok(None) => return Written::Done,
            Err(error) => error,
        };
        pause(&error).await;
        let name = lease.name_any();
        let look = within("get guest lease", api.get_opt(&name));
        match turn(&self.urgent, look).await {
            Ok(Some(lease)) => Written::Lease(Box::new(lease)),
            // If it went, the watch tells; until then there is nothing to write to.
            Ok(None) | Err(_) => failed(&error),
        }
    }

    async fn create(&self, lease: &str, pod: &Value, refused: u32) -> Written {
        let url = core::Pod::url_path(&(), Some(&self.guests));
        let call = post::<core::Pod>(&self.client, "create guest", &url, pod);
        let error = match turn(&self.creates, call).await {
            Ok(pod) => return self.slim(pod),
            Err(error) => error,
        };
        if matches!(error.outcome(), Outcome::Refused | Outcome::Gone) {
            let seconds = 1_u32.checked_shl(refused).unwrap_or(LONGEST).clamp(1, LONGEST);
            tokio::time::sleep(PAUSE * seconds).await;
            return Written::Failed(Outcome::Refused, chain(&error));
        }
        pause(&error).await;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match self.look(name).await {
            Some(found) if owner(&found) == lease => self.slim(found),
            Some(_) => {
                // Another lease's pod has the name until it is collected.
                tokio::time::sleep(PAUSE).await;
                failed(&error)
            }
            None => failed(&error),
        }
    }

    async fn look(&self, name: &str) -> Option<core::Pod> {
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &self.guests);
        let call = within("get guest", api.get_opt(name));
        turn(&self.creates, call).await.ok().flatten()
    }

    fn slim(&self, pod: core::Pod) -> Written {
        match Pod::slim(pod, &self.guests) {
            Ok(pod) => Written::Pod(Box::new(pod)),
            Err(_) => Written::Failed(Outcome::Refused, "the pod is not the one we made".into()),
        }
    }

    async fn gate(&self, lease: &str, gate: &Value) -> Written {
        let url = core::ConfigMap::url_path(&(), Some(&self.guests));
        let call = post::<core::ConfigMap>(&self.client, "open gate", &url, gate);
        let Err(error) = turn(&self.urgent, call).await else {
            return Written::Done;
        };
        pause(&error).await;
        let api: Api<core::ConfigMap> = Api::namespaced(self.client.clone(), &self.guests);
        let name = gate["metadata"]["name"].as_str().unwrap_or_default();
        let look = within("get gate", api.get_opt(name));
        match turn(&self.urgent, look).await {
            Ok(Some(found)) if owner(&found) == lease => Written::Done,
            _ => failed(&error),
        }
    }

    async fn delete(&self, delete: &Delete) -> Written {
        if let Some(lease) = &delete.over
            && self.sweep.of(lease, |leases| self.swept(leases)).await
        {
            return Written::Deleting(delete.uid.clone());
        }
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &self.guests);
        let params = DeleteParams {
            grace_period_seconds: delete.grace.map(|grace| u32::try_from(grace).unwrap_or(0)),
            preconditions: Some(Preconditions {
                uid: Some(delete.uid.clone()),
                resource_version: delete.version.clone(),
            }),
            ..DeleteParams::default()
        };
        let call = within("delete guest", api.delete(&delete.name, &params));
        match turn(&self.urgent, call).await {
            Ok(_) => Written::Deleting(delete.uid.clone()),
            Err(error) if error.outcome() == Outcome::Gone => Written::PodGone(delete.uid.clone()),
            Err(error) => {
                pause(&error).await;
                failed(&error)
            }
        }
    }

    /// Whether the ended pods of `leases` were removed; if not, each is removed by itself.
    async fn swept(&self, leases: Vec<String>) -> bool {
        let call = sweeping::remove(&self.client, &self.guests, &leases);
        match turn(&self.urgent, call).await {
            Ok(()) => true,
            Err(error) => {
                debug!(reason = error.reason(), error = chain(&error), "ended guests not removed");
                false
            }
        }
    }

    async fn picture(&self, pool: &GpuPool, status: &GpuPoolStatus) -> Option<GpuPool> {
        let api: Api<GpuPool> = Api::namespaced(self.client.clone(), &self.namespace);
        let call = apply::status(&api, pool, pool.status.as_ref(), status, "write status of pool");
        match turn(&self.urgent, call).await {
            Ok(pool) => pool,
            Err(error) => {
                pause(&error).await;
                let name = pool.name_any();
                let look = within("get pool", api.get_opt(&name));
                turn(&self.urgent, look).await.ok().flatten()
            }
        }
    }
}

/// The result of a call that waits for its turn at `gate`.
async fn turn<T>(gate: &Semaphore, call: impl Future<Output = T>) -> T {
    let _turn = gate.acquire().await;
    call.await
}

/// Posts `object` as it is: a typed struct would drop what our library does not know.
async fn post<K>(client: &Client, what: &'static str, url: &str, object: &Value) -> Result<K, Error>
where
    K: serde::de::DeserializeOwned,
{
    let body = object.to_string().into_bytes();
    let request = Request::new(url).create(&PostParams::default(), body);
    let request = request.map_err(|error| Error::call(what, kube::Error::BuildRequest(error)))?;
    within(what, client.request::<K>(request)).await
}

/// UID of the controller of `object`.
fn owner<K: Resource>(object: &K) -> String {
    let owners = object.owner_references();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    controller.map(|owner| owner.uid.clone()).unwrap_or_default()
}

async fn pause(error: &Error) {
    let brief = matches!(error.outcome(), Outcome::Conflict | Outcome::Exists | Outcome::Gone);
    tokio::time::sleep(if brief { SHORT } else { PAUSE }).await;
}

fn failed(error: &Error) -> Written {
    Written::Failed(error.outcome(), chain(error))
}
