//! How often the owner takes GPUs back, and how soon guests leave then.
//!
//! Invariant: it rides along with pictures that are written anyway, and never causes one: guests that
//! left change the picture themselves. A restarted agent goes on from what stands in the status.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::api::gpupool::{GpuPoolStatus, TimeToVacate, VACATE_CLASSES, VacateHistory};

/// Above so many guests all counts are halved: what happened long ago fades.
const SAMPLES: i64 = 1000;

/// What is known of each pool, by name.
#[derive(Debug, Default)]
pub(super) struct Reclaims(BTreeMap<String, Known>);

#[derive(Debug)]
struct Known {
    history: VacateHistory,
    /// GPUs that guests hold since then.
    held: (Timestamp, i64),
    /// Parts of a second that are not in the history yet.
    rest: SignedDuration,
}

impl Reclaims {
    /// What was seen of `pool` until `now`, where guests hold `held` GPUs from now on; `status` is
    /// what it said of itself when it was first seen.
    pub(super) fn read(
        &mut self,
        pool: &str,
        status: Option<&GpuPoolStatus>,
        (held, now): (i64, Timestamp),
    ) -> &VacateHistory {
        let known = self.0.entry(pool.into()).or_insert_with(|| Known {
            history: status.and_then(|status| status.vacate_history.clone()).unwrap_or_default(),
            held: (now, held),
            rest: SignedDuration::ZERO,
        });
        let (since, gpus) = std::mem::replace(&mut known.held, (now, held));
        let gpus = i32::try_from(gpus).unwrap_or(i32::MAX);
        let passed = now.duration_since(since).max(SignedDuration::ZERO);
        let sum =
            known.rest.saturating_add(passed.checked_mul(gpus).unwrap_or(SignedDuration::MAX));
        let seconds = sum.as_secs();
        known.rest = sum.saturating_sub(SignedDuration::from_secs(seconds));
        let total = known.history.gpu_seconds.max(0).saturating_add(seconds);
        known.history.gpu_seconds = total;
        &known.history
    }

    /// The pool is gone.
    pub(super) fn forget(&mut self, pool: &str) {
        self.0.remove(pool);
    }

    /// A guest of `pool` left, so long after it was told to go for the owner.
    pub(super) fn note(&mut self, pool: &str, took: SignedDuration) {
        let Some(Known { history, .. }) = self.0.get_mut(pool) else { return };
        // What somebody else wrote is no reason to fall over.
        history.counts.resize(VACATE_CLASSES.len() + 1, 0);
        history.counts.iter_mut().for_each(|count| *count = (*count).max(0));
        let class = |most: &i64| took > SignedDuration::from_secs(*most);
        let at = VACATE_CLASSES.iter().take_while(|most| class(most)).count();
        history.counts[at] = history.counts[at].saturating_add(1);
        history.evictions = history.evictions.max(0).saturating_add(1);
        if history.evictions > SAMPLES {
            history.counts.iter_mut().for_each(|count| *count /= 2);
            history.evictions /= 2;
            history.gpu_seconds /= 2;
        }
    }
}

/// Puts what `history` tells into `status`.
pub(super) fn put(history: &VacateHistory, status: &mut GpuPoolStatus) {
    status.time_to_vacate = time_to_vacate(&history.counts);
    let hours = history.gpu_seconds / 3600;
    // Rounded to ten-thousandths.
    let rate =
        |hours: i64| history.evictions.saturating_mul(10_000).saturating_add(hours / 2) / hours;
    status.evictions_per_gpu_hour = (hours > 0).then(|| {
        let rate = rate(hours);
        format!("{}.{:04}", rate / 10_000, rate % 10_000)
    });
    let empty = history.evictions == 0 && history.gpu_seconds == 0;
    status.vacate_history = (!empty).then(|| history.clone());
}

/// Times by class: that of the last guest below each quantile, so no shorter than it was.
fn time_to_vacate(counts: &[i64]) -> Option<TimeToVacate> {
    let samples: i64 = counts.iter().sum();
    let quantile = |of_hundred: i64| {
        let mut below = 0;
        let reached = |(_, count): &(usize, &i64)| {
            below += **count;
            below.saturating_mul(100) >= samples.saturating_mul(of_hundred)
        };
        let class = counts.iter().enumerate().find(reached).map_or(0, |(class, _)| class);
        // What took longer than the longest class is told as that.
        VACATE_CLASSES[class.min(VACATE_CLASSES.len() - 1)]
    };
    (samples > 0).then(|| TimeToVacate {
        p50_seconds: quantile(50),
        p99_seconds: quantile(99),
        samples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn told(history: &VacateHistory) -> GpuPoolStatus {
        let mut status = GpuPoolStatus::default();
        put(history, &mut status);
        status
    }

    #[test]
    fn quantiles_are_those_of_the_classes() {
        let mut reclaims = Reclaims::default();
        reclaims.read("p", None, (0, at(0)));
        assert_eq!(told(reclaims.read("p", None, (0, at(0)))), GpuPoolStatus::default());
        for seconds in std::iter::repeat_n(1, 98).chain([25, 9000]) {
            reclaims.note("p", SignedDuration::from_secs(seconds));
        }
        let status = told(reclaims.read("p", None, (0, at(0))));
        let want = TimeToVacate { p50_seconds: 1, p99_seconds: 30, samples: 100 };
        assert_eq!(status.time_to_vacate, Some(want));
        reclaims.note("p", SignedDuration::from_millis(1001));
        reclaims.note("p", SignedDuration::from_secs(9000));
        let status = told(reclaims.read("p", None, (0, at(0))));
        assert_eq!(status.time_to_vacate.unwrap().p99_seconds, 3600);
    }

    #[test]
    fn evictions_are_told_by_the_gpu_hour_and_outlive_the_agent() {
        let mut reclaims = Reclaims::default();
        reclaims.read("p", None, (8, at(0)));
        assert_eq!(told(reclaims.read("p", None, (8, at(400)))).evictions_per_gpu_hour, None);
        reclaims.note("p", SignedDuration::from_secs(2));
        let status = told(reclaims.read("p", None, (0, at(3 * 3600))));
        assert_eq!(status.evictions_per_gpu_hour.as_deref(), Some("0.0417"), "1 in 24 hours");
        let mut next = Reclaims::default();
        next.read("p", Some(&status), (2, at(0)));
        let later = told(next.read("p", None, (2, at(12 * 3600))));
        assert_eq!(later.evictions_per_gpu_hour.as_deref(), Some("0.0208"), "1 in 48 hours");
        assert_eq!(later.time_to_vacate, status.time_to_vacate);
    }

    #[test]
    fn what_happened_long_ago_fades_and_nonsense_is_no_harm() {
        let wrong = VacateHistory { counts: vec![-5; 3], evictions: -1, gpu_seconds: i64::MIN };
        let status = GpuPoolStatus { vacate_history: Some(wrong), ..GpuPoolStatus::default() };
        let mut reclaims = Reclaims::default();
        reclaims.read("p", Some(&status), (1, at(0)));
        for _ in 0..1001 {
            reclaims.note("p", SignedDuration::from_secs(1));
        }
        let samples = |status: GpuPoolStatus| status.time_to_vacate.unwrap().samples;
        assert_eq!(samples(told(reclaims.read("p", None, (1, at(0))))), 500);
    }
}
