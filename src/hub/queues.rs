//! Which queue a job waits in, and what each queue holds.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::jobs::claim;
use super::state::State;
use crate::api::gpuqueue::{GpuQueueStatus, StopPolicy};
use crate::api::{GpuJob, GpuQueue};
use crate::api::{conditions, convert};
use crate::engine::model::Waiting;

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

/// GPUs that the jobs of each queue hold.
#[must_use]
pub(super) fn used(state: &State) -> BTreeMap<&str, u64> {
    let mut used = BTreeMap::new();
    for notes in state.notes.values().filter(|notes| notes.held_gpus > 0) {
        *used.entry(notes.queue.as_str()).or_default() += notes.held_gpus;
    }
    used
}

/// The status of `queue`.
#[must_use]
pub(super) fn status(state: &State, queue: &GpuQueue, wall: Timestamp) -> GpuQueueStatus {
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
    conditions::set(&mut conditions, claim, queue.metadata.generation, wall);
    let mine = || state.notes.values().filter(|notes| notes.queue == name && !notes.finished);
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    GpuQueueStatus {
        observed_generation: queue.metadata.generation,
        conditions,
        used_gpus: i64::try_from(used(state).get(name.as_str()).copied().unwrap_or(0))
            .unwrap_or(i64::MAX),
        pending: count(mine().filter(|notes| notes.waits).count()),
        admitted: count(mine().filter(|notes| !notes.waits && notes.held_gpus > 0).count()),
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
        Waiting::WaitingForQuota { quota, used, need } => (
            reasons::WAITING_FOR_QUOTA,
            format!("GpuQueue {queue} uses {used} of {quota} GPUs; one more replica needs {need}"),
        ),
        Waiting::ExceedsMaxQuota { quota, need } => (
            reasons::EXCEEDS_MAX_QUOTA,
            format!("one replica needs {need} GPUs, GpuQueue {queue} may hold {quota} in all"),
        ),
        Waiting::BackOff { .. } | Waiting::NoPool { .. } => return None,
    })
}
