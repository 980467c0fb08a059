//! Every metric of hub and agent: name, labels, buckets, and what it means.
//!
//! Names are `idlewild_<noun>_<unit>` in base units. Labels are members, pools, models, the owner's
//! grants and fixed words; never a job's or a user's name. What members and hubs may choose freely is
//! folded into `other` before it becomes a label (see [`bounded`]).

mod bounds;
mod making;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use prometheus::{
    CounterVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

pub use bounds::{bounded, bounded_code, bounded_version};
pub use making::Described;
use making::{Unreadable, family};
pub use snapshot::{Snapshot, labelled};

use crate::cluster::counting::Count;

/// Computations and single requests: 0.25 ms to 65 s.
const QUICK: &[f64] = &[0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384, 65.536];
/// How long users wait: half a second to a week.
const WAIT: &[f64] =
    &[0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 259_200.0, 604_800.0];
/// Around the notices that owners give: half a second to an hour.
const NOTICE: &[f64] =
    &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];

family! {
    /// What every process counts.
    Common {
        /// 1, by version and part.
        build: IntGaugeVec = "idlewild_build_info", ["version", "part"], &[];
        /// Requests to API servers by who sends them (hub, executor, link), to whom (hub, member), verb, resource and status code; none = no answer.
        requests: IntCounterVec = "idlewild_api_requests_total", ["client", "cluster", "verb", "resource", "code"], &[];
        /// Time to decide, or to carry out what was decided, by controller.
        reconcile_seconds: HistogramVec = "idlewild_reconcile_seconds", ["controller"], QUICK;
        /// Events that were decided on together with one that came just before, by loop.
        coalesced: IntCounterVec = "idlewild_coalesced_events_total", ["loop"], &[];
    }
}

family! {
    /// What the hub counts.
    Hub {
        /// Time to decide one round.
        round_seconds: Histogram = "idlewild_round_seconds", [], QUICK;
        /// Time from a job's creation to its first allocation.
        placement_seconds: Histogram = "idlewild_placement_seconds", [], WAIT;
        /// Attempts that were allocated.
        allocations: IntCounter = "idlewild_allocations_total", [], &[];
        /// Jobs by phase.
        jobs: Snapshot = "idlewild_jobs", ["phase"], &[];
        /// Jobs of which some replicas wait, by reason.
        waiting_jobs: Snapshot = "idlewild_waiting_jobs", ["reason"], &[];
        /// Age of the oldest job that waits for its first allocation, by reason.
        oldest_wait_seconds: Snapshot = "idlewild_oldest_wait_seconds", ["reason"], &[];
        /// Leases by phase.
        leases: Snapshot = "idlewild_leases", ["phase"], &[];
        /// Age of the oldest lease by phase.
        oldest_lease_seconds: Snapshot = "idlewild_oldest_lease_seconds", ["phase"], &[];
        /// GPUs of each member's pools by model and state (offered, owner, guests, free), as their owners publish them.
        pool_gpus: Snapshot = "idlewild_pool_gpus", ["member", "pool", "model", "state"], &[];
        /// GPUs of leases that are not in their pool's picture yet.
        promised_gpus: IntGauge = "idlewild_promised_gpus", [], &[];
        /// Seconds since each member was heard.
        heartbeat_age_seconds: Snapshot = "idlewild_heartbeat_age_seconds", ["member"], &[];
        /// 1 if a member that has joined is silent: it gets no new work.
        member_silent: Snapshot = "idlewild_member_silent", ["member"], &[];
        /// 1, by member and version of its agent.
        member_info: Snapshot = "idlewild_member_info", ["member", "version"], &[];
        /// Attempts that ended before their end, by reason.
        evictions: IntCounterVec = "idlewild_evictions_total", ["reason"], &[];
        /// GPU-seconds of attempts that ended, whatever came of them.
        used_gpu_seconds: IntCounter = "idlewild_used_gpu_seconds_total", [], &[];
        /// GPU-seconds of attempts that ended before their end, by reason.
        lost_gpu_seconds: IntCounterVec = "idlewild_lost_gpu_seconds_total", ["reason"], &[];
        /// Objects with writes under way.
        writes: IntGauge = "idlewild_writes_under_way", [], &[];
        /// 1 if this process leads.
        leads: IntGauge = "idlewild_leader", [], &[];
    }
}

family! {
    /// What the executor, the half of the agent that owns guests, counts.
    Executor {
        /// GPUs of the owner's pools by model and state (offered, owner, guests, free).
        lent_gpus: Snapshot = "idlewild_lent_gpus", ["pool", "model", "state"], &[];
        /// Guest leases by phase.
        leases: Snapshot = "idlewild_guest_leases", ["phase"], &[];
        /// Answers to proposed leases: Reserved, or the reason of a refusal.
        answers: IntCounterVec = "idlewild_lease_answers_total", ["outcome"], &[];
        /// Replicas that ended before their own end, by reason.
        evictions: IntCounterVec = "idlewild_guest_evictions_total", ["reason"], &[];
        /// GPU-seconds that guests held, by pool.
        guest_gpu_seconds: CounterVec = "idlewild_guest_gpu_seconds_total", ["pool"], &[];
        /// Time from the notice to a guest's pod until it is gone and its GPUs are back, by reason of the notice.
        vacate_seconds: HistogramVec = "idlewild_vacate_seconds", ["reason"], NOTICE;
        /// GPUs whose guests were told to go and are not gone yet, by pool.
        vacating_gpus: Snapshot = "idlewild_vacating_gpus", ["pool"], &[];
        /// GPUs whose guests are still there 10 s after the pool's noticeSeconds were over.
        overdue_gpus: Snapshot = "idlewild_overdue_gpus", ["pool"], &[];
    }
}

family! {
    /// What the link, the half of the agent that talks to hubs, counts.
    Link {
        /// 1 while the hub of a grant takes our heartbeats.
        connected: IntGaugeVec = "idlewild_hub_connected", ["grant"], &[];
        /// When the token of an account on the hub ends, in seconds since 1970 by our own clock.
        token_expiry: IntGaugeVec = "idlewild_token_expiry_timestamp_seconds", ["grant", "account"], &[];
        /// How long that token lived when it was given; it is renewed at half of it.
        token_life: IntGaugeVec = "idlewild_token_life_seconds", ["grant", "account"], &[];
        /// When the first of the hub's CA certificates in the grant ends, in seconds since 1970.
        ca_expiry: IntGaugeVec = "idlewild_hub_ca_expiry_timestamp_seconds", ["grant"], &[];
    }
}

family! {
    /// What the gateway counts.
    Gateway {
        /// Answers of the aggregated API by subresource and status code.
        requests: IntCounterVec = "idlewild_gateway_requests_total", ["subresource", "code"], &[];
        /// Time from the question to the explanation of a job.
        explain_seconds: Histogram = "idlewild_gateway_explain_seconds", [], QUICK;
    }
}

/// All metrics of all processes, for the tests and the documents.
#[must_use]
pub fn catalogue() -> Vec<&'static Described> {
    let parts = [
        Common::CATALOGUE,
        Hub::CATALOGUE,
        Executor::CATALOGUE,
        Link::CATALOGUE,
        Gateway::CATALOGUE,
    ];
    parts.into_iter().flatten().chain([&making::UNREADABLE]).collect()
}

/// What one process counts with, and where it is shown.
#[derive(Clone, Debug)]
pub struct Process {
    /// All its metrics.
    pub registry: Registry,
    /// Those that every process has.
    pub common: Common,
}

impl Process {
    /// For the process that is `part` (hub, agent): build information, requests, its own figures.
    ///
    /// # Panics
    /// Never: the registry is new.
    #[must_use]
    pub fn new(part: &str) -> Self {
        let registry = Registry::new();
        let common = Common::new(&registry);
        common.build.with_label_values(&[env!("CARGO_PKG_VERSION"), part]).set(1);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("each metric is registered once");
        let unreadable = Box::new(Unreadable::default());
        registry.register(unreadable).expect("each metric is registered once");
        Self { registry, common }
    }
}

impl Common {
    /// Counts the requests that `client` (hub, executor, link) sends to `cluster` (hub, member).
    #[must_use]
    pub fn requests(&self, client: &'static str, cluster: &'static str) -> Count {
        let counter = self.requests.clone();
        Arc::new(move |verb, resource, code| {
            let code = bounded_code(code);
            counter.with_label_values(&[client, cluster, verb, resource, code]).inc();
        })
    }
}
