//! Specs of leases that their members have not taken notice of.
//!
//! A heartbeat promises that what the hub writes is seen. A member that sends heartbeats and leaves
//! a lease unobserved for [`SILENT_AFTER_SECONDS`] breaks that promise: it counts as silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::api::gpulease::LeasePhase;
use crate::api::{GpuLease, SILENT_AFTER_SECONDS};
use crate::cluster::cache::{self, Key};

/// As long as heartbeats may be missing.
const DEAF_AFTER: Duration = Duration::from_secs(SILENT_AFTER_SECONDS);

/// Since when each unobserved spec was seen here, oldest first in each namespace.
#[derive(Debug, Default)]
pub(super) struct Unobserved {
    since: BTreeMap<Key, (i64, Instant)>,
    oldest: BTreeMap<String, BTreeSet<(Instant, String)>>,
}

impl Unobserved {
    /// Takes in a lease as it is now. True if its member took notice after it had been deaf.
    pub(super) fn see(&mut self, lease: &GpuLease, now: Instant) -> bool {
        let key = cache::key(lease);
        let generation = lease.metadata.generation.unwrap_or(0);
        let status = lease.status.as_ref();
        let phase = status.and_then(|status| status.phase);
        let over = matches!(phase, Some(LeasePhase::Released | LeasePhase::Refused));
        let observed = status.and_then(|status| status.observed_generation).unwrap_or(0);
        if over || observed >= generation {
            return self.forget(&key, now);
        }
        // What the member did observe since then counts: only this change is unseen.
        let since = self.since.get(&key).filter(|(unseen, _)| *unseen > observed).copied();
        if since.is_none() {
            let was_deaf = self.forget(&key, now);
            self.since.insert(key.clone(), (generation, now));
            self.oldest.entry(key.0).or_default().insert((now, key.1));
            return was_deaf;
        }
        false
    }

    /// Takes in that a lease is observed or gone; true if its member had been deaf to it.
    pub(super) fn forget(&mut self, key: &Key, now: Instant) -> bool {
        let Some((_, since)) = self.since.remove(key) else { return false };
        if let Some(oldest) = self.oldest.get_mut(&key.0) {
            oldest.remove(&(since, key.1.clone()));
            if oldest.is_empty() {
                self.oldest.remove(&key.0);
            }
        }
        now > since + DEAF_AFTER
    }

    /// Begins anew, after a time in which this process could hear nobody.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.oldest.clear();
        for (key, (_, since)) in &mut self.since {
            *since = now;
            self.oldest.entry(key.0.clone()).or_default().insert((now, key.1.clone()));
        }
    }

    /// Whether the member of `namespace` leaves a lease unobserved for too long.
    #[must_use]
    pub(super) fn is_deaf(&self, namespace: &str, now: Instant) -> bool {
        let oldest = self.oldest.get(namespace).and_then(BTreeSet::first);
        oldest.is_some_and(|(since, _)| now > *since + DEAF_AFTER)
    }

    /// When time alone makes a member deaf next, and the namespaces in which that has happened.
    pub(super) fn turns(&self) -> impl Iterator<Item = (&String, Instant)> {
        let first = |(namespace, all): (_, &BTreeSet<(Instant, String)>)| {
            Some((namespace, all.first()?.0 + DEAF_AFTER + Duration::from_millis(1)))
        };
        self.oldest.iter().filter_map(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn lease(generation: i64, status: Value) -> GpuLease {
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuLease",
            "metadata": {"name": "one", "namespace": "member-north", "generation": generation},
            "spec": {"hubId": "hub", "job": {"namespace": "a", "name": "a", "uid": "u", "generation": 1},
                "pool": "p", "epoch": {"incarnation": 1, "attempt": 0}, "indexes": "0", "size": 1,
                "gpu": {"count": 1, "model": "A100"}, "graceSeconds": 30,
                "activeDeadlineSeconds": 60, "digest": "d", "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_member_is_deaf_from_40_s_after_the_change_until_it_takes_notice() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let deaf = |unobserved: &Unobserved, now| unobserved.is_deaf("member-north", now);
        let mut unobserved = Unobserved::default();
        let running = |observed| json!({"phase": "Running", "observedGeneration": observed});
        assert!(!unobserved.see(&lease(1, json!({})), start));
        assert!(!deaf(&unobserved, at(40)));
        assert!(deaf(&unobserved, at(41)));
        assert!(!unobserved.is_deaf("member-south", at(41)));
        assert!(unobserved.see(&lease(1, running(1)), at(41)), "it takes notice at last");
        assert!(!deaf(&unobserved, at(100)));
        // The withdrawal is another change, with 40 s of its own.
        unobserved.see(&lease(2, running(1)), at(100));
        unobserved.see(&lease(2, running(1)), at(130));
        assert!(!deaf(&unobserved, at(140)));
        assert!(deaf(&unobserved, at(141)), "what is merely seen again is as old as it was");
        unobserved.begin_anew(at(141));
        assert!(!deaf(&unobserved, at(181)));
        assert!(deaf(&unobserved, at(182)));
        assert!(unobserved.forget(&("member-north".into(), "one".into()), at(182)));
        assert_eq!(unobserved.turns().count(), 0);
    }

    #[test]
    fn a_lease_that_is_over_makes_nobody_deaf() {
        let mut unobserved = Unobserved::default();
        let now = Instant::now();
        unobserved.see(&lease(2, json!({"phase": "Released", "observedGeneration": 1})), now);
        assert_eq!(unobserved.turns().count(), 0);
    }
}
