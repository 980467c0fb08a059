//! The hub's knowledge and its rounds, for those who only look.
//!
//! Invariant: it is built from the same objects by the same code as the hub's own loop, and writes
//! nothing; whatever it says of a job is what a round would say now.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;

use super::super::facts::Event;
use super::super::identity::Identity;
use super::super::memory::Memory;
use super::super::rounds::{self, Now, Pass};
use super::super::state::State;
use super::super::{bars, conclude, guests, shares, watching};
use super::{settle_promises, snapshot};
use crate::api::GpuJobExplanation;
use crate::api::convert::explanation::{Seen, explanation};
use crate::cluster::cache::Key;
use crate::engine::model::{Demand, JobId, Snapshot};
use crate::engine::outlook::outlook;

/// A snapshot is good for so long while nothing changes: members fall silent by time alone.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Jobs that are gone are forgotten once there are so many.
const FORGOTTEN: usize = 512;

/// All that rounds depend on, as it is now.
#[derive(Debug)]
pub struct View {
    state: State,
    events: mpsc::Receiver<Event>,
    facts: Option<(Instant, Snapshot)>,
    begun: bool,
}

impl View {
    /// A view of the hub behind `client`, and what feeds it, which must run beside it.
    pub fn open(client: &Client) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, events) = mpsc::channel(4096);
        (Self::of(events), watching::for_rounds(client, &sender))
    }

    pub(in crate::hub) fn of(events: mpsc::Receiver<Event>) -> Self {
        // Whoever issues no lease may be of any incarnation.
        let memory = Memory::new(u32::MAX);
        let state = State { memory, ..State::default() };
        Self { state, events, facts: None, begun: false }
    }

    /// What has not been listed yet: until there is nothing left, nothing can be said.
    #[must_use]
    pub fn closed_gates(&self) -> Vec<&'static str> {
        self.state.closed_gates().into_iter().filter(|gate| *gate != "joins").collect()
    }

    /// Takes in the next change and all that came with it; false if there will be none any more.
    pub async fn listen(&mut self) -> bool {
        let Some(event) = self.events.recv().await else { return false };
        self.take(event, Instant::now());
        while let Ok(event) = self.events.try_recv() {
            self.take(event, Instant::now());
        }
        true
    }

    pub(in crate::hub) fn take(&mut self, event: Event, now: Instant) {
        // First: what runs is shared with it.
        self.facts = None;
        let state = &mut self.state;
        state.take(event, now);
        // Nobody may ask for weeks: jobs that came and went meanwhile are nothing to look at.
        if state.dirty.len() > 2 * (state.jobs.len() + FORGOTTEN) {
            state.dirty.retain(|id| state.keys.contains_key(id));
        }
    }

    /// Jobs that are to be looked at when somebody asks.
    #[cfg(test)]
    pub(in crate::hub) fn backlog(&self) -> usize {
        self.state.dirty.len()
    }

    /// What a round would say of a job now; `None` if there is no such job.
    pub fn explain(&mut self, namespace: &str, name: &str) -> Option<GpuJobExplanation> {
        let now = Now { instant: Instant::now(), wall: Timestamp::now() };
        self.explain_at((namespace.to_owned(), name.to_owned()), now)
    }

    pub(in crate::hub) fn explain_at(&mut self, key: Key, now: Now) -> Option<GpuJobExplanation> {
        self.refresh(now);
        let job = self.state.jobs.shared(&key)?;
        let id = JobId(job.uid()?);
        let pass = rounds::pass(&mut self.state, id, job, now, &mut Vec::new());
        let (_, facts) = self.facts.as_ref()?;
        let outlook = outlook(facts, &pass.id);
        let waiting = outlook.as_ref().and_then(|outlook| outlook.waiting.as_ref());
        let wait = conclude::wait(&self.state, &pass, waiting, now);
        let said = wait.as_ref().map(|wait| wait.message.clone());
        let nobody = Identity { id: String::new(), incarnation: 0, lease_seconds: 0 };
        let status = conclude::status(&self.state, &pass, &nobody, wait, now);
        let queue = pass.queue.as_ref().unwrap_or_else(|name| name);
        Some(explanation(&Seen {
            job: &pass.job,
            status: &status,
            said,
            request: pass.asked.as_deref().ok(),
            queue: (queue, facts.queues.get(queue)),
            outlook: outlook.as_ref(),
            now: now.wall,
        }))
    }

    /// Brings the snapshot up to date, if anything changed or enough time has passed.
    fn refresh(&mut self, now: Now) {
        let good = |(since, _): &(Instant, Snapshot)| now.instant < *since + GOOD_FOR;
        if self.facts.as_ref().is_some_and(good) {
            return;
        }
        let state = &mut self.state;
        // Heartbeats may have been listed before the members, whose status says how long they lacked.
        if !std::mem::replace(&mut self.begun, true) {
            state.recall_silence(now.instant);
        }
        let mut looked = std::mem::take(&mut state.dirty);
        let due = state.notes.iter().filter(|(_, notes)| {
            !notes.bars.is_empty() || notes.due.is_some_and(|due| due <= now.instant)
        });
        looked.extend(due.map(|(id, _)| id.clone()));
        for id in looked {
            look(state, id, now);
        }
        settle_promises(state);
        shares::advance(state, now);
        let demands: Vec<Demand> =
            state.notes.values().filter_map(|notes| notes.demand.clone()).collect();
        let facts = snapshot(state, demands, now.instant, now.wall);
        self.facts = Some((now.instant, facts));
    }
}

/// Notes what a job holds and wants, as a round of the hub does.
fn look(state: &mut State, id: JobId, now: Now) {
    let held = state.keys.get(&id).and_then(|key| state.jobs.shared(key));
    let Some(job) = held.filter(|job| job.uid().as_deref() == Some(&id.0)) else { return };
    rounds::recall(state, &job);
    let pass: Pass = rounds::pass(state, id, job, now, &mut Vec::new());
    bars::note(state, &pass, now);
    bars::lift(state, &pass);
    rounds::note_held(state, &pass);
    let demand = rounds::demand(state, &pass, now);
    let wakes = pass.advance.wake_at.map(|at| now.instant + conclude::until(at, now.wall));
    let id = pass.id.clone();
    let notes = state.notes.entry(pass.id).or_default();
    (notes.demand, notes.due) = (demand, wakes);
    guests::refresh_job(state, &id);
}
