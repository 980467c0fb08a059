//! What a decision needs, and what it can be.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::api::gpulease::{Adoption, GpuLeaseStatus, Withdrawal};

/// What a decision depends on besides the two records.
#[derive(Clone, Debug)]
pub(in crate::agent::link) struct Terms {
    /// Name of the owner's grant that is served.
    pub grant: String,
    /// The hub that the owner granted.
    pub hub_id: String,
    /// Highest incarnation of that hub that was ever seen.
    pub highest: u32,
    /// How long the guest of a lease that needs one has been missing.
    pub missing: Duration,
    /// How long ended guests are remembered.
    pub remembered: Duration,
    /// Now.
    pub now: Timestamp,
}

/// One step towards agreement of the two records.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::agent::link) enum Step {
    /// Remember that the hub has a new incarnation.
    RaiseIncarnation(u32),
    /// Create the guest lease, for the executor to answer.
    Propose,
    /// Allow the guest's pods: the hub holds our acceptance.
    Confirm,
    /// Tell the executor that the hub wants an end.
    Withdraw(Withdrawal),
    /// Tell the executor that the hub calls it current although it expired.
    Adopt(Adoption),
    /// Write this status to the hub.
    Report(Box<GpuLeaseStatus>),
    /// Write this status to the hub once it is certain that there is no guest.
    ReportMissing(Box<GpuLeaseStatus>),
    /// Delete the guest lease: it never had pods, or was remembered long enough.
    Remove,
    /// Mark the guest lease as one that its hub removed, once that is certain.
    Forget,
}

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::agent::link) enum Verdict {
    /// Do this, then decide again.
    Act(Step),
    /// Decide again after this time, whatever happens.
    Later(Duration),
    /// Nothing until something changes.
    Rest,
}
