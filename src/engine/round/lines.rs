//! Who is decided on next: one line for each queue, and whose turn it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Progress, place_in_line};
use crate::engine::model::{Demand, JobId, Snapshot, Waiting};
use crate::engine::queues::Accounts;

/// What waits in one queue.
struct Line<'a> {
    /// Those whose turn is yet to come, the first at the end.
    behind: Vec<&'a Demand>,
    /// The one that has got some of what it wants.
    current: Option<Progress<'a>>,
    /// The first that found no room.
    head: Option<&'a JobId>,
}

/// All that waits, in the order in which it is decided on.
pub(super) struct Lines<'a> {
    /// Those that others make room for, the first at the end.
    holders: Vec<&'a Demand>,
    holder: Option<Progress<'a>>,
    of: BTreeMap<&'a str, Line<'a>>,
    /// Queues with somebody whose turn is yet to come, by share.
    turns: BTreeSet<(u64, &'a str)>,
    /// The line whose turn it is.
    now: Option<&'a str>,
}

impl<'a> Lines<'a> {
    /// Everything that waits; whoever is in no queue that works is told so.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        accounts: &Accounts<'a>,
        waiting: &mut BTreeMap<JobId, Waiting>,
    ) -> Self {
        let mut lines: BTreeMap<&str, Line> = BTreeMap::new();
        let mut holders = Vec::new();
        for demand in snapshot.demands.iter().filter(|demand| !demand.wanted.is_empty()) {
            let why = match accounts.queue(&demand.queue) {
                None => Waiting::QueueNotAllowed,
                Some(queue) if queue.held => Waiting::QueueHeld,
                Some(_) if demand.hold.is_some() => {
                    holders.push(demand);
                    continue;
                }
                Some(_) => {
                    let empty = || Line { behind: Vec::new(), current: None, head: None };
                    let line = lines.entry(&demand.queue).or_insert_with(empty);
                    line.behind.push(demand);
                    continue;
                }
            };
            waiting.insert(demand.job.clone(), why);
        }
        holders.sort_by_key(|demand| {
            Reverse((demand.hold.as_ref().map(|hold| hold.turn), place_in_line(demand)))
        });
        for line in lines.values_mut() {
            sort(&mut line.behind);
        }
        let turns = lines.keys().map(|name| (accounts.share(name), *name)).collect();
        Self { holders, holder: None, of: lines, turns, now: None }
    }

    /// The demand whose turn is next.
    pub(super) fn next(&self) -> Option<&'a Demand> {
        if let Some(holder) = &self.holder {
            return Some(holder.demand);
        }
        if let Some(holder) = self.holders.last() {
            return Some(holder);
        }
        let name = self.now.or_else(|| self.turns.first().map(|(_, name)| *name))?;
        let line = self.of.get(name)?;
        line.current.as_ref().map(|progress| progress.demand).or(line.behind.last().copied())
    }

    /// The demand whose turn it is, until it is [`put_back`](Self::put_back).
    pub(super) fn take(&mut self) -> Option<Progress<'a>> {
        if let Some(holder) = self.holder.take() {
            return Some(holder);
        }
        if let Some(holder) = self.holders.pop() {
            return Some(Progress::of(holder));
        }
        if self.now.is_none() {
            self.now = Some(self.turns.pop_first()?.1);
        }
        let line = self.of.get_mut(self.now?)?;
        line.current.take().or_else(|| line.behind.pop().map(Progress::of))
    }

    /// Ends a turn. A queue that got something lets the others go before it by its new share.
    pub(super) fn put_back(&mut self, progress: Progress<'a>, done: bool, share: u64) {
        let got = progress.given > 0;
        let Some(name) = self.now else {
            self.holder = (!done).then_some(progress);
            return;
        };
        let Some(line) = self.of.get_mut(name) else { return };
        line.current = (!done).then_some(progress);
        let waits = line.current.is_some() || !line.behind.is_empty();
        if got || !waits {
            self.now = None;
            if waits {
                self.turns.insert((share, name));
            }
        }
    }

    /// Whether this is the first demand of its line that finds no room; it is from then on.
    pub(super) fn is_head(&mut self, demand: &'a Demand) -> bool {
        let Some(line) = self.of.get_mut(demand.queue.as_str()) else { return false };
        *line.head.get_or_insert(&demand.job) == &demand.job
    }
}

/// The first at the end.
fn sort(demands: &mut [&Demand]) {
    demands.sort_by_key(|demand| Reverse(place_in_line(demand)));
}
