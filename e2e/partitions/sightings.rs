//! What runs on members, seen past every proxy from the beginning to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, pin_mut};
use idlewild::api::{GUEST_NAMESPACE, LABEL_INDEX, LABEL_JOB_UID};
use idlewild::sandbox::Federation;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};

/// One replica: the job's UID and the index.
pub(super) type Replica = (String, String);

/// UIDs of guests by replica.
#[derive(Debug, Default)]
struct Seen {
    ran: BTreeMap<Replica, BTreeSet<String>>,
    succeeded: BTreeMap<Replica, BTreeSet<String>>,
    running: BTreeMap<Replica, BTreeSet<String>>,
    together: BTreeSet<Replica>,
}

/// All guests that were ever seen.
#[derive(Clone, Default)]
pub(super) struct Sightings(Arc<Mutex<Seen>>);

impl Sightings {
    /// Watches every guest of every member until the end of the process.
    pub(super) fn start(federation: &Federation) -> Self {
        let sightings = Self::default();
        for member in federation.members.values() {
            let api: Api<Pod> = Api::namespaced(member.cluster.admin.clone(), GUEST_NAMESPACE);
            let sightings = sightings.clone();
            tokio::spawn(async move {
                let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
                pin_mut!(events);
                while let Some(event) = events.next().await {
                    sightings.take(event);
                }
            });
        }
        sightings
    }

    fn take(&self, event: Result<Event<Pod>, watcher::Error>) {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => self.lock().see(&pod),
            Ok(Event::Delete(pod)) => self.lock().lose(&pod),
            _ => {}
        }
    }

    /// How many guests of the first replica of the job `uid` ever ran, and how many succeeded.
    pub(super) fn count(&self, uid: &str) -> (usize, usize) {
        let replica = (uid.to_owned(), "0".to_owned());
        let seen = self.lock();
        let count = |found: &BTreeMap<Replica, BTreeSet<String>>| {
            found.get(&replica).map_or(0, BTreeSet::len)
        };
        (count(&seen.ran), count(&seen.succeeded))
    }

    /// Whether two guests of one replica of the job `uid` ever ran at once.
    pub(super) fn together(&self, uid: &str) -> bool {
        self.lock().together.iter().any(|(job, _)| job == uid)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn see(&mut self, pod: &Pod) {
        let (replica, uid) = (replica(pod), pod.uid().unwrap_or_default());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Running") {
            self.lose(pod);
        }
        if matches!(phase, Some("Running" | "Succeeded")) {
            self.ran.entry(replica.clone()).or_default().insert(uid.clone());
        }
        match phase {
            Some("Succeeded") => {
                self.succeeded.entry(replica).or_default().insert(uid);
            }
            Some("Running") => {
                let running = self.running.entry(replica.clone()).or_default();
                running.insert(uid);
                if running.len() > 1 {
                    self.together.insert(replica);
                }
            }
            _ => {}
        }
    }

    fn lose(&mut self, pod: &Pod) {
        if let Some(running) = self.running.get_mut(&replica(pod)) {
            running.remove(&pod.uid().unwrap_or_default());
        }
    }
}

fn replica(pod: &Pod) -> Replica {
    let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
    (label(LABEL_JOB_UID), label(LABEL_INDEX))
}
