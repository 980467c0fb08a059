//! Runs once: watches jobs and pools, runs rounds, issues leases, reports status.

pub mod revoke;
