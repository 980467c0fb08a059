//! What the hub's metrics show.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::jiff::SignedDuration;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::rounds::Now;
use super::state::{State, member_in};
use super::tally::Tally;
use crate::api::gpujob::{GpuJobStatus, Phase};
use crate::api::gpulease::LeasePhase;
use crate::api::{GpuLease, GpuPoolStatus, conditions, reasons};
use crate::metrics::{Common, Hub, bounded, bounded_version, labelled};

/// Phases of jobs; each is shown though no job has it.
const JOB_PHASES: [Phase; 10] = [
    Phase::Suspended,
    Phase::Queued,
    Phase::Placed,
    Phase::Starting,
    Phase::Running,
    Phase::Reclaiming,
    Phase::Requeued,
    Phase::Unknown,
    Phase::Succeeded,
    Phase::Failed,
];
/// Phases of leases on a hub, beside `Unanswered`.
const LEASE_PHASES: [LeasePhase; 6] = [
    LeasePhase::Accepted,
    LeasePhase::Refused,
    LeasePhase::Starting,
    LeasePhase::Running,
    LeasePhase::Releasing,
    LeasePhase::Released,
];
/// Reasons to wait that are shown though no job waits for them.
const WAITS: [&str; 3] = ["NoPoolFits", "WaitingForCapacity", "WaitingForQuota"];
/// Ends that are counted from nought, so that the first one is seen as an increase.
const ENDS: [&str; 4] = ["ClusterLost", "NodeFailure", "Other", "OwnerReclaimed"];
/// Pairs of pool and model that one member may fill; the rest of them are shown together.
const PAIRS: usize = 32;

type Picture = BTreeMap<Vec<String>, i64>;

/// What the loop counts with.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) hub: Hub,
    pub(super) common: Common,
}

impl Figures {
    pub(super) fn new(hub: Hub, common: Common) -> Self {
        for reason in ENDS {
            hub.evictions.with_label_values(&[reason]).inc_by(0);
            hub.lost_gpu_seconds.with_label_values(&[reason]).inc_by(0);
        }
        common.coalesced.with_label_values(&["hub"]).inc_by(0);
        Self { hub, common }
    }

    /// Counts what happened.
    pub(super) fn count(&self, tally: Tally) {
        let hub = &self.hub;
        hub.allocations.inc_by(tally.allocations);
        tally.waits.iter().for_each(|wait| hub.placement_seconds.observe(wait.as_secs_f64()));
        hub.used_gpu_seconds.inc_by(tally.used);
        for (reason, count) in tally.evictions {
            hub.evictions.with_label_values(&[reason]).inc_by(count);
        }
        for (reason, seconds) in tally.lost {
            hub.lost_gpu_seconds.with_label_values(&[reason]).inc_by(seconds);
        }
    }

    /// Shows what is known now.
    pub(super) fn show(&self, state: &State, now: Now) {
        self.hub.leads.set(1);
        self.jobs(state, now.wall);
        self.leases(state, now.wall);
        self.members(state, now.instant);
        self.hub.pool_gpus.show(pools(state));
        let promised = state.promises.values().map(|promise| {
            i64::from(promise.need.gpus) * i64::from(promise.size) * i64::from(promise.replicas)
        });
        self.hub.promised_gpus.set(promised.sum());
    }

    /// Shows nothing: another process leads, and speaks for the hub.
    pub(super) fn hide(&self) {
        let hub = &self.hub;
        let all = [
            &hub.jobs,
            &hub.waiting_jobs,
            &hub.oldest_wait_seconds,
            &hub.leases,
            &hub.oldest_lease_seconds,
            &hub.pool_gpus,
            &hub.heartbeat_age_seconds,
            &hub.member_silent,
            &hub.member_info,
        ];
        for gauges in all {
            gauges.show(Picture::new());
        }
        hub.promised_gpus.set(0);
        hub.leads.set(0);
    }

    fn jobs(&self, state: &State, wall: Timestamp) {
        let name = |phase: &Phase| format!("{phase:?}");
        let mut jobs: Picture = JOB_PHASES.iter().map(|phase| (vec![name(phase)], 0)).collect();
        let mut waiting: Picture = WAITS.iter().map(|reason| (labelled(&[reason]), 0)).collect();
        let mut oldest = waiting.clone();
        for (_, job) in state.jobs.iter() {
            let Some(status) = &job.status else { continue };
            if let Some(phase) = &status.phase {
                *jobs.entry(vec![name(phase)]).or_default() += 1;
            }
            if status.replicas.waiting == 0 {
                continue;
            }
            let Some(reason) = wait(status) else { continue };
            let reason = labelled(&[bounded(reason)]);
            *waiting.entry(reason.clone()).or_default() += 1;
            if status.next_attempt == 0 {
                let age = age(job.creation_timestamp().map(|time| time.0), wall);
                let oldest = oldest.entry(reason).or_default();
                *oldest = (*oldest).max(age);
            }
        }
        self.hub.jobs.show(jobs);
        self.hub.waiting_jobs.show(waiting);
        self.hub.oldest_wait_seconds.show(oldest);
    }

    fn leases(&self, state: &State, wall: Timestamp) {
        let phases = LEASE_PHASES.iter().map(|phase| format!("{phase:?}"));
        let phases = phases.chain(["Unanswered".to_owned()]);
        let mut leases: Picture = phases.map(|phase| (vec![phase], 0)).collect();
        let mut oldest = leases.clone();
        for (_, lease) in state.leases.iter() {
            let phase = vec![phase_of(lease)];
            *leases.entry(phase.clone()).or_default() += 1;
            let age = age(lease.creation_timestamp().map(|time| time.0), wall);
            let oldest = oldest.entry(phase).or_default();
            *oldest = (*oldest).max(age);
        }
        self.hub.leases.show(leases);
        self.hub.oldest_lease_seconds.show(oldest);
    }

    fn members(&self, state: &State, now: Instant) {
        let (mut ages, mut silent, mut infos) = (Picture::new(), Picture::new(), Picture::new());
        for (_, member) in state.members.iter() {
            let name = member.name_any();
            let status = member.status.clone().unwrap_or_default();
            let heard = state.silence.get(&name).and_then(|silence| silence.lasts(now));
            let joined = conditions::is_true(&status.conditions, "Joined");
            if let Some(age) = heard.and_then(|age| i64::try_from(age.as_secs()).ok()) {
                ages.insert(labelled(&[&name]), age);
            }
            if joined && member.metadata.deletion_timestamp.is_none() {
                silent.insert(labelled(&[&name]), state.is_silent(&name, now).into());
            }
            if !status.agent_version.is_empty() {
                infos.insert(labelled(&[&name, bounded_version(&status.agent_version)]), 1);
            }
        }
        self.hub.heartbeat_age_seconds.show(ages);
        self.hub.member_silent.show(silent);
        self.hub.member_info.show(infos);
    }
}

/// Why some of a job waits, even if the rest of it runs.
fn wait(status: &GpuJobStatus) -> Option<&str> {
    let placed = conditions::find(&status.conditions, reasons::PLACED);
    let waits = placed.filter(|placed| placed.status == "False");
    let reason = waits.map_or(status.summary.reason.as_str(), |waits| &waits.reason);
    (!reason.is_empty()).then_some(reason)
}

fn age(since: Option<Timestamp>, wall: Timestamp) -> i64 {
    let age = since.map_or(SignedDuration::ZERO, |since| wall.duration_since(since));
    age.as_secs().max(0)
}

fn phase_of(lease: &GpuLease) -> String {
    let phase = lease.status.as_ref().and_then(|status| status.phase);
    phase.map_or_else(|| "Unanswered".to_owned(), |phase| format!("{phase:?}"))
}

/// GPUs by member, pool, model and state.
fn pools(state: &State) -> Picture {
    let mut picture = Picture::new();
    let mut pairs: BTreeMap<String, usize> = BTreeMap::new();
    for ((namespace, pool), copy) in state.pools.iter() {
        let Some(member) = member_in(namespace) else { continue };
        let taken = pairs.entry(member.clone()).or_default();
        for of_model in copy.status.iter().flat_map(GpuPoolStatus::by_model) {
            *taken += 1;
            let (pool, model) = match *taken <= PAIRS {
                true => (pool.as_str(), of_model.model.as_str()),
                false => ("other", "other"),
            };
            for (which, count) in of_model.states() {
                let key = labelled(&[&member, pool, model, which]);
                *picture.entry(key).or_default() += count;
            }
        }
    }
    picture
}
