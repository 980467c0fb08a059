//! Time as one process knows it.
//!
//! Invariant: hub and agent read the time here and nowhere else, so that whole federations can be
//! run in time that a test owns. Durations come from a clock that never goes back; what people read
//! comes from the machine's, which may jump.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;

/// Where the time comes from.
pub trait Time: Debug + Send + Sync {
    /// Now, by the clock that never goes back.
    fn instant(&self) -> Instant;
    /// Now, by the machine's clock.
    fn wall(&self) -> Timestamp;
    /// When the runtime's timers show what [`Time::instant`] shows at `at`.
    fn due(&self, at: Instant) -> tokio::time::Instant;
}

/// The clocks of one process.
#[derive(Clone, Debug)]
pub struct Clock(Arc<dyn Time>);

/// The clocks of the machine.
#[derive(Debug)]
struct Machine;

impl Time for Machine {
    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn due(&self, at: Instant) -> tokio::time::Instant {
        at.into()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Machine)
    }
}

impl Clock {
    /// Clocks that show what `time` says.
    #[must_use]
    pub fn new(time: impl Time + 'static) -> Self {
        Self(Arc::new(time))
    }

    /// Now, for what is measured.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.0.instant()
    }

    /// Now, for what is written.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    /// When timers of the runtime have to ring for `at`.
    #[must_use]
    pub fn due(&self, at: Instant) -> tokio::time::Instant {
        self.0.due(at)
    }

    /// Waits until `at`.
    pub async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(self.due(at)).await;
    }
}
