//! The simulation gate: many seeds, each a life of a federation.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::federation::Counters;
use super::plan::Plan;
use super::run::{Ending, Outcome, run};

/// Seeds in an ordinary run of the tests; `make simulation` and `make soak` say more.
const SEEDS: u64 = 24;
/// Seeds with which everything happens that may happen at all.
const ENOUGH: u64 = 1_000;
/// Violations after which a campaign ends.
const ENDS_AFTER: usize = 5;

/// What must have happened in a campaign: an invariant that is never at stake proves nothing.
const SOMETIMES: [&str; 45] = [
    "Api",
    "BlackHole",
    "Busy",
    "Clock",
    "Compact",
    "CutWatches",
    "DeafWatch",
    "FailedAfter",
    "FailedBefore",
    "Kill",
    "Lie",
    "NodeCut",
    "NodeLost",
    "OneWay",
    "Overtaken",
    "Owner",
    "OwnerWhoMayNotPreempt",
    "Refused",
    "ReplyLost",
    "RequestLost",
    "Restore",
    "Slow",
    "TooMany",
    "Twice",
    "a gang started",
    "a guest failed",
    "a guest ran into its deadline",
    "a guest saved and left",
    "a guest succeeded",
    "a guest was told to go",
    "a job failed",
    "a job fits nowhere",
    "a job succeeded",
    "a lease was adopted",
    "a lease was refused",
    "a lease was withdrawn",
    "a lease expired",
    "a replica ran more than once",
    "a silent attempt was superseded",
    "delete guestleases",
    "delete pods",
    "guests of two hubs share a member",
    "the member refused a lease",
    "the member reserved GPUs",
    "two copies of a replica ran at once",
];

/// A number that the environment of a test gives.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// Does `work` on every core.
pub(crate) fn on_all_cores(work: impl Fn(&Counters) + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| work(&Counters::new()));
        }
    });
}

fn one(seed: u64, counters: &Counters) -> Outcome {
    run(seed, &Plan::of(seed), Ending::default(), counters)
}

/// `SEED=… cargo test --lib one_seed_again -- --nocapture` tells the story of a seed; with `LOG` as
/// filter what processes log, with `TRACE` each request when it is answered.
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

/// What came of many seeds.
#[derive(Default)]
struct Campaign {
    seen: BTreeMap<String, u64>,
    wrong: BTreeMap<u64, String>,
    seeds: u64,
}

impl Campaign {
    fn take(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        for (what, count) in outcome.seen {
            *self.seen.entry(what).or_default() += count;
        }
        if let Some(wrong) = outcome.wrong.first() {
            self.wrong.insert(seed, wrong.clone());
        }
    }
}

#[test]
fn what_must_be_true_is_true_in_every_life() {
    let (first, seeds) = (number("FIRST_SEED", 1), number("SEEDS", SEEDS));
    let (next, campaign) = (AtomicU64::new(first), Mutex::new(Campaign::default()));
    let began = Instant::now();
    on_all_cores(|counters| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let enough = campaign.lock().expect("no panic").wrong.len() >= ENDS_AFTER;
            if number >= first + seeds || enough {
                return;
            }
            let outcome = one(number, counters);
            campaign.lock().expect("no panic").take(number, outcome);
        }
    });
    let Campaign { seen, wrong, seeds } = campaign.into_inner().expect("no panic");
    for (what, count) in &seen {
        println!("{count:8} {what}");
    }
    println!("{seeds} seeds in {:.0?}, {} violations", began.elapsed(), wrong.len());
    let replay = "SEED=… cargo test --lib one_seed_again -- --nocapture";
    assert!(wrong.is_empty(), "replay with {replay}: {wrong:#?}");
    let missing: Vec<_> = SOMETIMES.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(seeds < ENOUGH || missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn a_seed_gives_the_same_life_again() {
    let counters = Counters::new();
    for number in [3, 17, 99] {
        let (first, second) = (one(number, &counters), one(number, &counters));
        assert_eq!(first.sum, second.sum, "seed {number}");
    }
}
