//! How fast placement decides on very many GPUs: figures G5 to G7 and G17, on one thread.
//!
//! A federation that is about four fifths full, with random holes, several models, jurisdictions,
//! labels and taints, decides on jobs of some hundred different requests. Only the round itself is
//! timed: what members do with its leases happens between rounds, with the clock stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use self::cluster::Cluster;
use super::{Error, Report};
use crate::engine::model::{Demand, Plan, Snapshot, Waiting};
use crate::engine::round;

mod cluster;
mod workload;

use workload::Workload;

/// A backlog as in figure G7.
const BACKLOG: u32 = 100_000;
/// Rounds that are timed of one gang each.
const GANGS: u32 = 21;
/// Rounds that are timed of one job each, or of few.
const SMALL_ROUNDS: u32 = 200;
/// Jobs of a small round: about what comes within 5 ms where 50,000 come in a second.
const FEW: u32 = 256;

/// What to build and to decide on.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Pools, each of its own member.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub pools: u32,
    /// Nodes of each pool.
    #[arg(long, default_value_t = 125, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub nodes_per_pool: u32,
    /// GPUs of each node.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub gpus_per_node: u32,
    /// Jobs to decide on one by one.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// Jobs of one round.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs_per_round: u32,
    /// Different requests among the jobs.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub requests: u32,
    /// Seed of the federation and of the jobs.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Also run with a tenth and a hundredth of the pools, and say how the decision time grows.
    #[arg(long)]
    pub growth: bool,
    /// Print one JSON object on standard output, and the table on standard error.
    #[arg(long)]
    pub json: bool,
}

/// Times of many like things, in order.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that so many of a thousand do not pass, in nanoseconds.
    fn nanos(&self, thousandth: usize) -> u64 {
        let place = (self.0.len() * thousandth / 1000).min(self.0.len().saturating_sub(1));
        self.0.get(place).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// What the rounds of one kind took.
struct Rounds {
    /// Pools of the federation.
    pools: u32,
    jobs: u64,
    placed: u64,
    all: Duration,
    /// What the thread ran of that, others on the machine apart.
    cpu: Duration,
    /// Of each decision, from the end of the one before it.
    decisions: Times,
    /// Of each round.
    each: Times,
}

/// Runs the protocol.
///
/// # Errors
/// None yet; others of its kind read files.
pub fn run(options: &Options) -> Result<Report, Error> {
    let steady = Bench::new(options).rounds(options.jobs, options.jobs_per_round);
    let mut bench = Bench::new(options);
    let single = bench.rounds(SMALL_ROUNDS, 1);
    let few = bench.rounds(SMALL_ROUNDS.min(40) * FEW, FEW);
    let (gang, gangs) = bench.gangs();
    let (preemption, victims) = bench.preemptions();
    let backlog = Bench::new(options).rounds(BACKLOG, BACKLOG);
    let mut json = json!({
        "jobsPerSecond": per_second(steady.jobs, steady.all),
        "jobsPerCpuSecond": per_second(steady.jobs, steady.cpu),
        "p50Micros": micros(steady.decisions.nanos(500)),
        "p99Micros": micros(steady.decisions.nanos(990)),
        "p999Micros": micros(steady.decisions.nanos(999)),
        "placed": steady.placed,
        "gangMillis": micros(gang.nanos(500) / 1000),
        "gangsPlaced": gangs,
        "preemptMillis": micros(preemption.nanos(500) / 1000),
        "preemptVictims": victims,
        "backlogSeconds": backlog.all.as_secs_f64(),
        "backlogCpuSeconds": backlog.cpu.as_secs_f64(),
        "backlogPlaced": backlog.placed,
        "roundOfOneMicros": micros(single.each.nanos(500)),
        "roundOfFew": { "jobs": FEW, "jobsPerSecond": per_second(few.jobs, few.all), "jobsPerCpuSecond": per_second(few.jobs, few.cpu) },
    });
    if options.growth {
        json["growth"] = growth(options, &steady);
    }
    let table = table(&json);
    Ok(Report { json, table })
}

/// How the median decision and the preemption plan grow with nodes: 0 = not at all, 1 = as they do.
fn growth(options: &Options, large: &Rounds) -> serde_json::Value {
    let sizes = [(options.pools / 100).max(1), (options.pools / 10).max(1), options.pools];
    let runs = sizes.map(|pools| {
        let options = Options { pools, ..options.clone() };
        // As many jobs for each GPU, so that each size is as full.
        let share = options.jobs_per_round * pools / large.pools.max(1);
        let decision = match pools == large.pools {
            true => large.decisions.nanos(500),
            false => Bench::new(&options).rounds(options.jobs, share.max(1)).decisions.nanos(500),
        };
        (pools, decision, Bench::new(&options).preemptions().0.nanos(500))
    });
    let shown = runs.map(|(pools, decision, plan)| {
        json!({ "pools": pools, "p50Micros": micros(decision), "preemptMillis": micros(plan / 1000) })
    });
    let (least, most) = (runs[0], runs[2]);
    json!({
        "runs": shown,
        "exponent": exponent((least.0, least.1), (most.0, most.1)),
        "preemptExponent": exponent((least.0, least.2), (most.0, most.2)),
    })
}

/// The power of the number of pools that the time follows.
#[allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "an exponent for people")]
fn exponent(least: (u32, u64), most: (u32, u64)) -> f64 {
    let ratio = |large: f64, small: f64| (large / small.max(1.0)).ln();
    let nodes = ratio(f64::from(most.0), f64::from(least.0));
    if nodes > 0.0 { ratio(most.1 as f64, least.1 as f64) / nodes } else { 0.0 }
}

/// A federation and its jobs.
struct Bench {
    cluster: Cluster,
    workload: Workload,
    snapshot: Snapshot,
}

impl Bench {
    fn new(options: &Options) -> Self {
        let cluster = Cluster::new(options);
        let workload = Workload::new(options);
        let snapshot = Snapshot {
            now: 0,
            pools: cluster.pools(),
            queues: Workload::queues(),
            ..Snapshot::default()
        };
        Self { cluster, workload, snapshot }
    }

    /// Decides on so many jobs, so many in each round.
    fn rounds(&mut self, jobs: u32, each: u32) -> Rounds {
        let (mut decisions, mut rounds) = (Vec::new(), Vec::new());
        let (mut all, mut cpu, mut placed) = (Duration::ZERO, Duration::ZERO, 0);
        let mut left = jobs;
        while left > 0 {
            let count = left.min(each);
            left -= count;
            self.snapshot.demands = (0..count).map(|_| self.workload.job()).collect();
            let before = ran();
            let (plan, took) = self.time(&mut decisions);
            all += took;
            let ran = before.zip(ran()).map(|(before, after)| after.saturating_sub(before));
            cpu += ran.unwrap_or(took);
            rounds.push(took);
            placed += self.carry_out(&plan);
        }
        let (decisions, each) = (Times::of(decisions), Times::of(rounds));
        let pools = u32::try_from(self.snapshot.pools.len()).unwrap_or(u32::MAX);
        Rounds { pools, jobs: jobs.into(), placed, all, cpu, decisions, each }
    }

    /// One gang of 64 pods with all GPUs of their nodes, each time in a round of its own, where one
    /// pool holds it; and how many of them were placed.
    fn gangs(&mut self) -> (Times, usize) {
        let full = self.snapshot.pools.clone();
        Cluster::with_an_idle_pool(&mut self.snapshot.pools);
        let mut placed = 0;
        let mut times = Vec::new();
        for _ in 0..GANGS {
            self.snapshot.demands = vec![self.workload.large_gang()];
            let (plan, took) = self.time(&mut Vec::new());
            placed += plan.placements.len();
            times.push(took);
        }
        self.snapshot.pools = full;
        (Times::of(times), placed)
    }

    /// The same gang where no pool holds it, with a priority above that of most guests; and how many
    /// of these a plan sends away.
    fn preemptions(&mut self) -> (Times, usize) {
        self.snapshot.guests = Arc::new(self.cluster.guests());
        let mut victims = 0;
        let mut times = Vec::new();
        for _ in 0..GANGS {
            let (gang, queue) = (self.workload.large_gang(), Workload::poorest());
            self.snapshot.demands = vec![Demand { priority: 1000, queue, ..gang }];
            let (plan, took) = self.time(&mut Vec::new());
            victims = plan.preemptions.iter().map(|plan| plan.victims.len()).sum();
            times.push(took);
        }
        self.snapshot.guests = Arc::default();
        (Times::of(times), victims)
    }

    fn time(&self, decisions: &mut Vec<Duration>) -> (Plan, Duration) {
        let start = Instant::now();
        let mut last = start;
        let plan = round::watched(&self.snapshot, &mut |_| {
            let now = Instant::now();
            decisions.push(now - last);
            last = now;
        });
        (plan, start.elapsed())
    }

    /// The members start what the plan says and answer, and as many GPUs come free elsewhere.
    fn carry_out(&mut self, plan: &Plan) -> u64 {
        let demands = std::mem::take(&mut self.snapshot.demands);
        let started = self.cluster.start(plan, &demands);
        self.cluster.end(started.gpus);
        self.cluster.picture(&mut self.snapshot.pools);
        let lost = plan.waiting.values().filter(|why| !matches!(why, Waiting::NoPool { .. }));
        debug_assert_eq!(lost.count(), 0, "no queue holds anything up");
        started.jobs
    }
}

#[allow(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people"
)]
fn per_second(jobs: u64, time: Duration) -> u64 {
    (jobs as f64 / time.as_secs_f64().max(1e-9)) as u64
}

/// How long this thread has run by now, where the system says so.
fn ran() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

#[allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a figure for people")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

fn table(json: &serde_json::Value) -> String {
    let rows = json.as_object().into_iter().flatten();
    let rows: Vec<String> = rows.map(|(name, value)| format!("{name:<22} {value}")).collect();
    rows.join("\n") + "\n"
}
