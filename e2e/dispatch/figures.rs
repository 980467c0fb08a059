//! From what was seen to figures, and whether every job ran exactly once.

use std::time::Duration;

use serde_json::{Value, json};

use super::sight::{Stories, Story};

/// A distribution in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    /// By nearest rank; nothing of nothing.
    pub(super) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |percent: usize| {
            let rank = (all.len() * percent).div_ceil(100).max(1) - 1;
            all.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
        };
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }

    pub(super) fn as_json(self) -> Value {
        json!({ "p50": self.p50, "p90": self.p90, "p99": self.p99, "max": self.max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50, p90, p99, max } = self;
        write!(f, "p50 {p50:.0} · p90 {p90:.0} · p99 {p99:.0} · max {max:.0} ms")
    }
}

/// What became of the jobs of one measurement.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Jobs a second: the slope between 20 % and 80 % of the jobs whose pods are all there.
    pub(super) rate: f64,
    /// From submission to the first event of the last pod.
    pub(super) submit_to_pod: Spread,
    /// From the end of the last pod to the job's end at the hub.
    pub(super) finish_to_hub: Spread,
    /// Jobs that did not succeed.
    pub(super) lost: usize,
    /// Jobs of which more pods ran than they have.
    pub(super) doubled: usize,
}

/// The figures of `count` jobs of `size` pods.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn outcome(stories: &Stories, count: usize, size: usize) -> Outcome {
    let ours: Vec<&Story> = stories.values().filter(|story| story.submitted.is_some()).collect();
    let mut made: Vec<Duration> = ours.iter().filter_map(|story| whole(story, size)).collect();
    made.sort_unstable();
    let (low, high) = (made.len() / 5, made.len() * 4 / 5);
    let slope = match (made.get(low), made.get(high)) {
        (Some(from), Some(to)) if to > from => {
            (high - low) as f64 / to.saturating_sub(*from).as_secs_f64()
        }
        _ => f64::NAN,
    };
    let waited = |story: &&Story| Some(whole(story, size)?.saturating_sub(story.submitted?));
    let told = |story: &&Story| {
        let ended = story.pods.values().filter_map(|pod| pod.ended).max()?;
        Some(story.over?.saturating_sub(ended))
    };
    Outcome {
        rate: slope,
        submit_to_pod: Spread::of(ours.iter().filter_map(waited).collect()),
        finish_to_hub: Spread::of(ours.iter().filter_map(told).collect()),
        lost: count - ours.iter().filter(|story| story.over.is_some()).count().min(count),
        doubled: stories.values().filter(|story| ran(story) > size).count(),
    }
}

/// When the last of `size` pods was there.
fn whole(story: &Story, size: usize) -> Option<Duration> {
    let last = story.pods.values().map(|pod| pod.made).max();
    last.filter(|_| story.pods.len() >= size)
}

fn ran(story: &Story) -> usize {
    story.pods.values().filter(|pod| pod.ran.is_some()).count()
}

impl Outcome {
    pub(super) fn as_json(&self) -> Value {
        json!({
            "jobsPerSecond": self.rate,
            "submitToPodMillis": self.submit_to_pod.as_json(),
            "finishToHubMillis": self.finish_to_hub.as_json(),
            "lost": self.lost, "doubled": self.doubled,
        })
    }
}

#[test]
fn ranks_are_the_nearest_and_every_job_counts_once() {
    let spread = Spread::of((1..=200).map(Duration::from_millis).collect());
    assert!((spread.p50 - 100.0).abs() < 0.01 && (spread.p99 - 198.0).abs() < 0.01, "{spread}");
    let mut stories = Stories::new();
    let second = Duration::from_secs(1);
    for (job, pods) in [("fine", 1), ("twice", 2), ("lost", 0)] {
        let story = stories.entry(job.to_owned()).or_default();
        story.submitted = Some(second);
        story.over = (pods > 0).then_some(second * 9);
        for pod in 0..pods {
            let pod = story.pods.entry(format!("{job}-{pod}")).or_default();
            (pod.made, pod.ran, pod.ended) = (second * 2, Some(second * 3), Some(second * 8));
        }
    }
    let found = outcome(&stories, 3, 1);
    assert_eq!((found.lost, found.doubled), (1, 1));
    assert!((found.finish_to_hub.max - 1000.0).abs() < 0.01);
}
