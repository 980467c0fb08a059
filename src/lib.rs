//! Idlewild federates idle GPU clusters: owners lend GPUs that stand idle, users apply a `GpuJob`
//! to a hub, and it runs as ordinary pods on members' nodes. Owners always come first.
//!
//! # Bird's eye view
//!
//! ```text
//!  hub cluster                                   member cluster (any number)
//!  ┌──────────────────────────────┐              ┌───────────────────────────────────────────┐
//!  │ GpuJob ─► hub: rounds        │   dialled    │ link ◄─► GuestLease ◄─► executor ─► pods  │
//!  │            │ allocation      │ ◄─────────── │  │                         │     kube-     │
//!  │            ▼                 │  out only    │  └── GpuPool (owner's) ◄───┘     scheduler │
//!  │ GpuLease (member's namespace)│              │                                  binds     │
//!  └──────────────────────────────┘              └───────────────────────────────────────────┘
//! ```
//!
//! 1. The hub's loop learns of a `GpuJob`, reads it once (`api::convert`), and in a **round**
//!    (`engine::round`) picks pools for its replicas from what each pool publishes as free, less
//!    what is promised and not yet seen.
//! 2. It writes the **epoch** into the job's status, onto the version it decided on, and only then
//!    creates a `GpuLease` in the member's namespace.
//! 3. The member's link turns that into a `GuestLease`; the executor reserves GPUs in its own books
//!    or refuses; the link reports `Accepted`, onto the version in which nothing was withdrawn.
//! 4. The executor creates pods pinned to nodes that it chose; a gang starts once all are bound.
//! 5. What ended is reported as the kubelet confirmed it, folded into the job's status, and the
//!    lease is removed.
//!
//! # Modules
//!
//! | module | knows | never |
//! |---|---|---|
//! | [`engine`] | every decision, as pure functions over plain data | time, network, Kubernetes |
//! | [`simulate`] | traces through the engine in virtual time, figures as JSON | a cluster |
//! | [`api`] | the shape of the custom resources, pod templates, GPU products | a client |
//! | [`cluster`] | talking to any API server: deadlines, watches, election | GPUs |
//! | [`hub`] | jobs, queues, members, leases: one loop, writes in a fixed order | a member's API |
//! | [`agent`] | link (hubs) and executor (pods), which meet in objects only | who else lends |
//! | [`gateway`] | what users ask of the hub through its API server | how the hub knows |
//! | [`commands`] | what people type | the hub's insides |
//! | [`sandbox`] | real control planes as local processes | the code it runs |
//! | [`cli`], [`start`] | flags to settings to running | decisions |
//! | [`metrics`], [`http`], [`telemetry`] | names of figures, probes, logs | |
//! | `testing` (tests only) | whole federations in virtual time, everything that can go wrong, what must be true | a cluster |
//!
//! # What must stay true
//!
//! - A GPU has at most one holder: the member's executor accepts serially, against its own books.
//! - No index runs in two places because of us: the allocation in the job's status is the authority,
//!   written with a precondition before its lease exists anywhere ([`hub`], `work.rs`).
//! - What a silent member holds is run elsewhere only after it was superseded, and what the old attempt
//!   says then counts for nothing ([`engine::lifecycle::failover`]).
//! - Guests go for their owner, as few as will do: kube-scheduler preempts them, and the executor tells
//!   them where it does not help, hub or no hub ([`agent::executor::demand`]).
//! - A result counts once, and only from an allocation on record ([`engine::lifecycle`]).
//! - A store that is older than what members know issues nothing before its incarnation is above theirs,
//!   and takes up again what runs (`hub/memory.rs`).
//! - Absence is not evidence: guests end because they are told to, because their time is over, or for
//!   their owner, never because an object is missing.
//! - Whoever is killed at any moment goes on where it was: nothing that matters is only in memory.
//!
//! # Cross-cutting
//!
//! **Time.** Silence is measured by a process's own clock and persisted as elapsed seconds; clocks of
//! two machines are never compared. **Errors.** An error is a failed attempt ([`cluster::Error`]);
//! waiting and refusing are values. An unknown outcome is looked up. **Observability.** A wait's
//! reason stands in the object's conditions; logs at `info` only when something changed.
//! **Security.** A member's namespace on the hub is its identity; no name is parsed to decide a
//! right; tokens never reach a log, event or status.
//!
//! # Why one loop and not one reconciler per kind
//!
//! Capacity must be given out in one place, counting what was promised a moment ago. Reconcilers of
//! single objects would each need that same view and a lock around it. One task that owns plain maps
//! has both for free; writes, which take all the time, run beside it. The price is that a pass must
//! be quick, which the benchmarks watch.

pub mod agent;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod engine;
pub mod gateway;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod sandbox;
pub mod simulate;
pub mod start;
pub mod telemetry;

#[cfg(test)]
mod layering;
mod planted;
#[cfg(test)]
mod testing;
