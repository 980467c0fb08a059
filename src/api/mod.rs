//! The shape of the custom resources: what users, owners and operators read and write.
//!
//! Invariant: a field is here only if it works; the doc comments are what `kubectl explain` shows.

#![allow(unreachable_pub, reason = "KubeSchema derives through inner copies of the structs")]

pub mod applicant;
pub mod conditions;
pub mod convert;
pub mod crds;
pub mod digest;
pub mod explanation;
pub mod gpujob;
pub mod gpulease;
pub mod gpupool;
pub mod gpuqueue;
pub mod gpus;
pub mod grant;
pub mod member;
pub mod quantity;
pub mod reasons;
pub mod selectors;
pub mod template;

pub use explanation::GpuJobExplanation;
pub use gpujob::{GpuJob, GpuJobSpec, GpuJobStatus};
pub use gpulease::{GpuLease, GpuLeaseSpec, GpuLeaseStatus, GuestLease, GuestLeaseSpec};
pub use gpupool::{GpuPool, GpuPoolSpec, GpuPoolStatus};
pub use gpuqueue::{GpuQueue, GpuQueueSpec, GpuQueueStatus};
pub use grant::{HubGrant, HubGrantSpec, HubGrantStatus};
pub use member::{JoinRequest, JoinRequestSpec, MemberCluster, MemberClusterSpec};

/// API group of every resource of ours; labels, annotations and taints use it as prefix.
pub const GROUP: &str = "idlewild.dev";

/// Namespace of hub, agent and the owner's `GpuPools`.
pub const SYSTEM_NAMESPACE: &str = "idlewild-system";
/// Namespace on a member in which guests run.
pub const GUEST_NAMESPACE: &str = "idlewild-guests";
/// A member's namespace on the hub is this followed by its name; it is created, never parsed.
pub const MEMBER_NAMESPACE_PREFIX: &str = "member-";
/// The one coordination Lease that a member renews in its namespace on the hub.
pub const HEARTBEAT_LEASE: &str = "member";
/// Finalizer of a `MemberCluster`: its leases end and its rights go before it does.
pub const MEMBER_FINALIZER: &str = "idlewild.dev/leave";
/// Taint that the hub sets on a member which has not joined.
pub const TAINT_NOT_READY: &str = "idlewild.dev/not-ready";
/// Taint that the hub sets on a member which is silent.
pub const TAINT_UNREACHABLE: &str = "idlewild.dev/unreachable";
/// Taint that `drain` sets with effect `NoExecute`: everything on the member goes.
pub const TAINT_DRAIN: &str = "idlewild.dev/drain";
/// `ConfigMap` in the hub's namespace that holds the hub's ID and incarnation.
pub const HUB_CONFIG_MAP: &str = "idlewild-hub";
/// The one `JoinRequest` of a member's namespace.
pub const JOIN_REQUEST: &str = "join";
/// Secret, here and there, with a join token; it dies at the first heartbeat.
pub const JOIN_SECRET_HUB: &str = "join";
/// The owner's copy of the join token, one key for each `HubGrant`.
pub const JOIN_SECRET_MEMBER: &str = "idlewild-join";
/// Secret in the member that the chart made empty: renew tokens, one key for each `HubGrant`.
pub const TOKEN_SECRET: &str = "idlewild-hub-tokens";

/// Secret in the member that the chart made empty: the agent's private key.
pub const KEY_SECRET: &str = "idlewild-agent-key";
/// `ConfigMap` in every namespace of a cluster with the CA certificates of its API server.
pub const ROOT_CA: &str = "kube-root-ca.crt";

/// Life asked for a renew token: what a member may be away for. Managed control planes may give less.
pub const RENEW_SECONDS: i64 = 7 * 86_400;

/// Label: UID of the `GpuJob`, on leases and guests.
pub const LABEL_JOB_UID: &str = "idlewild.dev/job-uid";
/// Label: name of the `GpuLease` itself, so that several are removed with one request.
pub const LABEL_LEASE: &str = "idlewild.dev/lease";
/// Label on guests: name of the `GuestLease` that owns them.
pub const LABEL_GUEST_LEASE: &str = "idlewild.dev/guest-lease";
/// Label on guests: the owner's pool.
pub const LABEL_POOL: &str = "idlewild.dev/pool";
/// Label on guests: replica index.
pub const LABEL_INDEX: &str = "idlewild.dev/replica-index";
/// Label on guests of a gang: rank inside the replica.
pub const LABEL_RANK: &str = "idlewild.dev/rank";
/// Label on guests: the hub that asked, hashed (`idlewild.dev/hub`).
pub const LABEL_HUB: &str = "idlewild.dev/hub";
/// Label on a member's namespace and heartbeat on the hub: the member's name.
pub const LABEL_MEMBER: &str = "idlewild.dev/member";
/// Prefix of the annotations that only a sandbox honours.
pub const SANDBOX_PREFIX: &str = "sandbox.idlewild.dev/";
/// Annotation on a gang's pods: `open` lets the simulated kubelet start them.
pub const SANDBOX_GATE: &str = "sandbox.idlewild.dev/gate";

/// Priority class of single guests in a member.
pub const PRIORITY_CLASS: &str = "idlewild-guest";
/// Priority class of gangs in a member: one above, so that single guests leave first.
pub const PRIORITY_CLASS_GANG: &str = "idlewild-guest-gang";

/// A member whose last heartbeat is older is `Unknown` and gets no new leases.
pub const SILENT_AFTER_SECONDS: u64 = 40;
/// Most replica indexes that one lease carries.
pub const MAX_INDEXES_PER_LEASE: u32 = 256;
/// Most saves of replicas that a job remembers; others find theirs below the earlier attempts.
pub const MAX_CHECKPOINTS: usize = 256;
