//! From what was decided of one job to the writes that carry it out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::facts::Notes;
use super::identity::Identity;
use super::jobs::{self, Sight, Wait};
use super::rounds::{Now, Pass, held, promise, stored};
use super::state::{State, namespace_of};
use super::work::{JobWork, LeaseWork, Work};
use super::{bars, leases, memory, queues};
use crate::api::convert;
use crate::api::gpujob::AfterLease;
use crate::api::gpulease::{Adoption, GpuLeaseStatus};
use crate::api::reasons;
use crate::engine::explain::{self, WaitReason};
use crate::engine::lifecycle::failover::bound;
use crate::engine::lifecycle::{ANSWER_MILLIS, Allocation, Step};
use crate::engine::model::{Epoch, JobId, Placement, Refusal, Waiting};
use crate::planted::{Defect, planted};

/// A waiting job's message is rewritten at most this often while its reason stays the same.
const REWORDED_AFTER: Duration = Duration::from_mins(1);
/// A new job that waits only for members to answer others is not told so before this time.
const BRIEF: Duration = Duration::from_secs(5);

/// Turns what was decided of one job into writes, and notes what is promised.
pub(super) fn conclude(
    state: &mut State,
    identity: &Identity,
    mut pass: Pass,
    (placed, waiting): (Vec<Placement>, Option<&Waiting>),
    now: Now,
) -> Vec<Work> {
    bars::lift(state, &pass);
    let mut work = JobWork::new(pass.id.clone(), pass.job.clone());
    let mut others = Vec::new();
    for step in &pass.advance.steps {
        match step {
            Step::Create(epoch) => work.leases.extend(complete(&pass, *epoch, (identity, now))),
            Step::Reject(orphan) => {
                let lease = leases::rejection(&pass.job, orphan, &identity.id);
                work.leases.push(LeaseWork::Create(Box::new(lease)));
            }
            Step::Refresh => work.look = true,
            Step::Adopt(epoch) => work.leases.extend(leases::adoption(state, &pass.id, *epoch)),
            // Only what is on record in the store may go.
            Step::Remove(epoch) if is_recorded(&pass, *epoch) => {
                others.extend(leases::removal(state, &pass.id, *epoch));
            }
            Step::Remove(_) => {}
            step => work.leases.extend(leases::withdrawal(state, &pass.id, step)),
        }
    }
    if let Ok(asked) = pass.asked.clone() {
        // What it wanted when it was looked at may be on record since: nothing is placed twice.
        let wanted = pass.advance.wanted.clone();
        let placed = placed
            .into_iter()
            .filter(|one| one.indexes.minus(&wanted).is_empty() || planted(Defect::PlacedTwice));
        for placement in placed {
            settle(state, &pass.id, &placement);
            let allocation = allocate(state, &mut pass, placement, (identity, now));
            let saved = &pass.advance.record.checkpoints;
            let lease = leases::build(&pass.job, &allocation, saved, &identity.id);
            promise(state, &pass.id, &asked, &allocation);
            pass.advance.record.allocations.push(allocation);
            work.leases.push(LeaseWork::Create(Box::new(lease)));
        }
    }
    work.leases.extend(leases::expelled(state, &pass.job, &pass.id, &pass.advance.record));
    work.leases.extend(leases::preempted(state, &pass.id, &pass.advance.record));
    let wait = wait(state, &pass, waiting, now);
    let new = status(state, &pass, identity, wait.clone(), now);
    note(state, &pass, wait.as_ref(), now);
    schedule(state, &mut work, &pass, (new, waiting.is_some_and(is_brief)), now);
    if !work.is_empty() {
        state.notes.entry(pass.id).or_default().busy = true;
        others.push(Work::Job(Box::new(work)));
    }
    others
}

/// Notes that this much of what the job wants is placed: rounds may come before it is looked at again.
fn settle(state: &mut State, id: &JobId, placement: &Placement) {
    let Some(notes) = state.notes.get_mut(id) else { return };
    notes.hold = None;
    if planted(Defect::PlacedTwice) {
        return;
    }
    if let Some(demand) = &mut notes.demand {
        demand.wanted = demand.wanted.minus(&placement.indexes);
    }
}

/// Whether the store holds all that the lease of `epoch` reported.
fn is_recorded(pass: &Pass, epoch: Epoch) -> bool {
    let stored = stored(&pass.job);
    pass.leases.get(&epoch).is_some_and(|lease| stored.is_done_with(lease))
}

/// The lease of an allocation that has none; somebody else may have ended it meanwhile, so the job
/// is read again first. If its member may have accepted it once, it only takes that up again.
fn complete(pass: &Pass, epoch: Epoch, (identity, now): (&Identity, Now)) -> Option<LeaseWork> {
    let mut held = pass.advance.record.allocations.iter();
    let allocation = held.find(|allocation| allocation.epoch == epoch)?;
    let saved = &pass.advance.record.checkpoints;
    let mut lease = leases::build(&pass.job, allocation, saved, &identity.id);
    let age = now.wall.as_millisecond().saturating_sub(allocation.at);
    if epoch.incarnation < identity.incarnation || age > ANSWER_MILLIS {
        lease.spec.adopted = Some(Adoption::default());
    }
    Some(LeaseWork::Complete(Box::new(lease)))
}

fn allocate(
    state: &State,
    pass: &mut Pass,
    placement: Placement,
    (identity, now): (&Identity, Now),
) -> Allocation {
    let (record, terms) = (&mut pass.advance.record, &pass.terms);
    let attempt = record.next_attempt;
    record.next_attempt += u32::from(!planted(Defect::AttemptReused));
    let key = (namespace_of(&placement.pool.member), placement.pool.pool.clone());
    let pool = state.pools.get(&key);
    let longest = pool.map_or(1, |pool| pool.spec.offer.max_attempt_seconds);
    let longest = u64::try_from(longest).unwrap_or(1);
    let ran = placement.indexes.iter().filter_map(|index| record.ran.get(&index)).max();
    let failover = pass.job.spec.failover.as_ref();
    let stops = failover.is_some_and(|failover| failover.after_lease == AfterLease::Stop);
    let saves = terms.checkpoint_uri.is_some();
    let earlier = if saves { record.earlier(&placement.indexes) } else { Vec::new() };
    let left = terms.max_running_seconds.map(|limit| limit - limit.min(*ran.unwrap_or(&0)));
    Allocation {
        epoch: Epoch { incarnation: identity.incarnation, attempt },
        pool: placement.pool,
        indexes: placement.indexes,
        ended: crate::engine::indexes::Indexes::default(),
        model: placement.model,
        generation: pass.job.metadata.generation.unwrap_or(0),
        deadline_seconds: left.map_or(longest, |left| left.min(longest)).max(1),
        stop_after: stops.then_some(identity.lease_seconds),
        expires_after: (!stops).then_some(identity.lease_seconds),
        never_twice: terms.never_twice,
        earlier,
        at: now.wall.as_millisecond(),
    }
}

/// Why some of the job waits, in words.
pub(super) fn wait(
    state: &State,
    pass: &Pass,
    waiting: Option<&Waiting>,
    now: Now,
) -> Option<Wait> {
    let quota = |reason, message| Some(Wait { reason, for_quota: true, message });
    let place = |reason, message| Some(Wait { reason, for_quota: false, message });
    let asked = match &pass.asked {
        Ok(asked) => asked,
        Err(wrong) => return quota(reasons::MISCONFIGURED, wrong.join("; ")),
    };
    if let Some(message) = memory::doubt(state, pass, now) {
        return place(reasons::HUB_RESTORED, message);
    }
    let queue = pass.queue.as_ref().unwrap_or_else(|name| name);
    let drains = state.queues.get(&(String::new(), queue.clone())).is_some_and(queues::drains);
    // A drained queue wants nothing placed, so no round speaks of its jobs.
    let held = (drains && pass.advance.record.finished_at.is_none()).then_some(&Waiting::QueueHeld);
    let waiting = waiting.or(held)?;
    if let Some((reason, message)) = queues::refusal(waiting, queue) {
        return quota(reason, message);
    }
    match waiting {
        Waiting::BackOff { until } => {
            let until = convert::time(*until).0.strftime("%H:%M:%SZ");
            let message = format!("not placed again before {until}, after what ended before");
            place(reasons::BACKING_OFF, message)
        }
        Waiting::Preempting { pool, .. } => {
            let message = format!(
                "guests of lower priority make room for it in {}/{}",
                pool.member, pool.pool
            );
            place(reasons::WAITING_FOR_PREEMPTED_WORKLOADS, message)
        }
        Waiting::NoPool { refusals } => {
            let refused = refusals.contains_key(&Refusal::Refused)
                && refusals.keys().all(|why| !why.is_temporary() || *why == Refusal::Refused);
            let reason = match refused {
                true => reasons::MEMBER_REFUSED,
                false => WaitReason::of(refusals).as_str(),
            };
            let notes = state.notes.get(&pass.id);
            let fresh =
                |notes: &Notes| notes.written.is_some_and(|at| now.instant < at + REWORDED_AFTER);
            let same = notes.is_some_and(fresh);
            let status = pass.job.status.as_ref();
            let placed = status.and_then(|status| {
                crate::api::conditions::find(&status.conditions, reasons::PLACED)
            });
            match placed.filter(|placed| same && placed.reason == reason) {
                Some(placed) => place(reason, placed.message.clone()),
                None => {
                    let said = if refused { last_refusal(notes) } else { String::new() };
                    place(reason, explain::explain(refusals, asked) + &said)
                }
            }
        }
        _ => None,
    }
}

/// The status that all of this adds up to.
pub(super) fn status(
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
    let silent: BTreeSet<String> =
        members.filter(|member| state.is_silent(member, now.instant)).collect();
    let held = pass.advance.record.allocations.iter();
    let bounds = held.filter_map(|held| bound(&pass.terms, held, pass.leases.get(&held.epoch)));
    let suspects = if silent.is_empty() { None } else { state.suspected };
    jobs::status(&Sight {
        bound: bounds.min(),
        suspects,
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
fn note(state: &mut State, pass: &Pass, wait: Option<&Wait>, now: Now) {
    let held = held(pass);
    let notes: &mut Notes = state.notes.entry(pass.id.clone()).or_default();
    notes.held = held;
    notes.preempted.retain(|epoch| !pass.advance.record.is_over(*epoch));
    notes.waits = wait.is_some() && pass.asked.is_ok();
    notes.finished = pass.advance.record.finished_at.is_some();
    let bars = notes.bars.values().map(|bar| bar.until).filter(|until| *until > now.instant);
    let wakes = pass.advance.wake_at.map(|at| now.instant + until(at, now.wall));
    // Rounds pass over those that wait; what their message counts may have changed meanwhile.
    let reworded = notes.waits.then(|| now.instant + REWORDED_AFTER);
    notes.due = bars.chain(wakes).chain(reworded).min();
}

pub(super) fn until(millis: i64, wall: Timestamp) -> Duration {
    let left = millis.saturating_sub(wall.as_millisecond()).max(0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0) + 1)
}

/// Whether a wait is likely over before anybody reads of it: members are busy answering.
pub(super) fn is_brief(waiting: &Waiting) -> bool {
    match waiting {
        Waiting::NoPool { refusals } => refusals.contains_key(&Refusal::TooManyUnanswered),
        _ => false,
    }
}

/// What a pool said when it refused, one of them.
fn last_refusal(notes: Option<&Notes>) -> String {
    let bars = notes.into_iter().flat_map(|notes| &notes.bars).filter(|(_, bar)| bar.times > 0);
    let mut said =
        bars.map(|(pool, bar)| format!("; {}/{} said {}", pool.member, pool.pool, bar.said));
    said.next_back().unwrap_or_default()
}

/// Writes the new status now or with the next change, and deletes a job whose time is over.
fn schedule(
    state: &mut State,
    work: &mut JobWork,
    pass: &Pass,
    (new, brief): (crate::api::GpuJobStatus, bool),
    now: Now,
) {
    let notes = state.notes.entry(pass.id.clone()).or_default();
    let old = pass.job.status.clone().unwrap_or_default();
    if new != old {
        // What is placed is on record before its lease exists, however briefly the rest waits.
        let first = pass.job.status.is_none() && brief && new.allocations.is_empty();
        let seen = *notes.seen.get_or_insert(now.instant);
        let at = match notes.written {
            Some(at) => Some(at + jobs::patience(&old, &new)),
            None => first.then(|| seen + BRIEF),
        };
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
