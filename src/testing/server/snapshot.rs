//! Going back: backups, compaction, and what the store once was.

use std::collections::BTreeMap;

use super::store::{At, Object, Store};

/// What a store held at some time.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) objects: BTreeMap<At, Object>,
    pub(crate) revision: u64,
    /// What is older cannot be told any more.
    pub(super) compacted: u64,
}

impl Store {
    /// A backup.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (objects, revision) = (self.objects.clone(), self.revision);
        Snapshot { objects, revision, compacted: self.compacted }
    }

    /// Goes back to a backup: objects and revisions are those of then, all watches end, and what was
    /// before it is forgotten. As with a real server, a watch from a revision that is not reached
    /// again yet hears nothing until it is.
    pub(crate) fn restore(&mut self, backup: &Snapshot) {
        self.objects = backup.objects.clone();
        self.revision = backup.revision;
        self.compacted = backup.revision;
        self.born = self.log.len();
        self.cut(|_| true);
    }

    /// Counts on from far above, and forgets all history, as `etcdutl snapshot restore` does with
    /// `--bump-revision` and `--mark-compacted`: whoever watched lists again.
    pub(crate) fn bump(&mut self, by: u64) {
        self.revision += by;
        self.compacted = self.revision;
    }

    /// Forgets all history: who asks for what came after an older revision has to list again.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// What the store was at `revision`.
    ///
    /// # Panics
    /// If that is not in the history: before the server, before a restore, or in the future.
    pub(super) fn as_of(&self, revision: u64) -> Snapshot {
        assert!(revision <= self.revision, "revision {revision} is not reached yet");
        let mut past = self.snapshot();
        past.revision = revision;
        for change in self.log[self.born..].iter().rev() {
            if change.revision <= revision {
                return past;
            }
            match &change.old {
                Some(old) => drop(past.objects.insert(change.at.clone(), old.clone())),
                None => drop(past.objects.remove(&change.at)),
            }
        }
        let oldest = if self.born == 0 { 1 } else { past.compacted };
        assert!(revision >= oldest, "revision {revision} is not in the history");
        past
    }
}
