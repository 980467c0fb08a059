//! What the gateway's metrics show. No label holds a user's or job's name.

use prometheus::{Histogram, IntCounterVec, Registry};

use crate::metrics::{counter, seconds};

/// Metrics of a gateway.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    /// Answers by what was asked and status code.
    pub(super) requests: IntCounterVec,
    /// Seconds from question to explanation.
    pub(super) explain_seconds: Histogram,
}

impl Gateway {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            requests: counter(
                registry,
                "idlewild_gateway_requests_total",
                "Answers of the aggregated API by subresource and status code.",
                &["subresource", "code"],
            ),
            explain_seconds: seconds(
                registry,
                "idlewild_gateway_explain_seconds",
                "Seconds from the question to the explanation of a job.",
            ),
        }
    }
}
