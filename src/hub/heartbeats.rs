//! How long members have been silent, by this process's own clock.
//!
//! Invariant: clocks of two machines are never compared. What counts is when a heartbeat was seen
//! to change here; what a former leader counted is carried on from `silentSeconds`.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use crate::api::SILENT_AFTER_SECONDS;

/// How often silence is persisted while it lasts.
const PERSISTED_EVERY: Duration = Duration::from_secs(15);
/// Silence after which a member is not trusted with new work.
const SILENT_AFTER: Duration = Duration::from_secs(SILENT_AFTER_SECONDS);

/// Silence of one member.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence {
    renewed: Option<Timestamp>,
    heard: Option<Instant>,
    /// Since when this process waits for a first beat of a member that others have heard.
    missed: Option<Instant>,
    before: Duration,
    /// The one beat that was heard may be old: it was there when this process came.
    found: bool,
}

impl Silence {
    /// Takes in a heartbeat; `persisted` is what a former leader counted. True if it is news.
    pub(super) fn heard(
        &mut self,
        renewed: Option<Timestamp>,
        persisted: Option<i64>,
        now: Instant,
    ) -> bool {
        if renewed.is_none() || renewed == self.renewed {
            return false;
        }
        self.found = self.renewed.is_none();
        self.before = Duration::ZERO;
        self.renewed = renewed;
        self.heard = Some(now);
        self.recall(persisted, now);
        true
    }

    /// A member that was heard once has no heartbeat: its silence counts from now, and with what a former
    /// leader counted.
    pub(super) fn miss(&mut self, persisted: Option<i64>, now: Instant) {
        if self.heard.is_none() && self.missed.is_none() {
            (self.missed, self.found) = (Some(now), true);
            self.recall(persisted, now);
        }
    }

    /// Takes in what a former leader counted, which may be known only after the heartbeat is. What this
    /// process counted itself is part of it.
    pub(super) fn recall(&mut self, persisted: Option<i64>, now: Instant) {
        let persisted = persisted.and_then(|seconds| u64::try_from(seconds).ok());
        let (Some(seconds), Some(since)) = (persisted.filter(|_| self.found), self.since()) else {
            return;
        };
        let own = now.saturating_duration_since(since);
        self.before = self.before.max(Duration::from_secs(seconds).saturating_sub(own));
    }

    /// A member that sends no heartbeat did something else: it stays silent, and its silence counts
    /// anew.
    pub(super) fn alive(&mut self, now: Instant) {
        if self.is_silent(now) && self.heard.is_some() {
            self.before = SILENT_AFTER + Duration::from_secs(1);
            self.heard = Some(now);
            // What was written down before is older than this.
            self.found = false;
        }
    }

    /// Leaves out a time in which this process could hear nobody.
    pub(super) fn leave_out(&mut self, gap: Duration, now: Instant) {
        self.heard = self.heard.map(|heard| (heard + gap).min(now));
        self.missed = self.missed.map(|missed| (missed + gap).min(now));
    }

    /// Since when this process counts.
    fn since(&self) -> Option<Instant> {
        self.heard.or(self.missed)
    }

    /// Whether it was ever heard.
    #[must_use]
    pub(super) fn was_heard(&self) -> bool {
        self.heard.is_some()
    }

    /// Whether it was heard since this process came: the beat that was there then may be old.
    #[must_use]
    pub(super) fn was_heard_anew(&self) -> bool {
        self.heard.is_some() && !self.found
    }

    /// How long it has been silent; `None` if nobody ever heard it.
    #[must_use]
    pub(super) fn lasts(&self, now: Instant) -> Option<Duration> {
        self.since().map(|since| self.before + now.saturating_duration_since(since))
    }

    /// How long this process itself has not heard it; `None` if nobody ever did.
    #[must_use]
    pub(super) fn unheard(&self, now: Instant) -> Option<Duration> {
        self.since().map(|since| now.saturating_duration_since(since))
    }

    /// Whether it is silent; one that was never heard is.
    #[must_use]
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.heard.is_none() || self.lasts(now).is_none_or(|lasts| lasts > SILENT_AFTER)
    }

    /// When time alone changes something: it falls silent, or its silence is persisted again.
    #[must_use]
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let heard = self.since()?;
        Some(match self.is_silent(now) {
            false => heard + (SILENT_AFTER + Duration::from_millis(1)).saturating_sub(self.before),
            true => now + PERSISTED_EVERY,
        })
    }

    /// Seconds of silence to persist, in steps of 15; `None` while it is not silent.
    #[must_use]
    pub(super) fn persisted(&self, now: Instant) -> Option<i64> {
        let lasts = self.lasts(now).filter(|_| self.is_silent(now))?;
        let step = PERSISTED_EVERY.as_secs();
        i64::try_from(lasts.as_secs() / step * step).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn silence_counts_from_the_last_change_seen_here() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        assert!(silence.is_silent(start), "never heard");
        assert!(silence.heard(beat(1), None, start));
        assert!(!silence.heard(beat(1), None, at(20)), "the same beat again");
        assert!(!silence.is_silent(at(40)));
        assert!(silence.is_silent(at(41)));
        assert_eq!(silence.persisted(at(40)), None);
        assert_eq!(silence.persisted(at(59)), Some(45));
        assert!(silence.heard(beat(2), None, at(60)));
        assert!(!silence.is_silent(at(99)));
    }

    #[test]
    fn time_in_which_nobody_could_be_heard_is_no_silence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        silence.heard(beat(1), None, start);
        silence.leave_out(Duration::from_secs(90), at(100));
        assert!(!silence.is_silent(at(100)));
        assert!(!silence.is_silent(at(130)));
        assert!(silence.is_silent(at(131)));
        // One that was heard meanwhile is not heard in the future.
        silence.heard(beat(2), None, at(140));
        silence.leave_out(Duration::from_secs(90), at(141));
        assert!(silence.is_silent(at(182)));
    }

    #[test]
    fn a_new_leader_counts_on() {
        let start = Instant::now();
        let mut silence = Silence::default();
        silence.heard(beat(1), Some(60), start);
        assert!(silence.is_silent(start));
        silence.heard(beat(2), Some(60), start + Duration::from_secs(1));
        assert!(!silence.is_silent(start + Duration::from_secs(1)));
        silence.recall(Some(60), start + Duration::from_secs(1));
        assert!(!silence.is_silent(start + Duration::from_secs(1)), "it was heard since");
    }

    #[test]
    fn it_does_not_matter_whether_the_beat_or_the_count_is_known_first() {
        let start = Instant::now();
        let mut silence = Silence::default();
        silence.heard(beat(1), None, start);
        assert!(!silence.is_silent(start));
        silence.recall(Some(60), start);
        assert!(silence.is_silent(start));
    }

    #[test]
    fn a_member_whose_heartbeat_is_gone_is_silent_from_when_it_is_looked_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        silence.miss(None, start);
        assert!(silence.is_silent(start) && !silence.was_heard());
        silence.miss(None, at(50));
        assert_eq!(silence.lasts(at(60)).unwrap().as_secs(), 60);
        assert_eq!(silence.persisted(at(60)), Some(60));
        let mut next = Silence::default();
        next.miss(Some(60), at(100));
        assert_eq!(next.lasts(at(110)).unwrap().as_secs(), 70, "a new leader counts on");
        next.heard(beat(1), Some(60), at(120));
        assert_eq!(next.persisted(at(120)), Some(60), "the beat that came may be old");
        next.heard(beat(2), Some(60), at(121));
        assert!(!next.is_silent(at(121)));
    }

    #[test]
    fn whoever_leads_again_and_again_counts_no_second_twice() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        silence.heard(beat(1), Some(60), start);
        for leads in [100, 200, 300] {
            let lasts = silence.lasts(at(leads)).unwrap();
            assert_eq!(lasts.as_secs(), 60 + leads);
            silence.recall(silence.persisted(at(leads)), at(leads));
            assert_eq!(silence.lasts(at(leads)), Some(lasts));
        }
        // Another leader counted further meanwhile.
        silence.recall(Some(1_000), at(300));
        assert_eq!(silence.lasts(at(300)).unwrap().as_secs(), 1_000);
    }

    #[test]
    fn a_sign_of_life_begins_the_silence_anew_and_does_not_end_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();
        silence.heard(beat(1), None, start);
        silence.alive(at(10));
        assert_eq!(silence.lasts(at(10)).unwrap().as_secs(), 10, "it beats");
        silence.alive(at(600));
        assert!(silence.is_silent(at(600)));
        assert_eq!(silence.lasts(at(660)).unwrap().as_secs(), 101);
        silence.recall(Some(600), at(660));
        assert_eq!(silence.lasts(at(660)).unwrap().as_secs(), 101, "the count of before is over");
    }
}
