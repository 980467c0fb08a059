//! Objects as last seen, by UID.
//!
//! Invariant: an older version never replaces a newer one, and what is gone does not come back,
//! whether a watch or the answer to a write brings it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// UIDs of gone objects that are remembered: more than writes can be in flight.
const REMEMBERED: usize = 4096;

struct Entry<T> {
    item: T,
    version: u64,
    /// The list in which it was last seen.
    list: u64,
}

/// What a put did.
#[derive(Debug, PartialEq, Eq)]
pub enum Put<T> {
    /// Nothing: what stands there is as new.
    Stale,
    /// The object is new.
    New,
    /// It replaced this.
    Changed(T),
}

/// Objects of one kind.
pub struct Store<T> {
    entries: BTreeMap<String, Entry<T>>,
    gone: (VecDeque<String>, BTreeSet<String>),
    list: u64,
    complete: bool,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            gone: (VecDeque::new(), BTreeSet::new()),
            list: 0,
            complete: false,
        }
    }
}

impl<T> Store<T> {
    /// A list begins.
    pub fn begin(&mut self) {
        self.list += 1;
    }

    /// A list is complete: the UIDs of what it lacks.
    pub fn finish(&mut self) -> Vec<String> {
        self.complete = true;
        let list = self.list;
        let unseen = self.entries.iter().filter(|(_, entry)| entry.list < list);
        unseen.map(|(uid, _)| uid.clone()).collect()
    }

    /// Whether some list was complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Puts what was seen of the object `uid` at `version`.
    pub fn put(&mut self, uid: &str, version: u64, item: T) -> Put<T> {
        if self.gone.1.contains(uid) {
            return Put::Stale;
        }
        let list = self.list;
        match self.entries.get_mut(uid) {
            Some(entry) => {
                entry.list = list;
                if entry.version >= version {
                    return Put::Stale;
                }
                entry.version = version;
                Put::Changed(std::mem::replace(&mut entry.item, item))
            }
            None => {
                self.entries.insert(uid.into(), Entry { item, version, list });
                Put::New
            }
        }
    }

    /// The object is gone for good; what was last seen of it.
    pub fn remove(&mut self, uid: &str) -> Option<T> {
        let (order, set) = &mut self.gone;
        if set.insert(uid.into()) {
            order.push_back(uid.into());
        }
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            set.remove(&oldest);
        }
        self.forget(uid)
    }

    /// The object no longer matters; it may matter again.
    pub fn forget(&mut self, uid: &str) -> Option<T> {
        self.entries.remove(uid).map(|entry| entry.item)
    }

    /// The object `uid`.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&T> {
        self.entries.get(uid).map(|entry| &entry.item)
    }

    /// All objects, by UID.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.entries.iter().map(|(uid, entry)| (uid, &entry.item))
    }

    /// All objects.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|entry| &entry.item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_and_gone_objects_do_not_come_back() {
        let mut store = Store::default();
        assert_eq!(store.put("a", 5, "five"), Put::New);
        assert_eq!(store.put("a", 4, "four"), Put::Stale);
        assert_eq!(store.put("a", 6, "six"), Put::Changed("five"));
        assert_eq!(store.remove("a"), Some("six"));
        assert_eq!(store.put("a", 7, "seven"), Put::Stale);
        assert_eq!(store.get("a"), None);
    }

    #[test]
    fn a_complete_list_tells_what_is_gone_but_spares_what_was_written_since() {
        let mut store = Store::default();
        store.put("old", 1, ());
        store.put("kept", 2, ());
        store.begin();
        assert!(!store.is_complete());
        store.put("kept", 2, ());
        store.put("written", 9, ());
        assert_eq!(store.finish(), ["old"]);
        assert!(store.is_complete());
    }
}
