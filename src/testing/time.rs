//! Time that a test owns: tokio's paused clock, seen by each process through a clock of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::cluster::clock::{Clock, Time};

/// When every simulation begins, for whoever reads clocks on the wall.
pub(crate) const BEGIN: &str = "2026-01-01T00:00:00Z";

/// Virtual time since the simulation began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    began: Instant,
    wall: Timestamp,
}

impl Epoch {
    /// Now is the beginning.
    pub(crate) fn begin() -> Self {
        let began = tokio::time::Instant::now().into_std();
        Self { began, wall: BEGIN.parse().expect("a timestamp") }
    }

    /// How much time has passed.
    pub(crate) fn elapsed(&self) -> Duration {
        tokio::time::Instant::now().into_std().saturating_duration_since(self.began)
    }

    /// True time.
    pub(crate) fn now(&self) -> Timestamp {
        self.at(self.elapsed())
    }

    /// True time after so much has passed.
    pub(crate) fn at(&self, elapsed: Duration) -> Timestamp {
        let elapsed = SignedDuration::try_from(elapsed).expect("a short time");
        self.wall.checked_add(elapsed).expect("a time of our age")
    }
}

/// The clock of one machine: it may run fast or slow, and show another time of day.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    epoch: Epoch,
    /// Parts per million by which it runs fast.
    rate: i64,
    /// Seconds by which the time of day is ahead.
    ahead: Arc<AtomicI64>,
}

impl Machine {
    pub(crate) fn new(epoch: Epoch, rate: i64) -> Self {
        Self { epoch, rate, ahead: Arc::default() }
    }

    /// Somebody sets the time of day.
    pub(crate) fn jump(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::new(self.clone())
    }

    fn scaled(&self, true_time: Duration) -> Duration {
        let micros = i64::try_from(true_time.as_micros()).expect("a short time");
        let more = micros / 1_000 * self.rate / 1_000;
        Duration::from_micros(u64::try_from(micros + more).expect("after the beginning"))
    }
}

impl Time for Machine {
    fn instant(&self) -> Instant {
        self.epoch.began + self.scaled(self.epoch.elapsed())
    }

    fn wall(&self) -> Timestamp {
        let ahead = SignedDuration::from_secs(self.ahead.load(Ordering::Relaxed));
        let shown = self.epoch.at(self.scaled(self.epoch.elapsed()));
        shown.checked_add(ahead).expect("a time of our age")
    }

    fn due(&self, at: Instant) -> tokio::time::Instant {
        let shown = at.saturating_duration_since(self.epoch.began);
        let micros = i64::try_from(shown.as_micros()).expect("a short time");
        // The same rate the other way round, and a little more, so that it is never early.
        let true_time = micros * 1_000_000 / (1_000_000 + self.rate);
        let slack = if self.rate == 0 { 0 } else { 1_100 };
        let true_time = u64::try_from(true_time + slack).expect("after the beginning");
        tokio::time::Instant::from_std(self.epoch.began + Duration::from_micros(true_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_never_early_by_the_clock_that_set_it() {
        for rate in [-10_000, 0, 10_000] {
            let machine = Machine::new(Epoch::begin(), rate);
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            let shown = machine.instant().duration_since(machine.epoch.began);
            assert_eq!(shown.as_millis(), u128::try_from(1_000_000 + rate).unwrap());
            let at = machine.instant() + Duration::from_mins(15);
            machine.clock().sleep_until(at).await;
            let late = machine.instant().checked_duration_since(at).expect("not early");
            assert!(late < Duration::from_secs(1), "{rate}: {late:?}");
        }
    }
}
