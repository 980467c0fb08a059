//! Which queue a job waits in, and what each queue holds.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::jobs::claim;
use super::rounds::Now;
use super::shares;
use super::snapshot::share_ppm;
use super::state::State;
use crate::api::gpuqueue::{GpuQueueStatus, GpuQuota, StopPolicy};
use crate::api::{GpuJob, GpuQueue};
use crate::api::{conditions, convert};
use crate::engine::model::{Queue, Waiting};
use crate::engine::queues::{Limit, Quota};

/// The queue that takes a namespace no other queue takes.
const DEFAULT: &str = "default";
/// A queue admits jobs.
const ACTIVE: &str = "Active";

/// The queue of `job`: the named one, else the first by name that takes its namespace and is not
/// `default`, else `default`. `Err` carries the name that does not do.
pub(super) fn of<'a>(state: &'a State, job: &GpuJob) -> Result<&'a GpuQueue, String> {
    let namespace = job.namespace().unwrap_or_default();
    let key = |name: &str| (String::new(), name.to_owned());
    let labels = state.namespaces.get(&key(&namespace)).map(|space| space.labels().clone());
    let labels = labels.unwrap_or_default();
    if let Some(name) = &job.spec.queue_name {
        let named = state.queues.get(&key(name)).filter(|queue| takes(queue, &labels));
        return named.ok_or_else(|| name.clone());
    }
    let others = state.queues.iter().map(|(_, queue)| queue);
    let found =
        others.filter(|queue| queue.name_any() != DEFAULT).find(|queue| takes(queue, &labels));
    let default = || state.queues.get(&key(DEFAULT)).filter(|queue| takes(queue, &labels));
    found.or_else(default).ok_or_else(|| DEFAULT.to_owned())
}

fn takes(queue: &GpuQueue, labels: &BTreeMap<String, String>) -> bool {
    let selector = queue.spec.namespace_selector.as_ref();
    selector.is_some_and(|selector| convert::selects(selector, labels))
}

/// GPUs that the jobs of each queue hold, by model.
#[must_use]
pub(super) fn used(state: &State) -> BTreeMap<&str, BTreeMap<&str, u64>> {
    let mut used: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for notes in state.notes.values() {
        for (model, gpus) in &notes.held {
            let mine = used.entry(notes.queue.as_str()).or_default();
            *mine.entry(model.as_str()).or_default() += gpus;
        }
    }
    used
}

/// The queue as a round sees it, less what it used and lent.
#[must_use]
pub(super) fn view(queue: &GpuQueue) -> Queue {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let quota = |quota: &GpuQuota| Quota {
        model: quota.model.clone(),
        gpus: unsigned(quota.gpus),
        borrowing: quota.borrowing_limit.map(unsigned),
        lending: quota.lending_limit.map(unsigned),
    };
    Queue {
        held: queue.spec.stop_policy != StopPolicy::None,
        weight: u32::try_from(queue.spec.weight).unwrap_or(1),
        cohort: queue.spec.cohort.clone(),
        quota: queue.spec.quota.iter().map(quota).collect(),
        ..Queue::default()
    }
}

/// Whether jobs of the queue may name this priority class; `None` is what a job has that names none.
#[must_use]
pub(super) fn allows(queue: &GpuQueue, class: Option<&String>) -> bool {
    let allowed = queue.spec.allowed_priority_classes.as_ref();
    class.is_none_or(|class| allowed.is_none_or(|allowed| allowed.contains(class)))
}

/// The status of `queue`.
#[must_use]
pub(super) fn status(state: &State, queue: &GpuQueue, now: Now) -> GpuQueueStatus {
    let name = queue.name_any();
    let old = queue.status.as_ref();
    let mut conditions = old.map(|status| status.conditions.clone()).unwrap_or_default();
    let claim = match queue.spec.stop_policy {
        StopPolicy::None => claim(ACTIVE, true, "", ""),
        StopPolicy::Hold => claim(
            ACTIVE,
            false,
            "Held",
            "stopPolicy is Hold: what runs goes on, nothing new starts",
        ),
        StopPolicy::HoldAndDrain => {
            claim(ACTIVE, false, "Draining", "stopPolicy is HoldAndDrain: what runs is evicted")
        }
    };
    conditions::set(&mut conditions, claim, queue.metadata.generation, now.wall);
    let mine = || state.notes.values().filter(|notes| notes.queue == name && !notes.finished);
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let usage = shares::usage(state, queue);
    let same = old.filter(|old| old.usage == usage);
    let written = (!usage.is_empty()).then_some(Time(now.wall));
    GpuQueueStatus {
        observed_generation: queue.metadata.generation,
        conditions,
        used_gpus: usage.iter().fold(0, |sum, usage| sum.saturating_add(usage.gpus)),
        usage_time: same.map_or(written, |old| old.usage_time.clone()),
        share_ppm: same.map_or_else(|| share_ppm(state, &name, now.instant), |old| old.share_ppm),
        usage,
        pending: count(mine().filter(|notes| notes.waits).count()),
        admitted: count(mine().filter(|notes| !notes.waits && !notes.held.is_empty()).count()),
    }
}

/// Whether what runs in `queue` must go.
#[must_use]
pub(super) fn drains(queue: &GpuQueue) -> bool {
    queue.spec.stop_policy == StopPolicy::HoldAndDrain
}

/// Why a queue keeps a job waiting, in words; `None` if it is not the queue.
#[must_use]
pub(super) fn refusal(waiting: &Waiting, queue: &str) -> Option<(&'static str, String)> {
    use crate::api::reasons;
    Some(match waiting {
        Waiting::QueueHeld => (
            reasons::QUEUE_HELD,
            format!("GpuQueue {queue} is held (stopPolicy); it admits nothing new"),
        ),
        Waiting::QueueNotAllowed => (
            reasons::QUEUE_NOT_ALLOWED,
            format!(
                "there is no GpuQueue {queue} that takes this namespace; see kubectl get gpuqueues \
                 and their namespaceSelector"
            ),
        ),
        Waiting::WaitingForQuota { limit, need } => {
            (reasons::WAITING_FOR_QUOTA, short_of_quota(limit, *need, queue))
        }
        Waiting::ExceedsMaxQuota { model, quota, need } => (
            reasons::EXCEEDS_MAX_QUOTA,
            format!(
                "one replica needs {need} {}, GpuQueue {queue} may hold {quota} in all",
                gpus_of(model.as_ref())
            ),
        ),
        Waiting::BackOff { .. } | Waiting::NoPool { .. } | Waiting::Preempting { .. } => {
            return None;
        }
    })
}

fn gpus_of(model: Option<&String>) -> String {
    model.map_or_else(|| "GPUs".to_owned(), |model| format!("GPUs of model {model}"))
}

/// What keeps a queue from holding more, in words.
fn short_of_quota(limit: &Limit, need: u64, queue: &str) -> String {
    let Limit { model, quota, most, used, room } = limit;
    let gpus = gpus_of(model.as_ref());
    let borrows = match most > quota {
        true => format!(", may borrow {} more and {room} are to be had now", most - quota),
        false => String::new(),
    };
    format!(
        "GpuQueue {queue} uses {used} of {quota} {gpus}{borrows}; one more replica needs {need}"
    )
}
