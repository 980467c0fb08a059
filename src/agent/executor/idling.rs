//! What is learnt of how long the owner leaves GPUs idle.
//!
//! Invariant: it rides along with pictures that are written anyway, and changes in them at most every
//! [`FRESH`] minutes. By itself it causes a write only once what stands in the status is [`STALE`]
//! minutes old: so much of a quiet time is forgotten at most when the agent restarts.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::capacity::Lent;
use crate::api::GpuPool;
use crate::api::convert::survival;
use crate::api::gpupool::{GpuPoolStatus, IdleHistory, SizeSurvival};
use crate::engine::survival::History;

/// Minutes for which a published history is new enough.
const FRESH: i64 = 10;
/// Minutes after which a published history is too old.
const STALE: i64 = 360;

/// What was learnt of each pool, by UID.
#[derive(Debug, Default)]
pub(super) struct Idling(BTreeMap<String, History>);

/// What a pool's status should say.
#[derive(Clone, Debug, PartialEq)]
pub struct Learnt {
    survival: Vec<SizeSurvival>,
    history: IdleHistory,
}

impl Idling {
    /// Takes in what the pool `uid` lends now; what to publish, if what stands there is not fresh.
    pub(super) fn learn(
        &mut self,
        uid: &str,
        pool: &GpuPool,
        lent: &Lent,
        now: Timestamp,
    ) -> Option<Learnt> {
        let (minute, none) = (minute(now), GpuPoolStatus::default());
        let status = pool.status.as_ref().unwrap_or(&none);
        let history = match self.0.get_mut(uid) {
            Some(history) => history,
            None => self.0.entry(uid.into()).or_insert(survival::history(status, minute)),
        };
        let idle = lent.slots.iter().map(|slot| u64::from(slot.total.saturating_sub(slot.owner)));
        history.observe(minute, idle.sum());
        if age(status, now).is_some_and(|age| age < FRESH) {
            return None;
        }
        let (survival, history) = survival::learnt(history);
        Some(Learnt { survival, history })
    }

    /// The pool `uid` is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

impl Learnt {
    /// Whether this is worth a write though nothing else changed. A status without a history is not:
    /// definitions of an earlier version drop it.
    pub(super) fn is_overdue(&self, old: &GpuPoolStatus, now: Timestamp) -> bool {
        let same = old.idle_history.as_ref().is_some_and(|old| old.sizes == self.history.sizes);
        !same && is_stale(old, now)
    }

    /// Puts it into `status`.
    pub(super) fn put(&self, status: &mut GpuPoolStatus) {
        status.survival.clone_from(&self.survival);
        status.idle_history = Some(self.history.clone());
    }
}

/// Whether the history in `status` is too old.
pub(super) fn is_stale(status: &GpuPoolStatus, now: Timestamp) -> bool {
    age(status, now).is_some_and(|age| age >= STALE)
}

/// Minutes since the history in `status` was made; `None` if there is none, or it is of a time to
/// come.
fn age(status: &GpuPoolStatus, now: Timestamp) -> Option<i64> {
    let made = survival::minute_of(status.idle_history.as_ref()?);
    Some(minute(now) - made).filter(|age| *age >= 0)
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}
