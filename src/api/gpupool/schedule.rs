//! When a pool is lent.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Most windows of a pool.
pub const MAX_WINDOWS: usize = 32;

/// A time of some days at which a pool is lent.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from < self.to").message(
    "a window of offer.schedule ends after it begins; for a night write two: one until 24:00 and one from 00:00"))]
pub struct Window {
    /// Days of the week on which it begins: `Mon`, `Tue`, `Wed`, `Thu`, `Fri`, `Sat`, `Sun`; absent = every
    /// day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 7))]
    pub days: Option<Vec<Day>>,
    /// When it begins, such as `18:00`.
    #[x_kube(validation = Rule::new("self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')").message(
        "offer.schedule.from must be a time of day from 00:00 to 23:59"))]
    #[schemars(length(max = 5))]
    pub from: String,
    /// When it ends, such as `24:00`: guests are gone by then.
    #[x_kube(validation = Rule::new("self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')").message(
        "offer.schedule.to must be a time of day from 00:01 to 24:00"))]
    #[schemars(length(max = 5))]
    pub to: String,
    /// Time zone of the IANA database, such as `Europe/Oslo`; default `UTC`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

fn utc() -> String {
    "UTC".into()
}

/// A day of the week.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema,
)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}
