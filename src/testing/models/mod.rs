//! What else lives in a cluster, as simple as it can be and still be right where the product looks:
//! kube-scheduler, kubelets and whoever counts nodes as lost.
//!
//! Invariant: like the server, nothing here imports from this crate, so that `e2e/` can hold it
//! against the real ones.

mod kubelet;
mod reading;
mod scheduler;

pub(crate) use kubelet::{Kubelet, Program, Run};
pub(crate) use reading::{GPU, delete, gpus, is_over, patch};
pub(crate) use scheduler::schedule;
