//! What holds for every outlook: it says what a round says, and nothing that a round would not.

use proptest::prelude::*;

use std::sync::Arc;

use super::*;
use crate::engine::round::tests::properties::some_facts;

fn with(facts: &Snapshot, job: &JobId, relief: &Relief) -> Snapshot {
    let mut changed = facts.clone();
    let demand = changed.demands.iter_mut().find(|demand| demand.job == *job).unwrap();
    demand.request = Arc::new(relief.apply(&demand.request));
    changed
}

proptest! {
    #[test]
    fn it_says_what_a_round_says(facts in some_facts()) {
        let plan = round::round(&facts);
        for demand in facts.demands.iter().filter(|demand| !demand.wanted.is_empty()) {
            let seen = of(&facts, &demand.job.0);
            let given: Vec<_> =
                plan.placements.iter().filter(|given| given.job == demand.job).cloned().collect();
            prop_assert_eq!(&seen.placements, &given);
            prop_assert_eq!(seen.waiting.as_ref(), plan.waiting.get(&demand.job));
        }
    }

    #[test]
    fn every_pool_fits_or_has_one_reason(facts in some_facts()) {
        for demand in facts.demands.iter().filter(|demand| !demand.wanted.is_empty()) {
            let seen = of(&facts, &demand.job.0);
            let pools: Vec<&PoolId> = seen.answers.iter().map(|(id, _)| id).collect();
            prop_assert_eq!(pools, facts.pools.keys().collect::<Vec<_>>());
            let fitting = |pool: &PoolId| seen.answers.iter().any(|(id, answer)| {
                id == pool && matches!(answer, Answer::Fits(room) if *room > 0)
            });
            if let Some(first) = seen.placements.first() {
                prop_assert!(fitting(&first.pool), "{first:?} goes where nothing fits");
            }
            if seen.placements.is_empty() && let Some(Waiting::NoPool { refusals }) = &seen.waiting {
                let mut said: BTreeMap<Refusal, u32> = BTreeMap::new();
                for (_, answer) in &seen.answers {
                    let Answer::Refused(why) = answer else {
                        return Err(TestCaseError::fail(format!("{demand:?} fits and waits")));
                    };
                    *said.entry(*why).or_default() += 1;
                }
                // An equal request may have been refused before, when more was free.
                prop_assert_eq!(WaitReason::of(&said), WaitReason::of(refusals));
            }
        }
    }

    #[test]
    fn whoever_fits_and_passes_its_queue_is_placed(facts in some_facts()) {
        for demand in facts.demands.iter().filter(|demand| !demand.wanted.is_empty()) {
            let seen = of(&facts, &demand.job.0);
            let fits = seen.answers.iter().any(|(_, answer)| matches!(answer, Answer::Fits(_)));
            let gated = seen.waiting.is_some()
                && !matches!(seen.waiting, Some(Waiting::NoPool { .. }));
            if fits && !gated {
                prop_assert!(!seen.placements.is_empty(), "{seen:?}");
            }
        }
    }

    #[test]
    fn a_change_that_is_said_to_help_helps(facts in some_facts()) {
        for demand in facts.demands.iter().filter(|demand| !demand.wanted.is_empty()) {
            let seen = of(&facts, &demand.job.0);
            for change in &seen.changes {
                let changed = with(&facts, &demand.job, &change.relief);
                let plan = round::round(&changed);
                let placed = plan.placements.iter().any(|given| given.job == demand.job);
                prop_assert_eq!(placed, change.effect == Effect::Now, "{:?}", change);
                if change.effect == Effect::Later {
                    let then = of(&changed, &demand.job.0);
                    let hope = then.answers.iter().any(|(_, answer)| match answer {
                        Answer::Fits(_) => true,
                        Answer::Refused(why) => why.is_temporary(),
                    });
                    prop_assert!(hope, "{change:?}");
                }
                prop_assert!(!change.pools.is_empty());
            }
            prop_assert!(seen.changes.is_empty() || seen.placements.is_empty());
        }
    }

    #[test]
    fn a_number_that_is_said_to_be_the_largest_is(facts in some_facts()) {
        for demand in facts.demands.iter().filter(|demand| !demand.wanted.is_empty()) {
            for change in of(&facts, &demand.job.0).changes {
                let more = match change.relief {
                    Relief::Gpus(gpus) if gpus + 1 < demand.request.need.gpus => Relief::Gpus(gpus + 1),
                    Relief::Size(size) if size + 1 < demand.request.size => Relief::Size(size + 1),
                    _ => continue,
                };
                let plan = round::round(&with(&facts, &demand.job, &more));
                let placed = plan.placements.iter().any(|given| given.job == demand.job);
                prop_assert!(change.effect != Effect::Now || !placed, "{more:?} would do");
            }
        }
    }
}
