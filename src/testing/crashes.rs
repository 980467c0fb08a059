//! A process dies at every write of every story, before it, after it, and after the answer: in the end
//! everything stands where it would have stood.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::federation::Counters;
use super::network::{Crash, Strike};
use super::run::{Ending, Outcome, run};
use super::scenarios::{Scenario, all};

const SEED: u64 = 7;
const STRIKES: [Strike; 3] = [Strike::Before, Strike::Unanswered, Strike::Answered];

fn tell((_, plan): &Scenario, crash: Option<Crash>, counters: &Counters) -> Outcome {
    run(SEED, plan, Ending { crash, quiet: false }, counters)
}

#[test]
fn a_process_may_die_at_any_of_its_writes() {
    let stories = all();
    let counters = Counters::new();
    let wanted: Vec<Outcome> = stories.iter().map(|story| tell(story, None, &counters)).collect();
    let plans: Vec<(usize, Crash)> = wanted
        .iter()
        .enumerate()
        .flat_map(|(story, outcome)| (0..outcome.writes).map(move |write| (story, write)))
        .flat_map(|(story, write)| STRIKES.map(|strike| (story, Crash { write, strike })))
        .collect();
    for ((name, _), outcome) in stories.iter().zip(&wanted) {
        assert!(outcome.wrong.is_empty(), "{name}: {:#?}", outcome.wrong);
    }
    // `make simulation` and `make soak` try all of them.
    let step = super::simulation::number("CRASH_STEP", 16);
    let chosen: Vec<_> = plans.iter().step_by(usize::try_from(step).expect("small")).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    super::simulation::on_all_cores(|counters| {
        while let Some((story, crash)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = tell(&stories[*story], Some(*crash), counters);
            let name = stories[*story].0;
            let mut failed = failed.lock().expect("no panic");
            if let Some(wrong) = outcome.wrong.first() {
                failed.push(format!("{name}, {crash:?}: {wrong}"));
            } else if outcome.state != wanted[*story].state {
                let (want, got) = (&wanted[*story].state, &outcome.state);
                failed.push(format!("{name}, {crash:?}: {got}\ninstead of\n{want}"));
            }
            if failed.len() > 5 {
                return;
            }
        }
    });
    let failed = failed.into_inner().expect("no panic");
    println!("{} of {} plans over {} stories", chosen.len(), plans.len(), stories.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
