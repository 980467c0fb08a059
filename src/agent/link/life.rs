//! How long a token lives, whatever the clocks of two machines say.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::jiff::Timestamp;

/// A hub that gives shorter tokens is asked again no sooner than this.
const SHORTEST: Duration = Duration::from_secs(30);

/// How long the token of `answer` lives. The hub says when it made it and when it ends, both by its own
/// clock, so that ours does not matter. A hub that does not say the first is measured by our clock,
/// which may be ahead, so that we renew early, or behind: then `asked` is the limit.
pub(super) fn life(answer: &TokenRequest, asked: i64, now: Timestamp) -> Duration {
    let Some(status) = &answer.status else { return Duration::ZERO };
    let made = answer.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0);
    let left = status.expiration_timestamp.0.as_second() - made.as_second();
    let given = answer.spec.expiration_seconds.unwrap_or(asked).min(asked);
    Duration::from_secs(u64::try_from(left.min(given)).unwrap_or(0))
}

/// When to renew what lives so long.
pub(super) fn half(life: Duration) -> Duration {
    (life / 2).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::RENEW_SECONDS;

    const MADE: i64 = 1_700_000_000;
    const HOUR: i64 = 3_600;

    fn answer(made: Option<i64>, ends: i64, seconds: Option<i64>) -> TokenRequest {
        let text = |second| Timestamp::from_second(second).unwrap().to_string();
        let mut answer = json!({
            "metadata": {},
            "spec": { "audiences": [], "expirationSeconds": seconds },
            "status": { "token": "t", "expirationTimestamp": text(ends) },
        });
        if let Some(made) = made {
            answer["metadata"]["creationTimestamp"] = json!(text(made));
        }
        serde_json::from_value(answer).unwrap()
    }

    fn lives(answer: &TokenRequest, asked: i64, ours: i64) -> i64 {
        let now = Timestamp::from_second(ours).unwrap();
        i64::try_from(life(answer, asked, now).as_secs()).unwrap()
    }

    #[test]
    fn a_clock_an_hour_off_changes_nothing() {
        let hourly = answer(Some(MADE), MADE + HOUR, Some(HOUR));
        for off in [-24 * HOUR, -HOUR, 0, HOUR, 24 * HOUR] {
            assert_eq!(lives(&hourly, HOUR, MADE + off), HOUR, "{off}");
        }
    }

    #[test]
    fn a_capped_life_is_followed_whether_the_hub_says_so_in_the_spec_or_not() {
        let day = 24 * HOUR;
        for seconds in [None, Some(day), Some(RENEW_SECONDS)] {
            let capped = answer(Some(MADE), MADE + day, seconds);
            assert_eq!(lives(&capped, RENEW_SECONDS, MADE + HOUR), day, "{seconds:?}");
            assert_eq!(half(life(&capped, RENEW_SECONDS, Timestamp::now())).as_secs(), 43_200);
        }
    }

    #[test]
    fn a_hub_that_does_not_say_when_it_made_it_is_measured_by_our_clock() {
        let hourly = answer(None, MADE + HOUR, Some(HOUR));
        assert_eq!(lives(&hourly, HOUR, MADE), HOUR);
        assert_eq!(lives(&hourly, HOUR, MADE - HOUR), HOUR, "behind: no longer than asked");
        assert_eq!(lives(&hourly, HOUR, MADE + 2 * HOUR), 0, "ahead: at once, and not for ever");
        assert_eq!(half(Duration::ZERO), SHORTEST);
    }

    #[test]
    fn a_longer_life_than_asked_is_not_believed() {
        assert_eq!(lives(&answer(Some(MADE), MADE + 9 * HOUR, None), HOUR, MADE), HOUR);
    }
}
