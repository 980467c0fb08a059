//! The serial pass: what is known, to what is written. Nothing here talks to anybody.
//!
//! Invariant: capacity is given out here and nowhere else, one pass at a time, counting what is
//! promised but not yet seen. A job with writes under way is left alone until they are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::jobs::{self, Sight, Wait};
use super::snapshot;
use super::state::{Bar, Notes, Promise, State, namespace_of};
use super::work::{JobWork, LeaseWork, Work};
use super::{leases, queues};
use crate::api::convert::{self, Asked};
use crate::api::gpulease::GpuLeaseStatus;
use crate::api::{GpuJob, reasons};
use crate::engine::explain::{self, WaitReason};
use crate::engine::lifecycle::{self, Advance, Allocation, Step};
use crate::engine::model::{Demand, Epoch, JobId, Placement, Plan, PoolId, Waiting};
use crate::engine::round;

/// A waiting job's message is rewritten at most this often while its reasons stay the same.
const REWORDED_AFTER: Duration = Duration::from_mins(1);

/// Who this hub is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Its configured ID.
    pub(super) id: String,
    /// Its incarnation.
    pub(super) incarnation: u32,
}

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For what is measured.
    pub(super) instant: Instant,
    /// For what is written.
    pub(super) wall: Timestamp,
}

/// A job under consideration.
struct Pass {
    id: JobId,
    job: GpuJob,
    asked: Arc<Result<Asked, Vec<String>>>,
    queue: Result<String, String>,
    advance: Advance,
}

/// Decides everything that follows from what is known; remembers it as promised.
pub(super) fn decide(state: &mut State, identity: &Identity, now: Now) -> Vec<Work> {
    if snapshot::settle_promises(state) {
        state.capacity_changed = true;
    }
    let mut work = Vec::new();
    let passes = passes(state, now, &mut work);
    let demands: Vec<Demand> = passes.iter().filter_map(|pass| demand(state, pass, now)).collect();
    let plan = match demands.is_empty() {
        true => Plan::default(),
        false => round::round(&snapshot::snapshot(state, demands, now.instant, now.wall)),
    };
    let mut placements: BTreeMap<JobId, Vec<Placement>> = BTreeMap::new();
    for placement in plan.placements {
        placements.entry(placement.job.clone()).or_default().push(placement);
    }
    for pass in passes {
        let placed = placements.remove(&pass.id).unwrap_or_default();
        let waiting = plan.waiting.get(&pass.id);
        work.extend(conclude(state, identity, pass, (placed, waiting), now));
    }
    work
}

/// The jobs to be looked at, each advanced by what is seen of its leases.
fn passes(state: &mut State, now: Now, work: &mut Vec<Work>) -> Vec<Pass> {
    let mut looked = std::mem::take(&mut state.dirty);
    let waiting_too = std::mem::take(&mut state.capacity_changed);
    for (id, notes) in &state.notes {
        let due = notes.due.is_some_and(|due| due <= now.instant);
        if due || (waiting_too && notes.waits) {
            looked.insert(id.clone());
        }
    }
    let mut passes = Vec::new();
    for id in looked {
        let Some(job) = state.keys.get(&id).and_then(|key| state.jobs.get(key)).cloned() else {
            work.extend(retire(state, &id));
            continue;
        };
        if state.notes.get(&id).is_none_or(|notes| !notes.busy) {
            passes.push(pass(state, id, job, now, work));
        }
    }
    passes
}

/// Ends the leases of a job that is gone; those of members that left went with them.
fn retire(state: &mut State, id: &JobId) -> Vec<Work> {
    if state.retiring.contains(id) {
        return Vec::new();
    }
    let steps = lifecycle::retire(&seen_leases(state, id));
    let removed = steps.iter().filter_map(|step| match step {
        Step::Remove(epoch) => removal(state, id, *epoch),
        _ => None,
    });
    let mut work: Vec<Work> = removed.collect();
    let withdrawn: Vec<_> = steps.iter().filter_map(|step| withdrawal(state, id, step)).collect();
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

fn pass(state: &mut State, id: JobId, job: GpuJob, now: Now, work: &mut Vec<Work>) -> Pass {
    let asked = asked(state, &id, &job);
    let found = queues::of(state, &job);
    let drains = found.as_ref().is_ok_and(|queue| queues::drains(queue));
    let queue = found.map(ResourceExt::name_any);
    let mut terms = match asked.as_ref() {
        Ok(asked) => asked.terms.clone(),
        Err(_) => lifecycle::Terms {
            completions: u32::MAX,
            backoff_limit: u32::MAX,
            ..lifecycle::Terms::default()
        },
    };
    let ended = [
        (job.metadata.deletion_timestamp.is_some(), "JobDeleted"),
        (job.spec.suspend, reasons::SUSPENDED),
        (drains, "QueueDrained"),
        (asked.is_err(), reasons::MISCONFIGURED),
    ];
    terms.stopped = ended.into_iter().find(|(ends, _)| *ends).map(|(_, reason)| reason);
    let record = stored(&job);
    let lost: BTreeSet<&str> = record
        .allocations
        .iter()
        .map(|allocation| allocation.pool.member.as_str())
        .filter(|member| is_lost(state, member, now, work))
        .collect();
    let leases = seen_leases(state, &id);
    let is_lost = |member: &str| lost.contains(member);
    let advance = lifecycle::advance(&terms, &record, &leases, is_lost, now.wall.as_millisecond());
    Pass { id, job, asked, queue, advance }
}

/// What the job asks, read once for each generation; a priority class that is not there is wrong.
fn asked(state: &mut State, id: &JobId, job: &GpuJob) -> Arc<Result<Asked, Vec<String>>> {
    let class = job.spec.priority_class_name.as_ref();
    let known = |name: &&String| state.priorities.get(&(String::new(), (*name).clone())).is_some();
    if let Some(name) = class.filter(|name| !known(name)) {
        return Arc::new(Err(vec![format!(
            "priorityClassName: there is no PriorityClass {name} on this hub; see kubectl get \
             priorityclasses"
        )]));
    }
    let generation = job.metadata.generation.unwrap_or(0);
    let notes = state.notes.entry(id.clone()).or_default();
    if let Some((_, asked)) = notes.asked.as_ref().filter(|(read, _)| *read == generation) {
        return asked.clone();
    }
    let asked = Arc::new(convert::asked(job));
    notes.asked = Some((generation, asked.clone()));
    asked
}

/// Whether a member is gone for ever: its deletion is ordered and it is silent, or it is known not
/// to exist. A member that is merely not listed is looked up first.
fn is_lost(state: &mut State, member: &str, now: Now, work: &mut Vec<Work>) -> bool {
    match state.members.get(&(String::new(), member.to_owned())) {
        Some(cluster) => {
            let silence = state.silence.get(member);
            let silent = silence.is_none_or(|silence| silence.is_silent(now.instant));
            cluster.metadata.deletion_timestamp.is_some() && silent
        }
        None => {
            if !state.missing.contains_key(member) {
                state.missing.insert(member.to_owned(), false);
                work.push(Work::LookUpMember(member.to_owned()));
            }
            state.missing.get(member) == Some(&true)
        }
    }
}

/// What the job wants placed now.
fn demand(state: &State, pass: &Pass, now: Now) -> Option<Demand> {
    let asked = pass.asked.as_ref().as_ref().ok()?;
    if pass.advance.wanted.is_empty() {
        return None;
    }
    let notes = state.notes.get(&pass.id);
    let bars = notes.into_iter().flat_map(|notes| &notes.bars);
    let serial = |bar: &Bar| if bar.until > now.instant { i64::MAX } else { bar.serial };
    let created = pass.job.creation_timestamp().map_or(0, |time| convert::millis(&time));
    Some(Demand {
        job: pass.id.clone(),
        queue: pass.queue.clone().unwrap_or_default(),
        priority: priority(state, &pass.job),
        queued_at: created,
        wanted: pass.advance.wanted.clone(),
        request: asked.request.clone(),
        barred: bars.map(|(pool, bar)| (pool.clone(), serial(bar))).collect(),
        not_before: pass.advance.record.requeue_at,
    })
}

fn priority(state: &State, job: &GpuJob) -> i32 {
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

/// Turns what was decided of one job into writes, and notes what is promised.
fn conclude(
    state: &mut State,
    identity: &Identity,
    mut pass: Pass,
    (placed, waiting): (Vec<Placement>, Option<&Waiting>),
    now: Now,
) -> Vec<Work> {
    bar_refusals(state, &pass, now);
    let mut work = JobWork::new(pass.id.clone(), pass.job.clone());
    let mut others = Vec::new();
    for step in &pass.advance.steps {
        match step {
            Step::Create(epoch) => work.leases.extend(complete(&pass, *epoch, identity)),
            Step::Refresh => work.look = true,
            // Only what is on record in the store may go.
            Step::Remove(epoch) if stored(&pass.job).is_over(*epoch) => {
                others.extend(removal(state, &pass.id, *epoch));
            }
            Step::Remove(_) => {}
            step => work.leases.extend(withdrawal(state, &pass.id, step)),
        }
    }
    if let Ok(asked) = pass.asked.clone().as_ref() {
        for placement in placed {
            let allocation = allocate(state, &mut pass, asked, placement, (identity, now));
            let lease = leases::build(&pass.job, &allocation, &identity.id);
            promise(state, &pass.id, asked, &allocation);
            pass.advance.record.allocations.push(allocation);
            work.leases.push(LeaseWork::Create(Box::new(lease)));
        }
    }
    work.leases.extend(withdrawals_from_leaving(state, &pass));
    let wait = wait(state, &pass, waiting, now);
    let new = status(state, &pass, identity, wait.clone(), now);
    note(state, &pass, wait.as_ref(), waiting, now);
    schedule(state, &mut work, &pass, new, now);
    if !work.is_empty() {
        state.notes.entry(pass.id).or_default().busy = true;
        others.push(Work::Job(Box::new(work)));
    }
    others
}

/// The record as the store has it.
fn stored(job: &GpuJob) -> lifecycle::Record {
    job.status.as_ref().map(convert::record::read).unwrap_or_default()
}

/// The lease of an allocation that has none; somebody else may have ended it meanwhile, so the job
/// is read again first.
fn complete(pass: &Pass, epoch: Epoch, identity: &Identity) -> Option<LeaseWork> {
    let mut held = pass.advance.record.allocations.iter();
    let allocation = held.find(|allocation| allocation.epoch == epoch)?;
    Some(LeaseWork::Complete(Box::new(leases::build(&pass.job, allocation, &identity.id))))
}

/// Remembers which pools refused, so that they are not asked again before they change.
fn bar_refusals(state: &mut State, pass: &Pass, now: Now) {
    for refused in &pass.advance.refused {
        let key = state.leases_of.get(&pass.id).and_then(|leases| leases.get(&refused.epoch));
        let lease = key.and_then(|key| state.leases.get(key));
        let status = lease.and_then(|lease| lease.status.as_ref());
        let serial = status.and_then(|status| status.serial).unwrap_or(0);
        let notes = state.notes.entry(pass.id.clone()).or_default();
        let times = notes.bars.get(&refused.pool).map_or(1, |bar| bar.times.saturating_add(1));
        // The first refusal waits for a newer picture only; repeated ones also for time, so that
        // a pool which refuses for another reason than its GPUs is not asked in a loop.
        let delay = if times == 1 { 0 } else { 1 << times.min(6) };
        let until = now.instant + Duration::from_secs(delay);
        notes.bars.insert(refused.pool.clone(), Bar { serial, times, until });
    }
}

fn allocate(
    state: &State,
    pass: &mut Pass,
    asked: &Asked,
    placement: Placement,
    (identity, now): (&Identity, Now),
) -> Allocation {
    let record = &mut pass.advance.record;
    let attempt = record.next_attempt;
    record.next_attempt += 1;
    let key = (namespace_of(&placement.pool.member), placement.pool.pool.clone());
    let pool = state.pools.get(&key);
    let longest = pool.map_or(1, |pool| pool.spec.offer.max_attempt_seconds);
    let longest = u64::try_from(longest).unwrap_or(1);
    let ran = placement.indexes.iter().filter_map(|index| record.ran.get(&index)).max();
    let left = asked.terms.max_running_seconds.map(|limit| limit - limit.min(*ran.unwrap_or(&0)));
    Allocation {
        epoch: Epoch { incarnation: identity.incarnation, attempt },
        pool: placement.pool,
        indexes: placement.indexes,
        ended: crate::engine::indexes::Indexes::default(),
        model: placement.model,
        generation: pass.job.metadata.generation.unwrap_or(0),
        deadline_seconds: left.map_or(longest, |left| left.min(longest)).max(1),
        at: now.wall.as_millisecond(),
    }
}

fn promise(state: &mut State, id: &JobId, asked: &Asked, allocation: &Allocation) {
    let promise = Promise {
        pool: allocation.pool.clone(),
        model: allocation.model.clone(),
        need: asked.request.need,
        size: asked.request.size,
        replicas: allocation.indexes.len(),
        serial: None,
    };
    state.promises.insert((id.clone(), allocation.epoch), promise);
}

/// The withdrawal that a step asks for; `None` if its lease is not seen.
fn withdrawal(state: &State, id: &JobId, step: &Step) -> Option<LeaseWork> {
    let (epoch, reason, unanswered_only) = match step {
        Step::Withdraw(epoch, reason) => (epoch, *reason, false),
        Step::WithdrawUnanswered(epoch) => (epoch, "NotAccepted", true),
        Step::Create(_) | Step::Remove(_) | Step::Refresh => return None,
    };
    let lease = state.leases.get(state.leases_of.get(id)?.get(epoch)?)?.clone();
    Some(LeaseWork::Withdraw { lease: Box::new(lease), reason, unanswered_only })
}

/// The removal of a lease, unless it is under way.
fn removal(state: &State, id: &JobId, epoch: Epoch) -> Option<Work> {
    let key = state.leases_of.get(id)?.get(&epoch)?;
    (!state.removing.contains(key)).then(|| Work::Remove(key.clone()))
}

/// A member that leaves in order is asked to end what it runs.
fn withdrawals_from_leaving(state: &State, pass: &Pass) -> Vec<LeaseWork> {
    let leaving = |allocation: &&Allocation| {
        let member = state.members.get(&(String::new(), allocation.pool.member.clone()));
        member.is_some_and(|member| member.metadata.deletion_timestamp.is_some())
    };
    let fresh = |work: &LeaseWork| match work {
        LeaseWork::Withdraw { lease, .. } => lease.spec.withdrawn.is_none(),
        _ => false,
    };
    let held = pass.advance.record.allocations.iter().filter(leaving);
    let asked = held.filter_map(|allocation| {
        withdrawal(state, &pass.id, &Step::Withdraw(allocation.epoch, "MemberLeft"))
    });
    asked.filter(fresh).collect()
}

/// Why some of the job waits, in words.
fn wait(state: &State, pass: &Pass, waiting: Option<&Waiting>, now: Now) -> Option<Wait> {
    let quota = |reason, message| Some(Wait { reason, for_quota: true, message });
    let place = |reason, message| Some(Wait { reason, for_quota: false, message });
    let asked = match pass.asked.as_ref() {
        Ok(asked) => asked,
        Err(wrong) => return quota(reasons::MISCONFIGURED, wrong.join("; ")),
    };
    let waiting = waiting?;
    let queue = pass.queue.as_ref().unwrap_or_else(|name| name);
    if let Some((reason, message)) = queues::refusal(waiting, queue) {
        return quota(reason, message);
    }
    match waiting {
        Waiting::BackOff { until } => {
            let until = convert::time(*until).0.strftime("%H:%M:%SZ");
            let message = format!("not placed again before {until}, after what ended before");
            place(reasons::BACKING_OFF, message)
        }
        Waiting::NoPool { refusals } => {
            let reason = WaitReason::of(refusals).as_str();
            let notes = state.notes.get(&pass.id);
            let same = notes.is_some_and(|notes| {
                notes.refusals.iter().eq(refusals.keys())
                    && notes.written.is_some_and(|at| now.instant < at + REWORDED_AFTER)
            });
            let status = pass.job.status.as_ref();
            let placed = status.and_then(|status| {
                crate::api::conditions::find(&status.conditions, reasons::PLACED)
            });
            match placed.filter(|placed| same && placed.reason == reason) {
                Some(placed) => place(reason, placed.message.clone()),
                None => place(reason, explain::explain(refusals, &asked.request)),
            }
        }
        _ => None,
    }
}

fn status(
    state: &State,
    pass: &Pass,
    identity: &Identity,
    wait: Option<Wait>,
    now: Now,
) -> crate::api::GpuJobStatus {
    let keys = state.leases_of.get(&pass.id).into_iter().flatten();
    let leases: BTreeMap<Epoch, GpuLeaseStatus> = keys
        .filter_map(|(epoch, key)| Some((*epoch, state.leases.get(key)?.status.clone()?)))
        .collect();
    let members = pass.advance.record.allocations.iter().map(|held| held.pool.member.clone());
    let silent: BTreeSet<String> = members
        .filter(|member| {
            state.silence.get(member).is_none_or(|silence| silence.is_silent(now.instant))
        })
        .collect();
    jobs::status(&Sight {
        job: &pass.job,
        record: &pass.advance.record,
        incarnation: identity.incarnation,
        leases: &leases,
        queue: pass.queue.as_ref().unwrap_or_else(|name| name),
        wait,
        silent: &silent,
        now: now.wall,
    })
}

/// Notes what later passes need.
fn note(state: &mut State, pass: &Pass, wait: Option<&Wait>, waiting: Option<&Waiting>, now: Now) {
    let gpus = pass.asked.as_ref().as_ref().map_or(0, |asked| asked.terms.gpus);
    let held = gpus * u64::from(pass.advance.record.live().len());
    let notes: &mut Notes = state.notes.entry(pass.id.clone()).or_default();
    if held < notes.held_gpus {
        state.capacity_changed = true;
    }
    notes.held_gpus = held;
    notes.queue = pass.queue.clone().unwrap_or_default();
    notes.waits = wait.is_some() && pass.asked.is_ok();
    notes.finished = pass.advance.record.finished_at.is_some();
    if let Some(Waiting::NoPool { refusals }) = waiting {
        notes.refusals = refusals.keys().copied().collect();
    }
    let live: BTreeSet<PoolId> =
        pass.advance.record.allocations.iter().map(|held| held.pool.clone()).collect();
    // A pool that accepted is no longer held to have refused.
    notes.bars.retain(|pool, _| !live.contains(pool) || notes.waits);
    let bars = notes.bars.values().map(|bar| bar.until).filter(|until| *until > now.instant);
    let wakes = pass.advance.wake_at.map(|at| now.instant + until(at, now.wall));
    notes.due = bars.chain(wakes).min();
}

fn until(millis: i64, wall: Timestamp) -> Duration {
    let left = millis.saturating_sub(wall.as_millisecond()).max(0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0) + 1)
}

/// Writes the new status now or with the next change, and deletes a job whose time is over.
fn schedule(
    state: &mut State,
    work: &mut JobWork,
    pass: &Pass,
    new: crate::api::GpuJobStatus,
    now: Now,
) {
    let notes = state.notes.entry(pass.id.clone()).or_default();
    let old = pass.job.status.clone().unwrap_or_default();
    if new != old {
        let at = notes.written.map(|at| at + jobs::patience(&old, &new));
        match at.filter(|at| *at > now.instant) {
            Some(at) => notes.due = Some(notes.due.map_or(at, |due| due.min(at))),
            None => {
                notes.written = Some(now.instant);
                work.status = Some(new);
            }
        }
    }
    let ttl = pass.job.spec.ttl_seconds_after_finished;
    if let (Some(finished), Some(ttl)) = (pass.advance.record.finished_at, ttl) {
        let at = finished.saturating_add(ttl.saturating_mul(1000));
        if at <= now.wall.as_millisecond() && work.status.is_none() {
            work.delete = true;
        } else {
            let at = now.instant + until(at, now.wall);
            notes.due = Some(notes.due.map_or(at, |due| due.min(at)));
        }
    }
}

/// Counts what is on record as promised: once, when work begins.
pub(super) fn recall_promises(state: &mut State) {
    let jobs: Vec<GpuJob> = state.jobs.iter().map(|(_, job)| job.clone()).collect();
    for job in jobs {
        let id = JobId(job.uid().unwrap_or_default());
        let asked = asked(state, &id, &job);
        let Ok(asked) = asked.as_ref() else { continue };
        for allocation in &stored(&job).allocations {
            promise(state, &id, asked, allocation);
            let key = state.leases_of.get(&id).and_then(|leases| leases.get(&allocation.epoch));
            let lease = key.and_then(|key| state.leases.get(key));
            let serial = lease.and_then(|lease| lease.status.as_ref()?.serial);
            if let Some(promise) = state.promises.get_mut(&(id.clone(), allocation.epoch)) {
                promise.serial = serial;
            }
        }
    }
}
