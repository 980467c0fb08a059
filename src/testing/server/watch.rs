//! Watches: what changed after a revision, in order, until the time is over or somebody cuts it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Server;
use super::call::Call;
use super::kinds::Kind;
use super::reading::version;
use super::refusal::Refusal;
use super::selectors::Selector;
use super::store::{At, Change, Listener, Object, Store};

/// A watch that does not say how long it wants to live; a real server adds a random time.
const USUAL: Duration = Duration::from_mins(30);
/// Time between bookmarks.
const BOOKMARK: Duration = Duration::from_mins(1);
/// A last bookmark comes so long before the end.
const LAST: Duration = Duration::from_secs(2);

/// A stream of events, each a line of JSON.
pub(crate) struct Watch {
    server: Server,
    id: u64,
    scope: Scope,
    /// The next entry of the log to look at.
    cursor: usize,
    /// Only what is newer is told.
    after: u64,
    pending: VecDeque<String>,
    /// It ends when all that is pending was told.
    over: bool,
    marks: bool,
    mark: Pin<Box<Sleep>>,
    end: Instant,
    ends: Pin<Box<Sleep>>,
}

/// What a watch is about.
struct Scope {
    kind: &'static Kind,
    namespace: String,
    name: String,
    selector: Selector,
}

impl Watch {
    /// See [`Server::watch`].
    pub(super) fn open(server: &Server, who: &str, call: &Call) -> Result<Self, Refusal> {
        let query = &call.query;
        let scope = Scope {
            kind: call.kind,
            namespace: call.namespace.clone(),
            name: call.name.clone(),
            selector: Selector::read(call.kind, &query.labels, &query.fields)?,
        };
        let after = version(&query.version)?;
        let mut store = server.store();
        store.heard += 1;
        let (id, plural) = (store.heard, call.plural());
        store.listeners.insert(id, Listener { who: who.to_owned(), plural, waker: None });
        let end = Instant::now() + query.timeout_seconds.map_or(USUAL, Duration::from_secs);
        let mut watch = Self {
            server: server.clone(),
            id,
            scope,
            cursor: store.log.len(),
            after,
            pending: VecDeque::new(),
            over: false,
            marks: query.bookmarks,
            mark: Box::pin(sleep_until(end.min(Instant::now() + BOOKMARK))),
            end,
            ends: Box::pin(sleep_until(end)),
        };
        watch.begin(&store, query.initial_events);
        drop(store);
        Ok(watch)
    }

    fn begin(&mut self, store: &Store, initial: Option<bool>) {
        if initial.unwrap_or(self.after == 0) {
            let all = store.of_kind(&self.scope.kind.plural, &self.scope.namespace);
            let chosen = all.filter(|(at, object)| self.scope.covers(at, object));
            self.pending = chosen.map(|(_, object)| event("ADDED", object)).collect();
            self.after = store.revision();
            if initial == Some(true) {
                let ended = json!({"k8s.io/initial-events-end": "true"});
                self.pending.push_back(bookmark(self.scope.kind, self.after, Some(ended)));
            }
        } else if self.after == 0 {
            self.after = store.revision();
        } else if self.after < store.compacted {
            let refusal = Refusal::too_old(self.after, store.compacted);
            self.pending.push_back(event("ERROR", &refusal.status()));
            self.over = true;
        } else {
            let history = &store.log[store.born..];
            let seen = history.partition_point(|change| change.revision <= self.after);
            self.cursor = store.born + seen;
        }
    }

    /// Takes in what changed; false: it was cut.
    fn catch_up(&mut self, cx: &mut Context<'_>) -> bool {
        let server = self.server.clone();
        let mut store = server.store();
        let Some(listener) = store.listeners.get_mut(&self.id) else { return false };
        listener.waker = Some(cx.waker().clone());
        let news = store.log.get(self.cursor..).unwrap_or_default();
        let news = news.iter().filter(|change| change.revision > self.after);
        self.pending.extend(news.filter_map(|change| self.scope.tell(change)));
        self.cursor = store.log.len();
        true
    }

    /// A bookmark, if it is time for one and there is something to say.
    fn marked(&mut self, cx: &mut Context<'_>) -> Option<String> {
        while self.marks && self.mark.as_mut().poll(cx).is_ready() {
            let (now, last) = (Instant::now(), self.end - LAST);
            let next = if now < last { last.min(now + BOOKMARK) } else { self.end + BOOKMARK };
            self.mark.as_mut().reset(next);
            let revision = self.server.store().revision();
            if revision > self.after {
                return Some(bookmark(self.scope.kind, revision, None));
            }
        }
        None
    }
}

impl Stream for Watch {
    type Item = String;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<String>> {
        let watch = &mut *self;
        if watch.pending.is_empty() && !watch.over && !watch.catch_up(cx) {
            watch.over = true;
        }
        if let Some(line) = watch.pending.pop_front() {
            return Poll::Ready(Some(line));
        }
        if watch.over || watch.ends.as_mut().poll(cx).is_ready() {
            watch.over = true;
            return Poll::Ready(None);
        }
        match watch.marked(cx) {
            Some(line) => Poll::Ready(Some(line)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.server.store().listeners.remove(&self.id);
    }
}

impl Scope {
    fn covers(&self, at: &At, object: &Object) -> bool {
        at.plural == self.kind.plural
            && (self.namespace.is_empty() || at.namespace == self.namespace)
            && (self.name.is_empty() || at.name == self.name)
            && self.selector.selects(object)
    }

    /// What a change looks like from here: who no longer matches is gone for us.
    fn tell(&self, change: &Change) -> Option<String> {
        let chosen = |object: &&Object| self.covers(&change.at, object);
        let new = change.new.as_ref().filter(chosen);
        let old = change.old.as_ref().filter(chosen);
        match (old, new) {
            (None, None) => None,
            (None, Some(new)) => Some(event("ADDED", new)),
            (Some(_), Some(new)) => Some(event("MODIFIED", new)),
            (Some(old), None) => {
                let mut last = Value::clone(old);
                last["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                Some(event("DELETED", &last))
            }
        }
    }
}

fn event(kind: &str, object: &Value) -> String {
    let object = serde_json::to_string(object).expect("JSON is text");
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn bookmark(kind: &Kind, revision: u64, annotations: Option<Value>) -> String {
    let mut object = json!({"kind": kind.named, "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null}});
    if let Some(annotations) = annotations {
        object["metadata"]["annotations"] = annotations;
    }
    event("BOOKMARK", &object)
}
