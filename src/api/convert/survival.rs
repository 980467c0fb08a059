//! How long idle GPUs stay idle: from what a member learnt into its pool's status, and back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::unsigned;
use crate::api::gpupool::{GpuPoolStatus, IdleHistory, SizeHistory, SizeSurvival};
use crate::engine::survival::{AGES, Counts, History, SIZES, Survival};

/// Chances are published in steps of one in a hundred, so that they rest when little changes.
const STEP: u32 = 10_000;

/// What a pool's status says, whatever it says; sizes that it leaves out are unknown.
#[must_use]
pub fn survival(status: &GpuPoolStatus) -> Survival {
    let mut rows = *Survival::default().rows();
    for told in &status.survival {
        let place = SIZES.iter().position(|size| *size == unsigned(told.gpus));
        let Some(place) = place else { continue };
        for (chance, told) in rows[place].iter_mut().zip(&told.chances) {
            *chance = unsigned(*told);
        }
    }
    Survival::new(rows)
}

/// The history that a pool's status holds, as of `minute` (since 1970) at most.
#[must_use]
pub fn history(status: &GpuPoolStatus, minute: i64) -> History {
    let Some(told) = &status.idle_history else { return History::default() };
    let mut counts = [Counts::default(); SIZES.len()];
    for size in &told.sizes {
        let place = SIZES.iter().position(|known| *known == unsigned(size.gpus));
        if let Some(place) = place {
            counts[place] = Counts { ends: counted(&size.ends), minutes: counted(&size.minutes) };
        }
    }
    History::restored(counts, minute_of(told).min(minute))
}

/// The minute since 1970 up to which a history was watched.
#[must_use]
pub fn minute_of(history: &IdleHistory) -> i64 {
    history.until.0.as_second().div_euclid(60)
}

/// What to publish of `history` to hubs and to keep for the next process, sizes without anything
/// seen left out.
#[must_use]
pub fn learnt(history: &History) -> (Vec<SizeSurvival>, IdleHistory) {
    let known = |counts: &&Counts| counts.minutes.iter().any(|minutes| *minutes > 0);
    let sizes = SIZES.iter().map(|size| i32::try_from(*size).unwrap_or(i32::MAX));
    let all = sizes.zip(history.counts()).filter(|(_, counts)| known(counts));
    let sizes = all.map(|(gpus, counts)| SizeHistory {
        gpus,
        ends: counts.ends.iter().map(|count| signed(*count)).collect(),
        minutes: counts.minutes.iter().map(|count| signed(*count)).collect(),
    });
    let sizes: Vec<_> = sizes.collect();
    let survival = history.survival();
    let rows = SIZES.iter().zip(survival.rows());
    let told = rows.filter_map(|(size, row)| {
        let gpus = i32::try_from(*size).ok()?;
        sizes.iter().any(|known| known.gpus == gpus).then(|| SizeSurvival {
            gpus,
            chances: row.iter().map(|chance| stepped(*chance)).collect(),
        })
    });
    let survival = told.collect();
    let second = history.seen().unwrap_or(0).saturating_mul(60);
    let until = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
    (survival, IdleHistory { until: Time(until), sizes })
}

fn stepped(chance: u32) -> i32 {
    i32::try_from((chance + STEP / 2) / STEP * STEP).unwrap_or(i32::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counted(told: &[i64]) -> [u64; AGES.len()] {
    let mut counts = [0; AGES.len()];
    for (count, told) in counts.iter_mut().zip(told) {
        *count = u64::try_from(*told).unwrap_or(0);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_learnt_comes_through_the_status_to_its_next_process_and_to_the_hub() {
        let mut history = History::default();
        for minute in 0..400 {
            history.observe(minute, if minute % 40 < 30 { 12 } else { 3 });
        }
        let (survival, idle_history) = learnt(&history);
        assert_eq!(survival.iter().map(|size| size.gpus).collect::<Vec<_>>(), [1, 2, 4, 8]);
        let idle_history = Some(idle_history);
        let status = GpuPoolStatus { survival, idle_history, ..GpuPoolStatus::default() };
        assert_eq!(super::history(&status, 1000).counts(), history.counts());
        assert_eq!(super::history(&status, 1000).seen(), history.seen());
        assert_eq!(super::history(&status, 7).seen(), Some(7), "no clock that ran ahead");
        let read = super::survival(&status);
        for gpus in [1, 4, 8] {
            let (there, here) = (read.chance(gpus, 3600), history.survival().chance(gpus, 3600));
            assert!(there.abs_diff(here) <= STEP, "{gpus}: {there} {here}");
        }
    }

    #[test]
    fn nonsense_is_read_as_something_harmless() {
        let row = |gpus, chances: &[i32]| SizeSurvival { gpus, chances: chances.to_vec() };
        let survival = vec![row(-1, &[5]), row(8, &[i32::MAX, -4]), row(1, &[1; 99]), row(3, &[7])];
        let size = SizeHistory { gpus: 1, ends: vec![-1; 99], minutes: vec![i64::MAX] };
        let until = Time(Timestamp::MAX);
        let idle_history = Some(IdleHistory { until, sizes: vec![size] });
        let status = GpuPoolStatus { survival, idle_history, ..GpuPoolStatus::default() };
        assert_eq!(super::survival(&status).chance(1, 600), 1);
        let mut history = super::history(&status, 100);
        history.observe(101, 1);
        assert!(history.survival().chance(1, 600) <= 1_000_000);
        assert_eq!(super::survival(&GpuPoolStatus::default()), Survival::default());
    }
}
