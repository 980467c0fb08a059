//! Gauges that show one picture: what the picture lacks is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntGaugeVec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Values of the labels of one series, in the order of the table.
type Values = Vec<String>;

/// Gauges that are shown together. A series that stays is never missing in between, since a gap of
/// one scrape would end an alert that waits.
#[derive(Clone, Debug)]
pub struct Snapshot {
    gauge: IntGaugeVec,
    shown: Arc<Mutex<BTreeSet<Values>>>,
}

/// The key of a series.
#[must_use]
pub fn labelled(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

impl Snapshot {
    pub(super) fn of(gauge: IntGaugeVec) -> Self {
        Self { gauge, shown: Arc::default() }
    }

    /// Shows `picture` and nothing else.
    pub fn show(&self, picture: BTreeMap<Values, i64>) {
        for (values, number) in &picture {
            self.gauge.with_label_values(values).set(*number);
        }
        let new: BTreeSet<Values> = picture.into_keys().collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&new) {
            // It was set, so it is there.
            let _there = self.gauge.remove_label_values(gone);
        }
        *shown = new;
    }
}

impl Collector for Snapshot {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.collect()
    }
}
