//! Runs in each member: measures idle GPUs, accepts or refuses leases, runs them as pods.

pub mod executor;
pub mod link;
