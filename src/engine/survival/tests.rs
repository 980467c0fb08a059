//! Examples and properties of survival.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// A history of `(minutes, idle)`, one after the other.
fn seen(steps: &[(i64, u64)]) -> History {
    let (mut history, mut minute) = (History::default(), 0);
    for (minutes, idle) in steps {
        history.observe(minute, *idle);
        minute += minutes;
    }
    let idle = steps.last().map_or(0, |step| step.1);
    history.observe(minute, idle);
    history
}

/// 8 GPUs are idle for `idle` minutes and taken for `taken`, a hundred times.
fn jittery(idle: i64, taken: i64) -> History {
    let steps: Vec<_> = (0..100).flat_map(|_| [(idle, 8), (taken, 0)]).collect();
    seen(&steps)
}

fn guest(minutes: u64, checkpoint: u64) -> Guest {
    Guest { gpus: 8, minutes, checkpoint, restart: 5 }
}

#[test]
fn gpus_that_were_left_idle_are_thought_to_stay_so_and_others_not() {
    let quiet = seen(&[(20_000, 8)]).survival();
    let noisy = jittery(30, 30).survival();
    let unknown = Survival::default();
    assert!(quiet.chance(8, HOUR) > 950_000, "{}", quiet.chance(8, HOUR));
    assert!(noisy.chance(8, HOUR) < 250_000, "{}", noisy.chance(8, HOUR));
    assert!((500_000..900_000).contains(&unknown.chance(8, HOUR)), "{unknown:?}");
}

#[test]
fn blocks_are_counted_by_size_with_the_age_at_which_they_were_taken() {
    let history = seen(&[(10, 20), (5, 7), (3, 16)]);
    let eights = history.counts()[3];
    assert_eq!(eights.ends[4], 2000, "two blocks of 8 were taken at 10 minutes of age");
    assert_eq!(eights.minutes.iter().sum::<u64>(), (2 * 10 + 2 * 3) * 1000);
    let ones = history.counts()[0];
    assert_eq!(ones.ends.iter().sum::<u64>(), 13_000);
    assert_eq!(ones.minutes.iter().sum::<u64>(), (20 * 10 + 7 * 5 + 16 * 3) * 1000);
    assert_eq!(history.age(7), Some(18));
    assert_eq!(history.age(8), Some(3));
    assert_eq!(history.age(17), None);
}

#[test]
fn the_chance_is_the_product_of_the_chances_to_pass_each_age() {
    let noisy = jittery(10, 10);
    // All of a hundred blocks passed the first eight minutes and none passed ten.
    let rows = noisy.survival().rows()[3];
    assert!(rows[0] < 300_000, "{rows:?}");
    assert!(rows[1] < 30_000, "{rows:?}");
}

#[test]
fn old_counts_fade_by_half_in_four_weeks() {
    let mut history = seen(&[(1440, 8), (1, 0)]);
    let before = history.counts()[3].minutes[7];
    history.observe(29 * 1440 + 1, 0);
    let after = history.counts()[3].minutes[7];
    assert!((before * 48 / 100..before * 52 / 100).contains(&after), "{before} {after}");
    history.observe(1000 * 1440, 0);
    assert_eq!(history.counts()[3], Counts::default());
}

#[test]
fn what_was_counted_survives_a_restart() {
    let before = jittery(30, 30);
    let mut after = History::restored(*before.counts(), before.seen().unwrap());
    assert_eq!(after.survival(), before.survival());
    after.observe(before.seen().unwrap() + 3, 8);
    assert_eq!(after.survival(), before.survival(), "nothing was watched in between");
    assert_eq!(after.age(8), Some(0));
}

#[test]
fn loss_is_what_evictions_cost_per_useful_work() {
    // Every second guest of an hour is evicted, evenly over that hour.
    let mut rows = [[0; 9]; 8];
    rows.fill([916_667, 833_333, 666_667, 333_333, 0, 0, 0, 0, 0]);
    let survival = Survival::new(rows);
    for (checkpoint, restart, expected) in [
        // An hour: half finish it. The others hold half an hour each on average: 900 s of 1800.
        (0, 0, 500_000),
        // Half of the guests lose 300 s, of 2700 s held on average.
        (600, 0, 58_824),
        (600, 300, 117_647),
    ] {
        let loss = survival.loss_ppm(8, HOUR, checkpoint, restart);
        assert!(loss.abs_diff(expected) < 2000, "{checkpoint} {restart}: {loss}");
    }
    let quiet = seen(&[(20_000, 8)]).survival();
    assert!(quiet.loss_ppm(8, 8 * HOUR, 600, 300) < survival.loss_ppm(8, 8 * HOUR, 600, 300));
    assert_eq!(Survival::new([[0; 9]; 8]).loss_ppm(8, DAY, 0, 0), MOST_LOSS);
    assert_eq!(Survival::new([[CERTAIN; 9]; 8]).loss_ppm(8, DAY, 0, 300), 0);
}

#[test]
fn short_jobs_lose_less_and_those_that_save_too() {
    let survival = jittery(60, 30).survival();
    let hourly = survival.loss_ppm(8, HOUR, 0, 300);
    assert!(hourly < survival.loss_ppm(8, 8 * HOUR, 0, 300));
    assert!(survival.loss_ppm(8, 8 * HOUR, 600, 300) < survival.loss_ppm(8, 8 * HOUR, 0, 300));
}

#[test]
fn a_start_is_put_off_while_the_owner_is_likely_to_come_back_at_once() {
    // Nine times in ten the owner is back within two minutes, else not for hours.
    let steps: Vec<_> =
        (0..200).flat_map(|turn| [(if turn % 10 == 0 { 600 } else { 2 }, 8), (5, 0)]).collect();
    let restless = seen(&steps);
    for checkpoint in [0, 10] {
        let wait = restless.put_off(&guest(480, checkpoint), 0);
        assert!(wait.is_some_and(|wait| wait <= 16), "{checkpoint}: {wait:?}");
        assert_eq!(restless.put_off(&guest(480, checkpoint), 16), None, "{checkpoint}");
    }
    let free = Guest { restart: 0, ..guest(480, 10) };
    assert_eq!(restless.put_off(&free, 2), None, "what costs nothing need not wait");
    let hopeless = jittery(30, 30);
    assert!(hopeless.put_off(&guest(480, 0), 0).is_some(), "none would ever finish");
}

#[test]
fn nothing_breaks_at_the_limits() {
    let mut history =
        History::restored([Counts { ends: [u64::MAX; 12], minutes: [u64::MAX; 12] }; 8], 0);
    for (minute, idle) in [(0, u64::MAX), (i64::MAX, 0), (i64::MIN, u64::MAX), (i64::MAX, 1)] {
        history.observe(minute, idle);
    }
    let survival = history.survival();
    for most in [0, 1, u64::MAX] {
        assert!(survival.chance(most, most) <= CERTAIN);
        assert!(survival.loss_ppm(most, most, most, most) <= MOST_LOSS);
        let guest = Guest { gpus: most, minutes: most, checkpoint: most, restart: most.min(DAY) };
        let _wait = history.put_off(&guest, most);
    }
}

fn steps() -> impl Strategy<Value = Vec<(i64, u64)>> {
    prop::collection::vec((0_i64..400, 0_u64..300), 1..60)
}

fn rows() -> impl Strategy<Value = [[u32; 9]; 8]> {
    prop::array::uniform8(prop::array::uniform9(any::<u32>()))
}

proptest! {
    #[test]
    fn a_chance_never_rises_with_time_or_gpus(
        rows in rows(), steps in steps(), gpus in 0_u64..400, more in 0_u64..400,
        seconds in 0_u64..200_000, later in 0_u64..200_000,
    ) {
        for survival in [Survival::new(rows), seen(&steps).survival()] {
            let chance = survival.chance(gpus, seconds);
            prop_assert!(chance <= CERTAIN);
            prop_assert!(survival.chance(gpus, seconds + later) <= chance);
            prop_assert!(survival.chance(gpus + more, seconds) <= chance);
            prop_assert_eq!(survival.chance(gpus, 0), CERTAIN);
        }
    }

    #[test]
    fn a_loss_never_falls_with_the_cost_of_an_eviction(
        rows in rows(), gpus in 1_u64..200, seconds in 1_u64..1_000_000,
        checkpoint in 1_u64..10_000, longer in 0_u64..10_000, restart in 0_u64..10_000,
    ) {
        let survival = Survival::new(rows);
        let loss = |checkpoint, restart| survival.loss_ppm(gpus, seconds, checkpoint, restart);
        prop_assert!(loss(checkpoint, restart) <= loss(checkpoint + longer, restart));
        prop_assert!(loss(checkpoint, restart) <= loss(0, restart));
        prop_assert!(loss(checkpoint, restart) <= loss(checkpoint, restart + longer));
        prop_assert!(loss(checkpoint, restart) <= MOST_LOSS);
    }

    #[test]
    fn looking_more_often_changes_nothing(steps in prop::collection::vec((0_i64..20, 0_u64..300), 1..60)) {
        let mut often = History::default();
        let mut minute = 0;
        for (minutes, idle) in &steps {
            for look in 0..(*minutes).max(1) {
                often.observe(minute + look, *idle);
            }
            minute += minutes;
        }
        often.observe(minute, steps[steps.len() - 1].1);
        prop_assert_eq!(often, seen(&steps));
    }

    #[test]
    fn every_idle_minute_is_counted_once(steps in steps()) {
        let total: u64 = steps.iter().map(|(minutes, idle)| minutes.unsigned_abs() * idle).sum();
        let days: i64 = steps.iter().map(|(minutes, _)| minutes).sum::<i64>() / 1440;
        let counted = seen(&steps).counts()[0].minutes.iter().sum::<u64>();
        prop_assert!(counted <= total * 1000);
        prop_assert!(days > 0 || counted == total * 1000, "{counted} of {total} minutes");
    }
}
