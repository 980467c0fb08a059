//! What a pool must be to take a request at all, whatever is free now.
//!
//! Invariant: nothing that a round gives out changes an answer here, so each pool is asked once for
//! equal requests.

use super::fit::{self, Places, Replica};
use super::model::{Closed, Pool, PoolId, Refusal, Request, Taint, Toleration};

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
    pub(super) accepted: Places,
    /// GPUs that the pool would lend then to this wish and to those that are wanted as much.
    pub(super) ever: u64,
}

/// What the nodes of a pool are to a request, free or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nodes {
    /// None has a wanted model with enough memory.
    OtherModels,
    /// Some have, but even idle they hold no replica.
    TooSmall,
    /// They grant a wish at some time.
    Able,
}

/// The first rule that `pool` breaks and that nothing in a round can change; `nodes` says what
/// its nodes are to the request: see [`chances`].
pub(super) fn lasting_refusal(
    request: &Request,
    (id, pool): (&PoolId, &Pool),
    nodes: Nodes,
) -> Option<Refusal> {
    if let Some(why) = unwelcome(request, id, pool) {
        return Some(why);
    }
    if nodes == Nodes::OtherModels {
        return Some(Refusal::NoMatchingModel);
    }
    if pool.notice_seconds < request.grace_seconds {
        return Some(Refusal::NoticeTooShort);
    }
    if nodes == Nodes::TooSmall {
        return Some(Refusal::NeverFits);
    }
    pool.closed.map(refusal_of)
}

/// The first rule that keeps the request out whatever GPUs the pool has.
fn unwelcome(request: &Request, id: &PoolId, pool: &Pool) -> Option<Refusal> {
    if !is_named(request, id) || !request.labels.iter().all(|rule| rule.holds(&pool.labels)) {
        return Some(Refusal::NotInAffinity);
    }
    if !is_tolerated(request, pool) {
        return Some(Refusal::Tainted);
    }
    if !in_residency(request, pool) {
        return Some(Refusal::OutsideResidency);
    }
    if !takes_namespace(request, pool) {
        return Some(Refusal::NamespaceNotAllowed);
    }
    if !takes_images(request, pool) {
        return Some(Refusal::ImageNotAllowed);
    }
    (!pool.takes_batch).then_some(Refusal::TypeNotAllowed)
}

/// Whether the request wants that member, by its name.
pub(super) fn is_named(request: &Request, id: &PoolId) -> bool {
    let wanted = request.members.is_empty() || request.members.contains(&id.member);
    wanted && !request.excluded.contains(&id.member)
}

/// Whether the request tolerates every taint of the pool.
pub(super) fn is_tolerated(request: &Request, pool: &Pool) -> bool {
    pool.taints.iter().all(|taint| tolerated(taint, &request.tolerations))
}

/// Whether the pool is lent to the request's namespace.
pub(super) fn takes_namespace(request: &Request, pool: &Pool) -> bool {
    pool.namespaces.as_ref().is_none_or(|names| names.contains(&request.namespace))
}

/// Whether the pool is open to all images of the request.
pub(super) fn takes_images(request: &Request, pool: &Pool) -> bool {
    pool.images.as_ref().is_none_or(|patterns| images_allowed(request, patterns))
}

/// What a pool says that takes nothing at all.
pub(super) fn refusal_of(closed: Closed) -> Refusal {
    match closed {
        Closed::Cordoned => Refusal::Cordoned,
        Closed::Silent => Refusal::Silent,
        Closed::NotReady => Refusal::NotReady,
    }
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
pub(super) fn in_residency(request: &Request, pool: &Pool) -> bool {
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
) -> Nodes {
    if request.models.is_empty() {
        for shape in &pool.shapes {
            learn(request, &shape.model, wishes);
        }
    }
    granted(request, pool.offered, wishes, chances, |_, replica| fit::idle(&pool.shapes, replica))
}

/// The same, where `idle` says what [`fit::idle`] says of the wish at that place; the pool's models
/// are among the wishes.
pub(super) fn granted(
    request: &Request,
    offered: u64,
    wishes: &[Wish],
    chances: &mut Vec<Chance>,
    idle: impl Fn(usize, &Replica) -> (Places, u64),
) -> Nodes {
    let first = chances.len();
    let mut nodes = match request.models.is_empty() {
        true => Nodes::TooSmall,
        false => Nodes::OtherModels,
    };
    for (place, Wish { replica, .. }) in wishes.iter().enumerate() {
        let (accepted, ever) = idle(place, replica);
        if accepted == Places::default() {
            continue;
        }
        if fit::replicas(ever, offered, replica) > 0 {
            chances.push(Chance { wish: fit::clamp(place as u64), accepted, ever });
        }
        nodes = Nodes::TooSmall;
    }
    let gpus = replica(request, "", None).gpus();
    let lent = |pods: u64| pods.saturating_mul(gpus).min(offered).max(1);
    let chances = &mut chances[first..];
    if request.models.is_empty() {
        // All are wanted as much, and of those that leave equal room the first by name is taken.
        chances.sort_unstable_by_key(|chance| wishes[chance.wish as usize].replica.model);
        let all = chances.iter().fold(0_u64, |sum, chance| sum.saturating_add(chance.ever));
        for chance in chances.iter_mut() {
            chance.ever = all;
        }
    }
    for chance in chances.iter_mut() {
        chance.ever = lent(chance.ever);
    }
    if chances.is_empty() { nodes } else { Nodes::Able }
}

/// Who takes any model wishes each that there is.
pub(super) fn learn<'a>(request: &Request, model: &'a str, wishes: &mut Vec<Wish<'a>>) {
    if wishes.iter().all(|wish| wish.replica.model != model) {
        wishes.push(Wish { rank: 0, replica: replica(request, model, None) });
    }
}
