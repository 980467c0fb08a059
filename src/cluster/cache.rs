//! What a watch has shown, by name; older versions never replace newer ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::watch::{Seen, slim};

/// Namespace and name; cluster-scoped objects have an empty namespace.
pub type Key = (String, String);

/// The key of `object`.
#[must_use]
pub fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// The objects that a watch has shown.
#[derive(Clone, Debug)]
pub struct Cache<K> {
    /// Shared, so that whoever decides on an object does not copy it.
    items: BTreeMap<Key, Arc<K>>,
    listing: Option<BTreeSet<Key>>,
    complete: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), listing: None, complete: false }
    }
}

/// What an event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<K> {
    /// The object is new or changed.
    Set(Key),
    /// The object is gone; this was its last version.
    Removed(K),
}

impl<K: Resource + Clone> Cache<K> {
    /// Whether a list was complete once: absence is a fact.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The object of `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&K> {
        self.items.get(key).map(Arc::as_ref)
    }

    /// The object of `key`, to keep.
    #[must_use]
    pub fn shared(&self, key: &Key) -> Option<Arc<K>> {
        self.items.get(key).cloned()
    }

    /// All objects, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &K)> {
        self.items.iter().map(|(key, object)| (key, object.as_ref()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes in what a watch saw.
    pub fn apply(&mut self, seen: Seen<K>) -> Vec<Change<K>> {
        match seen {
            Seen::Listing => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Seen::Object(object) => {
                // Another object of the same name: the one before it is gone.
                let held = self.items.get(&key(&object));
                let before = held.filter(|held| held.uid() != object.uid()).cloned();
                let gone = before.and_then(|before| self.remove(&*before)).map(Change::Removed);
                gone.into_iter().chain(self.insert(object).map(Change::Set)).collect()
            }
            Seen::Gone(object) => self.remove(&object).map(Change::Removed).into_iter().collect(),
            Seen::Listed => self.finish_list(),
            Seen::Broken => Vec::new(),
        }
    }

    /// Takes in `object` unless a newer version is here.
    pub fn insert(&mut self, object: K) -> Option<Key> {
        if let Some(listing) = &mut self.listing {
            listing.insert(key(&object));
        }
        self.replace(object)
    }

    fn replace(&mut self, mut object: K) -> Option<Key> {
        slim(&mut object);
        let key = key(&object);
        if let Some(held) = self.items.get(&key)
            && held.uid() == object.uid()
            && version(held.as_ref()) >= version(&object)
        {
            return None;
        }
        self.items.insert(key.clone(), Arc::new(object));
        Some(key)
    }

    /// Takes in the answer to a write of ours; one that is gone meanwhile stays gone. It is no part of
    /// a list that is being read: an answer may be late, and the object gone before the list began.
    pub fn refresh(&mut self, object: K) -> Option<Key> {
        let held = self.items.get(&key(&object)).and_then(|held| held.uid());
        (held.is_some() && held == object.uid()).then(|| self.replace(object)).flatten()
    }

    /// Removes `object`, unless another one of its name is here.
    pub fn remove(&mut self, object: &K) -> Option<K> {
        let key = key(object);
        let same = self.items.get(&key).is_some_and(|held| held.uid() == object.uid());
        same.then(|| self.items.remove(&key)).flatten().map(Arc::unwrap_or_clone)
    }

    fn finish_list(&mut self) -> Vec<Change<K>> {
        self.complete = true;
        let Some(listed) = self.listing.take() else { return Vec::new() };
        let missing: Vec<Key> =
            self.items.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        let removed = missing.iter().filter_map(|key| self.items.remove(key));
        removed.map(Arc::unwrap_or_clone).map(Change::Removed).collect()
    }
}

/// Resource versions of one kind are ordered numbers (Kubernetes 1.35 and later say so; etcd's
/// revisions always were).
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
    use serde_json::json;

    use super::*;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let metadata = json!({"name": name, "namespace": "n", "uid": uid,
            "resourceVersion": version.to_string()});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn versions(cache: &Cache<ConfigMap>) -> Vec<(String, u64)> {
        cache.iter().map(|(key, object)| (key.1.clone(), version(object))).collect()
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let mut cache = Cache::default();
        cache.apply(Seen::Object(object("a", "1", 5)));
        assert!(cache.apply(Seen::Object(object("a", "1", 4))).is_empty());
        assert!(cache.apply(Seen::Object(object("a", "1", 5))).is_empty());
        assert_eq!(versions(&cache), [("a".into(), 5)]);
        let changes = cache.apply(Seen::Object(object("a", "2", 3)));
        let set = Change::Set(("n".into(), "a".into()));
        assert_eq!(changes, [Change::Removed(object("a", "1", 5)), set], "another object");
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let mut cache = Cache::default();
        let mut full = object("a", "1", 5);
        full.managed_fields_mut().push(ManagedFieldsEntry::default());
        let applied = ("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
        full.annotations_mut().extend([applied, ("note".into(), "kept".into())]);
        cache.apply(Seen::Object(full.clone()));
        full.metadata.resource_version = Some("6".into());
        cache.refresh(full);
        let held = cache.get(&("n".into(), "a".into())).unwrap();
        assert_eq!((version(held), &held.metadata.managed_fields), (6, &None));
        assert_eq!(held.annotations().keys().collect::<Vec<_>>(), ["note"]);
    }

    #[test]
    fn a_complete_list_removes_what_it_lacks() {
        let mut cache = Cache::default();
        cache.apply(Seen::Object(object("a", "1", 1)));
        cache.apply(Seen::Listing);
        cache.apply(Seen::Object(object("b", "2", 2)));
        assert!(!cache.is_complete());
        assert_eq!(cache.apply(Seen::Listed), [Change::Removed(object("a", "1", 1))]);
        assert!(cache.is_complete());
        assert_eq!(versions(&cache), [("b".into(), 2)]);
    }

    #[test]
    fn the_answer_to_a_write_does_not_bring_back_what_is_gone() {
        let mut cache = Cache::default();
        cache.apply(Seen::Object(object("a", "1", 1)));
        cache.apply(Seen::Gone(object("a", "1", 2)));
        assert_eq!(cache.refresh(object("a", "1", 3)), None);
        assert!(cache.is_empty());
    }

    #[test]
    fn a_late_answer_is_no_part_of_the_list_that_is_being_read() {
        let mut cache = Cache::default();
        cache.apply(Seen::Object(object("a", "1", 1)));
        cache.apply(Seen::Object(object("b", "2", 2)));
        cache.apply(Seen::Listing);
        cache.refresh(object("a", "1", 3));
        cache.refresh(object("b", "2", 4));
        cache.apply(Seen::Object(object("b", "2", 2)));
        assert_eq!(cache.apply(Seen::Listed), [Change::Removed(object("a", "1", 3))]);
        assert_eq!(versions(&cache), [("b".into(), 4)]);
    }
}
