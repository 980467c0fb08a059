//! An API server in memory, as one would meet it behind a real client: versions, preconditions,
//! finalizers, graceful deletion, schemas, watches, compaction, restores from a backup.
//!
//! Invariant: the same calls at the same times get the same answers. Nothing here reads a clock or
//! is random; whoever owns the server sets [`Store::now`]. Only watches know of time passing, and
//! that is the runtime's clock, which tests pause.
//!
//! What nobody taught it, it refuses with a panic that names the request: a wrong guess would make
//! a simulation prove nothing. Whether it guesses right is compared with a real API server in
//! `e2e/conformance.rs`, which includes these files; so nothing here imports from this crate.

mod call;
mod deleting;
mod evaluation;
mod garbage;
mod http;
mod kinds;
mod metadata;
mod pods;
mod query;
mod reading;
mod refusal;
mod rules;
mod schema;
mod selectors;
mod snapshot;
mod store;
mod subresources;
mod validation;
mod watch;
mod writing;

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use serde_json::Value;

pub(crate) use call::{Call, Part, Verb};
pub(crate) use http::{response, streamed};
pub(crate) use snapshot::Snapshot;
pub(crate) use store::{At, Change, Object, Store};
pub(crate) use watch::Watch;

/// One API server; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<Store>>);

impl Server {
    /// A server without objects but its namespaces; no other of another `number` makes the same
    /// UIDs.
    pub(crate) fn new(number: u32) -> Self {
        Self(Arc::new(Mutex::new(Store::new(number))))
    }

    /// All that it holds.
    ///
    /// # Panics
    /// If it is held already: all that share a server run in one thread, so waiting would never end.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        match self.0.try_lock() {
            Ok(store) => store,
            // A test that panicked meanwhile says why by itself.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("the store is held by whoever asks for it"),
        }
    }

    /// Carries out one request that is not a watch, as `who`; status code and body.
    ///
    /// # Panics
    /// If the request is a watch, or one that is not modelled.
    pub(crate) fn answer(&self, who: &str, call: &Call) -> (u16, Value) {
        self.store().answer(who, call)
    }

    /// Answers a request that only reads, from what the store was at `revision`: a replica that
    /// lags behind.
    ///
    /// # Panics
    /// If the request is no read, or that revision is not in the history.
    pub(crate) fn answer_as_of(&self, revision: u64, call: &Call) -> (u16, Value) {
        let past = self.store().as_of(revision);
        refusal::flat(reading::read(&past, call))
    }

    /// Opens a watch as `who`; `Err` is the answer if the request itself is wrong. Too old a version
    /// is an event of the stream, as it is with a real server.
    pub(crate) fn watch(&self, who: &str, call: &Call) -> Result<Watch, (u16, Value)> {
        Watch::open(self, who, call).map_err(|refusal| refusal.answer())
    }

    /// Ends all watches of `who`.
    pub(crate) fn cut_watches(&self, who: &str) {
        self.store().cut(|watcher| watcher == who);
    }
}
