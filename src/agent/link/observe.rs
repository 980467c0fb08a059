//! What the link's metrics show of one hub.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::expiry;
use crate::api::{HubGrant, HubGrantSpec};
use crate::cluster::counting::Count;
use crate::metrics::{self, Common};

/// Accounts of a member on its hub that it holds tokens of.
const ACCOUNTS: [&str; 2] = ["agent", "renew"];

/// What the link counts with.
#[derive(Clone, Debug)]
pub struct Figures {
    link: metrics::Link,
    common: Common,
}

impl Figures {
    /// Counts in these.
    #[must_use]
    pub fn new(link: metrics::Link, common: Common) -> Self {
        Self { link, common }
    }

    /// Counts requests to hubs.
    pub(super) fn requests(&self) -> Count {
        self.common.requests("link", "hub")
    }

    /// One step about a lease took so long.
    pub(super) fn stepped(&self, took: Duration) {
        self.common.reconcile_seconds.with_label_values(&["lease"]).observe(took.as_secs_f64());
    }

    /// Work for the hub of `grant` begins: what its grant tells.
    pub(super) fn begin(&self, name: &str, grant: &HubGrant) {
        self.connected(name, false);
        self.certificates(name, &grant.spec);
        let expires = grant.status.as_ref().and_then(|status| status.renewal_expires.as_ref());
        if let Some(expires) = expires {
            let gauge = self.link.token_expiry.with_label_values(&[name, "renew"]);
            gauge.set(expires.0.as_second());
        }
    }

    fn certificates(&self, name: &str, grant: &HubGrantSpec) {
        if let Some(ends) = expiry::first(&grant.ca) {
            self.link.ca_expiry.with_label_values(&[name]).set(ends.as_second());
        }
    }

    /// The hub takes our heartbeats, or does not.
    pub(super) fn connected(&self, name: &str, connected: bool) {
        self.link.connected.with_label_values(&[name]).set(connected.into());
    }

    /// The hub gave a token of `account` that lives so long from now.
    pub(super) fn granted(&self, name: &str, account: &str, life: Duration) {
        let life = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        let ends = Timestamp::now().as_second().saturating_add(life);
        self.link.token_expiry.with_label_values(&[name, account]).set(ends);
        self.link.token_life.with_label_values(&[name, account]).set(life);
    }

    /// The owner took the grant back.
    pub(super) fn end(&self, name: &str) {
        // What was never shown is not there to be removed.
        let _shown = self.link.connected.remove_label_values(&[name]);
        let _shown = self.link.ca_expiry.remove_label_values(&[name]);
        for account in ACCOUNTS {
            let _shown = self.link.token_expiry.remove_label_values(&[name, account]);
            let _shown = self.link.token_life.remove_label_values(&[name, account]);
        }
    }
}
