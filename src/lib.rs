//! Idlewild federates idle GPU clusters.

pub mod agent;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod engine;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod sandbox;
pub mod start;
pub mod telemetry;

#[cfg(test)]
mod layering;
