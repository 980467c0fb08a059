//! When a replica is run elsewhere although nobody says that it ended.
//!
//! Clocks of two machines are never compared: all that counts is for how long this hub has not heard of
//! the member. What each rule promises is in the docs of `failover` in `api::gpujob`.

use super::record::{Allocation, Lease, Terms};
use crate::planted::{Defect, planted};

/// What a kubelet needs to kill what is over its grace, in seconds.
const KILLED_WITHIN: u64 = 10;
/// A member that was heard so many seconds ago may have started pods since: it beats every ten seconds,
/// and what it says of leases while it sends no beat counts as heard 40 s before.
const UNHEARD: u64 = 60;
/// Slack between two machines, in seconds.
const SLACK: u64 = 5;

/// Seconds of silence after which `allocation` may be run elsewhere; `None` = never.
#[must_use]
pub fn bound(terms: &Terms, allocation: &Allocation, lease: Option<&Lease>) -> Option<u64> {
    if planted(Defect::NoTolerance) {
        return Some(0);
    }
    let gone = |seconds: u64| {
        surely(seconds.saturating_add(terms.grace_seconds).saturating_add(KILLED_WITHIN))
    };
    // The kubelet ends pods at their deadline, with agent and API server dead. They began before the
    // silence did: later only a lease whose pods were not all there makes new ones.
    let started = lease.is_some_and(|lease| lease.started);
    let dead = started.then(|| gone(allocation.deadline_seconds.saturating_add(UNHEARD)));
    if terms.never_twice {
        return dead;
    }
    let borne = terms.toleration_seconds;
    let tolerated = match allocation.stop_after {
        // A lease that was made since the last beat counts from then.
        Some(stop) => Some(gone(stop.saturating_add(UNHEARD)).max(borne.unwrap_or(0))),
        None => borne,
    };
    tolerated.into_iter().chain(dead).min()
}

/// After how many of our seconds so many have passed for a clock that is up to 1 % slower, where ours
/// is up to 1 % faster, with slack: `seconds · (1 + ρ) / (1 − ρ) + S` (`lifecycle.md` 2).
fn surely(seconds: u64) -> u64 {
    seconds.saturating_mul(101).div_ceil(99).saturating_add(SLACK)
}

/// Whether so many of `all` members fell silent at about the same time that this hub is rather cut off
/// itself. `silences` are the seconds for which each has been silent.
///
/// Of two members, or three, one that is lost is no sign of that.
#[must_use]
pub fn suspects_itself(silences: &[u64], all: usize) -> bool {
    const AT_ONCE: u64 = 60;
    let many =
        |count: usize| (count >= 2 && count * 2 > all) || (count >= 3 && count * 10 > all * 3);
    silences.iter().any(|first| {
        let together = silences.iter().filter(|other| (*first..=first + AT_ONCE).contains(other));
        many(together.count())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(stop_after: Option<u64>) -> Allocation {
        Allocation { deadline_seconds: 600, stop_after, ..Allocation::default() }
    }

    fn lease(started: bool) -> Lease {
        Lease { started, ..Lease::default() }
    }

    fn terms(toleration_seconds: Option<u64>, never_twice: bool) -> Terms {
        Terms { toleration_seconds, never_twice, grace_seconds: 30, ..Terms::default() }
    }

    #[test]
    fn what_stays_where_it_is_and_what_moves_when() {
        let bound =
            |terms: &Terms, stop, started| bound(terms, &allocation(stop), Some(&lease(started)));
        // 700 s by any clock, and five: no pod lives longer.
        let dead = Some(720);
        assert_eq!(bound(&terms(None, false), None, true), dead);
        assert_eq!(bound(&terms(None, false), None, false), None, "it may make pods yet");
        assert_eq!(bound(&terms(Some(60), false), None, false), Some(60));
        assert_eq!(bound(&terms(Some(6000), false), None, true), dead);
        assert_eq!(bound(&terms(Some(60), true), None, true), dead);
        assert_eq!(bound(&terms(Some(60), true), Some(100), false), None);
        // With Stop: 200 s and slack, however little is tolerated.
        assert_eq!(bound(&terms(None, false), Some(100), false), Some(210));
        assert_eq!(bound(&terms(Some(60), false), Some(100), false), Some(210));
        assert_eq!(bound(&terms(Some(300), false), Some(100), false), Some(300));
        assert_eq!(super::bound(&terms(Some(60), false), &allocation(None), None), Some(60));
    }

    #[test]
    fn no_clock_within_one_percent_is_early() {
        for seconds in [0_u64, 1, 99, 900, 86_400, u64::MAX / 200] {
            // Theirs runs at 99 %, ours at 101 %.
            let ours = surely(seconds);
            assert!((ours - SLACK) * 99 >= seconds * 101, "{seconds}");
        }
        assert_eq!(surely(u64::MAX), u64::MAX / 99 + 1 + SLACK);
    }

    #[test]
    fn a_hub_suspects_itself_only_if_many_fall_silent_at_once() {
        assert!(!suspects_itself(&[50], 1) && !suspects_itself(&[50], 2));
        assert!(suspects_itself(&[50, 60], 2) && suspects_itself(&[50, 60], 3));
        assert!(!suspects_itself(&[50, 60], 4), "half is not more than half");
        assert!(suspects_itself(&[50, 60, 70], 9) && !suspects_itself(&[50, 60, 70], 10));
        assert!(!suspects_itself(&[50, 500], 2), "one after the other");
        assert!(suspects_itself(&[500, 50, 550], 3), "the two that fell together");
    }
}
