//! What to do next about one lease: the handshake between a hub's `GpuLease` and our `GuestLease`.
//!
//! Invariant: pods are confirmed only after the hub holds our acceptance of a lease that was not
//! withdrawn; a confirmed guest ends for what is written, never because an object is missing. Guests
//! of another grant are never touched, even if that grant names the same hub.
//!
//! Why one step at a time: each step is decided on what the step before left behind, so a crash
//! between any two lines continues where it stopped.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::api::digest::digest;
use crate::api::gpulease::{GpuLeaseStatus, LeasePhase, LeaseRefusal, Withdrawal};
use crate::api::{GpuLease, GuestLease};

mod ending;
mod step;
#[cfg(test)]
mod tests;

use ending::{ended_by, never_began, refused_late};
pub(super) use step::{Step, Terms, Verdict};

/// How long an ended guest whose lease the hub removed is remembered.
pub(super) const REMEMBERED: Duration = Duration::from_hours(1);
/// Added to a lease's grace before a guest that vanished counts as ended.
const SETTLING: Duration = Duration::from_secs(10);

/// The next step for a lease of which at least one record exists. Both must come from complete
/// lists, so that a missing one is more than unseen.
#[must_use]
pub(super) fn decide(
    lease: Option<&GpuLease>,
    guest: Option<&GuestLease>,
    terms: &Terms,
) -> Verdict {
    match (lease, guest) {
        (None, None) => Verdict::Rest,
        (Some(lease), None) => without_guest(lease, terms),
        (None, Some(guest)) => without_lease(guest, terms),
        (Some(lease), Some(guest)) if guest.spec.grant != terms.grant => {
            foreign(lease, guest, terms)
        }
        (Some(lease), Some(guest)) if !is_of(lease, guest) => match without_lease(guest, terms) {
            Verdict::Act(step) => Verdict::Act(step),
            _ => stranger(lease),
        },
        (Some(lease), Some(guest)) if guest.spec.confirmed => confirmed(lease, guest, terms),
        (Some(lease), Some(guest)) => proposed(lease, guest, terms),
    }
}

/// Whether `guest` is our record of the attempt that `lease` is for. A hub that lost the lease of an
/// attempt makes it again, with another UID; no hub uses the number of an attempt twice. What was
/// confirmed goes on by our own record: nothing of the new lease but its end is carried out.
#[must_use]
pub(super) fn is_of(lease: &GpuLease, guest: &GuestLease) -> bool {
    let (theirs, ours) = (&lease.spec, &guest.spec);
    let attempt = || {
        theirs.hub_id == ours.hub_id
            && theirs.job.uid == ours.job.uid
            && theirs.epoch == ours.epoch
            && theirs.indexes == ours.indexes
            && theirs.pool == ours.pool
            && (theirs.size, &theirs.gpu.model) == (ours.size, &ours.gpu.model)
    };
    lease.uid().as_ref() == Some(&ours.lease_uid) || (ours.confirmed && attempt())
}

/// The status that refuses `lease`.
#[must_use]
pub(super) fn refused(
    lease: &GpuLease,
    refusal: LeaseRefusal,
    serial: Option<i64>,
) -> GpuLeaseStatus {
    GpuLeaseStatus {
        observed_generation: lease.metadata.generation,
        phase: Some(LeasePhase::Refused),
        serial,
        refusal: Some(refusal.bounded()),
        ..GpuLeaseStatus::default()
    }
}

fn report(status: GpuLeaseStatus) -> Verdict {
    Verdict::Act(Step::Report(Box::new(status)))
}

fn phase(lease: &GpuLease) -> Option<LeasePhase> {
    lease.status.as_ref().and_then(|status| status.phase)
}

fn no(reason: &str, message: String) -> LeaseRefusal {
    LeaseRefusal { reason: reason.into(), message }
}

/// Why `lease` may not be accepted now, whatever the executor says.
fn overtaken(lease: &GpuLease, terms: &Terms) -> Option<LeaseRefusal> {
    let spec = &lease.spec;
    if let Some(withdrawal) = &spec.withdrawn {
        let why = &withdrawal.reason;
        return Some(no("Withdrawn", format!("the hub withdrew it before it was accepted: {why}")));
    }
    if spec.epoch.incarnation < terms.highest {
        let (epoch, highest) = (spec.epoch, terms.highest);
        let message = format!("epoch {epoch} is of an older hub: incarnation {highest} was seen");
        return Some(no("StaleEpoch", message));
    }
    None
}

/// Why `lease` is no contract of that hub.
fn unfit(lease: &GpuLease, terms: &Terms) -> Option<LeaseRefusal> {
    let (spec, hub) = (&lease.spec, &terms.hub_id);
    if spec.hub_id != *hub {
        let message = format!("it names hub {}, the owner granted {hub}", spec.hub_id);
        return Some(no("WrongHub", message));
    }
    let found = digest(spec);
    if spec.digest != found {
        return Some(no("DigestMismatch", format!("its content has digest {found}")));
    }
    None
}

fn without_guest(lease: &GpuLease, terms: &Terms) -> Verdict {
    match phase(lease) {
        Some(LeasePhase::Refused | LeasePhase::Released) => observed(lease),
        Some(_) => missing(lease, terms),
        None => match overtaken(lease, terms).or_else(|| unfit(lease, terms)) {
            Some(refusal) => report(refused(lease, refusal, None)),
            None if lease.spec.adopted.is_some() => {
                let message = "nothing is left here of the attempt that it takes up again";
                report(refused(lease, no("NothingToAdopt", message.into()), None))
            }
            None if lease.spec.epoch.incarnation > terms.highest => {
                Verdict::Act(Step::RaiseIncarnation(lease.spec.epoch.incarnation))
            }
            None => Verdict::Act(Step::Propose),
        },
    }
}

/// The record belongs to another grant for the same hub. The other link works on it; if its grant
/// was deleted, as when an owner renames it, nobody but we can still tell the hub how it ends.
fn foreign(lease: &GpuLease, guest: &GuestLease, terms: &Terms) -> Verdict {
    if !is_of(lease, guest) {
        return stranger(lease);
    }
    if guest.spec.confirmed { mirror(lease, guest, terms) } else { Verdict::Rest }
}

/// The name is taken by the record of another lease, whose guests go on.
fn stranger(lease: &GpuLease) -> Verdict {
    match phase(lease) {
        Some(LeasePhase::Refused | LeasePhase::Released) => observed(lease),
        _ => {
            let message = "the member still holds the record of another lease of this name";
            report(refused(lease, no("LeaseExists", message.into()), None))
        }
    }
}

/// An ended lease only owes the hub the generation that was seen.
fn observed(lease: &GpuLease) -> Verdict {
    let status = lease.status.clone().unwrap_or_default();
    if status.observed_generation == lease.metadata.generation {
        return Verdict::Rest;
    }
    report(GpuLeaseStatus { observed_generation: lease.metadata.generation, ..status })
}

/// The hub holds our acceptance but our own record is gone: somebody deleted it, and its pods are
/// going with it. Their end was not seen, so it counts as an eviction.
fn missing(lease: &GpuLease, terms: &Terms) -> Verdict {
    let mut status = lease.status.clone().unwrap_or_default();
    status.observed_generation = lease.metadata.generation;
    status.end_reason = Some("Unknown".into());
    if status.phase != Some(LeasePhase::Releasing) {
        status.phase = Some(LeasePhase::Releasing);
        return Verdict::Act(Step::ReportMissing(Box::new(status)));
    }
    let grace = u64::try_from(lease.spec.grace_seconds).unwrap_or(0).min(86_400);
    let certain = Duration::from_secs(grace) + SETTLING;
    if terms.missing < certain {
        return Verdict::Later(certain.saturating_sub(terms.missing));
    }
    let ended = ended_by(lease, &status, "Unknown", "the member's record of it was deleted");
    status.phase = Some(LeasePhase::Released);
    status.nodes.clear();
    status.end_time = Some(Time(terms.now));
    status.ended.extend(ended);
    Verdict::Act(Step::ReportMissing(Box::new(status)))
}

fn without_lease(guest: &GuestLease, terms: &Terms) -> Verdict {
    if guest.spec.grant != terms.grant {
        return Verdict::Rest; // that grant's link looks after it, or the sweep does
    }
    let status = guest.status.as_ref();
    let phase = status.and_then(|status| status.phase);
    if !guest.spec.confirmed || phase == Some(LeasePhase::Refused) {
        return Verdict::Act(Step::Remove); // it never had pods
    }
    if phase != Some(LeasePhase::Released) {
        return Verdict::Rest; // an orphan: it ends as its contract says
    }
    if !guest.spec.forgotten {
        return Verdict::Act(Step::Forget);
    }
    let end = status.and_then(|status| status.end_time.as_ref()).map(|time| time.0);
    let age = end.map_or(Duration::MAX, |end| elapsed(end, terms.now));
    if age < terms.remembered {
        return Verdict::Later(terms.remembered.saturating_sub(age));
    }
    Verdict::Act(Step::Remove)
}

/// From `then` to `now`; nothing if the clock went back.
fn elapsed(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.as_second() - then.as_second()).unwrap_or(0))
}

/// Not confirmed: what counts is the executor's answer, whatever the hub's status says already.
fn proposed(lease: &GpuLease, guest: &GuestLease, terms: &Terms) -> Verdict {
    let answer = guest.status.clone().unwrap_or_default();
    match phase(lease) {
        Some(LeasePhase::Refused | LeasePhase::Released) => Verdict::Act(Step::Remove),
        Some(_) => match (answer.phase, withdrawal(lease)) {
            (Some(LeasePhase::Refused), _) => report(refused_late(lease, guest, terms)),
            (_, Some(withdrawal)) => {
                let message = "withdrawn before its pods existed";
                report(never_began(lease, &withdrawal.reason, message, terms))
            }
            (Some(LeasePhase::Reserved), None) => Verdict::Act(Step::Confirm),
            (_, None) => Verdict::Rest,
        },
        None => {
            if let Some(refusal) = overtaken(lease, terms) {
                return report(refused(lease, refusal, answer.serial));
            }
            match answer.phase {
                Some(LeasePhase::Refused) => {
                    report(refused(lease, answer.refusal.unwrap_or_default(), answer.serial))
                }
                Some(LeasePhase::Reserved) => report(GpuLeaseStatus {
                    observed_generation: lease.metadata.generation,
                    phase: Some(LeasePhase::Accepted),
                    serial: answer.serial,
                    ..GpuLeaseStatus::default()
                }),
                _ => Verdict::Rest,
            }
        }
    }
}

/// The hub's withdrawal of `lease`, as our own record can hold it.
fn withdrawal(lease: &GpuLease) -> Option<Withdrawal> {
    lease.spec.withdrawn.clone().map(Withdrawal::bounded)
}

fn confirmed(lease: &GpuLease, guest: &GuestLease, terms: &Terms) -> Verdict {
    let over = guest.status.as_ref().and_then(|status| status.phase);
    let over = matches!(over, Some(LeasePhase::Released | LeasePhase::Refused));
    if let Some(withdrawal) = withdrawal(lease)
        && guest.spec.withdrawn.as_ref() != Some(&withdrawal)
        && !over
    {
        return Verdict::Act(Step::Withdraw(withdrawal));
    }
    if let Some(adoption) = lease.spec.adopted.as_ref().filter(|_| !over)
        && adoption.expired_at == guest.status.as_ref().and_then(|status| status.expired_at.clone())
        && adoption.expired_at.is_some()
        && guest.spec.adopted.as_ref() != Some(adoption)
    {
        return Verdict::Act(Step::Adopt(adoption.clone()));
    }
    mirror(lease, guest, terms)
}

/// Tells the hub what the executor wrote of a confirmed guest.
fn mirror(lease: &GpuLease, guest: &GuestLease, terms: &Terms) -> Verdict {
    let status = guest.status.clone().unwrap_or_default();
    if status.phase == Some(LeasePhase::Refused) {
        // Confirmed and refused at once: the refusal was first, so it has no pods.
        return match phase(lease) {
            Some(LeasePhase::Refused | LeasePhase::Released) => observed(lease),
            Some(_) => report(refused_late(lease, guest, terms)),
            None => report(refused(lease, status.refusal.unwrap_or_default(), status.serial)),
        };
    }
    let before = lease.status.as_ref();
    let entered = before.and_then(|status| status.serial);
    let mirror = GpuLeaseStatus {
        observed_generation: lease.metadata.generation,
        // They follow from the rest when it is written.
        conditions: before.map(|status| status.conditions.clone()).unwrap_or_default(),
        phase: match status.phase {
            None | Some(LeasePhase::Reserved) => Some(LeasePhase::Accepted),
            other => other,
        },
        serial: entered.or(status.serial),
        refusal: status.refusal,
        pods: status.pods,
        nodes: status.nodes,
        start_time: status.start_time,
        end_time: status.end_time,
        end_reason: status.end_reason,
        expired_at: status.expired_at,
        ended: status.ended,
    };
    // Nodes go along with what else changes, and saves with the end that they belong to: an older hub
    // drops both each time.
    let nodes = before.map(|status| status.nodes.clone()).unwrap_or_default();
    let mut known = GpuLeaseStatus { nodes, ..mirror.clone() };
    for (new, old) in known.ended.iter_mut().zip(before.into_iter().flat_map(|one| &one.ended)) {
        if old.checkpoint.is_none() && old.lost_seconds == 0 {
            (new.checkpoint, new.lost_seconds) = (None, 0);
        }
    }
    if before == Some(&known) {
        return Verdict::Rest;
    }
    report(mirror)
}
