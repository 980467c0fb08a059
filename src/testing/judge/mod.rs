//! What must be true whatever happens: the invariants of the design, read from what servers hold and
//! from what truly runs on nodes. Names such as I4 are those of the design.
//!
//! Invariant: every revision of every server is looked at, in order.

mod end;
mod hub;
mod member;
mod truth;

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::federation::Federation;
pub(crate) use end::{Mark, is_settled};
pub(crate) use truth::Doubts;

/// Everything that was seen of a run.
pub(crate) struct Judge {
    hubs: Vec<hub::Book>,
    members: Vec<member::Book>,
    truth: truth::Book,
    /// What is wrong, a sentence each.
    pub(crate) wrong: Vec<String>,
    /// What happened that may happen, and how often: an invariant that is never at stake proves
    /// nothing.
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

/// Where findings go.
struct Findings<'a> {
    now: Timestamp,
    wrong: &'a mut Vec<String>,
    seen: &'a mut BTreeMap<&'static str, u64>,
}

impl Findings<'_> {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn seen(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }
}

impl Judge {
    pub(crate) fn new(all: &Federation) -> Self {
        Self {
            hubs: all.hubs.iter().map(|_| hub::Book::default()).collect(),
            members: all.members.iter().map(|_| member::Book::default()).collect(),
            truth: truth::Book::default(),
            wrong: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Takes in everything that happened since it looked last.
    pub(crate) fn look(&mut self, all: &Federation, doubts: &Doubts) {
        let now = all.epoch.now();
        let Self { hubs, members, truth, wrong, seen } = self;
        let mut findings = Findings { now, wrong, seen };
        for (book, hub) in hubs.iter_mut().zip(&all.hubs) {
            book.look(hub, &mut findings);
        }
        for (book, member) in members.iter_mut().zip(&all.members) {
            book.look(member, &mut findings);
        }
        truth.look(all, hubs, doubts, &mut findings);
    }

    /// The store of a hub is another one now: what it said before is not held against it.
    pub(crate) fn restored(&mut self, hub: usize, all: &Federation) {
        self.hubs[hub].reread(&all.hubs[hub]);
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(at)
}

/// Indexes as ranges; nonsense is none.
fn indexes(text: &serde_json::Value) -> crate::engine::indexes::Indexes {
    let text = text.as_str().unwrap_or_default();
    crate::engine::indexes::Indexes::parse(text).unwrap_or_default()
}
