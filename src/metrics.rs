//! Every metric of hub and agent: name, labels, buckets. No label holds a job's or user's name.

use std::sync::Arc;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::cluster::counting::Count;

/// Puts `collector` into `registry`.
///
/// # Panics
/// If a name is used twice, which is a mistake of ours that every start shows.
fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> C {
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

/// A counter with labels.
///
/// # Panics
/// If the name is taken or no valid name, which is a mistake of ours that every start shows.
#[must_use]
pub fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let made = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric name");
    register(registry, made)
}

/// A gauge with labels.
///
/// # Panics
/// If the name is taken or no valid name, which is a mistake of ours that every start shows.
#[must_use]
pub fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let made = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric name");
    register(registry, made)
}

/// A histogram of seconds.
///
/// # Panics
/// If the name is taken or no valid name, which is a mistake of ours that every start shows.
#[must_use]
pub fn seconds(registry: &Registry, name: &str, help: &str) -> Histogram {
    let buckets = prometheus::exponential_buckets(0.000_25, 4.0, 10).expect("valid buckets");
    let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
        .expect("a valid metric name");
    register(registry, made)
}

/// Counts the requests of one client to `cluster` (`hub` or `member`).
///
/// # Panics
/// If called twice for one registry.
#[must_use]
pub fn requests(registry: &Registry, cluster: &'static str) -> Count {
    let labels = ["cluster", "verb", "resource", "code"];
    let help = "Requests to API servers by cluster, verb, resource and status code.";
    let counter = counter(registry, "idlewild_api_requests_total", help, &labels);
    Arc::new(move |verb, resource, code| {
        let code = if code == 0 { "none".to_owned() } else { code.to_string() };
        counter.with_label_values(&[cluster, verb, resource, &code]).inc();
    })
}

/// A registry with what every process has: build information, and the process's own figures.
///
/// # Panics
/// Never: the registry is new.
#[must_use]
pub fn registry(part: &str) -> Registry {
    let registry = Registry::new();
    let build =
        gauge(&registry, "idlewild_build_info", "1, by version and part.", &["version", "part"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), part]).set(1);
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(process)).expect("each metric is registered once");
    registry
}

/// Metrics of the hub.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Time of one round.
    pub round_seconds: Histogram,
    /// Seconds from a job's creation to its first allocation.
    pub placement_seconds: Histogram,
    /// Jobs that wait, by reason.
    pub waiting_jobs: IntGaugeVec,
    /// Leases by phase.
    pub leases: IntGaugeVec,
    /// GPUs of pools, by member, pool and state.
    pub pool_gpus: IntGaugeVec,
    /// Seconds since each member was heard.
    pub heartbeat_age_seconds: IntGaugeVec,
    /// Attempts that ended before their end, by reason.
    pub evictions: IntCounterVec,
    /// GPUs that are promised and not in their pool's picture yet.
    pub promised_gpus: IntGauge,
    /// Writes under way.
    pub writes: IntGauge,
    /// 1 if this process leads.
    pub leads: IntGauge,
}

impl Hub {
    /// The metrics, registered.
    ///
    /// # Panics
    /// If `registry` holds one of their names already.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let one = |name: &str, help: &str| {
            register(registry, IntGauge::new(name, help).expect("a valid metric name"))
        };
        Self {
            round_seconds: seconds(registry, "idlewild_round_seconds", "Time of one round."),
            placement_seconds: seconds(
                registry,
                "idlewild_placement_seconds",
                "Time from a job's creation to its first allocation.",
            ),
            waiting_jobs: gauge(
                registry,
                "idlewild_waiting_jobs",
                "Jobs of which some replicas wait, by reason.",
                &["reason"],
            ),
            leases: gauge(registry, "idlewild_leases", "Leases by phase.", &["phase"]),
            pool_gpus: gauge(
                registry,
                "idlewild_pool_gpus",
                "GPUs of each member's pools as their owner publishes them.",
                &["member", "pool", "state"],
            ),
            heartbeat_age_seconds: gauge(
                registry,
                "idlewild_heartbeat_age_seconds",
                "Seconds since each member was heard.",
                &["member"],
            ),
            evictions: counter(
                registry,
                "idlewild_evictions_total",
                "Attempts that ended before their end, by reason.",
                &["reason"],
            ),
            promised_gpus: one(
                "idlewild_promised_gpus",
                "GPUs of leases that are not in their pool's picture yet.",
            ),
            writes: one("idlewild_writes_under_way", "Objects with writes under way."),
            leads: one("idlewild_leader", "1 if this process leads."),
        }
    }
}
