//! Members with their nodes: what owners use, what guests take and leave.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Options;
use super::workload::Workload;
use crate::engine::guests;
use crate::engine::model::{
    Demand, Free, JobId, Placement, Plan, PodNeed, Pool, PoolId, Shape, Taint,
};

const GIB: u64 = 1 << 30;
/// Model, memory of one GPU in GiB.
const MODELS: [(&str, u64); 5] =
    [("A100", 40), ("A100", 80), ("H100", 80), ("L40S", 48), ("T4", 16)];
/// Of a thousand nodes: so many are full, so many idle; the rest have some GPUs free.
const FULL: u32 = 680;
const IDLE: u32 = 60;

/// One node and what is free on it.
#[derive(Clone, Copy, Debug)]
struct Node {
    shape: usize,
    free: PodNeed,
}

/// A pool that is lent, with its nodes.
#[derive(Debug)]
struct Member {
    id: PoolId,
    pool: Pool,
    nodes: Vec<Node>,
    changed: bool,
}

/// Pods of one lease: where each runs.
#[derive(Debug)]
struct Guest {
    member: usize,
    need: PodNeed,
    nodes: Vec<usize>,
}

/// What a plan started.
pub(super) struct Started {
    pub(super) jobs: u64,
    pub(super) gpus: u64,
}

/// All members.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Vec<Member>,
    guests: Vec<Guest>,
    random: StdRng,
}

impl Cluster {
    pub(super) fn new(options: &Options) -> Self {
        let mut random = StdRng::seed_from_u64(options.seed);
        let members = (0..options.pools).map(|number| member(options, number, &mut random));
        let members: Vec<Member> = members.collect();
        let mut cluster = Self { members, guests: Vec::new(), random };
        cluster.fill();
        cluster
    }

    /// What runs at the start are guests of one pod each, who end as others do.
    fn fill(&mut self) {
        for (place, member) in self.members.iter_mut().enumerate() {
            for (number, node) in member.nodes.iter_mut().enumerate() {
                let mut left = used(&mut self.random, node.free.gpus);
                while left > 0 {
                    let gpus = left.min(1 << self.random.random_range(0..4));
                    left -= gpus;
                    let each = |whole: u64| whole / u64::from(node.free.gpus) * u64::from(gpus);
                    let tenths = self.random.random_range(4..=10);
                    let need = PodNeed {
                        gpus,
                        milli_cpu: each(node.free.milli_cpu) * tenths / 10,
                        memory: each(node.free.memory) * tenths / 10,
                    };
                    take(&mut node.free, need);
                    self.guests.push(Guest { member: place, need, nodes: vec![number] });
                }
            }
            member.draw();
        }
    }

    pub(super) fn pools(&self) -> BTreeMap<PoolId, Pool> {
        self.members.iter().map(|member| (member.id.clone(), member.pool.clone())).collect()
    }

    /// What runs, as the hub knows of it.
    pub(super) fn guests(&self) -> BTreeMap<PoolId, Vec<guests::Guest>> {
        let mut all: BTreeMap<PoolId, Vec<guests::Guest>> = BTreeMap::new();
        for (number, guest) in self.guests.iter().enumerate() {
            let member = &self.members[guest.member];
            let node = |node: &usize| (*node as u64, 1);
            let (queue, priority) = Workload::standing(number);
            let model = &member.pool.shapes[member.nodes[guest.nodes[0]].shape].model;
            all.entry(member.id.clone()).or_default().push(guests::Guest {
                job: JobId(format!("guest-{number}")),
                queue,
                priority,
                preemptible: true,
                model: model.clone(),
                need: guest.need,
                size: 1,
                replicas: u32::try_from(guest.nodes.len()).unwrap_or(u32::MAX),
                nodes: guest.nodes.iter().map(node).collect(),
                since: -1000 * i64::try_from(number % 86_400).unwrap_or(0),
                ..guests::Guest::default()
            });
        }
        all
    }

    /// The pools as they are, but one that is idle.
    pub(super) fn with_an_idle_pool(pools: &mut BTreeMap<PoolId, Pool>) {
        let open = |pool: &&mut Pool| {
            let anybody = pool.namespaces.is_none() && pool.images.is_none();
            pool.shapes.len() == 1 && pool.taints.is_empty() && anybody
        };
        let Some(pool) = pools.values_mut().filter(open).last() else { return };
        for shape in &mut pool.shapes {
            let gpus = shape.gpus_per_node;
            let each = u64::from(gpus);
            let (milli_cpu, memory) = (8_000 * each, 64 * GIB * each);
            shape.free = vec![Free { gpus, nodes: shape.nodes, milli_cpu, memory }];
        }
        pool.lendable = pool.offered;
    }

    /// Starts what the plan says, each pod on the tightest node that holds it.
    pub(super) fn start(&mut self, plan: &Plan, demands: &[Demand]) -> Started {
        let of: BTreeMap<&JobId, &Demand> =
            demands.iter().map(|demand| (&demand.job, demand)).collect();
        let mut started = Started { jobs: 0, gpus: 0 };
        for placement in &plan.placements {
            let Some(demand) = of.get(&placement.job) else { continue };
            let found = self.members.binary_search_by(|member| member.id.cmp(&placement.pool));
            let Ok(place) = found else { continue };
            let nodes = self.members[place].run(demand, placement);
            started.jobs += 1;
            started.gpus += nodes.len() as u64 * u64::from(demand.request.need.gpus);
            self.guests.push(Guest { member: place, need: demand.request.need, nodes });
        }
        started
    }

    /// Ends guests at random until so many GPUs are free again.
    pub(super) fn end(&mut self, gpus: u64) {
        let mut left = gpus;
        while left > 0 && !self.guests.is_empty() {
            let guest = self.random.random_range(0..self.guests.len());
            let guest = self.guests.swap_remove(guest);
            let member = &mut self.members[guest.member];
            member.changed = true;
            for node in guest.nodes {
                let free = &mut member.nodes[node].free;
                free.gpus += guest.need.gpus;
                free.milli_cpu += guest.need.milli_cpu;
                free.memory += guest.need.memory;
                left = left.saturating_sub(guest.need.gpus.into());
            }
        }
    }

    /// Draws the pools that changed.
    pub(super) fn picture(&mut self, pools: &mut BTreeMap<PoolId, Pool>) {
        for member in self.members.iter_mut().filter(|member| member.changed) {
            member.draw();
            if let Some(pool) = pools.get_mut(&member.id) {
                pool.clone_from(&member.pool);
            }
        }
    }
}

impl Member {
    /// Runs a lease, and returns the node of each pod.
    fn run(&mut self, demand: &Demand, placement: &Placement) -> Vec<usize> {
        self.changed = true;
        let need = demand.request.need;
        let pods = demand.request.size * placement.indexes.len();
        let model = |node: &Node| self.pool.shapes[node.shape].model == placement.model;
        let mut nodes = Vec::new();
        for _ in 0..pods {
            let able = self.nodes.iter().enumerate().filter(|(_, node)| {
                let free = node.free;
                let beside = free.milli_cpu >= need.milli_cpu && free.memory >= need.memory;
                free.gpus >= need.gpus && beside && model(node)
            });
            // The picture shows the least CPU of like nodes, so what it promised is there.
            let tightest = able.min_by_key(|(_, node)| node.free).map(|(place, _)| place);
            let Some(place) = tightest else { break };
            take(&mut self.nodes[place].free, need);
            nodes.push(place);
        }
        nodes
    }

    /// Counts like nodes, as agents do.
    fn draw(&mut self) {
        self.changed = false;
        let mut groups: BTreeMap<(usize, u32), Free> = BTreeMap::new();
        for Node { shape, free } in self.nodes.iter().filter(|node| node.free.gpus > 0) {
            let PodNeed { gpus, milli_cpu, memory } = *free;
            let group =
                groups.entry((*shape, gpus)).or_insert(Free { gpus, nodes: 0, milli_cpu, memory });
            group.nodes += 1;
            group.milli_cpu = group.milli_cpu.min(milli_cpu);
            group.memory = group.memory.min(memory);
        }
        for (place, shape) in self.pool.shapes.iter_mut().enumerate() {
            let of = groups.range((place, 0)..=(place, u32::MAX));
            shape.free = of.map(|(_, free)| *free).collect();
        }
        let free = groups.values().map(|free| u64::from(free.gpus) * u64::from(free.nodes));
        self.pool.lendable = free.sum();
        self.pool.serial += 1;
    }
}

fn take(free: &mut PodNeed, need: PodNeed) {
    free.gpus -= need.gpus;
    free.milli_cpu -= need.milli_cpu;
    free.memory -= need.memory;
}

/// GPUs in use of a node that has so many.
fn used(random: &mut StdRng, gpus: u32) -> u32 {
    match random.random_range(0..1000) {
        dice if dice < FULL => gpus,
        dice if dice < FULL + IDLE => 0,
        _ => random.random_range(0..=gpus),
    }
}

fn member(options: &Options, number: u32, random: &mut StdRng) -> Member {
    let id = PoolId { member: format!("member-{number:05}"), pool: "pool".into() };
    let mut pool = terms(random);
    let mut nodes = Vec::new();
    let shapes = random.random_range(1..=3_u32).min(options.nodes_per_pool);
    for shape in 0..shapes {
        let (model, gib) = MODELS[random.random_range(0..MODELS.len())];
        let rest = options.nodes_per_pool % shapes;
        let count = options.nodes_per_pool / shapes + if shape == 0 { rest } else { 0 };
        pool.shapes.push(Shape {
            model: model.into(),
            gpu_memory: Some(gib * GIB),
            gpus_per_node: options.gpus_per_node,
            nodes: count,
            free: Vec::new(),
        });
        let gpus = options.gpus_per_node;
        let cores = [8, 12, 16][random.random_range(0..3)] * u64::from(gpus);
        let memory = [64, 96, 128][random.random_range(0..3)] * GIB * u64::from(gpus);
        let free = PodNeed { gpus, milli_cpu: 1000 * cores, memory };
        nodes.extend((0..count).map(|_| Node { shape: shape as usize, free }));
    }
    pool.offered = u64::from(options.nodes_per_pool) * u64::from(options.gpus_per_node);
    Member { id, pool, nodes, changed: false }
}

/// To whom and what for a member lends.
fn terms(random: &mut StdRng) -> Pool {
    let one = |random: &mut StdRng, of: &[&str]| of[random.random_range(0..of.len())].to_owned();
    let rarely = |random: &mut StdRng| random.random_range(0..10) == 0;
    let mut pool = Pool { takes_batch: true, serial: 1, ..Pool::default() };
    pool.notice_seconds = [30, 60, 120, 300][random.random_range(0..4)];
    pool.labels.insert("zone".into(), one(random, &["north", "south", "east", "west"]));
    pool.labels.insert("tier".into(), one(random, &["gold", "silver", "bronze"]));
    let lawful = !rarely(random);
    pool.jurisdiction = lawful.then(|| one(random, &["EU", "US", "NO", "CH", "JP"]));
    if rarely(random) {
        let key = one(random, &["noisy", "slow"]);
        pool.taints.push(Taint { key, value: "yes".into(), ..Taint::default() });
    }
    if rarely(random) {
        let names: BTreeSet<String> = (0..12).map(|team| format!("team-{team:02}")).collect();
        pool.namespaces = Some(names);
    }
    if rarely(random) {
        pool.images = Some(vec!["registry.example/science/*".into(), "docker.io/*".into()]);
    }
    pool
}
