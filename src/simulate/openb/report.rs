//! The figures of all replays together.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::replay::{Mean, Run};
use super::{Levels, Options};
use crate::simulate::Report;

/// Shares of all GPUs that have arrived, where the paper reports what is used.
const USED_AT: [u64; 4] = [95, 100, 110, 130];
/// And how fragmented the rest is.
const FRAGMENTED_AT: [u64; 3] = [50, 80, 90];

/// The report of `runs`, whose choices took `busy` in all.
pub(super) fn report(options: &Options, runs: &[Run], busy: Duration) -> Report {
    let policy = name(options.policy);
    let used = |at| spread(runs.iter().filter_map(|run| run.used.get(&at)));
    let fragmented = |at| spread(runs.iter().filter_map(|run| run.fragmented.get(&at)));
    let alloc: BTreeMap<u64, Option<(f64, f64)>> = USED_AT.map(|at| (at, used(at))).into();
    let fragmentation: BTreeMap<_, _> = FRAGMENTED_AT.map(|at| (at, fragmented(at))).into();
    let speed = per_second(runs.iter().map(|run| run.decisions).sum(), busy);
    let mut table = format!("{policy}, {} orders, {}\n", runs.len(), levels(options));
    for (at, found) in &alloc {
        let _ = writeln!(table, "  at {at:>3} % arrived  {:>12} % used", text(*found));
    }
    for (at, found) in &fragmentation {
        let _ = writeln!(
            table,
            "  at {at:>3} % arrived  {:>12} % of the idle is fragments",
            text(*found)
        );
    }
    let _ = writeln!(table, "  {speed} decisions a second");
    let alloc = object(&alloc, |(mean, sd)| json!({"mean": mean, "sd": sd}));
    let fragmentation = object(&fragmentation, |(mean, _)| json!(mean));
    let json = json!({
        "policy": policy,
        "levels": name(options.levels),
        "seeds": runs.len(),
        "alloc": alloc,
        "fragmentation": fragmentation,
        "decisionsPerSecond": speed,
    });
    Report { json, table }
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn levels(options: &Options) -> String {
    match options.levels {
        Levels::Flat => "one level".into(),
        Levels::Two => format!("{} members", options.members),
    }
}

fn text(found: Option<(f64, f64)>) -> String {
    found.map_or("nothing".into(), |(mean, sd)| format!("{mean:.2} ±{sd:.2}"))
}

/// Figures by share, null where no replay came by.
fn object(
    figures: &BTreeMap<u64, Option<(f64, f64)>>,
    value: impl Fn((f64, f64)) -> Value,
) -> Map<String, Value> {
    let value = |found: &Option<(f64, f64)>| found.map_or(Value::Null, &value);
    figures.iter().map(|(at, found)| (at.to_string(), value(found))).collect()
}

/// Mean and standard deviation over replays, to two places.
#[allow(clippy::float_arithmetic, reason = "a figure for people")]
#[allow(clippy::cast_precision_loss, reason = "replays are few")]
fn spread<'a>(means: impl Iterator<Item = &'a Mean>) -> Option<(f64, f64)> {
    let values: Vec<f64> = means.map(Mean::value).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    let sd = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    let places = |value: f64| (value * 100.0).round() / 100.0;
    (!values.is_empty()).then(|| (places(mean), places(sd)))
}

fn per_second(count: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}
