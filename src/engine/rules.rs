//! What a pool must be to take a request at all, whatever is free now.
//!
//! Invariant: nothing that a round gives out changes an answer here, so each pool is asked once for
//! equal requests.

use std::collections::BTreeMap;

use super::fit::{self, Replica};
use super::model::{Closed, ModelChoice, Pool, PoolId, Refusal, Request, Taint, Toleration};

/// A replica on a model, and how far down the list of wanted models that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked<'a> {
    pub(super) rank: usize,
    pub(super) replica: Replica<'a>,
    /// Pods of it that the pool would hold if nothing else ran.
    pub(super) ever: u64,
}

/// The first rule that `pool` breaks and that nothing in a round can change.
pub(super) fn lasting_refusal(
    request: &Request,
    id: &PoolId,
    pool: &Pool,
    possible: &[Ranked],
) -> Option<Refusal> {
    if !in_affinity(request, id, &pool.labels) {
        return Some(Refusal::NotInAffinity);
    }
    if pool.taints.iter().any(|taint| !tolerated(taint, &request.tolerations)) {
        return Some(Refusal::Tainted);
    }
    if !in_residency(request, pool) {
        return Some(Refusal::OutsideResidency);
    }
    if pool.namespaces.as_ref().is_some_and(|names| !names.contains(&request.namespace)) {
        return Some(Refusal::NamespaceNotAllowed);
    }
    if pool.images.as_ref().is_some_and(|patterns| !images_allowed(request, patterns)) {
        return Some(Refusal::ImageNotAllowed);
    }
    if !pool.takes_batch {
        return Some(Refusal::TypeNotAllowed);
    }
    if possible.is_empty() && !has_model(request, pool) {
        return Some(Refusal::NoMatchingModel);
    }
    if pool.notice_seconds < request.grace_seconds {
        return Some(Refusal::NoticeTooShort);
    }
    if possible.is_empty() {
        return Some(Refusal::NeverFits);
    }
    pool.closed.map(|closed| match closed {
        Closed::Cordoned => Refusal::Cordoned,
        Closed::Silent => Refusal::Silent,
        Closed::NotReady => Refusal::NotReady,
    })
}

fn in_affinity(request: &Request, id: &PoolId, labels: &BTreeMap<String, String>) -> bool {
    let wanted = request.members.is_empty() || request.members.contains(&id.member);
    wanted
        && !request.excluded.contains(&id.member)
        && request.labels.iter().all(|rule| rule.holds(labels))
}

/// Whether one of `tolerations` tolerates `taint`.
#[must_use]
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        toleration.key.as_ref().is_none_or(|key| *key == taint.key)
            && toleration.value.as_ref().is_none_or(|value| *value == taint.value)
            && toleration.effect.is_none_or(|effect| effect == taint.effect)
    })
}

/// A pool whose jurisdiction nobody vouches for is nowhere.
fn in_residency(request: &Request, pool: &Pool) -> bool {
    request.residency.as_ref().is_none_or(|wanted| {
        pool.jurisdiction.as_ref().is_some_and(|jurisdiction| wanted.contains(jurisdiction))
    })
}

fn images_allowed(request: &Request, patterns: &[String]) -> bool {
    let allows = |pattern: &String, image: &String| match pattern.strip_suffix('*') {
        Some(start) => image.starts_with(start),
        None => image == pattern,
    };
    request.images.iter().all(|image| patterns.iter().any(|pattern| allows(pattern, image)))
}

/// Whether the pool has a wanted model at all; where any will do, it has.
fn has_model(request: &Request, pool: &Pool) -> bool {
    let has = |choice: &ModelChoice| {
        let replica = replica(request, &choice.model, choice.min_memory);
        pool.shapes.iter().any(|shape| replica.accepts(&shape.model, shape.gpu_memory))
    };
    request.models.is_empty() || request.models.iter().any(has)
}

fn replica<'a>(request: &Request, model: &'a str, min_memory: Option<u64>) -> Replica<'a> {
    Replica { model, min_memory, need: request.need, size: request.size }
}

/// The replica on each model that the pool could hold if nothing else ran, most wanted first.
pub(super) fn possible<'a>(request: &'a Request, pool: &'a Pool) -> Vec<Ranked<'a>> {
    let on = |rank, model, min_memory| {
        let replica = replica(request, model, min_memory);
        let ever = fit::pods_ever(&pool.shapes, &replica);
        let holds = fit::replicas(ever, pool.offered, &replica) > 0;
        holds.then_some(Ranked { rank, replica, ever })
    };
    if !request.models.is_empty() {
        let models = request.models.iter().enumerate();
        return models
            .filter_map(|(rank, choice)| on(rank, &choice.model, choice.min_memory))
            .collect();
    }
    let mut models: Vec<&str> = pool.shapes.iter().map(|shape| shape.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    models.into_iter().filter_map(|model| on(0, model, None)).collect()
}
