//! End-to-end tests on real control planes, all in one executable so that most of them share one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "tests print the figures they measure")]
#![allow(clippy::float_arithmetic, reason = "figures are for people")]

mod adoption;
mod bench;
mod budget;
mod charts;
mod conformance;
mod dispatch;
mod explain;
mod failover;
mod faults;
mod front;
mod guides;
mod harness;
mod helm;
mod hubs;
mod image;
mod jobs;
mod joining;
mod lost;
mod manifests;
mod membership;
mod metrics;
mod nonsense;
mod operators;
mod partitions;
mod reclaim;
mod rights;
mod sandbox;
mod thieves;
mod work;
