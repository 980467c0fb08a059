//! The serial pass: what is known, to what is written. Nothing here talks to anybody.
//!
//! Invariant: capacity is given out here and nowhere else, one pass at a time, counting what is
//! promised but not yet seen. A job with writes under way is left alone until they are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::facts::{Bar, Notes, Promise, Read};
use super::identity::Identity;
use super::state::State;
use super::work::Work;
use super::{bars, conclude, guests, leases, queues, shares, snapshot};
use crate::api::convert;
use crate::api::{GpuJob, reasons};
use crate::engine::lifecycle::{self, Advance, Allocation, Seen, Standing, Step, Terms};
use crate::engine::model::{Demand, Epoch, Hold, JobId, Placement, Plan, Request};
use crate::engine::preempt::Preemption;
use crate::engine::reserve::PATIENCE;
use crate::engine::round;

/// A job keeps away from a pool for so long whose owner took its GPUs back: where one owner came home,
/// others of the group are likely to follow.
const STEERED_MILLIS: i64 = 600_000;
/// A job that others make room for goes before all others for so long: their grace is over by then,
/// or they do not go.
const HELD_FOR: Duration = Duration::from_mins(15);

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For what is measured.
    pub(super) instant: Instant,
    /// For what is written.
    pub(super) wall: Timestamp,
}

/// A job under consideration.
pub(super) struct Pass {
    /// The job.
    pub(super) id: JobId,
    /// As it is stored.
    pub(super) job: Arc<GpuJob>,
    /// What it asks, or what is wrong with it.
    pub(super) asked: Read,
    /// Its queue, or the name of the one that does not do.
    pub(super) queue: Result<String, String>,
    /// What its user asked for its life.
    pub(super) terms: Terms,
    /// What is seen of its leases.
    pub(super) leases: BTreeMap<Epoch, lifecycle::Lease>,
    /// What follows from them.
    pub(super) advance: Advance,
}

/// Decides everything that follows from what is known; remembers it as promised.
pub(super) fn decide(state: &mut State, identity: &Identity, now: Now) -> Vec<Work> {
    if snapshot::settle_promises(state) {
        state.capacity_changed = true;
    }
    let mut work = Vec::new();
    work.extend(state.memory.raise(now.instant).map(Work::Raise));
    let capacity_changed = std::mem::take(&mut state.capacity_changed);
    let mut passes = passes(state, now, &mut work);
    for pass in &passes {
        bars::note(state, pass, now);
        note_held(state, pass);
    }
    shares::advance(state, now);
    let mut demands = Vec::new();
    for pass in &passes {
        guests::refresh_job(state, &pass.id);
        let demand = demand(state, pass, now);
        state.notes.entry(pass.id.clone()).or_default().demand.clone_from(&demand);
        demands.extend(demand);
    }
    let ripe = state.round_at.is_some_and(|at| at <= now.instant);
    if capacity_changed || state.capacity_changed || ripe || somebody_is_kept(state, now) {
        (state.capacity_changed, state.crowded, state.answers) = (false, false, 0);
        state.round_at = None;
        demands.extend(standing_demands(state, &passes, now));
    }
    let waits = state.memory.waits(now.instant);
    let plan = match demands.is_empty() || waits {
        true => Plan::default(),
        false => round::round(&snapshot::snapshot(state, demands, now.instant, now.wall)),
    };
    state.crowded |= plan.waiting.values().any(conclude::is_brief);
    let at = plan.wake_at.map(|at| now.instant + conclude::until(at, now.wall));
    for at in at.into_iter().chain(state.memory.asks_until(now.instant)) {
        state.round_at = Some(state.round_at.map_or(at, |before| before.min(at)));
    }
    let touched = preempt(state, &plan.preemptions, now);
    for (job, kept) in &plan.kept {
        hold(state, job, kept.clone(), now);
    }
    let mut placements: BTreeMap<JobId, Vec<Placement>> = BTreeMap::new();
    for placement in plan.placements {
        placements.entry(placement.job.clone()).or_default().push(placement);
    }
    // A job that waited and was not touched is looked at only if it got or loses something.
    let known: BTreeSet<JobId> = passes.iter().map(|pass| pass.id.clone()).collect();
    for id in placements.keys().chain(&touched).filter(|id| !known.contains(*id)) {
        let job = state.keys.get(id).and_then(|key| state.jobs.shared(key));
        passes.extend(job.map(|job| pass(state, id.clone(), job, now, &mut work)));
    }
    for pass in passes {
        let placed = placements.remove(&pass.id).unwrap_or_default();
        let waiting = plan.waiting.get(&pass.id);
        work.extend(conclude::conclude(state, identity, pass, (placed, waiting), now));
    }
    work
}

/// Notes who goes for whom, and returns the jobs that can be told so now; busy ones are looked at
/// again when their writes are done.
fn preempt(state: &mut State, preemptions: &[Preemption], now: Now) -> BTreeSet<JobId> {
    let mut touched = BTreeSet::new();
    for Preemption { job, pool, victims } in preemptions {
        let victims: BTreeSet<(JobId, Epoch)> = victims.iter().cloned().collect();
        hold(
            state,
            job,
            Hold { pool: pool.clone(), victims: victims.clone(), ..Hold::default() },
            now,
        );
        for (victim, epoch) in &victims {
            let Some(notes) = state.notes.get_mut(victim) else { continue };
            notes.preempted.insert(*epoch);
            if !notes.busy {
                touched.insert(victim.clone());
            }
            guests::refresh_job(state, victim);
        }
    }
    touched
}

/// Notes room that is made or kept for a job. It keeps its turn, its time and what it was told, also
/// where the room is in another pool now; only victims belong to the pool.
fn hold(state: &mut State, job: &JobId, mut hold: Hold, now: Now) {
    let Some(notes) = state.notes.get_mut(job) else { return };
    hold.since = now.wall.as_millisecond();
    match notes.hold.take().filter(|(_, until)| *until > now.instant) {
        Some((before, _)) => {
            (hold.turn, hold.since) = (before.turn, before.since);
            hold.at = before.at.or(hold.at);
            hold.victims.extend(before.victims.into_iter().filter(|_| before.pool == hold.pool));
        }
        None => {
            hold.turn = state.turns;
            state.turns += 1;
        }
    }
    notes.hold = Some((hold, now.instant + HELD_FOR));
}

/// The room that is kept for a job, unless nobody has said so for long.
fn hold_of(notes: &Notes, now: Now) -> Option<Hold> {
    let hold = notes.hold.as_ref().filter(|(_, until)| *until > now.instant);
    hold.map(|(hold, _)| hold.clone())
}

/// Whether room is or may have to be kept for somebody who waits: then no round is without it.
fn somebody_is_kept(state: &State, now: Now) -> bool {
    let ripe =
        |demand: &Demand| demand.queued_at.saturating_add(PATIENCE) <= now.wall.as_millisecond();
    let mut waiting = state.notes.values().filter(|notes| notes.waits);
    waiting.any(|notes| hold_of(notes, now).is_some() || notes.demand.as_ref().is_some_and(ripe))
}

/// The jobs to be looked at, each advanced by what is seen of its leases.
fn passes(state: &mut State, now: Now, work: &mut Vec<Work>) -> Vec<Pass> {
    let mut looked = std::mem::take(&mut state.dirty);
    let ripe = state.later.extract_if(.., |_, at| *at <= now.instant);
    looked.extend(ripe.map(|(id, _)| id));
    let due = |notes: &Notes| notes.due.is_some_and(|due| due <= now.instant);
    looked.extend(state.notes.iter().filter(|(_, notes)| due(notes)).map(|(id, _)| id.clone()));
    let mut passes = Vec::new();
    for id in looked {
        let held = state.keys.get(&id).and_then(|key| state.jobs.shared(key));
        let Some(job) = held.filter(|job| job.uid().as_deref() == Some(&id.0)) else {
            work.extend(retire(state, &id));
            continue;
        };
        if state.notes.get(&id).is_none_or(|notes| !notes.busy) {
            passes.push(pass(state, id, job, now, work));
        }
    }
    passes
}

/// What all other waiting jobs want, as it was when they were last looked at: nothing of theirs has
/// changed since, so that a round over thousands of them costs no more than their placement.
fn standing_demands(state: &State, passes: &[Pass], now: Now) -> Vec<Demand> {
    let looked: BTreeSet<&JobId> = passes.iter().map(|pass| &pass.id).collect();
    let waits = |(id, notes): &(&JobId, &Notes)| notes.waits && !notes.busy && !looked.contains(id);
    let others = state.notes.iter().filter(waits);
    let demand = |(_, notes): (&JobId, &Notes)| {
        let demand = notes.demand.as_ref().filter(|demand| !demand.wanted.is_empty())?;
        Some(Demand { hold: hold_of(notes, now), ..demand.clone() })
    };
    others.filter_map(demand).collect()
}

/// Ends the leases of a job that is gone; those of members that left went with them. A job that is
/// merely not listed is looked up first: watches do not tell of jobs before they tell of leases.
fn retire(state: &mut State, id: &JobId) -> Vec<Work> {
    if state.retiring.contains(id) {
        return Vec::new();
    }
    match state.absent.get(id) {
        Some(true) => {}
        Some(false) => return Vec::new(),
        None => return leases::look_up_job(state, id).into_iter().collect(),
    }
    let steps = lifecycle::retire(&seen_leases(state, id));
    let removed = steps.iter().filter_map(|step| match step {
        Step::Remove(epoch) => leases::removal(state, id, *epoch),
        _ => None,
    });
    let mut work: Vec<Work> = removed.collect();
    let withdrawn: Vec<_> =
        steps.iter().filter_map(|step| leases::withdrawal(state, id, step)).collect();
    if !withdrawn.is_empty() {
        state.retiring.insert(id.clone());
        work.push(Work::Leases(id.clone(), withdrawn));
    }
    work
}

fn seen_leases(state: &State, id: &JobId) -> BTreeMap<Epoch, lifecycle::Lease> {
    let keys = state.leases_of.get(id).into_iter().flatten();
    let seen =
        keys.filter_map(|(epoch, key)| Some((*epoch, convert::lease(state.leases.get(key)?))));
    seen.collect()
}

/// The job, advanced by what is seen of its leases.
pub(super) fn pass(
    state: &mut State,
    id: JobId,
    job: Arc<GpuJob>,
    now: Now,
    work: &mut Vec<Work>,
) -> Pass {
    let asked = asked(state, &id, &job);
    let found = queues::of(state, &job);
    let drains = found.as_ref().is_ok_and(|queue| queues::drains(queue));
    let queue = found.map(ResourceExt::name_any);
    let mut terms = convert::terms(&job);
    let ended = [
        (job.metadata.deletion_timestamp.is_some(), "JobDeleted"),
        (job.spec.suspend, reasons::SUSPENDED),
        (drains, "QueueDrained"),
    ];
    terms.stopped = ended.into_iter().find(|(ends, _)| *ends).map(|(_, reason)| reason);
    // What is wrong now may have been right when it was placed: what runs goes on.
    terms.held = asked.is_err();
    let record = stored(&job);
    let members = record.allocations.iter().map(|allocation| allocation.pool.member.as_str());
    let standings: BTreeMap<&str, Standing> =
        members.map(|member| (member, standing(state, member, now, work))).collect();
    let leases = seen_leases(state, &id);
    let standing = |member: &str| standings.get(member).copied().unwrap_or(Standing::Live);
    let orphans = state.orphans(&id, &record, now.instant);
    let seen = Seen { leases: &leases, orphans: &orphans };
    let advance = lifecycle::advance(&terms, &record, seen, standing, now.wall.as_millisecond());
    Pass { id, job, asked, queue, terms, leases, advance }
}

/// What the job asks, read once for each generation; a priority class that is not there is wrong.
fn asked(state: &mut State, id: &JobId, job: &GpuJob) -> Read {
    let class = job.spec.priority_class_name.as_ref();
    let known = |name: &&String| state.priorities.get(&(String::new(), (*name).clone())).is_some();
    if let Some(name) = class.filter(|name| !known(name)) {
        return Err(Arc::new(vec![format!(
            "priorityClassName: there is no PriorityClass {name} on this hub; see kubectl get \
             priorityclasses"
        )]));
    }
    let queue = queues::of(state, job).ok().filter(|queue| !queues::allows(queue, class));
    if let (Some(queue), Some(name)) = (queue, class) {
        return Err(Arc::new(vec![format!(
            "priorityClassName: GpuQueue {} does not allow {name}; see its allowedPriorityClasses",
            queue.name_any()
        )]));
    }
    let generation = job.metadata.generation.unwrap_or(0);
    let notes = state.notes.entry(id.clone()).or_default();
    if let Some((_, asked)) = notes.asked.as_ref().filter(|(read, _)| *read == generation) {
        return asked.clone();
    }
    let asked = convert::asked(job).map(Arc::new).map_err(Arc::new);
    notes.asked = Some((generation, asked.clone()));
    asked
}

/// How a member is. It has left if its deletion is ordered and it is silent, and is gone for ever if it
/// is known not to exist; one that is merely not listed is looked up first.
fn standing(state: &mut State, member: &str, now: Now, work: &mut Vec<Work>) -> Standing {
    let silent = state.is_silent(member, now.instant);
    match state.members.get(&(String::new(), member.to_owned())) {
        Some(cluster) => match (silent, cluster.metadata.deletion_timestamp.is_some()) {
            (true, true) => Standing::Left(state.silent_seconds(member, now.instant)),
            (true, false) => Standing::Silent(state.silent_seconds(member, now.instant)),
            (false, _) => Standing::Live,
        },
        None if state.missing.get(member) == Some(&true) => Standing::Lost,
        None => {
            if state.missing.insert(member.to_owned(), false).is_none() {
                work.push(Work::LookUpMember(member.to_owned()));
            }
            Standing::Silent(0)
        }
    }
}

/// Notes what the job holds, before anything is given out: quotas count from the record.
pub(super) fn note_held(state: &mut State, pass: &Pass) {
    let held = held(pass);
    let notes = state.notes.entry(pass.id.clone()).or_default();
    let sum = |held: &BTreeMap<String, u64>| held.values().sum::<u64>();
    state.capacity_changed |= sum(&held) < sum(&notes.held);
    notes.held = held;
    notes.queue = pass.queue.clone().unwrap_or_default();
}

/// GPUs that the job holds by its record, by model.
pub(super) fn held(pass: &Pass) -> BTreeMap<String, u64> {
    let gpus = pass.terms.gpus;
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for allocation in &pass.advance.record.allocations {
        let more = gpus.saturating_mul(u64::from(allocation.live().len()));
        if more > 0 {
            let sum = held.entry(allocation.model.clone()).or_default();
            *sum = sum.saturating_add(more);
        }
    }
    held
}

/// What the job wants placed now.
pub(super) fn demand(state: &State, pass: &Pass, now: Now) -> Option<Demand> {
    let asked = pass.asked.as_ref().ok()?;
    let waits = pass.terms.never_twice && state.unheard().is_some();
    if pass.advance.wanted.is_empty() || waits {
        return None;
    }
    let notes = state.notes.get(&pass.id);
    let bars = notes.into_iter().flat_map(|notes| &notes.bars);
    let serial = |bar: &Bar| if bar.until > now.instant { i64::MAX } else { bar.serial };
    let created = pass.job.creation_timestamp().map_or(0, |time| convert::millis(&time));
    let longest = pass.job.spec.max_running_seconds;
    Some(Demand {
        job: pass.id.clone(),
        queue: pass.queue.clone().unwrap_or_default(),
        priority: priority(state, &pass.job),
        queued_at: created,
        wanted: pass.advance.wanted.clone(),
        request: asked.clone(),
        barred: bars.map(|(pool, bar)| (pool.clone(), serial(bar))).collect(),
        avoided: pass.advance.record.reclaimed_since(now.wall.as_millisecond() - STEERED_MILLIS),
        not_before: pass.advance.record.requeue_at,
        longest_seconds: longest.and_then(|limit| u64::try_from(limit).ok()),
        hold: notes.and_then(|notes| hold_of(notes, now)),
    })
}

/// The priority of a job by its class, or by the class that is everybody's default.
pub(super) fn priority(state: &State, job: &GpuJob) -> i32 {
    let named = job.spec.priority_class_name.clone().map(|name| (String::new(), name));
    let class = match named {
        Some(key) => state.priorities.get(&key),
        None => {
            let mut classes = state.priorities.iter().map(|(_, class)| class);
            classes.find(|class| class.global_default == Some(true))
        }
    };
    class.map_or(0, |class| class.value)
}

/// Counts what is on record as promised: once, when work begins.
pub(super) fn recall_promises(state: &mut State) {
    let keys: Vec<_> = state.keys.values().cloned().collect();
    for job in keys.iter().filter_map(|key| state.jobs.shared(key)).collect::<Vec<_>>() {
        recall(state, &job);
    }
}

/// Counts what is on record of one job as promised.
pub(super) fn recall(state: &mut State, job: &GpuJob) {
    let id = JobId(job.uid().unwrap_or_default());
    let asked = asked(state, &id, job);
    let Ok(asked) = asked.as_ref() else { return };
    for allocation in &stored(job).allocations {
        promise(state, &id, asked, allocation);
        let key = state.leases_of.get(&id).and_then(|leases| leases.get(&allocation.epoch));
        let lease = key.and_then(|key| state.leases.get(key));
        let serial = lease.and_then(|lease| lease.status.as_ref()?.serial);
        if let Some(promise) = state.promises.get_mut(&(id.clone(), allocation.epoch)) {
            promise.serial = serial;
        }
    }
}

/// The record as the store has it.
pub(super) fn stored(job: &GpuJob) -> lifecycle::Record {
    job.status.as_ref().map(convert::record::read).unwrap_or_default()
}

/// Notes GPUs as promised.
pub(super) fn promise(state: &mut State, id: &JobId, asked: &Request, allocation: &Allocation) {
    let promise = Promise {
        pool: allocation.pool.clone(),
        model: allocation.model.clone(),
        need: asked.need,
        size: asked.size,
        replicas: allocation.indexes.len(),
        serial: None,
    };
    state.promises.insert((id.clone(), allocation.epoch), promise);
}
