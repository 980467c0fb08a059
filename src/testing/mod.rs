//! A whole federation in one process, for tests: the product's hub and agents, API servers in memory,
//! models of what else lives in a cluster, time that a test owns, and everything that can go wrong.
//!
//! - `server`: an API server in memory. `models`: kube-scheduler and kubelets.
//! - `time`, `network`, `trace`: clocks, what is lost on the way, and what happened.
//! - `setup`, `federation`: all of it together. `plan`, `acts`, `programs`: what happens, by seed.
//! - `judge`: what must be true at every moment, and in the end. `run`: from the beginning to the end.

mod acts;
mod crashes;
mod defects;
mod federation;
mod judge;
mod models;
mod network;
mod plan;
mod programs;
mod run;
mod scenarios;
#[allow(dead_code, unused_imports, reason = "each binary that includes it uses a part of it")]
pub(crate) mod server;
// Beside what it tests, and outside of what the end-to-end tests include.
#[path = "server/tests.rs"]
mod server_tests;
mod setup;
mod simulation;
mod state;
mod time;
mod trace;
