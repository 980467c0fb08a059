//! Single objects and lists.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::{Value, json};

use super::call::{Call, Verb};
use super::kinds::{Kind, Scope};
use super::refusal::{Answer, Refusal};
use super::selectors::Selector;
use super::snapshot::Snapshot;
use super::store::{At, Object, Store};

/// What is read: the store, or what it once was.
pub(super) trait View {
    fn objects(&self) -> &BTreeMap<At, Object>;
    fn revision(&self) -> u64;
    fn compacted(&self) -> u64;
    /// What it was at an earlier revision.
    fn earlier(&self, revision: u64) -> Option<Snapshot>;
}

impl View for Store {
    fn objects(&self) -> &BTreeMap<At, Object> {
        &self.objects
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn compacted(&self) -> u64 {
        self.compacted
    }

    fn earlier(&self, revision: u64) -> Option<Snapshot> {
        (revision != self.revision).then(|| self.as_of(revision))
    }
}

impl View for Snapshot {
    fn objects(&self) -> &BTreeMap<At, Object> {
        &self.objects
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn compacted(&self) -> u64 {
        self.compacted
    }

    fn earlier(&self, revision: u64) -> Option<Snapshot> {
        assert_eq!(revision, self.revision, "a list from a replica goes on there");
        None
    }
}

/// The answer to a request for an object or a list.
pub(super) fn read(view: &impl View, call: &Call) -> Answer {
    match call.verb {
        Verb::Get => {
            let found = view.objects().get(&At::of(call));
            let object = found.ok_or_else(|| Refusal::not_found(call.kind, &call.name))?;
            Ok((200, Value::clone(object)))
        }
        Verb::List => list(view, call),
        _ => panic!("{call} is no read"),
    }
}

fn list(view: &impl View, call: &Call) -> Answer {
    let query = &call.query;
    let selector = Selector::read(call.kind, &query.labels, &query.fields)?;
    let asked = version(&query.version)?;
    let (after, revision) = match (query.next.as_str(), query.version_match.as_str()) {
        ("", "" | "NotOlderThan") if asked > view.revision() => {
            return Err(Refusal::too_new(asked, view.revision()));
        }
        ("", "" | "NotOlderThan") => {
            let legacy = query.limit > 0 && asked > 0 && query.version_match.is_empty();
            assert!(!legacy, "{call}: a limit with a version and no match is not modelled");
            (None, view.revision())
        }
        ("", "Exact") => (None, asked),
        (next, "") if query.version.is_empty() => {
            let (revision, after) = resume(call, next)?;
            (Some(after), revision)
        }
        _ => panic!("{call}: {query:?} is not modelled"),
    };
    if revision < view.compacted() {
        return Err(Refusal::expired(match after {
            Some(_) => "The provided continue parameter is too old to display a consistent list \
                        result."
                .to_owned(),
            None => format!("The resourceVersion for the provided list is too old: {revision}"),
        }));
    }
    match view.earlier(revision) {
        Some(earlier) => Ok((200, page(&earlier, call, &selector, after))),
        None => Ok((200, page(view, call, &selector, after))),
    }
}

fn page(view: &impl View, call: &Call, selector: &Selector, after: Option<At>) -> Value {
    let start = match after {
        Some(after) => Bound::Excluded(after),
        None => Bound::Included(At::new(&call.kind.plural, &call.namespace, "")),
    };
    let inside = |at: &At| {
        at.plural == call.kind.plural
            && (call.namespace.is_empty() || at.namespace == call.namespace)
    };
    let range = view.objects().range((start, Bound::Unbounded));
    let mut rest =
        range.take_while(|(at, _)| inside(at)).filter(|(_, object)| selector.indexes(object));
    let limit = if call.query.limit == 0 { usize::MAX } else { call.query.limit };
    let (mut items, mut last) = (Vec::new(), None);
    for (at, object) in rest.by_ref().filter(|(_, object)| selector.selects(object)).take(limit) {
        items.push(item(call.kind, object));
        last = Some(at);
    }
    // Whether any of what is left would be chosen, a server does not look.
    let single =
        selector.is_single() && (call.kind.scope == Scope::Cluster || !call.namespace.is_empty());
    let left = if single { 0 } else { rest.count() };
    let mut metadata = list_metadata(call.kind, view.revision());
    if let (Some(last), 1..) = (last, left) {
        let next = format!("{} {} {}", view.revision(), last.namespace, last.name);
        metadata["continue"] = json!(next);
        if selector.is_everything() {
            metadata["remainingItemCount"] = json!(left);
        }
    }
    let kind = format!("{}List", call.kind.named);
    json!({"kind": kind, "apiVersion": call.kind.api_version(), "metadata": metadata,
        "items": items})
}

/// Of custom resources a list says even that it does not go on.
pub(super) fn list_metadata(kind: &Kind, revision: u64) -> Value {
    match kind.is_custom() {
        true => json!({ "continue": "", "resourceVersion": revision.to_string() }),
        false => json!({ "resourceVersion": revision.to_string() }),
    }
}

/// An object as it stands in a list: of Kubernetes' own kinds only the list says which it is.
pub(super) fn item(kind: &Kind, object: &Value) -> Value {
    let mut item = object.clone();
    if !kind.is_custom()
        && let Some(fields) = item.as_object_mut()
    {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

/// The revision in a word; none is zero.
pub(super) fn version(text: &str) -> Result<u64, Refusal> {
    match text {
        "" => Ok(0),
        text => text.parse().map_err(|_| {
            let message = format!("invalid resource version: \"{text}\"");
            Refusal::bad_request(message)
        }),
    }
}

fn resume(call: &Call, next: &str) -> Result<(u64, At), Refusal> {
    let words: Vec<&str> = next.split(' ').collect();
    match words.as_slice() {
        [revision, namespace, name] => {
            Ok((version(revision)?, At::new(&call.kind.plural, namespace, name)))
        }
        _ => Err(Refusal::bad_request("continue key is not valid")),
    }
}
