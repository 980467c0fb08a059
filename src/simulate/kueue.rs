//! The shapes of Kueue's performance suite in virtual time (P5): how near queues with quotas in
//! cohorts come to what their quota allows.
//!
//! Numbers are those of `test/performance/scheduler` of kubernetes-sigs/kueue (commit ff69552e,
//! Apache-2.0): a unit is a GPU here, a workload a gang of so many pods with one GPU each. Members
//! answer at once and pods start at once, so what is left is the policy and its own time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Error, Report};
use crate::engine::guests::Guest;
use crate::engine::indexes::Indexes;
use crate::engine::model::{
    Demand, Epoch, Free, JobId, Plan, PodNeed, Pool, PoolId, Queue, Request, Shape, Snapshot,
};
use crate::engine::queues::Quota;
use crate::engine::round::round;

/// What the hub lets pass between two rounds, in milliseconds.
const COALESCED: i64 = 5;
/// GPUs that each queue may hold, and borrow besides.
const QUOTA: u64 = 20;
const BORROWING: u64 = 100;
const MODEL: &str = "unit";

/// What to replay.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Which of its scenarios.
    #[arg(long, value_enum, default_value_t = Scenario::Baseline)]
    pub shape: Scenario,
    /// Print one JSON object on standard output, and the table on standard error.
    #[arg(long)]
    pub json: bool,
}

/// A scenario of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 5 cohorts of 6 queues, 500 jobs each.
    Baseline,
    /// 10 cohorts of 100 queues, 50 jobs each.
    Large,
}

/// Jobs of one class in each queue.
#[derive(Clone, Copy, Debug)]
struct Class {
    name: &'static str,
    count: u32,
    units: u32,
    runs_millis: i64,
    every_millis: i64,
    priority: i32,
}

const fn class(name: &'static str, counts: (u32, u32), millis: (i64, i64), priority: i32) -> Class {
    let ((count, units), (runs_millis, every_millis)) = (counts, millis);
    Class { name, count, units, runs_millis, every_millis, priority }
}

impl Scenario {
    /// Cohorts, and queues of each.
    const fn queues(self) -> (u32, u32) {
        match self {
            Self::Baseline => (5, 6),
            Self::Large => (10, 100),
        }
    }

    const fn classes(self) -> [Class; 3] {
        match self {
            Self::Baseline => [
                class("small", (350, 1), (200, 100), 50),
                class("medium", (100, 5), (500, 500), 100),
                class("large", (50, 20), (1000, 1200), 200),
            ],
            Self::Large => [
                class("small", (35, 1), (150, 100), 50),
                class("medium", (11, 5), (350, 500), 100),
                class("large", (4, 20), (700, 1200), 200),
            ],
        }
    }
}

/// A job and what became of it.
struct Job {
    class: Class,
    arrives: i64,
    admitted: Option<i64>,
    demand: Demand,
    attempt: u32,
}

/// Everything in virtual time.
struct World {
    jobs: BTreeMap<JobId, Job>,
    arrivals: BTreeSet<(i64, JobId)>,
    /// When each running attempt ends.
    ends: BTreeSet<(i64, JobId, u32)>,
    snapshot: Snapshot,
    /// Free GPUs of each member, one to a node.
    free: BTreeMap<PoolId, u32>,
    preemptions: u64,
    rounds: u64,
    thinking: Duration,
}

/// Runs the protocol.
///
/// # Errors
/// None yet; others of its kind read files.
pub fn run(options: &Options) -> Result<Report, Error> {
    let shape = options.shape;
    let mut world = World::new(shape);
    let mut now = 0;
    while let Some(at) = world.next() {
        // What comes while the hub waits is decided together.
        now = (at.max(now) + COALESCED - 1) / COALESCED * COALESCED;
        world.advance(now);
    }
    let last = world.jobs.values().filter_map(|job| Some(job.admitted? + job.class.runs_millis));
    let virtual_millis = last.max().unwrap_or(0);
    Ok(report(shape, &world, virtual_millis))
}

#[allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures for people")]
fn report(shape: Scenario, world: &World, virtual_millis: i64) -> Report {
    let (cohorts, queues) = shape.queues();
    let classes = shape.classes();
    let unit_millis = classes.iter().map(|class| {
        i64::from(class.count * class.units) * class.runs_millis * i64::from(cohorts * queues)
    });
    let quota = i64::from(cohorts * queues) * QUOTA.cast_signed();
    let bound = unit_millis.sum::<i64>() as f64 / quota as f64 / 1000.0;
    let seconds = virtual_millis as f64 / 1000.0;
    let admission: BTreeMap<&str, f64> = classes
        .iter()
        .map(|class| {
            let jobs = world.jobs.values().filter(|job| job.class.name == class.name);
            let waits: Vec<i64> =
                jobs.filter_map(|job| Some(job.admitted? - job.arrives)).collect();
            let mean = waits.iter().sum::<i64>() as f64 / waits.len().max(1) as f64;
            (class.name, mean / 1000.0)
        })
        .collect();
    let finished = world.jobs.values().filter(|job| job.admitted.is_some()).count();
    let json = json!({
        "virtualSeconds": seconds,
        "lowerBoundSeconds": bound,
        "wallSeconds": world.thinking.as_secs_f64(),
        "score": bound / seconds.max(0.001),
        "meanAdmissionSeconds": admission,
        "jobs": world.jobs.len(),
        "finished": finished,
        "preemptions": world.preemptions,
        "rounds": world.rounds,
    });
    let rows = json.as_object().into_iter().flatten();
    let rows: Vec<String> = rows.map(|(name, value)| format!("{name:<22} {value}")).collect();
    Report { json, table: rows.join("\n") + "\n" }
}

impl World {
    fn new(shape: Scenario) -> Self {
        let (cohorts, each) = shape.queues();
        let mut world = Self {
            jobs: BTreeMap::new(),
            arrivals: BTreeSet::new(),
            ends: BTreeSet::new(),
            snapshot: Snapshot::default(),
            free: BTreeMap::new(),
            preemptions: 0,
            rounds: 0,
            thinking: Duration::ZERO,
        };
        for cohort in 0..cohorts {
            let id = PoolId { member: format!("member-{cohort:02}"), pool: "units".into() };
            let gpus = each * u32::try_from(QUOTA).unwrap_or(u32::MAX);
            world.free.insert(id.clone(), gpus);
            world.snapshot.pools.insert(id, pool(gpus));
            for queue in 0..each {
                let name = format!("queue-{cohort:02}-{queue:03}");
                world.snapshot.queues.insert(name.clone(), queue_of(cohort));
                world.fill(shape, &name);
            }
        }
        world
    }

    /// All jobs that ever come to a queue.
    fn fill(&mut self, shape: Scenario, queue: &str) {
        for class in shape.classes() {
            let need = PodNeed { gpus: 1, milli_cpu: 0, memory: 0 };
            let request = Arc::new(Request { size: class.units, need, ..Request::default() });
            for number in 0..class.count {
                let arrives = i64::from(number) * class.every_millis;
                let job = JobId(format!("{queue}-{}-{number:03}", class.name));
                let demand = Demand {
                    job: job.clone(),
                    queue: queue.to_owned(),
                    priority: class.priority,
                    queued_at: arrives,
                    wanted: Indexes::range(0, 1),
                    request: request.clone(),
                    ..Demand::default()
                };
                self.arrivals.insert((arrives, job.clone()));
                self.jobs.insert(job, Job { class, arrives, admitted: None, demand, attempt: 0 });
            }
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<i64> {
        let arrival = self.arrivals.first().map(|(at, _)| *at);
        let end = self.ends.first().map(|(at, _, _)| *at);
        arrival.into_iter().chain(end).min()
    }

    /// Takes in what happened by `now`, and decides until nothing more is placed.
    fn advance(&mut self, now: i64) {
        self.snapshot.now = now;
        while self.arrivals.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, job)) = self.arrivals.pop_first() else { break };
            self.snapshot.demands.push(self.jobs[&job].demand.clone());
        }
        while self.ends.first().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, job, attempt)) = self.ends.pop_first() else { break };
            self.leave(&job, attempt);
        }
        loop {
            let began = Instant::now();
            let plan = round(&self.snapshot);
            self.thinking += began.elapsed();
            self.rounds += 1;
            let something = !plan.placements.is_empty();
            let preempted = self.preempt(&plan);
            self.start(&plan, now);
            if !something && !preempted {
                return;
            }
        }
    }

    /// Guests that were told to go are gone at once, and wait again.
    fn preempt(&mut self, plan: &Plan) -> bool {
        let mut any = false;
        for (job, epoch) in plan.preemptions.iter().flat_map(|preemption| &preemption.victims) {
            any = true;
            self.preemptions += 1;
            let attempt = epoch.attempt;
            self.ends.retain(|(_, other, number)| (other, *number) != (job, attempt));
            self.leave(job, attempt);
            let Some(victim) = self.jobs.get_mut(job) else { continue };
            victim.admitted = None;
            self.snapshot.demands.push(victim.demand.clone());
        }
        any
    }

    fn start(&mut self, plan: &Plan, now: i64) {
        let mut started = BTreeSet::new();
        for placement in &plan.placements {
            let Some(job) = self.jobs.get_mut(&placement.job) else { continue };
            started.insert(&placement.job);
            job.admitted = Some(now);
            job.attempt += 1;
            let (units, attempt) = (job.class.units, job.attempt);
            self.ends.insert((now + job.class.runs_millis, placement.job.clone(), attempt));
            let guest = Guest {
                job: placement.job.clone(),
                epoch: Epoch { incarnation: 1, attempt },
                queue: job.demand.queue.clone(),
                priority: job.class.priority,
                preemptible: true,
                model: MODEL.into(),
                need: job.demand.request.need,
                size: units,
                replicas: 1,
                since: now,
                ends: Some(now + job.class.runs_millis),
                ..Guest::default()
            };
            let guests = Arc::make_mut(&mut self.snapshot.guests);
            guests.entry(placement.pool.clone()).or_default().push(guest);
            if let Some(queue) = self.snapshot.queues.get_mut(&job.demand.queue) {
                *queue.used.entry(MODEL.into()).or_default() += u64::from(units);
            }
            let free = self.free.entry(placement.pool.clone()).or_default();
            *free = free.saturating_sub(units);
        }
        self.snapshot.demands.retain(|demand| !started.contains(&demand.job));
        self.picture();
    }

    /// An attempt gives back what it holds.
    fn leave(&mut self, job: &JobId, attempt: u32) {
        let guests = Arc::make_mut(&mut self.snapshot.guests);
        for (pool, guests) in guests {
            let is = |guest: &Guest| guest.job == *job && guest.epoch.attempt == attempt;
            let Some(at) = guests.iter().position(is) else { continue };
            let guest = guests.swap_remove(at);
            *self.free.entry(pool.clone()).or_default() += guest.size;
            if let Some(queue) = self.snapshot.queues.get_mut(&guest.queue) {
                let used = queue.used.entry(MODEL.into()).or_default();
                *used = used.saturating_sub(u64::from(guest.size));
            }
            break;
        }
        self.picture();
    }

    fn picture(&mut self) {
        for (id, free) in &self.free {
            let Some(pool) = self.snapshot.pools.get_mut(id) else { continue };
            pool.lendable = u64::from(*free);
            pool.shapes[0].free = vec![Free { gpus: 1, nodes: *free, milli_cpu: 0, memory: 0 }];
        }
    }
}

fn queue_of(cohort: u32) -> Queue {
    let quota = Quota { gpus: QUOTA, borrowing: Some(BORROWING), ..Quota::default() };
    Queue { cohort: Some(format!("cohort-{cohort}")), quota: vec![quota], ..Queue::default() }
}

/// A pool of nodes with one GPU each.
fn pool(gpus: u32) -> Pool {
    let shape = Shape {
        model: MODEL.into(),
        gpus_per_node: 1,
        nodes: gpus,
        free: vec![Free { gpus: 1, nodes: gpus, milli_cpu: 0, memory: 0 }],
        ..Shape::default()
    };
    let offered = u64::from(gpus);
    Pool { takes_batch: true, offered, lendable: offered, shapes: vec![shape], ..Pool::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_suite() {
        let report = |shape| report(shape, &World::new(shape), 1000).json;
        let (baseline, large) = (report(Scenario::Baseline), report(Scenario::Large));
        assert_eq!(
            (baseline["jobs"].as_u64(), large["jobs"].as_u64()),
            (Some(15_000), Some(50_000))
        );
        assert_eq!(baseline["lowerBoundSeconds"], json!(66.0));
        assert_eq!(large["lowerBoundSeconds"], json!(4.025));
    }

    #[test]
    fn jobs_start_end_and_give_back() {
        let mut world = World::new(Scenario::Baseline);
        for now in (0..=2000).step_by(5) {
            world.advance(now);
            let free: u32 = world.free.values().sum();
            let held: u32 = world.snapshot.guests.values().flatten().map(|guest| guest.size).sum();
            assert_eq!(free + held, 600);
            for queue in world.snapshot.queues.values() {
                assert!(queue.used.values().sum::<u64>() <= QUOTA + BORROWING);
            }
        }
        let ended = world.jobs.values().filter(|job| job.admitted.is_some()).count();
        assert!(ended > 300, "{ended} started");
    }
}
