//! Watches that feed one channel, so that one loop owns all that is known.

use std::fmt::Debug;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tracing::debug;

use super::error::chain;

/// A watch is renewed after this time, so that a dead connection is noticed.
const RENEWED_AFTER_SECONDS: u32 = 120;

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
pub async fn feed<K, T>(
    api: Api<K>,
    labels: Option<&str>,
    sender: Sender<T>,
    keep: impl Fn(Seen<K>) -> T,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = watcher::Config::default().timeout(RENEWED_AFTER_SECONDS);
    if let Some(labels) = labels {
        config = config.labels(labels);
    }
    let mut events = Box::pin(watcher::watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(Event::Init) => Seen::Listing,
            Ok(Event::InitApply(object) | Event::Apply(object)) => Seen::Object(slim(object)),
            Ok(Event::Delete(object)) => Seen::Gone(slim(object)),
            Ok(Event::InitDone) => Seen::Listed,
            Err(error) => {
                debug!(error = chain(&error), "watch failed");
                Seen::Broken
            }
        };
        if sender.send(keep(seen)).await.is_err() {
            return;
        }
    }
}

/// `object` without what nobody reads.
fn slim<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object
}
