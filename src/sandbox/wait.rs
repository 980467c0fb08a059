//! Waiting for a condition with a deadline; nothing here sleeps for a fixed time and hopes.

use std::time::{Duration, Instant};

use super::error::Error;

/// First pause between two looks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two looks: short against any deadline, long against a look's cost.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Looks again and again until `probe` finds something; its `Err` says what there is instead.
///
/// # Errors
/// [`Error::Late`] with the last thing seen when `limit` has passed.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(seen) if began.elapsed() >= limit => {
                return Err(Error::Late { what: what.into(), limit, seen });
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
