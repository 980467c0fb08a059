//! What nobody owns any more, and namespaces that end.

use std::collections::BTreeSet;

use serde_json::Value;

use super::deleting::{Deleted, Options, remove};
use super::kinds::{Kind, Scope};
use super::store::{At, Store};

const COLLECTOR: &str = "garbage-collector";

/// Deletes dependents whose owners are all gone and what is in namespaces that end; whether there
/// was anything to delete.
pub(super) fn collect(store: &mut Store) -> bool {
    let before = store.revision();
    let uids: BTreeSet<&str> =
        store.objects.values().filter_map(|object| object["metadata"]["uid"].as_str()).collect();
    let ending: BTreeSet<&str> = store
        .of_kind("namespaces", "")
        .filter(|(_, object)| is_leaving(object))
        .map(|(at, _)| at.name.as_str())
        .collect();
    let chosen = store.objects.iter().filter(|(at, object)| {
        let inside = Kind::of(at.plural).scope == Scope::Namespaced
            && ending.contains(at.namespace.as_str());
        !is_leaving(object) && (inside || is_orphan(object, &uids))
    });
    let chosen: Vec<At> = chosen.map(|(at, _)| at.clone()).collect();
    let empty: Vec<At> = ending
        .iter()
        .filter(|name| !store.objects.keys().any(|at| at.namespace == **name))
        .map(|name| At::new("namespaces", "", name))
        .collect();
    for at in &chosen {
        let removed = remove(store, COLLECTOR, at, &Options::default());
        assert!(removed.is_ok(), "a deletion without preconditions is not refused");
    }
    for at in &empty {
        store.take(COLLECTOR, at);
    }
    store.revision() != before
}

fn is_leaving(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

fn is_orphan(object: &Value, uids: &BTreeSet<&str>) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let there = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| uids.contains(uid));
    owners.is_some_and(|owners| !owners.is_empty() && !owners.iter().any(there))
}

impl Store {
    /// Removes an object as its kubelet or controller does that is done with it.
    pub(crate) fn remove(&mut self, who: &str, at: &At) {
        let options = Options { grace: Some(0), ..Options::default() };
        match remove(self, who, at, &options) {
            Ok(Deleted::Gone(_) | Deleted::Pending(_)) => {}
            Err(refusal) => panic!("{at:?}: {}", refusal.message),
        }
    }
}
