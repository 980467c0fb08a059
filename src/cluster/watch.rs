//! Watches that feed one channel, so that one loop owns all that is known.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tracing::warn;

use super::error::chain;

/// A watch is renewed after this time, so that a dead connection is noticed.
const RENEWED_AFTER_SECONDS: u32 = 120;

/// Objects that all watches of this process have left out.
static UNREADABLE: AtomicU64 = AtomicU64::new(0);

/// How many objects were left out since the process began.
#[must_use]
pub fn unreadable() -> u64 {
    UNREADABLE.load(Ordering::Relaxed)
}

/// What a watch saw.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    /// A list begins: what is not seen before [`Seen::Listed`] is gone.
    Listing,
    /// An object, new or changed.
    Object(T),
    /// The object is gone.
    Gone(T),
    /// The list is complete.
    Listed,
    /// The watch failed and will be tried again.
    Broken,
}

/// Watches `api` until the channel closes; `keep` turns each object into the event to send, and so
/// drops what nobody needs. Failures are retried with a growing delay, at most 30 s.
///
/// An object that cannot be read is left out with a warning: whoever may write one must not be
/// able to hide all others from us.
pub async fn feed<K, T>(
    api: Api<K>,
    labels: Option<&str>,
    sender: Sender<T>,
    keep: impl Fn(Seen<K>) -> T,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = watcher::Config::default().timeout(RENEWED_AFTER_SECONDS);
    if let Some(labels) = labels {
        config = config.labels(labels);
    }
    let mut events = Box::pin(
        watcher::watcher(untyped(api), config)
            .backoff(ResetTimerBackoff::new(Patience(FIRST_WAIT), FORGIVEN_AFTER)),
    );
    let mut broken = false;
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(Event::Init) => Seen::Listing,
            Ok(Event::InitApply(object) | Event::Apply(object)) => match read(object) {
                Some(object) => Seen::Object(object),
                None => continue,
            },
            Ok(Event::Delete(object)) => match read(object) {
                Some(object) => Seen::Gone(object),
                None => continue,
            },
            Ok(Event::InitDone) => Seen::Listed,
            Err(error) => {
                if !broken {
                    warn!(kind = %K::kind(&()), error = chain(&error), "a watch failed");
                }
                Seen::Broken
            }
        };
        broken = matches!(seen, Seen::Broken);
        if sender.send(keep(seen)).await.is_err() {
            return;
        }
    }
}

/// Waits between failures, each twice as long. They are the library's own without its random part, so
/// that what happens can be made to happen again; those who watch one server are few.
#[derive(Debug)]
struct Patience(Duration);

/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(800);
/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Failures so far apart are not in a row.
const FORGIVEN_AFTER: Duration = Duration::from_mins(2);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST_WAIT);
        Some(wait)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = FIRST_WAIT;
    }
}

/// The same objects, whatever they hold.
fn untyped<K: Resource<DynamicType = ()>>(api: Api<K>) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    let namespace = api.namespace().map(str::to_owned);
    let client = api.into_client();
    match namespace {
        Some(namespace) => Api::namespaced_with(client, &namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

/// Annotation in which `kubectl apply` keeps the whole manifest once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Drops what we never read of an object, and what is larger than all the rest of it. Answers to
/// writes hold it as well as what watches see.
pub fn slim<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// The object without what nobody reads; `None` if it is not what its kind should be.
fn read<K: Resource<DynamicType = ()> + DeserializeOwned>(mut object: DynamicObject) -> Option<K> {
    slim(&mut object);
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    match object.try_parse() {
        Ok(object) => Some(object),
        Err(error) => {
            UNREADABLE.fetch_add(1, Ordering::Relaxed);
            warn!(kind = %K::kind(&()), namespace, name, %error, "an object cannot be read");
            None
        }
    }
}
