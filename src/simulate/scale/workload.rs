//! Jobs: drawn from some hundred different requests of several queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Options;
use crate::engine::indexes::Indexes;
use crate::engine::model::{
    Demand, JobId, LabelRule, ModelChoice, PodNeed, Queue, Request, Toleration,
};
use crate::engine::queues::Quota;

const GIB: u64 = 1 << 30;
const QUEUES: u32 = 20;
/// Of a hundred jobs, so many are gangs.
const GANGS: u32 = 5;
/// The large gang: so many pods of one node each.
const LARGE: u32 = 64;

/// Draws jobs.
#[derive(Debug)]
pub(super) struct Workload {
    singles: Vec<Arc<Request>>,
    gangs: Vec<Arc<Request>>,
    large: Arc<Request>,
    random: StdRng,
    jobs: u32,
}

impl Workload {
    pub(super) fn new(options: &Options) -> Self {
        let mut random = StdRng::seed_from_u64(options.seed.wrapping_add(1));
        let all = options.gpus_per_node;
        let gangs = (options.requests / 5).max(1);
        let mut draw = |count: u32, single: bool| -> Vec<Arc<Request>> {
            (0..count.max(1)).map(|_| Arc::new(request(&mut random, all, single))).collect()
        };
        let singles = draw(options.requests.saturating_sub(gangs), true);
        let gangs = draw(gangs, false);
        let need = PodNeed { gpus: all, milli_cpu: 4000, memory: 32 * GIB };
        let large = Request { namespace: "team-00".into(), size: LARGE, need, ..singles_of() };
        Self { singles, gangs, large: Arc::new(large), random, jobs: 0 }
    }

    /// Queues of different weight and past, with quotas that count and do not bind, borrowed from and
    /// lent to others: all of it is looked at for every job.
    pub(super) fn queues() -> BTreeMap<String, Queue> {
        let queue = |number: u32| Queue {
            weight: 1 + number % 3,
            cohort: Some(format!("cohort-{}", number % 4)),
            quota: vec![Quota { gpus: 1 << 36, ..Quota::default() }],
            past: BTreeMap::from([("A100".to_owned(), u64::from(number) * 1_000_000_000)]),
            ..Queue::default()
        };
        (0..QUEUES).map(|number| (queue_name(number), queue(number))).collect()
    }

    /// The queue that used least.
    pub(super) fn poorest() -> String {
        queue_name(0)
    }

    /// The queue and the priority of a guest.
    pub(super) fn standing(number: usize) -> (String, i32) {
        let number = u32::try_from(number).unwrap_or(0);
        (queue_name(number % QUEUES), [0, 0, 0, 100, -100][number as usize % 5])
    }

    /// The next job.
    pub(super) fn job(&mut self) -> Demand {
        let gang = self.random.random_range(0..100) < GANGS;
        let requests = if gang { &self.gangs } else { &self.singles };
        let request = requests[self.random.random_range(0..requests.len())].clone();
        self.demand(request)
    }

    /// The gang of figure G6.
    pub(super) fn large_gang(&mut self) -> Demand {
        self.demand(self.large.clone())
    }

    fn demand(&mut self, request: Arc<Request>) -> Demand {
        self.jobs += 1;
        Demand {
            // As long as the UID that it stands for.
            job: JobId(format!("{:08x}-0000-4000-8000-000000000000", self.jobs.reverse_bits())),
            queue: queue_name(self.random.random_range(0..QUEUES)),
            priority: [0, 0, 0, 100, -100][self.random.random_range(0..5)],
            queued_at: self.jobs.into(),
            wanted: Indexes::range(0, 1),
            request,
            ..Demand::default()
        }
    }
}

fn queue_name(number: u32) -> String {
    format!("queue-{number:02}")
}

/// What nobody asks in particular.
fn singles_of() -> Request {
    Request {
        size: 1,
        images: BTreeSet::from(["registry.example/science/train:v1".into()]),
        grace_seconds: 30,
        ..Request::default()
    }
}

fn request(random: &mut StdRng, all: u32, single: bool) -> Request {
    let gpus = match random.random_range(0..10) {
        0..6 => 1,
        6..8 => 2,
        8 => 4,
        _ => all,
    };
    let (gpus, size) = match single {
        true => (gpus.min(all), 1),
        false => ([all, all.div_ceil(2)][random.random_range(0..2)], random.random_range(2..=16)),
    };
    let cores = random.random_range(1..=8);
    let need = PodNeed {
        gpus,
        milli_cpu: 1000 * cores * u64::from(gpus),
        memory: random.random_range(2..=48) * GIB * u64::from(gpus),
    };
    let namespace = format!("team-{:02}", random.random_range(0..16));
    let mut request = Request { namespace, size, need, ..singles_of() };
    request.models = models(random);
    filters(random, &mut request);
    request
}

/// A third takes any model, a third one, a third one of two.
fn models(random: &mut StdRng) -> Vec<ModelChoice> {
    let mut names = ["A100", "H100", "L40S", "T4"];
    names.rotate_left(random.random_range(0..4));
    let count = random.random_range(0..3);
    let choice = |name: &&str| ModelChoice {
        model: (*name).to_owned(),
        min_memory: (random.random_range(0..4) == 0).then_some(40 * GIB),
    };
    names[..count].iter().map(choice).collect()
}

fn filters(random: &mut StdRng, request: &mut Request) {
    let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    if random.random_range(0..5) == 0 {
        request.residency = Some(texts(&["EU", "NO", "CH"]));
    }
    if random.random_range(0..5) == 0 {
        request.labels.push(LabelRule::In("zone".into(), texts(&["north", "south"])));
    }
    if random.random_range(0..5) == 0 {
        request.labels.push(LabelRule::NotIn("tier".into(), texts(&["bronze"])));
    }
    if random.random_range(0..5) == 0 {
        request.tolerations.push(Toleration::default());
    }
    if random.random_range(0..10) == 0 {
        request.excluded =
            (0..3).map(|_| format!("member-{:05}", random.random_range(0..1000))).collect();
    }
    if random.random_range(0..10) == 0 {
        request.grace_seconds = 60;
    }
}
