//! Accept or refuse a lease: the owner's policy, and what is free this moment.
//!
//! Invariant: decided serially, each on books that hold every lease reserved before it, over all
//! hubs, so that two hubs never win one GPU.

use std::collections::BTreeMap;

use super::capacity::Lent;
use super::guest::Key;
use crate::api::gpujob::JobType;
use crate::api::gpulease::{EpochRef, GuestLeaseSpec, LeaseRefusal, LeasedGpu};
use crate::api::gpupool::{GpuPool, GpuPoolSpec};
use crate::api::{MAX_INDEXES_PER_LEASE, quantity, template};
use crate::engine::fit::Replica;
use crate::engine::fragmentation::Mix;
use crate::engine::indexes::Indexes;
use crate::engine::model::PodNeed;
use crate::engine::nodes;

/// Most pods of one lease.
const MAX_PODS: u32 = 1024;
/// Most GPUs of one pod.
const MAX_GPUS_PER_POD: i32 = 16;
/// Longest value of a label, which the name of a lease becomes on its pods.
const MAX_LABEL: usize = 63;

/// A lease whose numbers make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Replica indexes.
    pub indexes: Indexes,
    /// Pods of each.
    pub size: u32,
    /// GPUs of each pod.
    pub gpus: u32,
}

impl Terms {
    /// Reads a lease.
    ///
    /// # Errors
    /// If a number is out of bounds: one sentence.
    pub fn read(lease: &GuestLeaseSpec) -> Result<Self, String> {
        let indexes = Indexes::parse(&lease.indexes)
            .filter(|indexes| indexes.last().is_none_or(|last| last < u32::MAX))
            .ok_or_else(|| format!("indexes {:?} are no ranges such as 0-3,7", lease.indexes))?;
        let count = indexes.len();
        if count == 0 || count > MAX_INDEXES_PER_LEASE {
            return Err(format!(
                "a lease carries 1 to {MAX_INDEXES_PER_LEASE} indexes, not {count}"
            ));
        }
        let size = u32::try_from(lease.size).unwrap_or(0);
        if size == 0 || size.saturating_mul(count) > MAX_PODS {
            return Err(format!(
                "a lease has 1 to {MAX_PODS} pods, not {} for each index",
                lease.size
            ));
        }
        if size > 1 && count != 1 {
            return Err(format!("a lease of a gang carries one index, not {count}"));
        }
        if !(1..=MAX_GPUS_PER_POD).contains(&lease.gpu.count) {
            return Err(format!("a pod has 1 to {MAX_GPUS_PER_POD} GPUs, not {}", lease.gpu.count));
        }
        let positive = lease.active_deadline_seconds > 0 && lease.grace_seconds >= 0;
        if !positive {
            return Err("activeDeadlineSeconds must be above 0 and graceSeconds not below".into());
        }
        Ok(Self { indexes, size, gpus: lease.gpu.count.unsigned_abs() })
    }

    /// Every pod of the lease.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let ranks = |index| (0..self.size).map(move |rank| Key { index, rank });
        self.indexes.iter().flat_map(ranks)
    }

    /// GPUs of all its pods.
    #[must_use]
    pub fn total_gpus(&self) -> i64 {
        i64::from(self.gpus) * i64::from(self.size) * i64::from(self.indexes.len())
    }
}

/// Everything that an answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a> {
    /// The pool, unless it is gone or going.
    pub pool: Option<&'a GpuPool>,
    /// Why its schedule lends nothing now, in a word and a sentence.
    pub closed: Option<&'a (&'static str, String)>,
    /// What it lends now.
    pub lent: Option<&'a Lent>,
    /// GPUs that guests hold of it.
    pub held: i64,
    /// The owner's grant for the hub, unless it is gone or going.
    pub grant: Option<Grant>,
    /// Leases of the same job: epoch and indexes.
    pub rivals: &'a [(EpochRef, Indexes)],
    /// What is usually asked for here.
    pub mix: &'a Mix,
}

/// The owner's grant for a hub.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Most GPUs that guests of the hub hold.
    pub max_gpus: Option<i64>,
    /// GPUs that they hold.
    pub held: i64,
}

/// The answer to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes, on these nodes.
    Reserve(BTreeMap<Key, String>),
    /// No, and why.
    Refuse(LeaseRefusal),
}

/// What we say to the proposal `lease` named `name`.
#[must_use]
pub fn answer(name: &str, lease: &GuestLeaseSpec, books: Books<'_>) -> Answer {
    let refuse = |reason: &str, message: String| {
        Answer::Refuse(LeaseRefusal { reason: reason.into(), message })
    };
    let terms = match Terms::read(lease) {
        Ok(_) if name.len() > MAX_LABEL => {
            return refuse("InvalidLease", format!("the name {name} is longer than a label"));
        }
        Ok(terms) => terms,
        Err(why) => return refuse("InvalidLease", why),
    };
    let Some(pool) = books.pool else {
        return refuse("NoSuchPool", format!("there is no pool {} here", lease.pool));
    };
    let closed = books.closed.map(|(reason, message)| (*reason, message.clone()));
    if let Some((reason, message)) = policy(lease, &pool.spec).or(closed) {
        return refuse(reason, message);
    }
    let Some(grant) = books.grant else {
        return refuse(
            "HubNotGranted",
            format!("no HubGrant lets {} place work here", lease.hub_id),
        );
    };
    let stale = books.rivals.iter().find(|(epoch, indexes)| {
        *epoch > lease.epoch && !indexes.intersection(&terms.indexes).is_empty()
    });
    if let Some((epoch, _)) = stale {
        return refuse(
            "StaleEpoch",
            format!("epoch {epoch} of this job came before {}", lease.epoch),
        );
    }
    let need = match template::need(&lease.template.value(), lease.gpu.count) {
        Ok(need) => need,
        Err(violations) => return refuse("TemplateNotAllowed", violations.join("; ")),
    };
    if let Some(message) = over_limit(&terms, &pool.spec, books.held, grant) {
        return refuse("NotEnoughFree", message);
    }
    let need = PodNeed { gpus: terms.gpus, milli_cpu: need.milli_cpu, memory: need.memory_bytes };
    match fit(books.lent, &lease.gpu, need, &terms, books.mix) {
        Some(chosen) => Answer::Reserve(chosen),
        None => refuse("NotEnoughFree", not_enough(lease, &terms)),
    }
}

fn not_enough(lease: &GuestLeaseSpec, terms: &Terms) -> String {
    let pods = terms.indexes.len() * terms.size;
    format!("no nodes have {} free {} for each of {pods} pods", terms.gpus, lease.gpu.model)
}

/// What `size` pods of a lease need of the GPUs that it asks for.
#[must_use]
pub fn replica(gpu: &LeasedGpu, need: PodNeed, size: u32) -> Replica<'_> {
    // What cannot be read was refused by the hub; here it is satisfied by no GPU.
    let least = |text: &String| quantity::bytes(text).unwrap_or(u64::MAX);
    Replica { model: &gpu.model, min_memory: gpu.min_memory.as_ref().map(least), need, size }
}

/// A node for each pod of `terms`, or `None` if not all fit.
#[must_use]
pub fn fit(
    lent: Option<&Lent>,
    gpu: &LeasedGpu,
    need: PodNeed,
    terms: &Terms,
    mix: &Mix,
) -> Option<BTreeMap<Key, String>> {
    let replica = replica(gpu, need, terms.size);
    let chosen = nodes::choose(&lent?.candidates(), &replica, terms.indexes.len(), mix)?;
    Some(terms.keys().zip(chosen).collect())
}

fn over_limit(terms: &Terms, pool: &GpuPoolSpec, held: i64, grant: Grant) -> Option<String> {
    let asked = terms.total_gpus();
    let over = |limit: Option<i64>, held: i64, what: &str| {
        let limit = limit.filter(|limit| held.saturating_add(asked) > *limit)?;
        Some(format!("{asked} GPUs beside {held} held are more than {what} {limit}"))
    };
    over(pool.offer.max_gpus, held, "the pool's maxGpus")
        .or_else(|| over(grant.max_gpus, grant.held, "the grant's maxGpus"))
}

/// The first rule of the owner that `lease` breaks.
fn policy(lease: &GuestLeaseSpec, pool: &GpuPoolSpec) -> Option<(&'static str, String)> {
    let name = &lease.pool;
    let allow = &pool.allow;
    let lacks = |list: &Option<Vec<String>>, value: &String| {
        list.as_ref().is_some_and(|list| !list.contains(value))
    };
    if pool.offer.paused {
        return Some(("PoolPaused", format!("the owner paused {name}")));
    }
    if lacks(&allow.hubs, &lease.hub_id) {
        return Some(("HubNotAllowed", format!("{name} is not lent to {}", lease.hub_id)));
    }
    if lacks(&allow.namespaces, &lease.job.namespace) {
        let message = format!("{name} is not lent to namespace {}", lease.job.namespace);
        return Some(("NamespaceNotAllowed", message));
    }
    if allow.types.as_ref().is_some_and(|types| !types.contains(&JobType::Batch)) {
        return Some(("TypeNotAllowed", format!("{name} is not lent to jobs of type Batch")));
    }
    let images = template::images(&lease.template.value());
    if let Some(image) = images.iter().find(|image| !image_allowed(allow.images.as_deref(), image))
    {
        return Some(("ImageNotAllowed", format!("{name} does not allow image {image}")));
    }
    let jurisdiction = pool.location.as_ref().map_or("", |location| &location.jurisdiction);
    if lease.residency.as_ref().is_some_and(|list| !list.iter().any(|one| one == jurisdiction)) {
        let message = format!("{name} is in jurisdiction {jurisdiction:?}");
        return Some(("JurisdictionMismatch", message));
    }
    let notice = pool.offer.notice_seconds;
    if lease.grace_seconds > notice {
        let message = format!("{name} gives {notice} s notice, not {} s", lease.grace_seconds);
        return Some(("NoticeTooShort", message));
    }
    let longest = pool.offer.max_attempt_seconds;
    if lease.active_deadline_seconds > longest {
        let message = format!(
            "{name} lends for {longest} s at most, not {} s",
            lease.active_deadline_seconds
        );
        return Some(("TooLong", message));
    }
    None
}

/// Whether a list of images, `*` at the end matching any rest, allows `image`; absent allows all.
fn image_allowed(list: Option<&[String]>, image: &str) -> bool {
    list.is_none_or(|list| {
        list.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => image.starts_with(prefix),
            None => allowed == image,
        })
    })
}

#[cfg(test)]
mod tests;
