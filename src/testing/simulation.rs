//! The simulation gate: many seeds, each a life of a federation.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::federation::Counters;
use super::plan::Plan;
use super::run::{Outcome, run};

/// Seeds in an ordinary run of the tests; `make simulation` and `make soak` say more.
const SEEDS: u64 = 24;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

fn one(seed: u64, counters: &Counters) -> Outcome {
    run(seed, &Plan::of(seed), None, counters)
}

#[test]
fn one_seed_again() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let seed = seed.parse().expect("SEED is a number");
    if let Ok(filter) = std::env::var("LOG") {
        tracing_subscriber::fmt().without_time().with_ansi(false).with_env_filter(filter).init();
    }
    let outcome = one(seed, &Counters::new());
    println!("{}\n{:#?}\n{:?}", outcome.tail, outcome.seen, outcome.sum);
    println!("{}", outcome.state);
    assert!(outcome.wrong.is_empty(), "{:#?}", outcome.wrong);
}

#[test]
fn what_must_be_true_is_true_in_every_life() {
    let first = number("FIRST_SEED", 1);
    let last = first + number("SEEDS", SEEDS);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(BTreeMap::new()));
    let seen: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let counters = Counters::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last || failed.lock().unwrap().len() >= 5 {
                        return;
                    }
                    let began = std::time::Instant::now();
                    let outcome = one(seed, &counters);
                    if began.elapsed().as_secs() > 3 { println!("seed {seed} took {:?}", began.elapsed()); }
                    for (what, count) in outcome.seen {
                        *seen.lock().unwrap().entry(what).or_default() += count;
                    }
                    if let Some(wrong) = outcome.wrong.first() {
                        failed.lock().unwrap().insert(seed, wrong.clone());
                    }
                }
            });
        }
    });
    println!("{:#?}", seen.lock().unwrap());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "replay with: SEED=… cargo test --lib one_seed_again: {failed:#?}");
}

#[test]
fn a_seed_gives_the_same_life_again() {
    let counters = Counters::new();
    for seed in [3, 17, 99] {
        let (first, second) = (one(seed, &counters), one(seed, &counters));
        assert_eq!(first.sum, second.sum, "seed {seed}");
    }
}
