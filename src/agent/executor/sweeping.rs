//! Pods of leases that are over, removed many at once: one request instead of one for each.
//!
//! Invariant: only leases whose every result is on record are named here, and the server is told to
//! spare what has not ended. A lease's name holds hub, job and epoch and is never reused, so its label
//! says as much as a UID would.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::core::Request;
use kube::{Client, Resource};
use tokio::sync::{Notify, oneshot};

use crate::api::LABEL_GUEST_LEASE;
use crate::cluster::{Error, within};

/// Removals gather for this long, or until there are [`AT_ONCE`]: ended pods hold nothing.
const GATHERED: Duration = Duration::from_secs(2);
/// Most leases whose pods one request removes: their names must fit into its address.
const AT_ONCE: usize = 50;
/// What has ended; its end was read and recorded.
const ENDED: &str = "status.phase!=Pending,status.phase!=Running,status.phase!=Unknown";
/// The server would otherwise answer with every pod that it removed, in full.
const NAMES_ONLY: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Leases that gather, and who waits for the removal of their pods.
#[derive(Debug)]
pub(super) struct Sweep {
    patience: Duration,
    gathered: Mutex<Gathered>,
    full: Notify,
}

#[derive(Debug, Default)]
struct Gathered {
    leases: BTreeSet<String>,
    told: Vec<oneshot::Sender<bool>>,
}

impl Sweep {
    pub(super) fn new() -> Self {
        Self { patience: GATHERED, gathered: Mutex::default(), full: Notify::new() }
    }

    /// Whether the ended pods of `lease` were removed, with those of other leases by one call of
    /// `remove`, which the first one to come carries out for all.
    pub(super) async fn of<F>(&self, lease: &str, remove: impl Fn(Vec<String>) -> F) -> bool
    where
        F: Future<Output = bool>,
    {
        let (tell, told) = oneshot::channel();
        let first = {
            let mut gathered = self.gathered();
            gathered.leases.insert(lease.to_owned());
            gathered.told.push(tell);
            if gathered.leases.len() >= AT_ONCE {
                self.full.notify_one();
            }
            gathered.told.len() == 1
        };
        if first {
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.patience) => {}
                () = self.full.notified() => {}
            }
            let Gathered { leases, told } = std::mem::take(&mut *self.gathered());
            let leases: Vec<String> = leases.into_iter().collect();
            let mut removed = true;
            for leases in leases.chunks(AT_ONCE) {
                removed &= remove(leases.to_vec()).await;
            }
            for tell in told {
                // Whoever no longer listens needs no answer.
                tell.send(removed).ok();
            }
        }
        told.await.unwrap_or(false)
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the ended pods of `leases` in `namespace`.
pub(super) async fn remove(
    client: &Client,
    namespace: &str,
    leases: &[String],
) -> Result<(), Error> {
    const WHAT: &str = "delete ended guests";
    let labels = format!("{LABEL_GUEST_LEASE} in ({})", leases.join(","));
    let which = ListParams::default().labels(&labels).fields(ENDED);
    let request = Request::new(Pod::url_path(&(), Some(namespace)))
        .delete_collection(&DeleteParams::default(), &which);
    let mut request =
        request.map_err(|error| Error::call(WHAT, kube::Error::BuildRequest(error)))?;
    request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(NAMES_ONLY));
    within(WHAT, client.request_text(request)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_ends_at_about_the_same_time_is_removed_by_one_call() {
        let sweep = Sweep { patience: Duration::from_millis(50), ..Sweep::new() };
        let calls = Mutex::new(Vec::new());
        let remove = |leases: Vec<String>| {
            calls.lock().unwrap().push(leases);
            std::future::ready(true)
        };
        let told =
            futures::join!(sweep.of("b", remove), sweep.of("a", remove), sweep.of("a", remove));
        assert_eq!(told, (true, true, true));
        assert_eq!(*calls.lock().unwrap(), [["a", "b"]]);
        assert!(sweep.of("c", remove).await);
        assert_eq!(calls.lock().unwrap()[1], ["c"], "the next ones gather anew");
    }

    #[tokio::test]
    async fn many_do_not_wait_and_a_failure_is_told_to_all() {
        let sweep = Sweep { patience: Duration::from_mins(10), ..Sweep::new() };
        let calls = AtomicUsize::new(0);
        let remove = |leases: Vec<String>| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::future::ready(leases.len() < AT_ONCE)
        };
        let names: Vec<String> = (0..AT_ONCE).map(|index| format!("l-{index}")).collect();
        let told = futures::future::join_all(names.iter().map(|name| sweep.of(name, remove))).await;
        assert_eq!(told, [false; AT_ONCE]);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
