//! What nobody owns any more, and namespaces that end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::deleting::{Deleted, Options, remove};
use super::store::{At, Store};

const COLLECTOR: &str = "garbage-collector";

/// Deletes dependents whose owners are all gone and what is in namespaces that end; whether there
/// was anything to do.
pub(super) fn collect(store: &mut Store) -> bool {
    let before = store.revision();
    let owners = Owners::of(store);
    let ending: BTreeSet<&str> = store
        .of_kind("namespaces", "")
        .filter(|(_, object)| is_leaving(object))
        .map(|(at, _)| at.name.as_str())
        .collect();
    let (mut gone, mut loosened) = (Vec::new(), Vec::new());
    for (at, object) in store.objects.iter().filter(|(_, object)| !is_leaving(object)) {
        if ending.contains(at.namespace.as_str()) {
            gone.push(at.clone());
            continue;
        }
        match owners.left(at, object) {
            Some(left) if left.is_empty() => gone.push(at.clone()),
            Some(left) => loosened.push((at.clone(), left)),
            None => {}
        }
    }
    let empty: Vec<At> = ending
        .iter()
        .filter(|name| !store.objects.keys().any(|at| at.namespace == **name))
        .map(|name| At::new("namespaces", "", name))
        .collect();
    for at in &gone {
        let removed = remove(store, COLLECTOR, at, &Options::default());
        assert!(removed.is_ok(), "a deletion without preconditions is not refused");
    }
    for (at, left) in loosened {
        let mut object = Value::clone(&store.objects[&at]);
        object["metadata"]["ownerReferences"] = Value::Array(left);
        store.put(COLLECTOR, at, object);
    }
    for at in &empty {
        store.take(COLLECTOR, at);
    }
    store.revision() != before
}

fn is_leaving(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

/// Who may own something: UIDs with their namespaces.
struct Owners(BTreeMap<String, String>);

impl Owners {
    fn of(store: &Store) -> Self {
        let all = store.objects.iter().filter_map(|(at, object)| {
            let uid = object["metadata"]["uid"].as_str()?;
            Some((uid.to_owned(), at.namespace.clone()))
        });
        Self(all.collect())
    }

    /// The owners that an object still has, if it lost any.
    fn left(&self, at: &At, object: &Value) -> Option<Vec<Value>> {
        let all = object["metadata"]["ownerReferences"].as_array()?;
        let there = |owner: &&Value| {
            let namespace = owner["uid"].as_str().and_then(|uid| self.0.get(uid));
            namespace.is_some_and(|one| one.is_empty() || *one == at.namespace)
        };
        let left: Vec<Value> = all.iter().filter(there).cloned().collect();
        (left.len() < all.len()).then_some(left)
    }
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
