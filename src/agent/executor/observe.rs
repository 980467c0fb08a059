//! What the executor's metrics show.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use prometheus::HistogramTimer;
use tracing::{debug, info};

use super::state::State;
use super::writes::Write;
use crate::api::GuestLease;
use crate::api::gpulease::LeasePhase;
use crate::metrics::{Common, Executor, labelled};

/// Ends that are counted from nought, so that the first one is seen as an increase.
const ENDS: [&str; 3] = ["NodeFailure", "OwnerReclaimed", "PoolClosed"];

/// What the loop counts with.
#[derive(Clone, Debug)]
pub struct Figures {
    pub(super) executor: Executor,
    pub(super) common: Common,
}

impl Figures {
    /// Counts in these.
    #[must_use]
    pub fn new(executor: Executor, common: Common) -> Self {
        for reason in ENDS {
            executor.evictions.with_label_values(&[reason]).inc_by(0);
            // Making its buckets is enough.
            drop(executor.vacate_seconds.with_label_values(&[reason]));
        }
        executor.answers.with_label_values(&["Reserved"]).inc_by(0);
        common.coalesced.with_label_values(&["executor"]).inc_by(0);
        Self { executor, common }
    }

    /// Measures one turn.
    pub(super) fn turn(&self) -> HistogramTimer {
        self.common.reconcile_seconds.with_label_values(&["executor"]).start_timer()
    }

    /// So many events were decided on together with one before them.
    pub(super) fn coalesced(&self, count: u64) {
        self.common.coalesced.with_label_values(&["executor"]).inc_by(count);
    }

    /// Shows what `state` is, and counts what happened since this was last done.
    pub(super) fn show(&self, state: &mut State, now: Timestamp) {
        let tally = state.tally(now);
        let executor = &self.executor;
        let phases = tally.phases.into_iter().map(|(phase, count)| {
            let phase = phase.map_or_else(|| "Proposed".into(), |phase| format!("{phase:?}"));
            (vec![phase], count)
        });
        executor.leases.show(phases.collect());
        executor.lent_gpus.show(lent(state));
        let by_pool = |counts: BTreeMap<String, i64>| {
            counts.into_iter().map(|(pool, count)| (vec![pool], count)).collect()
        };
        executor.vacating_gpus.show(by_pool(tally.vacating));
        executor.overdue_gpus.show(by_pool(tally.overdue));
        for (outcome, count) in tally.answers {
            executor.answers.with_label_values(&[outcome]).inc_by(count);
        }
        for (reason, count) in tally.evictions {
            // Reasons that only a hub makes up count as `Withdrawn`.
            executor.evictions.with_label_values(&[super::outcome::told(&reason)]).inc_by(count);
        }
        for (reason, took) in tally.vacated {
            executor.vacate_seconds.with_label_values(&[reason]).observe(took.as_secs_f64());
        }
        for (pool, held) in tally.held {
            let counter = executor.guest_gpu_seconds.with_label_values(&[pool.as_str()]);
            counter.inc_by(held.as_secs_f64());
        }
    }
}

/// GPUs by pool, model and state, as they are published.
fn lent(state: &State) -> BTreeMap<Vec<String>, i64> {
    let mut picture = BTreeMap::new();
    for pool in state.pools.values() {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        for of_model in pool.status.iter().flat_map(crate::api::GpuPoolStatus::by_model) {
            let states = of_model.states().into_iter();
            let key = |which| labelled(&[name, &of_model.model, which]);
            picture.extend(states.map(|(which, gpus)| (key(which), gpus)));
        }
    }
    picture
}

/// Says what is written, loudly if it changes the life of a lease.
pub(super) fn say(write: &Write) {
    match write {
        Write::Status(lease, status) if status.phase != phase_of(lease) => {
            let name = lease.metadata.name.as_deref().unwrap_or_default();
            let phase = status.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
            info!(lease = name, phase, reason = status.end_reason, "guest lease");
        }
        other => debug!(?other, "write"),
    }
}

fn phase_of(lease: &GuestLease) -> Option<LeasePhase> {
    lease.status.as_ref().and_then(|status| status.phase)
}
