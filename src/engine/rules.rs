//! What a pool must be to take a request at all, whatever is free now.
//!
//! Invariant: nothing that a round gives out changes an answer here, so each pool is asked once for
//! equal requests.

use std::collections::BTreeMap;

use super::fit::{self, Accepted, Replica};
use super::model::{Closed, ModelChoice, Pool, PoolId, Refusal, Request, Taint, Toleration};

/// One acceptable model of a request: a replica on it, and how far down the list of wanted models
/// that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) rank: u32,
    pub(super) replica: Replica<'a>,
}

/// A wish that a pool could grant if nothing else ran.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance {
    /// Which wish, by its place in the list.
    pub(super) wish: u32,
    pub(super) accepted: Accepted,
    /// GPUs that the pool would lend then to this wish and to those that are wanted as much.
    pub(super) ever: u64,
}

/// The first rule that `pool` breaks and that nothing in a round can change; `has_chance` says
/// whether its nodes could grant any wish of the request: see [`chances`].
pub(super) fn lasting_refusal(
    request: &Request,
    (id, pool): (&PoolId, &Pool),
    has_chance: bool,
) -> Option<Refusal> {
    if let Some(why) = unwelcome(request, id, pool) {
        return Some(why);
    }
    if !has_chance && !has_model(request, pool) {
        return Some(Refusal::NoMatchingModel);
    }
    if pool.notice_seconds < request.grace_seconds {
        return Some(Refusal::NoticeTooShort);
    }
    if !has_chance {
        return Some(Refusal::NeverFits);
    }
    pool.closed.map(|closed| match closed {
        Closed::Cordoned => Refusal::Cordoned,
        Closed::Silent => Refusal::Silent,
        Closed::NotReady => Refusal::NotReady,
    })
}

/// The first rule that keeps the request out whatever GPUs the pool has.
fn unwelcome(request: &Request, id: &PoolId, pool: &Pool) -> Option<Refusal> {
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
    (!pool.takes_batch).then_some(Refusal::TypeNotAllowed)
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

/// What the request wishes, most wanted first; none if any model will do: what that can be, only
/// the pools know.
pub(super) fn wishes(request: &Request) -> Vec<Wish<'_>> {
    let models = (0..).zip(&request.models);
    models
        .map(|(rank, choice)| {
            let replica = replica(request, &choice.model, choice.min_memory);
            Wish { rank, replica }
        })
        .collect()
}

/// Adds the wishes that the pool could grant if nothing else ran, most wanted first. Those that it
/// teaches of a request that takes any model are added to `wishes`.
pub(super) fn chances<'a>(
    request: &'a Request,
    pool: &'a Pool,
    wishes: &mut Vec<Wish<'a>>,
    chances: &mut Vec<Chance>,
) {
    let gpus = replica(request, "", None).gpus();
    let lent = |pods: u64| pods.saturating_mul(gpus).min(pool.offered).max(1);
    let ever = |wish: &Wish| {
        let pods = fit::pods_ever(&pool.shapes, &wish.replica);
        (fit::replicas(pods, pool.offered, &wish.replica) > 0).then_some(pods)
    };
    if !request.models.is_empty() {
        chances.extend((0..).zip(&*wishes).filter_map(|(place, wish)| {
            let ever = lent(ever(wish)?);
            let accepted = Accepted::of(&pool.shapes, &wish.replica);
            Some(Chance { wish: place, accepted, ever })
        }));
        return;
    }
    let mut models: Vec<&str> = pool.shapes.iter().map(|shape| shape.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let (first, mut all) = (chances.len(), 0_u64);
    for model in models {
        let wish = Wish { rank: 0, replica: replica(request, model, None) };
        let Some(pods) = ever(&wish) else { continue };
        let known = wishes.iter().position(|other| other.replica.model == model);
        let place = known.unwrap_or_else(|| {
            wishes.push(wish);
            wishes.len() - 1
        });
        all = all.saturating_add(pods);
        let accepted = Accepted::of(&pool.shapes, &wish.replica);
        chances.push(Chance { wish: fit::clamp(place as u64), accepted, ever: 0 });
    }
    chances[first..].iter_mut().for_each(|chance| chance.ever = lent(all));
}
