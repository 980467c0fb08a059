//! Guests that go on although their hub has no lease of them: what the hub is told of them.
//!
//! Invariant: absence is not evidence. They end as their contract says; the hub takes them up again, or
//! says that they are over.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::decide::is_of;
use crate::api::gpulease::LeasePhase;
use crate::api::gpupool::{MAX_ORPHANS, Orphan};
use crate::api::{GpuLease, GpuPoolStatus, GuestLease};

/// Attempts without a lease by pool, each by its lease's name.
pub(super) type Orphans = BTreeMap<String, BTreeMap<String, Orphan>>;

/// What is known of them, from whoever reads the hub's leases to whoever writes its pictures.
pub(super) struct Board(watch::Sender<Orphans>);

impl Board {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Orphans::new()))
    }

    /// Notes whether `guest`, which has this name, is an orphan of `grant`. Both records must come from
    /// complete lists.
    pub(super) fn note(
        &self,
        name: &str,
        (lease, guest): (Option<&GpuLease>, Option<&GuestLease>),
        grant: &str,
    ) {
        let lost = guest.filter(|guest| guest.spec.grant == grant && is_orphan(lease, guest));
        let held = |orphans: &Orphans| orphans.values().any(|pool| pool.contains_key(name));
        if lost.is_none() && !held(&self.0.borrow()) {
            return;
        }
        self.0.send_if_modified(|orphans| {
            let before = orphans.clone();
            for pool in orphans.values_mut() {
                pool.remove(name);
            }
            if let Some(guest) = lost {
                let pool = orphans.entry(guest.spec.pool.clone()).or_default();
                pool.insert(name.to_owned(), orphan(guest));
            }
            orphans.retain(|_, pool| !pool.is_empty());
            *orphans != before
        });
    }

    /// Who wants to hear of changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Orphans> {
        self.0.subscribe()
    }

    /// Tells `status`, the picture of the pool `name`, of its orphans.
    pub(super) fn show(&self, name: &str, status: &mut GpuPoolStatus) {
        let orphans = self.0.borrow();
        let all = orphans.get(name).map(BTreeMap::values);
        status.orphan_count = all.as_ref().map_or(0, |all| i64::try_from(all.len()).unwrap_or(0));
        status.orphans = all.into_iter().flatten().take(MAX_ORPHANS).cloned().collect();
    }
}

/// Whether `guest` may have pods and no lease of the hub tells of it.
fn is_orphan(lease: Option<&GpuLease>, guest: &GuestLease) -> bool {
    let phase = guest.status.as_ref().and_then(|status| status.phase);
    let over = matches!(phase, Some(LeasePhase::Released | LeasePhase::Refused));
    guest.spec.confirmed && !over && !lease.is_some_and(|lease| is_of(lease, guest))
}

fn orphan(guest: &GuestLease) -> Orphan {
    let spec = &guest.spec;
    Orphan {
        job: spec.job.clone(),
        epoch: spec.epoch,
        indexes: spec.indexes.clone(),
        model: spec.gpu.model.clone(),
        active_deadline_seconds: spec.active_deadline_seconds,
        stop_after_seconds: spec.stop_after_seconds,
        expires_after_seconds: spec.expires_after_seconds,
        duplicate_policy: spec.duplicate_policy,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn guest(name: &str, phase: &str, confirmed: bool) -> GuestLease {
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GuestLease",
            "metadata": {"name": name},
            "spec": {
                "hubId": "hub", "grant": "hub", "leaseName": name, "leaseUid": "old",
                "job": {"namespace": "a", "name": "j", "uid": "u", "generation": 1},
                "pool": "lab", "epoch": {"incarnation": 1, "attempt": 7}, "indexes": "0-3",
                "size": 1, "gpu": {"count": 1, "model": "A100"}, "graceSeconds": 30,
                "activeDeadlineSeconds": 60, "digest": "d", "template": {}, "confirmed": confirmed,
            },
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn lease(epoch: u32) -> GpuLease {
        let mut spec = serde_json::to_value(guest("x", "Running", true).spec).unwrap();
        spec["epoch"]["attempt"] = json!(epoch);
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuLease",
            "metadata": {"name": "x", "uid": "new"}, "spec": spec,
        }))
        .unwrap()
    }

    fn shown(board: &Board, pool: &str) -> (i64, Vec<u32>) {
        let mut status = GpuPoolStatus::default();
        board.show(pool, &mut status);
        let epochs = status.orphans.iter().map(|orphan| orphan.epoch.attempt);
        (status.orphan_count, epochs.collect())
    }

    #[test]
    fn only_what_runs_and_has_no_lease_is_told_to_its_hub_and_not_twice() {
        let board = Board::new();
        let mut changes = board.subscribe();
        let note = |lease: Option<&GpuLease>, guest: Option<&GuestLease>| {
            board.note("x", (lease, guest), "hub");
        };
        let running = guest("x", "Running", true);
        for (lease, guest) in [
            (None, guest("x", "Released", true)),
            (None, guest("x", "Reserved", false)),
            (Some(lease(7)), running.clone()),
        ] {
            note(lease.as_ref(), Some(&guest));
            assert_eq!(shown(&board, "lab"), (0, vec![]));
        }
        board.note("x", (None, Some(&running)), "other");
        assert!(!changes.has_changed().unwrap(), "of another grant, and nothing before");
        note(None, Some(&running));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!((shown(&board, "lab"), shown(&board, "other")), ((1, vec![7]), (0, vec![])));
        note(None, Some(&running));
        assert!(!changes.has_changed().unwrap());
        // A lease of another attempt under the same name is none of it.
        note(Some(&lease(8)), Some(&running));
        assert_eq!(shown(&board, "lab").0, 1);
        note(Some(&lease(7)), Some(&running));
        assert_eq!(shown(&board, "lab"), (0, vec![]));
    }

    #[test]
    fn a_picture_names_few_and_counts_all() {
        let board = Board::new();
        for number in 0..MAX_ORPHANS + 3 {
            let name = format!("x-{number:03}");
            board.note(&name, (None, Some(&guest(&name, "Running", true))), "hub");
        }
        let (count, named) = shown(&board, "lab");
        assert_eq!((count, named.len()), (67, 64));
    }
}
