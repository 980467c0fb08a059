//! What holds over many rounds, as jobs come, run and end.

use std::sync::Arc;

use super::*;
use crate::engine::guests::Guest;
use crate::engine::model::{Epoch, Free, Hold, Request};
use crate::engine::notation::{demand, id};

/// Milliseconds between two rounds.
const STEP: i64 = 60_000;
/// GPUs of each node.
const NODE: u32 = 8;

/// Whether the hub knows when guests end at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limits {
    Known,
    Unknown,
}

/// One pool whose nodes and guests are known exactly, and what waits for it.
struct World {
    facts: Snapshot,
    free: Vec<u32>,
    limits: Limits,
    random: u64,
    jobs: u32,
    turns: u64,
    /// When each job came, and how long it runs in milliseconds.
    came: BTreeMap<JobId, (i64, i64)>,
}

impl World {
    fn new(nodes: u32, limits: Limits) -> Self {
        let pool = format!("A100:{NODE}x{nodes}");
        let mut facts = snapshot(&[("a", &pool)], &[]);
        facts.queues.insert("r".into(), Queue::default());
        let free = vec![NODE; nodes as usize];
        Self { facts, free, limits, random: 42, jobs: 0, turns: 0, came: BTreeMap::new() }
    }

    /// A number below `most`, from a linear congruential generator (Knuth's MMIX).
    fn dice(&mut self, most: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % most
    }

    fn submit(&mut self, text: &str, runs_seconds: i64) -> JobId {
        self.jobs += 1;
        let mut demand = demand(&format!("j{:06} {text}", self.jobs));
        demand.queued_at = self.facts.now;
        if self.limits == Limits::Known {
            demand.longest_seconds = u64::try_from(runs_seconds).ok();
        }
        let job = demand.job.clone();
        self.came.insert(job.clone(), (self.facts.now, runs_seconds * 1000));
        self.facts.demands.push(demand);
        job
    }

    /// Time passes; guests end; a round is carried out. Returns who started.
    fn step(&mut self) -> Vec<JobId> {
        self.facts.now += STEP;
        self.end();
        let plan = round(&self.facts);
        for (job, hold) in &plan.kept {
            let mut demands = self.facts.demands.iter_mut();
            let demand = demands.find(|demand| demand.job == *job).expect("it waits");
            let turn = self.turns;
            self.turns += 1;
            demand.hold.get_or_insert(Hold { turn, ..hold.clone() });
        }
        let mut started = Vec::new();
        for given in &plan.placements {
            let at = self.facts.demands.iter().position(|demand| demand.job == given.job);
            let demand = &self.facts.demands[at.expect("it waits")];
            let (request, queue) = (demand.request.clone(), demand.queue.clone());
            // Leases come in another order than the round decided in: a member may refuse one.
            if self.start(&request, &given.job, queue) {
                self.facts.demands.remove(at.expect("it waits"));
                started.push(given.job.clone());
            }
        }
        self.draw();
        started
    }

    fn end(&mut self) {
        let (now, came, free) = (self.facts.now, &self.came, &mut self.free);
        let guests = Arc::make_mut(&mut self.facts.guests).entry(id("a")).or_default();
        guests.retain(|guest| {
            let runs = came[&guest.job].1;
            let over = guest.since + runs <= now;
            for (node, pods) in guest.nodes.iter().filter(|_| over) {
                free[usize::try_from(*node).unwrap()] += guest.need.gpus * pods;
            }
            !over
        });
        self.draw();
    }

    /// Each pod goes to the tightest node, as in a member.
    fn start(&mut self, request: &Request, job: &JobId, queue: String) -> bool {
        let mut nodes: BTreeMap<u64, u32> = BTreeMap::new();
        let before = self.free.clone();
        for _ in 0..request.size {
            let able = (0..self.free.len()).filter(|node| self.free[*node] >= request.need.gpus);
            let Some(node) = able.min_by_key(|node| self.free[*node]) else {
                self.free = before;
                return false;
            };
            self.free[node] -= request.need.gpus;
            *nodes.entry(node as u64).or_default() += 1;
        }
        let runs = self.came[job].1;
        let guest = Guest {
            job: job.clone(),
            epoch: Epoch { incarnation: 1, attempt: 1 },
            queue,
            model: "A100".into(),
            need: request.need,
            size: request.size,
            replicas: 1,
            nodes: nodes.into_iter().collect(),
            since: self.facts.now,
            ends: (self.limits == Limits::Known).then_some(self.facts.now + runs),
            ..Guest::default()
        };
        Arc::make_mut(&mut self.facts.guests).entry(id("a")).or_default().push(guest);
        true
    }

    fn draw(&mut self) {
        let pool = self.facts.pools.get_mut(&id("a")).unwrap();
        let group = |gpus: u32| {
            let nodes = self.free.iter().filter(|free| **free == gpus).count();
            let nodes = u32::try_from(nodes).unwrap();
            Free { gpus, nodes, milli_cpu: 16_000 * u64::from(gpus), memory: 1 << 40 }
        };
        let groups = (1..=NODE).map(group).filter(|free| free.nodes > 0);
        pool.shapes[0].free = groups.collect();
        pool.lendable = self.free.iter().map(|free| u64::from(*free)).sum();
        for queue in ["q", "r"] {
            let guests = self.facts.guests.get(&id("a")).into_iter().flatten();
            let held = guests.filter(|guest| guest.queue == queue).map(Guest::gpus).sum();
            let queue = self.facts.queues.get_mut(queue).unwrap();
            queue.used.insert("A100".into(), held);
        }
    }

    /// Small jobs of at least `least` GPUs keep coming, faster than they can run.
    fn crowd(&mut self, least: u64) {
        while self.facts.demands.len() < 20 {
            let queue =
                ["q", "r"][usize::try_from(self.dice(if least == 1 { 2 } else { 1 })).unwrap()];
            let (gpus, runs) = (
                least + self.dice(4) * u64::from(least == 1),
                300 + i64::try_from(self.dice(7000)).unwrap(),
            );
            self.submit(&format!("gpus={gpus} queue={queue}"), runs);
        }
    }
}

/// Gangs among small jobs without end, over 10,000 rounds: the longest wait of any job, in minutes.
fn longest_wait(limits: Limits) -> i64 {
    let mut world = World::new(6, limits);
    let mut longest = 0;
    for number in 0..10_000 {
        world.crowd(1);
        if number % 500 == 0 {
            world.submit("gpus=8 size=4", 3600);
        }
        for job in world.step() {
            longest = longest.max((world.facts.now - world.came[&job].0) / STEP);
        }
        let waiting = world.facts.demands.iter().map(|demand| world.facts.now - demand.queued_at);
        longest = longest.max(waiting.max().unwrap_or(0) / STEP);
    }
    longest
}

#[test]
fn nobody_starves_over_ten_thousand_rounds() {
    // Ten minutes of patience, an hour with room kept, two hours of the longest guest, and as long
    // for the head of the other queue before it.
    assert!(longest_wait(Limits::Known) < 6 * 60, "{} minutes", longest_wait(Limits::Known));
}

#[test]
fn nobody_starves_where_no_end_is_known() {
    assert!(longest_wait(Limits::Unknown) < 8 * 60, "{} minutes", longest_wait(Limits::Unknown));
}

/// Jobs of whole nodes in one queue: of nodes in parts nobody knows which of them come together.
#[test]
fn those_who_pass_never_delay_a_head_that_room_is_kept_for() {
    for seed in 0..40 {
        let mut world = World::new(4, Limits::Known);
        world.random = seed;
        for _ in 0..40 {
            world.crowd(8);
            world.step();
        }
        let gang = world.submit("gpus=8 size=3", 600);
        let mut promised = None;
        loop {
            world.crowd(8);
            if world.step().contains(&gang) {
                break;
            }
            let waits = world.facts.demands.iter().find(|demand| demand.job == gang);
            promised = promised.or(waits.and_then(|demand| demand.hold.as_ref()?.at));
            let waited = world.facts.now - world.came[&gang].0;
            assert!(waited < 24 * 3_600_000, "seed {seed}: it never starts");
        }
        let promised = promised.unwrap_or(world.facts.now);
        assert!(world.facts.now <= promised + STEP, "seed {seed}: later than {promised}");
    }
}
