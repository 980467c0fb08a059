//! What is left of all pools in the course of a round.

use std::borrow::Cow;
use std::ops::Range;

use super::UNANSWERED;
use crate::engine::fit::{self, Replica};
use crate::engine::model::{Free, Pool, PoolId, Shape, Snapshot};

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
    /// How many changes the book had seen after the last one of this pool.
    changes: usize,
}

impl Left<'_> {
    /// Takes replicas from what is free. Nobody is told: a reservation is no more than this.
    pub fn take(&mut self, replica: &Replica, count: u32) {
        fit::take(self.shapes.to_mut(), replica, count);
        let gpus = replica.gpus().saturating_mul(u64::from(count));
        self.lendable = self.lendable.saturating_sub(gpus);
    }

    /// Gives back replicas whose nodes nobody knows: see [`fit::give_back`].
    pub fn give_back(&mut self, replica: &Replica, count: u32) {
        let pods = fit::clamp(u64::from(replica.size) * u64::from(count));
        let need = replica.need;
        let free =
            Free { gpus: need.gpus, nodes: pods, milli_cpu: need.milli_cpu, memory: need.memory };
        self.free_up(replica, free);
    }

    /// Gives back what `freed` says, on nodes whose GPUs `replica` accepts.
    pub fn free_up(&mut self, replica: &Replica, freed: Free) {
        fit::give_back(self.shapes.to_mut(), replica, freed);
        let gpus = u64::from(freed.gpus) * u64::from(freed.nodes);
        self.lendable = self.lendable.saturating_add(gpus);
    }
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
    /// Places of the pools that changed, in the order of their changes.
    changed: Vec<usize>,
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
            pools.push(Left { id, pool, shapes, lendable, member, changes: 0 });
        }
        Self { pools, members, changed: Vec::new() }
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
        // Only the last one changes what its pools say.
        if member.unanswered == UNANSWERED {
            member.pools.clone().for_each(|pool| self.note_change(pool));
        }
    }

    /// Takes replicas from what is free; without [`Book::send`] it is a reservation.
    pub fn take(&mut self, place: usize, replica: &Replica, count: u32) {
        self.pools[place].take(replica, count);
        self.note_change(place);
    }

    /// Gives back replicas that were taken, such as those of a reservation that is not needed.
    pub fn give_back(&mut self, place: usize, replica: &Replica, count: u32) {
        self.pools[place].give_back(replica, count);
        self.note_change(place);
    }

    fn note_change(&mut self, place: usize) {
        self.changed.push(place);
        self.pools[place].changes = self.changed.len();
    }

    /// How many changes there were by now.
    pub(super) fn changes(&self) -> usize {
        self.changed.len()
    }

    /// Places of the pools that changed since there were `seen` changes, each once.
    pub(super) fn changed_since(&self, seen: usize) -> impl Iterator<Item = usize> {
        let later = self.changed.iter().enumerate().skip(seen);
        // Each pool at its last change alone.
        later.filter_map(|(at, place)| (self.pools[*place].changes == at + 1).then_some(*place))
    }
}
