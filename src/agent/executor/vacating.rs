//! Guests that were told to go: since when, and how long it took them.
//!
//! Invariant: times are of our own clock, from when we told a guest or saw that it was told until we
//! saw it gone. A guest that was on its way already when we started is not measured: nobody knows
//! since when.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::guest::{Guest, Key};
use super::outcome;
use super::state::State;

/// How much later than promised a guest may be before it is overdue: the kubelet kills and reports,
/// and the API server tells.
const SLACK: SignedDuration = SignedDuration::from_secs(10);

/// A guest was told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// When, by our clock.
    pub since: Timestamp,
    /// Why; one of few words.
    pub reason: &'static str,
}

impl State {
    /// The pod at `key` of the lease `uid` is as `guest` says.
    pub(super) fn watch_notice(&mut self, uid: &str, key: Key, guest: &Guest, now: Timestamp) {
        if guest.is_terminal() {
            self.vacated(uid, key, now);
        } else if guest.deleting || guest.notice.is_some() {
            let limit = self.leases.get(uid).map(|lease| lease.spec.active_deadline_seconds);
            let known = self.known.get(uid);
            let cause = known.and_then(|known| known.memory.doomed.get(&key)).map(String::as_str);
            let reason = outcome::leaving(guest, cause, limit.unwrap_or(i64::MAX));
            self.notice(uid, key, outcome::told(reason), now);
        }
    }

    /// The pod at `key` of the lease `uid` is told to go now, unless it was told before. What is not
    /// bound to a node holds no GPU that anybody waits for.
    pub(super) fn notice(&mut self, uid: &str, key: Key, reason: &'static str, now: Timestamp) {
        let Some(known) = self.known.get_mut(uid).filter(|_| self.restored) else { return };
        let bound = known.pods.get(&key).is_some_and(|(_, guest)| guest.node.is_some());
        if bound && !known.rebinding.contains(&key) {
            known.notices.entry(key).or_insert(Notice { since: now, reason });
        }
    }

    /// Nothing of the pod at `key` of the lease `uid` runs any more.
    pub(super) fn vacated(&mut self, uid: &str, key: Key, now: Timestamp) {
        let notice = self.known.get_mut(uid).and_then(|known| known.notices.remove(&key));
        let Some(Notice { since, reason }) = notice else { return };
        let took = now.duration_since(since);
        self.tally.vacated.push((reason, took));
        if let Some(lease) = self.leases.get(uid).filter(|_| outcome::is_owners(reason)) {
            self.reclaims.note(&lease.spec.pool, took);
        }
    }

    /// Counts the GPUs of guests that are on their way, and of those that are late.
    pub(super) fn count_notices(&mut self, now: Timestamp) {
        let (mut vacating, mut overdue) = (self.noughts(), self.noughts());
        for (uid, known) in self.known.iter().filter(|(_, known)| !known.notices.is_empty()) {
            let Some(lease) = self.leases.get(uid) else { continue };
            let gpus = i64::from(lease.spec.gpu.count);
            let pool = self
                .pools
                .values()
                .find(|pool| pool.metadata.name.as_deref() == Some(lease.spec.pool.as_str()));
            let promised = pool.map_or(0, |pool| pool.spec.offer.notice_seconds);
            let limit = SignedDuration::from_secs(promised).saturating_add(SLACK);
            for notice in known.notices.values() {
                *vacating.entry(lease.spec.pool.clone()).or_default() += gpus;
                if now.duration_since(notice.since) > limit {
                    *overdue.entry(lease.spec.pool.clone()).or_default() += gpus;
                }
            }
        }
        (self.tally.vacating, self.tally.overdue) = (vacating, overdue);
    }

    /// Nought for each pool: a series that is always there.
    fn noughts(&self) -> std::collections::BTreeMap<String, i64> {
        let names = self.pools.values().filter_map(|pool| pool.metadata.name.clone());
        names.map(|name| (name, 0)).collect()
    }
}
