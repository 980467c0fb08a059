//! One hub process: its watches, its loop, and the answers to its writes.

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use super::server::{News, Server, Store};
use crate::cluster::{Clock, Seen};
use crate::hub::facts::Event;
use crate::hub::identity::Identity;
use crate::hub::observe::Figures;
use crate::hub::rounds::Now;
use crate::hub::work::Hand;
use crate::hub::{Loop, WRITES};

/// Everything that a hub watches, listed in the order that tells it least.
const WATCHED: [&str; 9] = [
    "leases",
    "gpuleases",
    "gpujobs",
    "gpupools",
    "memberclusters",
    "gpuqueues",
    "namespaces",
    "priorityclasses",
    "joinrequests",
];

fn typed<K: DeserializeOwned>(seen: Seen<Value>) -> Seen<K> {
    let read = |value| serde_json::from_value(value).unwrap();
    match seen {
        Seen::Listing => Seen::Listing,
        Seen::Object(value) => Seen::Object(read(value)),
        Seen::Gone(value) => Seen::Gone(read(value)),
        Seen::Listed => Seen::Listed,
        Seen::Broken => Seen::Broken,
    }
}

fn event(plural: &str, seen: Seen<Value>) -> Option<Event> {
    Some(match plural {
        "gpujobs" => Event::Job(typed(seen)),
        "gpuleases" => Event::Lease(typed(seen)),
        "gpupools" => Event::Pool(typed(seen)),
        "memberclusters" => Event::Member(typed(seen)),
        "leases" => Event::Heartbeat(typed(seen)),
        "gpuqueues" => Event::Queue(typed(seen)),
        "namespaces" => Event::Namespace(typed(seen)),
        "priorityclasses" => Event::Priority(typed(seen)),
        "joinrequests" => Event::Join(typed(seen)),
        _ => return None,
    })
}

/// Tells everything that is stored, as the lists of watches do.
pub(super) fn list(server: &Server, mut take: impl FnMut(Event)) {
    for plural in WATCHED {
        let objects = server.store().all(plural).into_iter().map(Seen::Object);
        let list = std::iter::once(Seen::Listing).chain(objects).chain([Seen::Listed]);
        for seen in list {
            take(event(plural, seen).unwrap());
        }
    }
}

/// The hub's incarnation, as it is stored.
pub(super) fn incarnation(server: &Server) -> u32 {
    let map = server.store().objects[&super::objects::identity_at()].clone();
    map["data"]["incarnation"].as_str().unwrap().parse().unwrap()
}

/// One hub process.
pub(super) struct Hub {
    /// Its number, as a client and as a watcher.
    pub(super) number: usize,
    pub(super) inner: Loop,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) registry: prometheus::Registry,
}

impl Hub {
    /// Starts a hub: it lists everything, and works.
    pub(super) fn start(server: &Server, now: Now) -> Self {
        Self::begin(server, now, |_| ())
    }

    /// Starts a hub that was told that its store was restored.
    pub(super) fn start_restored(server: &Server, now: Now) -> Self {
        let incarnation = incarnation(server) + 1;
        let mut store = server.store();
        let place = super::objects::identity_at();
        store.put(place, super::objects::identity(incarnation));
        drop(store);
        Self::begin(server, now, |hub| hub.restored = true)
    }

    fn begin(server: &Server, now: Now, prepare: impl FnOnce(&mut Loop)) -> Self {
        let number = server.store().news.len();
        server.store().news.push(Vec::new());
        let (answers, events) = mpsc::channel(4096);
        let client = server.client(number);
        let hand = Hand { client, home: "idlewild-system".into(), answers };
        let incarnation = incarnation(server);
        let identity = Identity { id: "hub".into(), incarnation, lease_seconds: 900 };
        let process = crate::metrics::Process::new("hub");
        let metrics = crate::metrics::Hub::new(&process.registry);
        let registry = process.registry;
        let figures = Figures::new(metrics, process.common);
        let mut inner =
            Loop::new(identity, hand, std::sync::Arc::default(), (figures, Clock::default()));
        list(server, |event| inner.state.take(event, now.instant));
        assert_eq!(inner.state.closed_gates(), Vec::<&str>::new());
        prepare(&mut inner);
        inner.begin(now.instant);
        Self { number, inner, events, registry }
    }

    /// Takes in one thing that its watches bring: of several of a kind the oldest.
    pub(super) fn hear(&mut self, store: &mut Store, any: usize, now: Now) -> bool {
        let news = &mut store.news[self.number];
        if news.is_empty() {
            return false;
        }
        let plural = news[any % news.len()].plural.clone();
        let first = news.iter().position(|one| one.plural == plural).unwrap();
        let News { plural, gone, object } = news.remove(first);
        let seen = if gone { Seen::Gone(object) } else { Seen::Object(object) };
        if let Some(event) = event(&plural, seen) {
            self.inner.state.take(event, now.instant);
        }
        true
    }

    /// Takes in one answer to a write.
    pub(super) fn learn(&mut self, now: Now) -> bool {
        let Ok(event) = self.events.try_recv() else { return false };
        self.inner.state.take(event, now.instant);
        true
    }

    pub(super) fn is_busy(&self) -> bool {
        self.inner.writes.available_permits() < WRITES
    }

    /// Everything is to be looked at again.
    pub(super) fn doubt(&mut self) {
        let state = &mut self.inner.state;
        let orphaned: Vec<_> = state.leases_of.keys().cloned().collect();
        state.dirty.extend(orphaned);
        let members: Vec<_> = state.members.iter().map(|(_, member)| member.name_any()).collect();
        state.dirty_members.extend(members);
        state.everything_if(true);
    }
}
