//! Types and reasons of conditions, as users read them.

/// Quota is held.
pub const QUOTA_RESERVED: &str = "QuotaReserved";
/// Every replica that may run holds an accepted lease.
pub const PLACED: &str = "Placed";
/// All its pods run.
pub const PODS_READY: &str = "PodsReady";
/// An attempt ended before its end.
pub const EVICTED: &str = "Evicted";
/// It waits again.
pub const REQUEUED: &str = "Requeued";
/// Its members answered within 40 s.
pub const REACHABLE: &str = "Reachable";
/// It is over.
pub const FINISHED: &str = "Finished";
/// It is over, as it should; named as in batch/v1.
pub const COMPLETE: &str = "Complete";
/// It is over, without success; named as in batch/v1.
pub const FAILED: &str = "Failed";
/// It will fail once nothing of it runs; named as in batch/v1.
pub const FAILURE_TARGET: &str = "FailureTarget";
/// The user stopped it; named as in batch/v1.
pub const SUSPENDED: &str = "Suspended";
/// A member, a pool or a hub is fit for work.
pub const READY: &str = "Ready";

/// The spec cannot be carried out; the message says why.
pub const MISCONFIGURED: &str = "Misconfigured";
/// The queue admits nothing new.
pub const QUEUE_HELD: &str = "QueueHeld";
/// No such queue, or it does not take the namespace.
pub const QUEUE_NOT_ALLOWED: &str = "QueueNotAllowed";
/// The queue's quota is in use.
pub const WAITING_FOR_QUOTA: &str = "WaitingForQuota";
/// One replica is larger than the whole quota.
pub const EXCEEDS_MAX_QUOTA: &str = "ExceedsMaxQuota";
/// GPUs are allocated, pods do not run yet.
pub const WAITING_FOR_PODS_READY: &str = "WaitingForPodsReady";
/// It backs off after evictions or failures.
pub const BACKING_OFF: &str = "BackingOff";
/// The hub's store is older than what its members know: it asks them first what they run.
pub const HUB_RESTORED: &str = "HubRestored";
/// It is allocated; its member has not accepted yet.
pub const WAITING_FOR_ACCEPTANCE: &str = "WaitingForAcceptance";
/// Guests of lower priority make room for it.
pub const WAITING_FOR_PREEMPTED_WORKLOADS: &str = "WaitingForPreemptedWorkloads";
/// A member refused it.
pub const MEMBER_REFUSED: &str = "MemberRefused";
/// A member is silent.
pub const MEMBER_SILENT: &str = "MemberSilent";
/// An operator drained the member: what ran there is placed elsewhere.
pub const MEMBER_DRAINED: &str = "MemberDrained";
/// The member has a taint `NoExecute` that the job does not tolerate.
pub const MEMBER_TAINTED: &str = "MemberTainted";
/// The member leaves this hub.
pub const MEMBER_LEFT: &str = "MemberLeft";
