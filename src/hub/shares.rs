//! What queues used lately, which counts in whose turn it is.
//!
//! The mean lives in memory and, coarsely, in the queue's status, so that a restart or a new leader
//! goes on from there. The time between is taken from two wall clocks; one that is an hour off moves a
//! mean by 3 %, no more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::queues;
use super::rounds::Now;
use super::state::State;
use crate::api::GpuQueue;
use crate::api::convert;
use crate::api::gpuqueue::ModelUsage;
use crate::engine::queues::decayed;

/// Means are brought up to date at most so often: they change by 1 % in a quarter of an hour.
const EVERY: Duration = Duration::from_secs(1);
/// A mean is written again once it is off by more than this part.
const COARSE: u64 = 20;
/// … and by more than this, in thousandths of GPUs.
const LEAST: u64 = 100;
/// Millionths in a thousandth.
const MICRO: u64 = 1000;

/// What a queue used lately.
#[derive(Clone, Debug)]
pub(super) struct Past {
    /// Millionths of GPUs by model.
    means: BTreeMap<String, u64>,
    at: Instant,
}

impl Past {
    /// Millionths of GPUs by model.
    pub(super) fn means(&self) -> &BTreeMap<String, u64> {
        &self.means
    }

    /// What a former leader wrote of the queue.
    fn recalled(queue: &GpuQueue, now: Now) -> Self {
        let status = queue.status.as_ref();
        let since = status.and_then(|status| status.usage_time.as_ref()).map(convert::millis);
        let gone = since.map_or(0, |since| now.wall.as_millisecond().saturating_sub(since));
        let gone = u64::try_from(gone / 1000).unwrap_or(0);
        let mut means = BTreeMap::new();
        for usage in status.into_iter().flat_map(|status| &status.usage) {
            let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
            let mean = unsigned(usage.recent_milli_gpus).saturating_mul(MICRO);
            means.insert(usage.model.clone(), decayed(mean, unsigned(usage.gpus), gone));
        }
        Self { means, at: now.instant }
    }
}

/// Brings the means of all queues up to date.
pub(super) fn advance(state: &mut State, now: Now) {
    let ripe = state.past_at.is_none_or(|at| now.instant >= at + EVERY);
    if !ripe {
        return;
    }
    state.past_at = Some(now.instant);
    let mut past = std::mem::take(&mut state.past);
    past.retain(|name, _| state.queues.get(&(String::new(), name.clone())).is_some());
    let used = queues::used(state);
    for (_, queue) in state.queues.iter() {
        let name = queue.name_any();
        let held = used.get(name.as_str());
        let past = past.entry(name.clone()).or_insert_with(|| Past::recalled(queue, now));
        let seconds = now.instant.saturating_duration_since(past.at).as_secs();
        if seconds == 0 {
            continue;
        }
        past.at += Duration::from_secs(seconds);
        for model in held.into_iter().flat_map(BTreeMap::keys) {
            past.means.entry((*model).to_owned()).or_default();
        }
        for (model, mean) in &mut past.means {
            let gpus = held.and_then(|held| held.get(model.as_str())).copied().unwrap_or(0);
            *mean = decayed(*mean, gpus, seconds);
        }
        past.means.retain(|_, mean| *mean > 0);
    }
    state.past = past;
}

/// What the status says of each model: as before where the mean changed little.
#[must_use]
pub(super) fn usage(state: &State, queue: &GpuQueue) -> Vec<ModelUsage> {
    let name = queue.name_any();
    let used = queues::used(state);
    let held = used.get(name.as_str());
    let past = state.past.get(&name).map(Past::means);
    let models = held.into_iter().flat_map(|held| held.keys().copied());
    let models = models.chain(past.into_iter().flat_map(|means| means.keys().map(String::as_str)));
    let mut models: Vec<&str> = models.collect();
    models.sort_unstable();
    models.dedup();
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let old = queue.status.iter().flat_map(|status| &status.usage);
    let old: BTreeMap<&str, u64> = old
        .map(|usage| (usage.model.as_str(), u64::try_from(usage.recent_milli_gpus).unwrap_or(0)))
        .collect();
    let row = |model: &str| {
        let mean = past.and_then(|means| means.get(model)).copied().unwrap_or(0) / MICRO;
        let was = old.get(model).copied();
        let same = was.filter(|was| was.abs_diff(mean) <= (was / COARSE).max(LEAST));
        ModelUsage {
            model: model.to_owned(),
            gpus: signed(held.and_then(|held| held.get(model)).copied().unwrap_or(0)),
            recent_milli_gpus: signed(same.unwrap_or(mean)),
        }
    };
    let rows = models.into_iter().map(row);
    rows.filter(|usage| usage.gpus > 0 || usage.recent_milli_gpus > 0).collect()
}
