//! What reaches the executor's loop: what watches saw, and how writes ended.

use k8s_openapi::api::core::v1 as core;
use kube::Resource;
use kube::ResourceExt;

use super::node::Node;
use super::pod::{self, Pod};
use super::step::Task;
use crate::api::{GpuPool, GuestLease, HubGrant};
use crate::cluster::watch::slim;
use crate::cluster::{Outcome, Seen};

/// An object with what orders its versions.
#[derive(Clone, Debug)]
pub struct Noted<T> {
    /// UID.
    pub uid: String,
    /// Resource version.
    pub version: u64,
    /// The object.
    pub item: T,
}

/// One event.
#[derive(Debug)]
pub enum Event {
    /// A node.
    Node(Seen<Noted<Node>>),
    /// A pod of any namespace; `Err` = it does not matter.
    Pod(Seen<Result<Pod, String>>),
    /// A pool of the owner.
    Pool(Seen<Noted<GpuPool>>),
    /// A lease.
    Lease(Seen<Noted<GuestLease>>),
    /// An owner's grant.
    Grant(Seen<Noted<HubGrant>>),
    /// The answer to a write that concerns a lease.
    Written(String, Task, Written),
    /// The answer to the write of a pool's status.
    Pictured(String, Option<Box<GpuPool>>),
}

/// How a write ended.
#[derive(Debug)]
pub enum Written {
    /// The lease, as it stands now.
    Lease(Box<GuestLease>),
    /// The pod, as it stands now.
    Pod(Box<Pod>),
    /// The pod's deletion was accepted.
    Deleting(String),
    /// The pod of this UID is gone.
    PodGone(String),
    /// It is done.
    Done,
    /// It failed; what the server said.
    Failed(Outcome, String),
}

/// `object` with its UID and version.
#[must_use]
pub fn noted<K: Resource>(mut object: K) -> Noted<K> {
    slim(&mut object);
    Noted {
        uid: object.uid().unwrap_or_default(),
        version: pod::version(object.meta().resource_version.as_deref()),
        item: object,
    }
}

/// A node, slim, with its UID and version.
#[must_use]
pub fn noted_node(node: core::Node) -> Noted<Node> {
    let Noted { uid, version, item } = noted(node);
    Noted { uid, version, item: Node::slim(item) }
}

/// `seen` with its object turned into another by `keep`.
pub fn map<T, U>(seen: Seen<T>, keep: impl FnOnce(T) -> U) -> Seen<U> {
    match seen {
        Seen::Listing => Seen::Listing,
        Seen::Object(object) => Seen::Object(keep(object)),
        Seen::Gone(object) => Seen::Gone(keep(object)),
        Seen::Listed => Seen::Listed,
        Seen::Broken => Seen::Broken,
    }
}
