//! When the owner lends: the windows of a pool's schedule.
//!
//! Invariant: a window that cannot be read is closed. What is open tells when it closes, windows that
//! touch each other being one.

use std::collections::BTreeMap;

use k8s_openapi::jiff::civil::{Date, Weekday};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Span, Timestamp};

use super::state::{State, open_pools};
use crate::api::gpupool::{Day, Offer, Window};

/// Windows are looked at for so many days: longer than a week, after which all repeats.
const DAYS: i64 = 9;
/// What is open for so long counts as always open.
const ALWAYS: SignedDuration = SignedDuration::from_hours(24 * 7);

/// Whether a pool is lent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lending {
    /// It is, without an end in sight.
    Always,
    /// It is until then.
    Until(Timestamp),
    /// It is not, and will be from then on, if that is known.
    Closed(Option<Timestamp>),
    /// It is not, as its schedule cannot be read: the sentence says what to do.
    Wrong(String),
}

impl Lending {
    /// Whether guests may be there, given the notice that they get.
    #[must_use]
    pub fn is_open(&self, notice: i64, now: Timestamp) -> bool {
        match self {
            Self::Always => true,
            Self::Until(end) => before(*end, notice) > now,
            Self::Closed(_) | Self::Wrong(_) => false,
        }
    }

    /// The next time at which time alone changes something.
    fn turn(&self, notice: i64, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Until(end) => [before(*end, notice), *end].into_iter().find(|turn| *turn > now),
            Self::Closed(opens) => *opens,
            Self::Always | Self::Wrong(_) => None,
        }
    }

    /// Seconds until it closes; `None` = it does not.
    #[must_use]
    pub fn seconds_left(&self, now: Timestamp) -> Option<i64> {
        match self {
            Self::Until(end) => Some(end.duration_since(now).as_secs().max(0)),
            _ => None,
        }
    }

    /// Why nothing is lent now, in a word and a sentence.
    #[must_use]
    pub fn refusal(&self, notice: i64, now: Timestamp) -> Option<(&'static str, String)> {
        let time = |at: &Timestamp| at.strftime("%Y-%m-%d %H:%M UTC").to_string();
        match self {
            _ if self.is_open(notice, now) => None,
            Self::Wrong(why) => Some(("InvalidSchedule", why.clone())),
            Self::Closed(Some(opens)) => {
                let message = format!("offer.schedule: lent again from {}", time(opens));
                Some(("WindowClosed", message))
            }
            Self::Until(end) => Some((
                "WindowClosed",
                format!("offer.schedule: the window closes at {}", time(end)),
            )),
            _ => Some(("WindowClosed", "offer.schedule has no windows: nothing is lent".into())),
        }
    }
}

fn before(end: Timestamp, notice: i64) -> Timestamp {
    end.checked_sub(SignedDuration::from_secs(notice)).unwrap_or(end)
}

/// Whether an offer stands at `now`.
#[must_use]
pub fn lending(offer: &Offer, now: Timestamp) -> Lending {
    let Some(schedule) = &offer.schedule else { return Lending::Always };
    let mut spans = Vec::new();
    for window in schedule {
        match openings(window, now) {
            Ok(more) => spans.extend(more),
            Err(why) => return Lending::Wrong(why),
        }
    }
    spans.sort_unstable();
    let mut merged: Vec<(Timestamp, Timestamp)> = Vec::new();
    for (from, to) in spans {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    let next = merged.into_iter().find(|(_, to)| *to > now);
    match next {
        Some((from, to)) if from <= now => {
            if to.duration_since(now) >= ALWAYS {
                Lending::Always
            } else {
                Lending::Until(to)
            }
        }
        Some((from, _)) => Lending::Closed(Some(from)),
        None => Lending::Closed(None),
    }
}

/// When a window is open, from yesterday on.
fn openings(window: &Window, now: Timestamp) -> Result<Vec<(Timestamp, Timestamp)>, String> {
    let zone = TimeZone::get(&window.time_zone).map_err(|_| {
        format!(
            "offer.schedule: there is no time zone {:?}; name one of the IANA database, such as Europe/Oslo",
            window.time_zone
        )
    })?;
    let (from, to) = (minute(&window.from), minute(&window.to));
    let (Some(from), Some(to)) = (from, to) else {
        let (from, to) = (&window.from, &window.to);
        return Err(format!("offer.schedule: {from:?} to {to:?} are no times of day"));
    };
    let today = now.to_zoned(zone.clone()).date();
    let at = |date: Date, minute: i16| {
        let (days, rest) = (i32::from(minute / 1440), minute % 1440);
        let date = date.checked_add(Span::new().days(days)).ok()?;
        let hour = i8::try_from(rest / 60).ok()?;
        let time = date.at(hour, i8::try_from(rest % 60).ok()?, 0, 0);
        time.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp())
    };
    let dates = (-1..DAYS).filter_map(|day| today.checked_add(Span::new().days(day)).ok());
    let opens =
        |date: &Date| window.days.as_ref().is_none_or(|days| days.contains(&day(date.weekday())));
    Ok(dates.filter(opens).filter_map(|date| Some((at(date, from)?, at(date, to)?))).collect())
}

/// Minutes since midnight.
fn minute(text: &str) -> Option<i16> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (i16, i16) = (hour.parse().ok()?, minute.parse().ok()?);
    let valid = (0..60).contains(&minute) && (0..=24).contains(&hour);
    let total = hour * 60 + minute;
    (valid && total <= 1440).then_some(total)
}

fn day(weekday: Weekday) -> Day {
    match weekday {
        Weekday::Monday => Day::Mon,
        Weekday::Tuesday => Day::Tue,
        Weekday::Wednesday => Day::Wed,
        Weekday::Thursday => Day::Thu,
        Weekday::Friday => Day::Fri,
        Weekday::Saturday => Day::Sat,
        Weekday::Sunday => Day::Sun,
    }
}

/// What every pool lends by its schedule, as of some time.
#[derive(Debug, Default)]
pub(super) struct Windows {
    lending: BTreeMap<String, Lending>,
    /// Why the others lend nothing, in a word and a sentence.
    shut: BTreeMap<String, (&'static str, String)>,
    /// When to look again.
    pub(super) turn: Option<Timestamp>,
}

impl Windows {
    /// Why a pool lends nothing now.
    pub(super) fn shut(&self, pool: &str) -> Option<&(&'static str, String)> {
        self.shut.get(pool)
    }

    /// Seconds until a pool closes; `None` = it does not.
    pub(super) fn seconds_left(&self, pool: &str, now: Timestamp) -> Option<i64> {
        self.lending.get(pool)?.seconds_left(now)
    }
}

impl State {
    /// Looks at all schedules again if one changed, or a window opens or closes.
    pub(super) fn watch_windows(&mut self, now: Timestamp) {
        let due = self
            .windows
            .as_ref()
            .is_none_or(|windows| windows.turn.is_some_and(|turn| turn <= now));
        if !due {
            return;
        }
        let mut windows = Windows::default();
        for (name, spec) in open_pools(&self.pools) {
            let lending = lending(&spec.offer, now);
            // Whatever clocks do in the years to come: once a day it is looked at anew.
            let tomorrow = now.checked_add(SignedDuration::from_hours(24)).ok();
            let tomorrow = tomorrow.filter(|_| spec.offer.schedule.is_some());
            let turn = lending.turn(spec.offer.notice_seconds, now);
            let turn = turn.into_iter().chain(tomorrow).min();
            windows.turn = [windows.turn, turn].into_iter().flatten().min();
            if let Some(why) = lending.refusal(spec.offer.notice_seconds, now) {
                windows.shut.insert(name.clone(), why);
            }
            windows.lending.insert(name, lending);
        }
        self.windows = Some(windows);
        self.judging.due = true;
        self.capacity_changed();
    }

    /// Why the schedule of the pool of that name lends nothing now.
    pub(super) fn shut(&self, pool: &str) -> Option<&(&'static str, String)> {
        self.windows.as_ref()?.shut(pool)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn offer(schedule: Value) -> Offer {
        serde_json::from_value(json!({ "schedule": schedule })).unwrap()
    }

    /// How it stands at a time, in UTC.
    #[track_caller]
    fn check(schedule: &Value, at: &str, want: &str) {
        let now = format!("{at}:00Z").parse().unwrap();
        let time = |at: Timestamp| at.strftime("%a %H:%M").to_string();
        let found = match lending(&offer(schedule.clone()), now) {
            Lending::Always => "always".into(),
            Lending::Until(end) => format!("until {}", time(end)),
            Lending::Closed(Some(opens)) => format!("from {}", time(opens)),
            Lending::Closed(None) => "never".into(),
            Lending::Wrong(why) => why,
        };
        assert_eq!(found, want, "{schedule} at {at}");
    }

    #[test]
    fn windows_open_and_close_in_their_time_zone_and_touching_ones_are_one() {
        // 2026-11-28 is a Saturday; Oslo is an hour ahead of UTC in winter, two in summer.
        let weekend = json!([{"days": ["Sat", "Sun"], "from": "00:00", "to": "24:00", "timeZone": "Europe/Oslo"}]);
        check(&weekend, "2026-11-27T22:59", "from Fri 23:00");
        check(&weekend, "2026-11-27T23:00", "until Sun 23:00");
        check(&weekend, "2026-11-29T22:59", "until Sun 23:00");
        check(&weekend, "2026-11-29T23:00", "from Fri 23:00");
        check(&weekend, "2026-07-17T23:00", "until Sun 22:00");
        let nights = json!([{"from": "20:00", "to": "24:00"}, {"from": "00:00", "to": "06:30"}]);
        check(&nights, "2026-11-25T19:59", "from Wed 20:00");
        check(&nights, "2026-11-25T20:00", "until Thu 06:30");
        check(&nights, "2026-11-26T03:00", "until Thu 06:30");
    }

    #[test]
    fn clocks_that_are_put_back_or_forward_move_no_window() {
        // In Oslo 2026-03-29 has no 02:30, and 2026-10-25 has it twice: the first counts.
        let night = json!([{"from": "02:30", "to": "04:00", "timeZone": "Europe/Oslo"}]);
        check(&night, "2026-03-29T01:00", "from Sun 01:30");
        check(&night, "2026-03-29T01:45", "until Sun 02:00");
        check(&night, "2026-10-25T00:30", "until Sun 03:00");
    }

    #[test]
    fn schedules_that_never_or_always_hold_and_those_that_make_no_sense() {
        check(&Value::Null, "2026-11-25T12:00", "always");
        check(&json!([]), "2026-11-25T12:00", "never");
        check(&json!([{"from": "00:00", "to": "24:00"}]), "2026-11-25T12:00", "always");
        let nowhere = json!([{"from": "00:00", "to": "24:00", "timeZone": "Mars/Olympus"}]);
        check(
            &nowhere,
            "2026-11-25T12:00",
            "offer.schedule: there is no time zone \"Mars/Olympus\"; name one of the IANA database, such as Europe/Oslo",
        );
    }

    #[test]
    fn guests_have_their_notice_before_a_window_ends() {
        let end: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let at = |seconds: i64| end.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
        let lending = Lending::Until(end);
        assert!(lending.is_open(120, at(121)) && !lending.is_open(120, at(120)));
        assert_eq!(lending.turn(120, at(121)), Some(at(120)));
        assert_eq!(lending.turn(120, at(120)), Some(end));
        assert_eq!(lending.seconds_left(at(90)), Some(90));
        let (reason, message) = lending.refusal(120, at(90)).unwrap();
        assert_eq!(
            (reason, message.as_str()),
            ("WindowClosed", "offer.schedule: the window closes at 2026-11-25 12:00 UTC")
        );
    }
}
