//! Where the time of a start goes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One step of a start.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// When it began, counted from the start.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
}

/// All steps of a start, many of which overlap.
#[derive(Debug)]
pub struct Timeline {
    origin: Instant,
    steps: Mutex<Vec<Step>>,
}

impl Timeline {
    /// A timeline that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now(), steps: Mutex::default() }
    }

    /// Does `work` and writes down how long it took.
    pub async fn step<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let began = self.origin.elapsed();
        let result = work.await;
        let took = self.origin.elapsed().saturating_sub(began);
        let step = Step { what: what.into(), began, took };
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
        result
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The steps in the order in which they began.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        steps.sort_by(|a, b| a.began.cmp(&b.began).then_with(|| a.what.cmp(&b.what)));
        steps
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}
