//! What the executor counts.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counters and gauges of the executor. Labels are bounded by the owner's pools, models and fixed
/// words; no name of a job or user is one.
#[derive(Clone, Debug)]
pub struct Metrics {
    pool_gpus: IntGaugeVec,
    leases: IntGaugeVec,
    answers: IntCounterVec,
    evictions: IntCounterVec,
    requests: IntCounterVec,
}

impl Metrics {
    /// Makes them and registers them.
    ///
    /// # Errors
    /// If `registry` holds one of their names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            pool_gpus: gauge(
                "idlewild_pool_gpus",
                "GPUs of a pool by state: offered, owner, guest, free.",
                &["pool", "state"],
            )?,
            leases: gauge("idlewild_guest_leases", "Guest leases by phase.", &["phase"])?,
            answers: counter(
                "idlewild_lease_answers_total",
                "Answers to proposed leases: Reserved, or the reason of a refusal.",
                &["outcome"],
            )?,
            evictions: counter(
                "idlewild_guest_evictions_total",
                "Replicas that ended before their own end, by cause.",
                &["reason"],
            )?,
            requests: counter(
                "idlewild_executor_requests_total",
                "Writes to the member's API server by kind and outcome.",
                &["what", "outcome"],
            )?,
        })
    }

    /// The GPUs of `pool` in `state`.
    pub fn set_pool(&self, pool: &str, state: &str, gpus: i64) {
        self.pool_gpus.with_label_values(&[pool, state]).set(gpus);
    }

    /// `pool` is gone.
    pub fn drop_pool(&self, pool: &str) {
        for state in ["offered", "owner", "guest", "free"] {
            let _unknown = self.pool_gpus.remove_label_values(&[pool, state]);
        }
    }

    /// The number of leases in `phase`.
    pub fn set_leases(&self, phase: &str, count: i64) {
        self.leases.with_label_values(&[phase]).set(count);
    }

    /// `count` proposals were answered so.
    pub fn answered(&self, outcome: &str, count: u64) {
        self.answers.with_label_values(&[outcome]).inc_by(count);
    }

    /// `count` replicas were evicted. Reasons that only a hub makes up count as `Withdrawn`.
    pub fn evicted(&self, reason: &str, count: u64) {
        let reason = if super::outcome::is_ours(reason) { reason } else { "Withdrawn" };
        self.evictions.with_label_values(&[reason]).inc_by(count);
    }

    /// A write ended.
    pub fn requested(&self, what: &str, outcome: &str) {
        self.requests.with_label_values(&[what, outcome]).inc();
    }
}
