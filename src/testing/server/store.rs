//! All objects, every change to them, and who waits to hear of changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::call::{Call, Part, Verb};
use super::kinds::Kind;
use super::refusal::{Answer, Refusal, flat};
use super::{deleting, garbage, reading, subresources, writing};

/// Where an object is: plural, namespace (empty for kinds without) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) plural: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl At {
    /// The place of `name` among the `plural` of `namespace`.
    ///
    /// # Panics
    /// If the server knows no such kind.
    pub(crate) fn new(plural: &str, namespace: &str, name: &str) -> Self {
        let plural = &Kind::of(plural).plural;
        Self { plural, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(super) fn of(call: &Call) -> Self {
        let (namespace, name) = (call.namespace.clone(), call.name.clone());
        Self { plural: &call.kind.plural, namespace, name }
    }
}

/// An object, shared between the store, its history and whoever looks on.
pub(crate) type Object = Arc<Value>;

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) at: At,
    pub(crate) old: Option<Object>,
    /// Absent: the object is gone.
    pub(crate) new: Option<Object>,
    pub(crate) who: Arc<str>,
}

/// Somebody who hears of changes.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) who: String,
    pub(super) plural: &'static str,
    pub(super) waker: Option<Waker>,
}

/// What an API server holds.
#[derive(Debug)]
pub(crate) struct Store {
    /// Set by whoever owns the server.
    pub(crate) now: Timestamp,
    pub(crate) objects: BTreeMap<At, Object>,
    /// Every change there ever was, also those that a restore undid.
    pub(crate) log: Vec<Change>,
    pub(super) revision: u64,
    /// Watches and lists cannot go back before this revision.
    pub(super) compacted: u64,
    /// Where in the log the history begins that is still true: a restore begins another one.
    pub(super) born: usize,
    pub(super) listeners: BTreeMap<u64, Listener>,
    /// How many listeners there ever were.
    pub(super) heard: u64,
    number: u32,
    /// How many UIDs were given out. A restore does not give one out twice.
    made: u64,
    tokens: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Store {
    pub(super) fn new(number: u32) -> Self {
        let mut store = Self {
            now: Timestamp::UNIX_EPOCH,
            objects: BTreeMap::new(),
            log: Vec::new(),
            revision: 1,
            compacted: 0,
            born: 0,
            listeners: BTreeMap::new(),
            heard: 0,
            number,
            made: 0,
            tokens: 0,
        };
        store.add_namespace("default");
        store
    }

    /// The revision of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The object at a place.
    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&At::new(plural, namespace, name))
    }

    /// All objects of a kind in one namespace; empty: in all of them.
    pub(crate) fn of_kind(
        &self,
        plural: &str,
        namespace: &str,
    ) -> impl Iterator<Item = (&At, &Object)> {
        let from = At::new(plural, namespace, "");
        let (plural, all) = (from.plural, namespace.is_empty());
        let namespace = from.namespace.clone();
        let range = self.objects.range(from..);
        range.take_while(move |(at, _)| at.plural == plural && (all || at.namespace == namespace))
    }

    /// Makes a namespace, if there is none of that name.
    pub(crate) fn add_namespace(&mut self, name: &str) {
        if self.get("namespaces", "", name).is_none() {
            let body = json!({ "metadata": { "name": name } });
            self.create("set-up", "", "namespaces", body);
        }
    }

    /// Creates an object that a test needs, as a request would.
    ///
    /// # Panics
    /// If it is refused.
    pub(crate) fn create(
        &mut self,
        who: &str,
        namespace: &str,
        plural: &str,
        body: Value,
    ) -> Value {
        let call = Call {
            verb: Verb::Create,
            kind: Kind::of(plural),
            namespace: namespace.to_owned(),
            name: String::new(),
            part: Part::Whole,
            query: super::query::Query::default(),
            body,
            content: String::new(),
        };
        match self.carry_out(who, &call) {
            Ok((_, object)) => object,
            Err(refusal) => panic!("{call}: {}", refusal.message),
        }
    }

    /// See [`super::Server::answer`].
    pub(crate) fn answer(&mut self, who: &str, call: &Call) -> (u16, Value) {
        if !call.query.dry_run {
            return flat(self.carry_out(who, call));
        }
        let before = self.snapshot();
        let written = self.log.len();
        let (code, mut answer) = flat(self.carry_out(who, call));
        self.log.truncate(written);
        (self.objects, self.revision) = (before.objects, before.revision);
        // What was not written has no version.
        if let Some(metadata) = answer["metadata"].as_object_mut().filter(|_| code < 300) {
            match self.objects.get(&At::of(call)) {
                Some(old) => {
                    let version = old["metadata"]["resourceVersion"].clone();
                    metadata.insert("resourceVersion".to_owned(), version);
                }
                None => drop(metadata.remove("resourceVersion")),
            }
        }
        (code, answer)
    }

    fn carry_out(&mut self, who: &str, call: &Call) -> Answer {
        match (call.verb, call.part) {
            (Verb::Get | Verb::List, _) => reading::read(self, call),
            (Verb::Create, Part::Whole) => writing::create(self, who, call),
            (Verb::Create, Part::Binding) => subresources::bind(self, who, call),
            (Verb::Create, Part::Token) => subresources::token(self, call),
            (Verb::Update, Part::Whole | Part::Status) => writing::update(self, who, call),
            (Verb::Patch, Part::Whole | Part::Status) => writing::patch(self, who, call),
            (Verb::Delete, Part::Whole) => deleting::delete(self, who, call),
            (Verb::DeleteCollection, Part::Whole) => deleting::delete_collection(self, who, call),
            _ => panic!("the simulated server does not know {call}"),
        }
    }

    /// The object that a request names.
    pub(super) fn named(&self, call: &Call) -> Result<&Object, Refusal> {
        let found = self.objects.get(&At::of(call));
        found.ok_or_else(|| Refusal::not_found(call.kind, &call.name))
    }

    /// A UID that nobody else has, in this server or another one.
    pub(super) fn uid(&mut self) -> String {
        self.made += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.number, self.made)
    }

    pub(super) fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Writes an object as the next revision, and returns it with that.
    pub(super) fn put(&mut self, who: &str, at: At, mut object: Value) -> Object {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let new = Arc::new(object);
        let old = self.objects.insert(at.clone(), Arc::clone(&new));
        self.note(who, at, old, Some(Arc::clone(&new)));
        new
    }

    /// Takes an object away as the next revision; returns it as it was, with that revision.
    pub(super) fn take(&mut self, who: &str, at: &At) -> Value {
        self.revision += 1;
        let old = self.objects.remove(at).expect("whoever removes an object has seen it");
        let mut gone = Value::clone(&old);
        gone["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.note(who, at.clone(), Some(old), None);
        gone
    }

    fn note(&mut self, who: &str, at: At, old: Option<Object>, new: Option<Object>) {
        let plural = at.plural;
        self.log.push(Change { revision: self.revision, at, old, new, who: Arc::from(who) });
        for listener in self.listeners.values_mut().filter(|one| one.plural == plural) {
            if let Some(waker) = listener.waker.take() {
                waker.wake();
            }
        }
    }

    /// Ends the watches of those whom `whose` names.
    pub(super) fn cut(&mut self, whose: impl Fn(&str) -> bool) {
        let cut = self.listeners.extract_if(.., |_, listener| whose(&listener.who));
        for (_, listener) in cut {
            if let Some(waker) = listener.waker {
                waker.wake();
            }
        }
    }

    /// Deletes what belongs to nobody any more, as the garbage collector and the namespace
    /// controller do; whether there was anything to do.
    pub(crate) fn collect_garbage(&mut self) -> bool {
        garbage::collect(self)
    }
}
