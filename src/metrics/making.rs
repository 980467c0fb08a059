//! From a line of the table to a metric in a registry.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::snapshot::Snapshot;
use crate::cluster::watch;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets; of others none.
    pub buckets: &'static [f64],
}

impl Described {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help.trim())
    }

    fn histogram(&self) -> HistogramOpts {
        HistogramOpts::new(self.name, self.help.trim()).buckets(self.buckets.to_vec())
    }
}

/// A kind of metric that can be made from a line of the table.
pub(super) trait Made: Collector + Clone + Sized + 'static {
    fn from_line(line: &Described) -> prometheus::Result<Self>;

    /// Makes it and puts it into `registry`.
    ///
    /// # Panics
    /// If the name is taken or no valid name, which is a mistake of ours that every start shows.
    fn registered(registry: &Registry, line: &Described) -> Self {
        let made = Self::from_line(line).expect("a valid name and valid labels");
        registry.register(Box::new(made.clone())).expect("each metric is registered once");
        made
    }
}

macro_rules! made {
    ($($kind:ty: $line:ident => $made:expr;)*) => {
        $(impl Made for $kind {
            fn from_line($line: &Described) -> prometheus::Result<Self> {
                $made
            }
        })*
    };
}

made! {
    IntGauge: line => Self::with_opts(line.opts());
    IntCounter: line => Self::with_opts(line.opts());
    Histogram: line => Self::with_opts(line.histogram());
    IntGaugeVec: line => Self::new(line.opts(), line.labels);
    IntCounterVec: line => Self::new(line.opts(), line.labels);
    Snapshot: line => Ok(Self::of(IntGaugeVec::new(line.opts(), line.labels)?));
    CounterVec: line => Self::new(line.opts(), line.labels);
    HistogramVec: line => Self::new(line.histogram(), line.labels);
}

/// Makes a struct with one field for each metric; the comment on a field is the metric's help.
macro_rules! family {
    (
        $(#[doc = $about:literal])+
        $family:ident {
            $(
                #[doc = $help:literal]
                $field:ident: $kind:ident = $name:literal, [$($label:literal),*], $buckets:expr;
            )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        pub struct $family {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl $family {
            /// Its lines of the table.
            pub const CATALOGUE: &'static [$crate::metrics::Described] = &[
                $($crate::metrics::Described {
                    name: $name, help: $help, labels: &[$($label),*], buckets: $buckets,
                },)*
            ];

            /// The metrics, registered.
            ///
            /// # Panics
            /// If `registry` holds one of their names already.
            #[must_use]
            pub fn new(registry: &Registry) -> Self {
                let mut lines = Self::CATALOGUE.iter();
                let mut next = || lines.next().expect("a line for each field");
                Self {
                    $($field: $crate::metrics::making::Made::registered(registry, next()),)*
                }
            }
        }
    };
}
pub(super) use family;

/// Objects that watches left out.
pub(super) const UNREADABLE: Described = Described {
    name: "idlewild_unreadable_objects_total",
    help: "Objects that were left out because they are not what their kind should be.",
    labels: &[],
    buckets: &[],
};

/// Shows what `cluster` counts, which knows nothing of registries.
pub(super) struct Unreadable(IntCounter);

impl Default for Unreadable {
    fn default() -> Self {
        Self(IntCounter::from_line(&UNREADABLE).expect("a valid name"))
    }
}

impl Collector for Unreadable {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.inc_by(watch::unreadable().saturating_sub(self.0.get()));
        self.0.collect()
    }
}
