//! Room for those who wait long: when a replica could start, and what is kept for it until then.
//!
//! EASY backfilling (Lifka, JSSPP 1995): the first of a queue that finds no room is told the earliest
//! time at which running guests' limits make room for it; what it will need of that which is free now
//! is kept, and others pass only on what is left, or on what is kept if they surely end before.
//! Where limits never make room, the nodes nearest to free are kept as they empty.
//!
//! Invariant: at most one replica's worth of GPUs is kept for each queue, and none is given to those
//! behind that would make the kept time later.

use std::collections::BTreeMap;

use super::fit::{self, Replica, clamp};
use super::guests::{Guest, Returned, Spoken};
use super::model::{Demand, Free, PodNeed, PoolId, Shape};
use super::placement::{Book, Choice, Left};

/// Whoever waits longer than this in front of its queue has room kept for it, in milliseconds:
/// for shorter waits passing costs nobody much, and keeping would leave GPUs idle.
pub const PATIENCE: i64 = 600_000;
/// Whoever waits longer than this since room was first kept for it has a whole pool kept, in
/// milliseconds.
const LONG: i64 = 3_600_000;
/// Jobs for which one round keeps room at most: each costs a look at every pool's guests.
pub const KEPT: usize = 16;
/// Images are pulled and pods start before a limit begins to count, in milliseconds.
const START: i64 = 120_000;

/// Where a replica could start, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start<'a> {
    /// Place of the pool in the book.
    pub(super) place: usize,
    /// On which model.
    pub(super) replica: Replica<'a>,
    /// When, in milliseconds since 1970; `None` = unknown.
    pub(super) at: Option<i64>,
}

/// GPUs that are free and kept.
#[derive(Clone, Debug)]
struct Kept {
    /// One group of nodes, each with what one pod was promised.
    shapes: Vec<Shape>,
    /// When they are needed; `None` = as soon as there are enough.
    at: Option<i64>,
}

/// What is kept, and what is spoken for of that which comes back, in the course of a round.
#[derive(Clone, Debug)]
pub(super) struct Reservations<'a> {
    guests: &'a BTreeMap<PoolId, Vec<Guest>>,
    now: i64,
    spoken: BTreeMap<usize, Spoken>,
    kept: BTreeMap<usize, Vec<Kept>>,
}

impl<'a> Reservations<'a> {
    /// Nothing is kept yet.
    pub(super) fn none(guests: &'a BTreeMap<PoolId, Vec<Guest>>, now: i64) -> Self {
        Self { guests, now, spoken: BTreeMap::new(), kept: BTreeMap::new() }
    }

    /// Whether anything that is free is kept.
    pub(super) fn keep_something(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Where something is kept, and what.
    pub(super) fn kept(&self) -> impl Iterator<Item = (usize, Vec<&Shape>)> {
        let places = self.kept.iter();
        places.map(|(place, kept)| (*place, kept.iter().flat_map(|kept| &kept.shapes).collect()))
    }

    /// The guests of a pool.
    pub(super) fn guests(&self, left: &Left<'a>) -> &'a [Guest] {
        self.guests.get(left.id).map_or(&[], Vec::as_slice)
    }

    /// Nothing that came back yet to the pool at `place`.
    pub(super) fn returned<'r>(&self, place: usize, replica: Replica<'r>) -> Returned<'r> {
        let nothing = Spoken::default();
        Returned::new(replica, self.spoken.get(&place).unwrap_or(&nothing))
    }

    /// The earliest time at which one replica of the demand fits somewhere, as far as limits of
    /// guests tell; of equal times the first pool.
    pub(super) fn earliest<'c>(
        &self,
        able: &[(usize, Replica<'c>)],
        book: &Book<'a>,
    ) -> Option<Start<'c>> {
        let starts = able.iter().copied().filter_map(|(place, replica)| {
            let at = self.earliest_in(book.pool(place), place, &replica)?;
            Some(Start { place, replica, at: Some(at) })
        });
        starts.min_by_key(|start| (start.at, start.place))
    }

    fn earliest_in(&self, left: &Left<'a>, place: usize, replica: &Replica) -> Option<i64> {
        if left.is_closed() || !is_sure(left, replica) {
            return None;
        }
        let guests = self.guests(left);
        let mut leaving: Vec<(i64, usize)> = Vec::with_capacity(guests.len());
        for (place, guest) in guests.iter().enumerate() {
            let at = if guest.leaving { Some(self.now) } else { guest.ends };
            leaving.extend(at.map(|at| (at.max(self.now), place)));
        }
        leaving.sort_unstable();
        let free = fit::free_pods(left.shapes(), replica);
        let mut returned = self.returned(place, *replica);
        for (at, guest) in leaving {
            returned.add(guest, &guests[guest]);
            if fits(left, free, &returned, replica) {
                return Some(at);
            }
        }
        None
    }

    /// Keeps what one replica of the demand needs, at the earliest time that is known, else where
    /// least is missing; says where and when.
    pub(super) fn keep<'c>(
        &mut self,
        demand: &Demand,
        able: &[(usize, Replica<'c>)],
        book: &mut Book<'a>,
    ) -> Option<Start<'c>> {
        if let Some(start) = self.last_resort(demand, able, book) {
            self.hold_parts(&start, (u32::MAX, u32::MAX), book);
            return Some(start);
        }
        let told = demand.hold.as_ref().and_then(|hold| hold.at);
        if let Some(start) = self.earliest(able, book) {
            let at = start.at.unwrap_or(self.now);
            let guests = self.guests(book.pool(start.place));
            let mut returned = self.returned(start.place, start.replica);
            for (place, guest) in guests.iter().enumerate() {
                if guest.leaving || guest.ends.is_some_and(|ends| ends <= at) {
                    returned.add(place, guest);
                }
            }
            // Those who pass must end before the time that it was told first, however that moves.
            let start = Start { at: told.map_or(start.at, |told| Some(told.min(at))), ..start };
            self.settle(&start, (&returned, demand.hold.is_some()), book);
            return Some(start);
        }
        let open = able.iter().copied().filter(|(place, _)| !book.pool(*place).is_closed());
        let pods = |place: usize, replica: &Replica| {
            let left = book.pool(place);
            fit::free_pods(left.shapes(), replica).min(u64::from(replica.size))
        };
        let (place, replica) =
            open.max_by_key(|(place, replica)| (pods(*place, replica), std::cmp::Reverse(*place)))?;
        let start = Start { place, replica, at: None };
        self.drain(&start, book);
        Some(start)
    }

    /// The pool that takes nobody else any more, for a head that kept room did not help: what comes
    /// free there in parts is on other nodes each time. Guests end by their limits, so it starts.
    fn last_resort<'c>(
        &self,
        demand: &Demand,
        able: &[(usize, Replica<'c>)],
        book: &Book<'a>,
    ) -> Option<Start<'c>> {
        let hold = demand.hold.as_ref()?;
        let long = hold.since.saturating_add(LONG) <= self.now;
        let is = |(place, _): &&(usize, Replica)| {
            let left = book.pool(*place);
            *left.id == hold.pool && !left.is_closed()
        };
        let (place, replica) = *able.iter().find(is).filter(|_| long)?;
        Some(Start { place, replica, at: None })
    }

    /// Speaks for what comes back, and keeps the rest of the replica of what is free. For those that
    /// room was kept for before, nodes that are free in part are kept too: guests of one node end one
    /// by one, and what they leave is part of the room.
    pub(super) fn settle(
        &mut self,
        start: &Start,
        (returned, before): (&Returned, bool),
        book: &mut Book<'a>,
    ) {
        let size = u64::from(start.replica.size);
        let free = fit::free_pods(book.pool(start.place).shapes(), &start.replica);
        // What came back for it stays kept; at first nothing did, and others take what is free.
        let first = if before { free.min(size) } else { 0 };
        let spoken = self.spoken.entry(start.place).or_default();
        let later = returned.speak_for(size - first, spoken);
        self.hold(start, clamp(size - later), book);
        if before {
            self.hold_parts(start, (clamp(later), start.replica.need.gpus), book);
        }
    }

    /// Keeps so many pods of what is free.
    fn hold(&mut self, start: &Start, pods: u32, book: &mut Book<'a>) {
        if pods == 0 {
            return;
        }
        let found = book.keep(start.place, &start.replica, pods);
        let PodNeed { gpus, milli_cpu, memory } = start.replica.need;
        self.note(start, Free { gpus, nodes: found, milli_cpu, memory });
    }

    /// Keeps whole pods as far as they fit, then the nodes that are nearest to holding one.
    fn drain(&mut self, start: &Start, book: &mut Book<'a>) {
        let Start { place, replica, .. } = *start;
        let fitting = fit::free_pods(book.pool(place).shapes(), &replica);
        let whole = clamp(fitting).min(replica.size);
        self.hold(start, whole, book);
        self.hold_parts(start, (replica.size - whole, replica.need.gpus), book);
    }

    /// Keeps up to so many nodes that have fewer free GPUs than `most`, those with more of them first.
    fn hold_parts(&mut self, start: &Start, (nodes, most): (u32, u32), book: &mut Book<'a>) {
        let Start { place, replica, .. } = *start;
        let mut missing = nodes;
        while missing > 0 {
            let shapes = book.pool(place).shapes();
            let accepted =
                shapes.iter().filter(|shape| replica.accepts(&shape.model, shape.gpu_memory));
            let groups = accepted.flat_map(|shape| &shape.free);
            let parts = groups.filter(|free| free.nodes > 0 && free.gpus < most);
            let Some(fullest) = parts.max().copied() else { return };
            let need = PodNeed { gpus: fullest.gpus, milli_cpu: 0, memory: 0 };
            let part = Replica { need, ..replica };
            let found = book.keep(place, &part, missing.min(fullest.nodes));
            if found == 0 {
                return;
            }
            self.note(start, Free { nodes: found, ..fullest });
            missing -= found;
        }
    }

    fn note(&mut self, start: &Start, free: Free) {
        let shape = Shape {
            model: start.replica.model.to_owned(),
            gpu_memory: start.replica.min_memory,
            gpus_per_node: free.gpus,
            nodes: free.nodes,
            free: vec![free],
        };
        let kept = Kept { shapes: vec![shape], at: start.at };
        self.kept.entry(start.place).or_default().push(kept);
    }

    /// A pool where one replica of a demand that surely ends in time fits on what is kept for later.
    pub(super) fn borrow<'c>(
        &mut self,
        demand: &Demand,
        able: &[(usize, Replica<'c>)],
        book: &Book<'a>,
    ) -> Option<Choice<'c>> {
        for (place, replica) in able.iter().copied() {
            let left = book.pool(place);
            let Some(ends) = self.ends(demand, left) else { continue };
            if left.is_closed() || book.answers(place) == 0 || demand.is_barred(left.id, left.pool)
            {
                continue;
            }
            let kept = self.kept.get_mut(&place).into_iter().flatten();
            for kept in kept.filter(|kept| kept.at.is_some_and(|at| ends <= at)) {
                if fit::free_pods(&kept.shapes, &replica) >= u64::from(replica.size) {
                    fit::take(&mut kept.shapes, &replica, 1);
                    return Some(Choice { place, replica, room: 1 });
                }
            }
        }
        None
    }

    /// When the demand ends at the latest if it starts now in that pool.
    fn ends(&self, demand: &Demand, left: &Left) -> Option<i64> {
        let limits = demand.longest_seconds.into_iter().chain(left.pool.longest_seconds);
        let longest = limits.min()?;
        let millis = i64::try_from(longest.saturating_mul(1000)).unwrap_or(i64::MAX);
        Some(self.now.saturating_add(START).saturating_add(millis))
    }
}

/// Whether one replica fits on what is free and what came back.
pub(super) fn fits(left: &Left, free: u64, returned: &Returned, replica: &Replica) -> bool {
    let pods = free.saturating_add(returned.pods);
    fit::replicas(pods, left.lendable().saturating_add(returned.gpus()), replica) > 0
}

/// Whether whatever comes back of the replica's model has enough memory: guests do not tell on which
/// of a pool's shapes they run.
pub(super) fn is_sure(left: &Left, replica: &Replica) -> bool {
    let alike = left.pool.shapes.iter().filter(|shape| shape.model == replica.model);
    let mut alike = alike.map(|shape| replica.accepts(&shape.model, shape.gpu_memory));
    alike.all(|accepted| accepted)
}

#[cfg(test)]
mod tests;
