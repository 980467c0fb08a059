//! How a lease is reported that ended without its pods having told how.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Terms;
use crate::api::gpulease::{EndedGroup, GpuLeaseStatus, LeasePhase, LeaseRefusal};
use crate::api::{GpuLease, GuestLease};
use crate::engine::indexes::Indexes;

/// The indexes of `lease` that have not ended, as ended for `reason`.
pub(super) fn ended_by(
    lease: &GpuLease,
    status: &GpuLeaseStatus,
    reason: &str,
    message: &str,
) -> Option<EndedGroup> {
    let all = Indexes::parse(&lease.spec.indexes)?;
    let known = status.ended.iter().filter_map(|group| Indexes::parse(&group.indexes));
    let left = known.fold(all, |left, group| left.minus(&group));
    let group = || EndedGroup {
        reason: reason.into(),
        indexes: left.to_string(),
        message: Some(message.into()),
        ..EndedGroup::default()
    };
    (!left.is_empty()).then(|| group().bounded())
}

/// Accepted, but its pods were never allowed: all of it ended without having begun.
pub(super) fn never_began(
    lease: &GpuLease,
    reason: &str,
    message: &str,
    terms: &Terms,
) -> GpuLeaseStatus {
    let mut status = lease.status.clone().unwrap_or_default();
    status.ended.extend(ended_by(lease, &status, reason, message));
    status.observed_generation = lease.metadata.generation;
    status.phase = Some(LeasePhase::Released);
    status.nodes.clear();
    status.end_reason = Some(reason.into());
    status.end_time = Some(Time(terms.now));
    status
}

/// The executor gave its reservation up while our acceptance was on its way to the hub: there it
/// was accepted, so that it has ended; the hub places it again.
pub(super) fn refused_late(lease: &GpuLease, guest: &GuestLease, terms: &Terms) -> GpuLeaseStatus {
    let refusal = guest.status.clone().and_then(|status| status.refusal).unwrap_or_default();
    let LeaseRefusal { reason, message } = refusal;
    never_began(lease, &reason, &message, terms)
}
