//! What the executor's readiness says.

use std::sync::{Mutex, PoisonError};

/// What keeps the executor from being ready.
#[derive(Debug)]
pub struct Health(Mutex<Vec<&'static str>>);

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(vec!["executor"]))
    }
}

impl Health {
    /// Names of the gates that are still closed; empty = ready.
    #[must_use]
    pub fn closed(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, closed: Vec<&'static str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = closed;
    }
}
