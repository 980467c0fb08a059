//! What happens in a run: who submits what, what breaks when, and how the owners behave. All of it
//! follows from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::federation::{Process, Shape, object};
use super::network::Trouble;
use super::programs::{MANNERS, arguments};

/// Faults and wishes come within this time; then everything is mended.
pub(crate) const STORMY: u64 = 160;

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A user creates a job.
    Submit { hub: usize, job: Value },
    /// A user changes a job's spec.
    Edit { hub: usize, name: String, spec: Value },
    /// A user deletes a job.
    Delete { hub: usize, name: String },
    /// The owner's own pod appears.
    Owner { member: usize, name: String, gpus: i64, manner: Wish },
    /// The owner's own pod goes.
    Home { member: usize, name: String },
    /// The owner changes what the pool offers.
    Offer { member: usize, offer: Value },
    /// The owner cordons a node, or lets it go.
    Cordon { member: usize, node: usize, on: bool },
    /// The owner deletes a guest's pod.
    Evict { member: usize },
    /// The owner deletes the record of a guest.
    Forget { member: usize },
    /// A process ends.
    Kill(Process),
    /// A process starts.
    Start(Process),
    /// The way between a process and a server breaks, or is mended.
    Way { from: String, to: String, trouble: Option<Trouble> },
    /// Single requests go wrong, so many of a million.
    Mishaps(u32),
    /// Watches end.
    CutWatches { hub: bool, number: usize },
    /// A server forgets its history.
    Compact { hub: bool, number: usize },
    /// A member's API server stops, or comes back.
    Api { member: usize, up: bool },
    /// A node is cut off, or comes back, with or without what ran on it.
    Node { member: usize, node: usize, cut: bool, rebooted: bool },
    /// Somebody sets a machine's time of day.
    Clock(Process, i64),
    /// An operator backs a hub's store up.
    Backup { hub: usize },
    /// A hub's store is the backup again, and its processes start with `--restored`.
    Restore { hub: usize },
    /// A member tells a hub nonsense about its leases.
    Lie { hub: usize, member: usize },
}

/// What keeps kube-scheduler from making room for an owner's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Nothing.
    Plain,
    /// It may not preempt.
    Never,
    /// Its priority is too low.
    Low,
}

/// All of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// In order of time.
    pub(crate) acts: Vec<(Duration, Act)>,
}

impl Plan {
    /// What `seed` stands for.
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
        let shape = shape(&mut random);
        let mut plan = Self { shape, acts: Vec::new() };
        plan.jobs(&mut random);
        let storms = random.random_range(2..=9);
        for _ in 0..storms {
            plan.storm(&mut random);
        }
        for _ in 0..random.random_range(0..=4) {
            plan.owner(&mut random);
        }
        plan.acts.sort_by_key(|(at, _)| *at);
        plan
    }

    pub(crate) fn at(&mut self, at: u64, act: Act) {
        self.acts.push((Duration::from_millis(at), act));
    }

    fn jobs(&mut self, random: &mut StdRng) {
        for number in 0..random.random_range(1..=6) {
            let hub = random.random_range(0..self.shape.hubs);
            let name = format!("j{number}");
            let job = job(random, &name);
            let at = random.random_range(0..STORMY * 500);
            self.at(at, Act::Submit { hub, job: job.clone() });
            let later = at + random.random_range(1_000..90_000);
            match random.random_range(0..10) {
                0 => {
                    self.at(later, Act::Delete { hub, name: name.clone() });
                    if random.random_bool(0.7) {
                        let again = later + random.random_range(0..3_000);
                        self.at(again, Act::Submit { hub, job });
                    }
                }
                1 => {
                    let spec = |on: bool| json!({ "suspend": on });
                    self.at(later, Act::Edit { hub, name: name.clone(), spec: spec(true) });
                    let again = later + random.random_range(100..40_000);
                    self.at(again, Act::Edit { hub, name, spec: spec(false) });
                }
                _ => {}
            }
        }
    }

    /// A fault, and its end.
    fn storm(&mut self, random: &mut StdRng) {
        let from = random.random_range(0..STORMY * 700);
        let lengths = [300, 2_000, 10_000, 45_000, 100_000];
        let length = *lengths.choose(random).expect("some");
        let until = (from + length + random.random_range(0..length)).min(STORMY * 1_000);
        let process = process(random, &self.shape);
        let member = random.random_range(0..self.shape.members.len());
        let node = random.random_range(0..self.shape.members[member]);
        let (hub, any) = (random.random_bool(0.5), random.random_range(0..8));
        match random.random_range(0..12) {
            0..=2 => {
                self.at(from, Act::Kill(process));
                self.at(until, Act::Start(process));
            }
            3..=5 => {
                let (from_whom, to) = way(random, &self.shape);
                let trouble = TROUBLES.choose(random).copied();
                let way = |trouble| Act::Way { from: from_whom.clone(), to: to.clone(), trouble };
                self.at(from, way(trouble));
                self.at(until, way(None));
            }
            6 | 7 => {
                self.at(from, Act::Mishaps(random.random_range(5_000..150_000)));
                self.at(until, Act::Mishaps(0));
            }
            8 => {
                self.at(from, Act::Compact { hub, number: any });
                self.at(from + 10, Act::CutWatches { hub, number: any });
            }
            9 => {
                self.at(from, Act::Api { member, up: false });
                self.at(until, Act::Api { member, up: true });
            }
            10 => {
                let rebooted = random.random_bool(0.5);
                self.at(from, Act::Node { member, node, cut: true, rebooted });
                self.at(until, Act::Node { member, node, cut: false, rebooted });
            }
            11 if random.random_bool(0.4) => {
                let hub = random.random_range(0..self.shape.hubs);
                self.at(from, Act::Backup { hub });
                self.at(until, Act::Restore { hub });
            }
            _ => match random.random_range(0..3) {
                0 => self.at(from, Act::Clock(process, random.random_range(-7_200..7_200))),
                1 => {
                    let hub = random.random_range(0..self.shape.hubs);
                    self.at(from, Act::Lie { hub, member });
                }
                _ => self.at(from, Act::CutWatches { hub, number: any }),
            },
        }
    }

    /// An owner comes home, or changes his mind.
    fn owner(&mut self, random: &mut StdRng) {
        let from = random.random_range(0..STORMY * 800);
        let until = from + random.random_range(500..90_000);
        let member = random.random_range(0..self.shape.members.len());
        let node = random.random_range(0..self.shape.members[member]);
        match random.random_range(0..8) {
            0..=3 => {
                let name = format!("own-{from}");
                let gpus = random.random_range(1..=self.shape.gpus_per_node);
                let manner = *[Wish::Plain, Wish::Plain, Wish::Never, Wish::Low]
                    .choose(random)
                    .expect("some");
                self.at(from, Act::Owner { member, name: name.clone(), gpus, manner });
                self.at(until, Act::Home { member, name });
            }
            4 => {
                let offers = [
                    json!({"paused": true}),
                    json!({"maxGpus": 2}),
                    json!({"reserveGpus": 3}),
                    json!({"noticeSeconds": 5}),
                ];
                let offer = offers.choose(random).expect("some").clone();
                self.at(from, Act::Offer { member, offer });
                self.at(until, Act::Offer { member, offer: json!({"paused": false}) });
            }
            5 => {
                self.at(from, Act::Cordon { member, node, on: true });
                self.at(until, Act::Cordon { member, node, on: false });
            }
            6 => self.at(from, Act::Evict { member }),
            _ => self.at(from, Act::Forget { member }),
        }
    }
}

const TROUBLES: [Trouble; 6] = [
    Trouble::BlackHole,
    Trouble::OneWay,
    Trouble::Refused,
    Trouble::Busy,
    Trouble::Slow,
    Trouble::DeafWatch,
];

fn shape(random: &mut StdRng) -> Shape {
    let hubs = if random.random_bool(0.3) { 2 } else { 1 };
    let members = random.random_range(1..=3);
    let drift = [0, 0, 10_000, -10_000];
    Shape {
        hubs,
        processes: random.random_range(1..=2),
        elect: random.random_bool(0.7),
        members: (0..members).map(|_| random.random_range(1..=2)).collect(),
        gpus_per_node: *[2, 4, 8].choose(random).expect("some"),
        rates: (*drift.choose(random).expect("some"), *drift.choose(random).expect("some")),
        lease_seconds: *[60, 60, 120, 900].choose(random).expect("some"),
    }
}

fn process(random: &mut StdRng, shape: &Shape) -> Process {
    match random.random_bool(0.5) {
        true => Process::Hub(
            random.random_range(0..shape.hubs),
            random.random_range(0..shape.processes),
        ),
        false => Process::Agent(random.random_range(0..shape.members.len())),
    }
}

fn way(random: &mut StdRng, shape: &Shape) -> (String, String) {
    let (hub, member) =
        (random.random_range(0..shape.hubs), random.random_range(0..shape.members.len()));
    let process = random.random_range(0..shape.processes);
    let agent = format!("agent-m{member}");
    match random.random_range(0..4) {
        0 => (format!("hub-{hub}-{process}"), format!("hub-{hub}")),
        1 => (agent, format!("m{member}")),
        _ => (agent, format!("hub-{hub}")),
    }
}

/// A job as its user writes it.
fn job(random: &mut StdRng, name: &str) -> Value {
    let gang = random.random_bool(0.25);
    let exit = *["0", "0", "0", "0", "1", "flaky"].choose(random).expect("some");
    let manner = *MANNERS.choose(random).expect("some");
    let seconds = *[2, 8, 20, 45].choose(random).expect("some");
    let mut spec = json!({
        "completions": if gang { random.random_range(1..=2) } else { random.random_range(1..=5) },
        "size": if gang { random.random_range(2..=3) } else { 1 },
        "backoffLimit": random.random_range(0..=3),
        "gpu": {"count": random.random_range(1..=2)},
        "template": {"spec": {"terminationGracePeriodSeconds": *[0, 5, 20].choose(random).expect("some"),
            "containers": [{"name": "train", "image": "registry.example.org/train:1",
                "args": arguments(seconds, exit, manner)}]}},
    });
    if random.random_bool(0.3) {
        spec["parallelism"] = random.random_range(1..=3).into();
    }
    if random.random_bool(0.3) {
        spec["checkpoint"] = json!({"uri": "s3://bucket/j", "intervalSeconds": 10});
    }
    if random.random_bool(0.5) {
        let tolerance = *[40, 60, 100].choose(random).expect("some");
        let policy = *["Allow", "Allow", "Never"].choose(random).expect("some");
        let after = *["ContinueFenced", "Stop"].choose(random).expect("some");
        spec["failover"] = json!({"tolerationSeconds": tolerance, "duplicatePolicy": policy,
            "afterLease": after});
    }
    // What must never run twice waits for the end of its pods' time, where nobody saw them end.
    let never = spec["failover"]["duplicatePolicy"] == "Never";
    if never || random.random_bool(0.3) {
        spec["maxRunningSeconds"] = random.random_range(20..=300).into();
    }
    if random.random_bool(0.15) {
        spec["ttlSecondsAfterFinished"] = random.random_range(0..=60).into();
    }
    object("GpuJob", name, &spec)
}
