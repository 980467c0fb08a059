//! What is left of all pools in the course of a round.

use std::borrow::Cow;
use std::ops::Range;

use super::UNANSWERED;
use crate::engine::fit::{self, Moved, Places, Replica, Taken};
use crate::engine::model::{Pool, PoolId, Shape, Snapshot};

/// A pool and what is left of it in the course of a round.
///
/// A clone of it is a supposition: what is taken from it or given back to it is so nowhere else.
#[derive(Clone, Debug)]
pub struct Left<'a> {
    /// Its id.
    pub id: &'a PoolId,
    /// The pool as it was at the start.
    pub pool: &'a Pool,
    /// Copied when something changes, which happens to few pools of a small round.
    pub(super) shapes: Cow<'a, [Shape]>,
    pub(super) lendable: u64,
    member: usize,
}

impl Left<'_> {
    /// What is free of it by now.
    #[must_use]
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// GPUs that guests may still take by now.
    #[must_use]
    pub fn lendable(&self) -> u64 {
        self.lendable
    }

    /// The same if these nodes were free too.
    #[must_use]
    pub fn and(&self, more: &[&Shape]) -> Self {
        let mut left = self.clone();
        for shape in more {
            let alike = |other: &&mut Shape| {
                other.model == shape.model && other.gpus_per_node >= shape.gpus_per_node
            };
            if let Some(other) = left.shapes.to_mut().iter_mut().find(alike) {
                other.free.extend_from_slice(&shape.free);
                let gpus = fit::free_gpus(std::slice::from_ref(shape));
                left.lendable = left.lendable.saturating_add(gpus);
            }
        }
        left
    }

    /// Whether it takes nothing at all.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.pool.closed.is_some()
    }

    /// Takes replicas from what is free, and tells which nodes changed: all of them if more than
    /// nodes limits the pool.
    pub fn take(&mut self, replica: &Replica, count: u32) -> Taken {
        let taken = fit::take_and_tell(self.shapes.to_mut(), replica, count);
        let gpus = replica.gpus().saturating_mul(u64::from(count));
        // Where nodes are the limit, they stay it: what is taken counts for both.
        let overdrawn = self.lendable < gpus;
        self.lendable = self.lendable.saturating_sub(gpus);
        let limited = overdrawn || self.lendable < fit::free_gpus(&self.shapes);
        match limited {
            true => Taken { most_free: u32::MAX, shapes: Places::ALL, moved: None, ..taken },
            false => taken,
        }
    }
}

/// Places in one word of a set of bits.
pub(super) const WORD: usize = 64;

/// What happened to a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) place: usize,
    /// Most free GPUs that a node had which changed: to pods that need more, nothing happened.
    pub(super) gpus: u32,
    /// Shapes of those nodes.
    pub(super) shapes: Places,
    /// The one group that changed, and nothing else did.
    pub(super) moved: Option<Moved>,
}

/// A member, and its share of the book.
#[derive(Clone, Debug)]
struct Member {
    unanswered: u32,
    /// Places of its pools: ids begin with the member, so they are neighbours.
    pools: Range<usize>,
}

/// What is left of everything in the course of a round.
#[derive(Clone, Debug)]
pub struct Book<'a> {
    pools: Vec<Left<'a>>,
    members: Vec<Member>,
    /// A bit for each pool whose member may be sent another lease.
    answering: Vec<u64>,
    changes: Vec<Change>,
}

impl<'a> Book<'a> {
    /// Everything that the snapshot says is free. Nothing is copied.
    #[must_use]
    pub fn open(snapshot: &'a Snapshot) -> Self {
        let mut pools: Vec<Left> = Vec::with_capacity(snapshot.pools.len());
        let mut members: Vec<Member> = Vec::new();
        for (id, pool) in &snapshot.pools {
            let place = pools.len();
            if pools.last().is_none_or(|last| last.id.member != id.member) {
                let unanswered = snapshot.unanswered.get(&id.member).copied().unwrap_or(0);
                members.push(Member { unanswered, pools: place..place });
            }
            let member = members.len() - 1;
            members[member].pools.end = place + 1;
            let (shapes, lendable) = (Cow::Borrowed(&*pool.shapes), pool.lendable);
            pools.push(Left { id, pool, shapes, lendable, member });
        }
        let answering = vec![0; pools.len().div_ceil(WORD)];
        let mut book = Self { pools, members, answering, changes: Vec::new() };
        for place in 0..book.pools.len() {
            if book.answers(place) > 0 {
                book.answering[place / WORD] |= 1 << (place % WORD);
            }
        }
        book
    }

    /// The pool at a place that a [`super::Choice`] names.
    #[must_use]
    pub fn pool(&self, place: usize) -> &Left<'a> {
        &self.pools[place]
    }

    /// All pools, by place, which is the order of their ids.
    #[must_use]
    pub fn pools(&self) -> &[Left<'a>] {
        &self.pools
    }

    /// The place of a pool, if there is one of that id.
    #[must_use]
    pub fn place_of(&self, id: &PoolId) -> Option<usize> {
        self.pools.binary_search_by(|left| left.id.cmp(id)).ok()
    }

    /// How many more leases the member of that pool may be sent.
    #[must_use]
    pub fn answers(&self, place: usize) -> u32 {
        UNANSWERED.saturating_sub(self.members[self.pools[place].member].unanswered)
    }

    /// Counts a lease that the member of that pool has to answer.
    pub fn send(&mut self, place: usize) {
        let member = &mut self.members[self.pools[place].member];
        member.unanswered = member.unanswered.saturating_add(1);
        if member.unanswered >= UNANSWERED {
            for pool in member.pools.clone() {
                self.answering[pool / WORD] &= !(1 << (pool % WORD));
            }
        }
    }

    /// Takes replicas from what is free; without [`Book::send`] it is a reservation.
    pub fn take(&mut self, place: usize, replica: &Replica, count: u32) {
        let taken = self.pools[place].take(replica, count);
        let Taken { most_free: gpus, shapes, moved, .. } = taken;
        self.changes.push(Change { place, gpus, shapes, moved });
    }

    /// Keeps up to `pods` pods of a replica from everybody else, one by one, and says how many.
    pub fn keep(&mut self, place: usize, replica: &Replica, pods: u32) -> u32 {
        let single = Replica { size: 1, ..*replica };
        let left = &self.pools[place];
        let found = fit::room(&left.shapes, left.lendable, &single).min(pods);
        if found > 0 {
            self.take(place, &single, found);
        }
        found
    }

    /// A bit for each place whose member may be sent another lease.
    pub(super) fn answering(&self) -> &[u64] {
        &self.answering
    }

    /// How many changes there were by now.
    pub(super) fn changes(&self) -> usize {
        self.changes.len()
    }

    /// The changes after the first `seen` ones, each with its number.
    pub(super) fn changes_since(&self, seen: usize) -> impl Iterator<Item = (usize, Change)> {
        (seen..).zip(self.changes[seen..].iter().copied())
    }
}
