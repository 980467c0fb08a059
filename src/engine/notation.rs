//! Test only: pools, demands and rounds in the shortest notation that still says everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fit;
use super::guests::Guest;
use super::indexes::Indexes;
use super::model::{
    Closed, Demand, Effect, Epoch, Free, Hold, JobId, LabelRule, ModelChoice, Plan, PodNeed, Pool,
    PoolId, Queue, Request, Shape, Snapshot, Taint, Toleration,
};
use super::queues::Quota;
use super::round::tests::parts;

const GIB: u64 = 1 << 30;

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().unwrap_or_else(|| panic!("{text} is not a number"))
}

fn pair(text: &str, between: char) -> (&str, &str) {
    text.split_once(between).unwrap_or_else(|| panic!("{text} lacks {between}"))
}

fn set(text: &str) -> BTreeSet<String> {
    text.split(',').map(Into::into).collect()
}

/// `A100` or `A100~80` (GiB).
fn model(text: &str) -> ModelChoice {
    match text.split_once('~') {
        Some((model, gib)) => {
            ModelChoice { model: model.into(), min_memory: Some(number::<u64>(gib) * GIB) }
        }
        None => ModelChoice { model: text.into(), min_memory: None },
    }
}

/// `8x3` or `8x3/1000` (thousandths of a core): GPUs on each of so many nodes.
fn free(text: &str) -> Free {
    let (gpus, rest) = pair(text, 'x');
    let gpus: u32 = number(gpus);
    let (nodes, milli_cpu) = match rest.split_once('/') {
        Some((nodes, milli)) => (nodes, number(milli)),
        None => (rest, 16_000 * u64::from(gpus)),
    };
    Free { gpus, nodes: number(nodes), milli_cpu, memory: 128 * GIB * u64::from(gpus) }
}

/// `A100:8x4` or `A100~80:8x4=8x3,4x1`: model, GPUs of each of so many nodes, what is free if not all.
pub(super) fn shape(text: &str) -> Shape {
    let (name, rest) = pair(text, ':');
    let (size, groups) = rest.split_once('=').unwrap_or((rest, rest));
    let (all, name) = (free(size), model(name));
    Shape {
        model: name.model,
        gpu_memory: name.min_memory,
        gpus_per_node: all.gpus,
        nodes: all.nodes,
        free: groups.split(',').filter(|text| !text.is_empty()).map(free).collect(),
    }
}

/// Shapes, then any of `lend=20 offer=64 in=EU serial=5 notice=120 label=k:v taint=k:v images=a,b*
/// namespaces=a,b paused silent cordoned nobatch`.
pub(super) fn pool(text: &str) -> Pool {
    let mut pool = Pool { takes_batch: true, notice_seconds: 30, serial: 1, ..Pool::default() };
    let (words, shapes): (Vec<&str>, Vec<&str>) =
        text.split(' ').filter(|word| !word.is_empty()).partition(|word| !is_shape(word));
    pool.shapes = shapes.into_iter().map(shape).collect();
    let sum = |groups: &[Free]| -> u64 {
        groups.iter().map(|free| u64::from(free.gpus) * u64::from(free.nodes)).sum()
    };
    pool.lendable = pool.shapes.iter().map(|shape| sum(&shape.free)).sum();
    pool.offered = pool
        .shapes
        .iter()
        .map(|shape| u64::from(shape.gpus_per_node) * u64::from(shape.nodes))
        .sum();
    for word in words {
        match word.split_once('=') {
            Some(("lend", n)) => pool.lendable = number(n),
            Some(("offer", n)) => pool.offered = number(n),
            Some(("in", place)) => pool.jurisdiction = Some(place.into()),
            Some(("serial", n)) => pool.serial = number(n),
            Some(("notice", n)) => pool.notice_seconds = number(n),
            Some(("label", text)) => {
                let (key, value) = pair(text, ':');
                pool.labels.insert(key.into(), value.into());
            }
            Some(("taint", text)) => {
                let (key, value) = pair(text, ':');
                pool.taints.push(Taint {
                    key: key.into(),
                    value: value.into(),
                    ..Taint::default()
                });
            }
            Some(("images", list)) => pool.images = Some(set(list).into_iter().collect()),
            Some(("namespaces", list)) => pool.namespaces = Some(set(list)),
            _ => match word {
                "paused" => pool.closed = Some(Closed::NotReady),
                "silent" => pool.closed = Some(Closed::Silent),
                "cordoned" => pool.closed = Some(Closed::Cordoned),
                "nobatch" => pool.takes_batch = false,
                _ => panic!("what is {word}?"),
            },
        }
    }
    pool
}

fn is_shape(word: &str) -> bool {
    word.split_once(':').is_some_and(|(name, _)| !name.contains('='))
}

/// `a/one` is pool `one` of member `a`; `a` is pool `a` of member `a`.
pub(super) fn id(text: &str) -> PoolId {
    let (member, pool) = text.split_once('/').unwrap_or((text, text));
    PoolId { member: member.into(), pool: pool.into() }
}

/// Any of `gpus=1 size=4 cpu=500 models=H100,A100~80 members=a,b not=a label=k:v|w label!=k:v label+k
/// label-k tolerate=k tolerate=k:v tolerate=* tolerate=k! (NoSchedule only) tolerate=k!! (NoExecute only) in=EU images=a,b grace=60 ns=team`.
pub(super) fn request(text: &str) -> Request {
    let need = PodNeed { gpus: 1, milli_cpu: 1000, memory: GIB };
    let mut request = Request { namespace: "team".into(), size: 1, need, ..Request::default() };
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        adjust(&mut request, word);
    }
    request
}

fn adjust(request: &mut Request, word: &str) {
    let values = |text: &str| text.split('|').map(Into::into).collect();
    if let Some(key) = word.strip_prefix("label+") {
        return request.labels.push(LabelRule::Exists(key.into()));
    }
    if let Some(key) = word.strip_prefix("label-") {
        return request.labels.push(LabelRule::Absent(key.into()));
    }
    let (name, value) = pair(word, '=');
    match name {
        "gpus" => request.need.gpus = number(value),
        "cpu" => request.need.milli_cpu = number(value),
        "size" => request.size = number(value),
        "models" => request.models = value.split(',').map(model).collect(),
        "members" => request.members = set(value),
        "not" => request.excluded = set(value),
        "label" | "label!" => {
            let (key, list) = pair(value, ':');
            let (key, list) = (key.to_owned(), values(list));
            request.labels.push(match name {
                "label" => LabelRule::In(key, list),
                _ => LabelRule::NotIn(key, list),
            });
        }
        "tolerate" => request.tolerations.push(match value.split_once(':') {
            Some((key, value)) => Toleration {
                key: Some(key.into()),
                value: Some(value.into()),
                ..Toleration::default()
            },
            None => Toleration {
                key: (value != "*").then(|| value.trim_end_matches('!').into()),
                effect: match value.len() - value.trim_end_matches('!').len() {
                    0 => None,
                    1 => Some(Effect::NoSchedule),
                    _ => Some(Effect::NoExecute),
                },
                ..Toleration::default()
            },
        }),
        "in" => request.residency = Some(set(value)),
        "images" => request.images = set(value),
        "grace" => request.grace_seconds = number(value),
        "ns" => request.namespace = value.into(),
        _ => panic!("what is {word}?"),
    }
}

/// Name of the job, then any of `x3` or `#0-2,7` (replicas), `queue=q prio=5 at=10 after=99
/// longest=60 hold=a barred=a/one:5 avoid=b` and what a request takes.
pub(super) fn demand(text: &str) -> Demand {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut demand = Demand {
        job: JobId(words.next().expect("a name").into()),
        queue: "q".into(),
        wanted: Indexes::range(0, 1),
        request: Arc::new(request("")),
        ..Demand::default()
    };
    for word in words {
        match word.split_once('=') {
            Some(("queue", name)) => demand.queue = name.into(),
            Some(("prio", n)) => demand.priority = number(n),
            Some(("at", n)) => demand.queued_at = number(n),
            Some(("after", n)) => demand.not_before = Some(number(n)),
            Some(("longest", n)) => demand.longest_seconds = Some(number(n)),
            Some(("hold", pool)) => {
                demand.hold = Some(Hold { pool: id(pool), ..Hold::default() });
            }
            Some(("avoid", pool)) => drop(demand.avoided.insert(id(pool))),
            Some(("barred", text)) => {
                let (pool, serial) = pair(text, ':');
                demand.barred.insert(id(pool), number(serial));
            }
            Some(_) => adjust(Arc::make_mut(&mut demand.request), word),
            None => match word.split_at(1) {
                ("x", n) => demand.wanted = Indexes::range(0, number(n)),
                ("#", list) => demand.wanted = Indexes::parse(list).expect("indexes"),
                _ => adjust(Arc::make_mut(&mut demand.request), word),
            },
        }
    }
    demand
}

/// Model, job, then any of `x3` (replicas) `gpus=1 size=4 cpu=1000 queue=q prio=5 since=10 ends=90
/// nodes=7:1,8:3 (pods on them) leaving sticky`; its epoch is 1.1.
pub(super) fn guest(text: &str) -> Guest {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut guest = Guest {
        model: words.next().expect("a model").into(),
        job: JobId(words.next().expect("a job").into()),
        epoch: Epoch { incarnation: 1, attempt: 1 },
        queue: "q".into(),
        preemptible: true,
        need: request("").need,
        size: 1,
        replicas: 1,
        ..Guest::default()
    };
    for word in words {
        match word.split_once('=') {
            Some(("gpus", n)) => guest.need.gpus = number(n),
            Some(("cpu", n)) => guest.need.milli_cpu = number(n),
            Some(("size", n)) => guest.size = number(n),
            Some(("queue", name)) => guest.queue = name.into(),
            Some(("prio", n)) => guest.priority = number(n),
            Some(("since", n)) => guest.since = number(n),
            Some(("ends", n)) => guest.ends = Some(number(n)),
            Some(("nodes", list)) => {
                let node = |text: &str| {
                    let (node, pods) = pair(text, ':');
                    (number(node), number(pods))
                };
                guest.nodes = list.split(',').map(node).collect();
            }
            _ => match word {
                "leaving" => guest.leaving = true,
                "sticky" => guest.preemptible = false,
                _ => guest.replicas = number(word.strip_prefix('x').expect("x and a number")),
            },
        }
    }
    guest
}

/// The snapshot with guests, by pool; their queues use what they hold.
pub(super) fn with_guests(mut snapshot: Snapshot, guests: &[(&str, &str)]) -> Snapshot {
    for (pool, text) in guests {
        let guest = guest(text);
        let queue = snapshot.queues.entry(guest.queue.clone()).or_default();
        *queue.used.entry(guest.model.clone()).or_default() += guest.gpus();
        Arc::make_mut(&mut snapshot.guests).entry(id(pool)).or_default().push(guest);
    }
    snapshot
}

/// A queue: any of `weight=2 lends=64 (GPUs that it contributes) cohort=c held quota=10 or
/// quota=A100:10+5-3 (borrows 5, lends 3) used=A100:4 past=A100:2500000`.
pub(super) fn queue(text: &str) -> Queue {
    let mut queue = Queue::default();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "weight" => queue.weight = number(value),
            "lends" => queue.contributed = number(value),
            "cohort" => queue.cohort = Some(value.into()),
            "held" => queue.held = true,
            "quota" => queue.quota.push(quota(value)),
            "used" | "past" => {
                let (model, gpus) = pair(value, ':');
                let map = if name == "used" { &mut queue.used } else { &mut queue.past };
                map.insert(model.into(), number(gpus));
            }
            _ => panic!("what is {word}?"),
        }
    }
    queue
}

fn quota(text: &str) -> Quota {
    let (model, rest) =
        text.split_once(':').map_or((None, text), |(model, rest)| (Some(model), rest));
    let (rest, lending) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(number(b))));
    let (own, borrowing) = rest.split_once('+').map_or((rest, None), |(a, b)| (a, Some(number(b))));
    Quota { model: model.map(Into::into), gpus: number(own), borrowing, lending }
}

/// Pools by id and demands; there is a queue `q` without a quota.
pub(super) fn snapshot(pools: &[(&str, &str)], demands: &[&str]) -> Snapshot {
    Snapshot {
        now: 50,
        pools: pools.iter().map(|(name, text)| (id(name), pool(text))).collect(),
        queues: BTreeMap::from([("q".into(), Queue::default())]),
        guests: Arc::default(),
        unanswered: BTreeMap::new(),
        demands: demands.iter().map(|text| demand(text)).collect(),
    }
}

/// Takes `count` replicas of the request from the pool; returns the pods that found nothing.
pub(super) fn take(pool: &mut Pool, request: &Request, model: &str, count: u32) -> u64 {
    let min_memory = request
        .models
        .iter()
        .find(|choice| choice.model == model)
        .and_then(|choice| choice.min_memory);
    let replica = fit::Replica { model, min_memory, need: request.need, size: request.size };
    pool.lendable =
        pool.lendable.checked_sub(replica.gpus() * u64::from(count)).expect("not over lendable");
    fit::take(&mut pool.shapes, &replica, count)
}

/// The snapshot once the plan, which is that of a round on it, is carried out, and the pods for which
/// it had no room.
///
/// Pods are put on nodes in the order in which the round gave them out: leases gather the parts of
/// several turns.
pub(super) fn carried_out(snapshot: &Snapshot, plan: &Plan) -> (Snapshot, u64) {
    let (mut after, mut missing) = (snapshot.clone(), 0);
    for (job, pool, model, count) in parts(snapshot) {
        let demand = snapshot.demands.iter().find(|demand| demand.job == job);
        let pool = after.pools.get_mut(&pool).expect("a pool");
        missing += take(pool, &demand.expect("a job that waits").request, &model, count);
    }
    for placement in &plan.placements {
        let demand = after.demands.iter_mut().find(|demand| demand.job == placement.job);
        let demand = demand.expect("a job that waits");
        let (request, count) = (demand.request.clone(), placement.indexes.len());
        demand.wanted = demand.wanted.minus(&placement.indexes);
        let queue = after.queues.get_mut(&demand.queue).expect("its queue");
        let gpus = u64::from(request.size) * u64::from(request.need.gpus) * u64::from(count);
        *queue.used.entry(placement.model.clone()).or_default() += gpus;
        *after.unanswered.entry(placement.pool.member.clone()).or_default() += 1;
    }
    (after, missing)
}
