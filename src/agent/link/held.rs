//! What a watch and our own writes have shown of one kind, each object at its newest.
//!
//! A list is believed as it is, older versions included: a server restored from a backup counts
//! from a lower version, and what it forgot must not outlive it here.

use std::collections::{BTreeMap, BTreeSet};

use kube::{Resource, ResourceExt};

use crate::cluster::Seen;
use crate::cluster::watch::slim;
use crate::planted::{Defect, planted};

/// Objects by key. Invariant: outside of a list no object gives way to an older version.
pub(super) struct Held<K> {
    objects: BTreeMap<String, K>,
    key: fn(&K) -> Option<String>,
    /// Keys seen since the list began; `None` while no list is being read.
    listing: Option<BTreeSet<String>>,
    complete: bool,
}

impl<K: Resource> Held<K> {
    /// Nothing yet. Objects without a `key` are nobody's and are not held.
    pub(super) fn new(key: fn(&K) -> Option<String>) -> Self {
        Self { objects: BTreeMap::new(), key, listing: None, complete: false }
    }

    /// Whether a complete list was seen, so that absence is more than unseen.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether a list is being read, so that more is to come.
    pub(super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    pub(super) fn get(&self, key: &str) -> Option<&K> {
        self.objects.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &K)> {
        self.objects.iter()
    }

    /// Takes in what a watch saw; returns the keys that may have changed.
    pub(super) fn see(&mut self, seen: Seen<K>) -> Vec<String> {
        match seen {
            Seen::Listing => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Seen::Object(object) => self.put(object).into_iter().collect(),
            Seen::Gone(object) => self.drop(&object).into_iter().collect(),
            Seen::Listed => {
                self.complete = true;
                let listed = self.listing.take().unwrap_or_default();
                let gone = self.objects.keys().filter(|key| !listed.contains(*key)).cloned();
                let gone: Vec<String> = gone.collect();
                self.objects.retain(|key, _| listed.contains(key));
                gone
            }
            Seen::Broken if planted(Defect::BrokenIsGone) => {
                std::mem::take(&mut self.objects).into_keys().collect()
            }
            Seen::Broken => Vec::new(),
        }
    }

    /// Holds what a watch showed unless a newer version is held; returns its key if anything changed.
    fn put(&mut self, mut object: K) -> Option<String> {
        let key = (self.key)(&object)?;
        let Some(listing) = &mut self.listing else { return self.answered(object) };
        listing.insert(key.clone());
        slim(&mut object);
        self.objects.insert(key.clone(), object);
        Some(key)
    }

    /// Holds what a request of ours was answered with, unless a newer version is held; returns its key
    /// if anything changed. It is no part of a list that is being read: an answer may be late, older
    /// than what that list has shown, and its object gone before the list began.
    pub(super) fn answered(&mut self, mut object: K) -> Option<String> {
        slim(&mut object);
        let key = (self.key)(&object)?;
        if self.objects.get(&key).is_some_and(|held| version(&object) <= version(held)) {
            return None;
        }
        self.objects.insert(key.clone(), object);
        Some(key)
    }

    /// Forgets what has `key`, because a read of it found nothing.
    pub(super) fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }

    /// Forgets `object`, unless another of its name has taken its place.
    pub(super) fn drop(&mut self, object: &K) -> Option<String> {
        let key = (self.key)(object)?;
        if self.objects.get(&key)?.uid() != object.uid() {
            return None;
        }
        self.objects.remove(&key);
        Some(key)
    }
}

/// The resourceVersion as a number: API servers of Kubernetes count, and 1.35 promises it.
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, version: u32) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            uid: Some(name.into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn an_older_version_changes_nothing_and_a_list_forgets_what_it_does_not_hold() {
        let mut held = Held::new(|map: &ConfigMap| map.metadata.name.clone());
        assert_eq!(held.answered(object("a", 10)), Some("a".into()));
        assert_eq!(held.answered(object("a", 9)), None);
        assert!(held.see(Seen::Object(object("a", 10))).is_empty());
        assert!(!held.is_complete());

        held.see(Seen::Listing);
        assert_eq!(held.see(Seen::Object(object("b", 11))), vec!["b"]);
        assert_eq!(held.see(Seen::Listed), vec!["a"]);
        assert!(held.is_complete() && held.get("a").is_none());

        let stranger = ConfigMap {
            metadata: ObjectMeta { uid: Some("other".into()), ..object("b", 12).metadata },
            ..ConfigMap::default()
        };
        assert_eq!(held.drop(&stranger), None);
        assert_eq!(held.drop(&object("b", 11)), Some("b".into()));
    }

    #[test]
    fn a_late_answer_is_no_part_of_the_list_that_is_being_read() {
        let mut held = Held::new(|map: &ConfigMap| map.metadata.name.clone());
        held.see(Seen::Object(object("gone", 10)));
        held.see(Seen::Object(object("changed", 11)));
        held.see(Seen::Listing);
        held.see(Seen::Object(object("changed", 20)));
        assert_eq!(held.answered(object("gone", 12)), Some("gone".into()));
        assert_eq!(held.answered(object("changed", 13)), None, "the list knows better");
        assert_eq!(held.see(Seen::Listed), vec!["gone"]);
        assert_eq!(held.get("changed").and_then(ResourceExt::resource_version), Some("20".into()));
    }
}
