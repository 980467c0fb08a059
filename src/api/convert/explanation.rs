//! What a round says of a job, to what its user reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use super::time;
use crate::api::explanation::{
    EXPLANATION_KIND, Effect, GATEWAY_GROUP, GATEWAY_VERSION, GpuJobExplanation, HelpfulChange,
    NextPlace, PoolAnswer, Position, QueueStanding, Run,
};
use crate::api::gpujob::Allocation;
use crate::api::{GpuJob, GpuJobStatus, conditions, reasons};
use crate::engine::model::{Epoch, PoolId, Queue, Request};
use crate::engine::outlook::{self, Change, Outlook, Place};
use crate::engine::placement::Answer;
use crate::engine::queues::Quota;

/// Everything that an explanation is made of.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The job.
    pub job: &'a GpuJob,
    /// Its status as the hub would write it now.
    pub status: &'a GpuJobStatus,
    /// Why it waits, if it does, in words.
    pub said: Option<String>,
    /// What it asks, if that is in order.
    pub request: Option<&'a Request>,
    /// Its queue's name, and the queue.
    pub queue: (&'a str, Option<&'a Queue>),
    /// What a round would say, if it wants anything.
    pub outlook: Option<&'a Outlook>,
    /// Now.
    pub now: Timestamp,
}

/// The explanation of what is seen.
#[must_use]
pub fn explanation(seen: &Seen<'_>) -> GpuJobExplanation {
    let Seen { job, status, outlook, .. } = seen;
    let metadata = ObjectMeta {
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        generation: job.metadata.generation,
        ..ObjectMeta::default()
    };
    let after = |time: &Time| time.0 > seen.now && outlook.is_some();
    GpuJobExplanation {
        api_version: format!("{GATEWAY_GROUP}/{GATEWAY_VERSION}"),
        kind: EXPLANATION_KIND.to_owned(),
        metadata,
        time: Some(Time(seen.now)),
        phase: status.phase,
        reason: status.summary.reason.clone(),
        message: message(seen),
        replicas: status.replicas,
        queue: queue(seen),
        runs: status.allocations.iter().map(run).collect(),
        next: outlook.iter().flat_map(|outlook| next(outlook)).collect(),
        pools: outlook.iter().flat_map(|outlook| pools(outlook, seen.request)).collect(),
        changes: outlook.iter().flat_map(|outlook| outlook.changes.iter().map(change)).collect(),
        starts: outlook.and_then(|outlook| outlook.estimate).map(time),
        not_before: status.requeue_at.clone().filter(after),
    }
}

/// The sentence that matters most now: why it waits, how it ended, or where it is.
fn message(seen: &Seen<'_>) -> String {
    let told = [reasons::FINISHED, reasons::FAILURE_TARGET, reasons::SUSPENDED];
    let held = |type_: &str| conditions::is_true(&seen.status.conditions, type_);
    let of = |type_: &str| {
        let found = conditions::find(&seen.status.conditions, type_);
        found.map(|condition| condition.message.clone())
    };
    let ended = told.iter().find(|type_| held(type_)).and_then(|type_| of(type_));
    let placed = seen.outlook.is_some_and(|outlook| !outlook.placements.is_empty());
    let next = placed.then(|| "the next round places it".to_owned());
    ended.or_else(|| seen.said.clone()).or(next).or_else(|| of(reasons::PLACED)).unwrap_or_default()
}

fn queue(seen: &Seen<'_>) -> QueueStanding {
    let (name, queue) = seen.queue;
    let position = |place: &Place| Position { place: place.place, of: place.of };
    QueueStanding {
        name: name.to_owned(),
        takes: queue.is_some(),
        held: queue.is_some_and(|queue| queue.held),
        quota_gpus: queue.and_then(|queue| total(&queue.quota)),
        used_gpus: queue.map_or(0, |queue| queue.used.values().sum()),
        position: seen.outlook.map(|outlook| position(&outlook.place)),
        overall: seen.outlook.map(|outlook| position(&outlook.overall)),
    }
}

/// The quota for all models together.
fn total(quotas: &[Quota]) -> Option<u64> {
    quotas.iter().find(|quota| quota.model.is_none()).map(|quota| quota.gpus)
}

fn run(allocation: &Allocation) -> Run {
    let epoch = Epoch::from(allocation.epoch);
    Run {
        cluster: allocation.cluster.clone(),
        pool: allocation.pool.clone(),
        model: allocation.model.clone(),
        indexes: allocation.indexes.clone(),
        epoch: format!("{}.{}", epoch.incarnation, epoch.attempt),
    }
}

fn next(outlook: &Outlook) -> impl Iterator<Item = NextPlace> {
    outlook.placements.iter().map(|placement| NextPlace {
        cluster: placement.pool.member.clone(),
        pool: placement.pool.pool.clone(),
        model: placement.model.clone(),
        replicas: placement.indexes.len(),
    })
}

fn pools(outlook: &Outlook, request: Option<&Request>) -> impl Iterator<Item = PoolAnswer> {
    outlook.answers.iter().map(move |(PoolId { member, pool }, answer)| {
        let empty = PoolAnswer {
            cluster: member.clone(),
            pool: pool.clone(),
            fits: 0,
            reason: String::new(),
            message: String::new(),
            passing: false,
        };
        match answer {
            Answer::Fits(fits) => PoolAnswer { fits: *fits, ..empty },
            Answer::Refused(why) => PoolAnswer {
                reason: format!("{why:?}"),
                message: request.map(|request| why.text(request)).unwrap_or_default(),
                passing: why.is_temporary(),
                ..empty
            },
        }
    })
}

fn change(change: &Change) -> HelpfulChange {
    HelpfulChange {
        change: change.relief.text(),
        effect: match change.effect {
            outlook::Effect::Now => Effect::Now,
            outlook::Effect::Later | outlook::Effect::Never => Effect::Later,
        },
        pools: change.pools.iter().map(|id| format!("{}/{}", id.member, id.pool)).collect(),
    }
}
