//! Protocol P1: pods of the openb trace on its nodes, one at a time, none ever leaves.
//!
//! The trace and the way it is replayed are those of "Beware of Fragmentation" (Weng and others,
//! USENIX ATC 2023), so that figures can be laid beside the published ones. The requests that count as
//! usual are those of the pod list itself, as there: it stands for what a cluster saw before.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Error, Report};

mod files;
mod fleets;
mod order;
mod replay;
mod report;
mod rules;

/// The first seed, as in the paper.
const FIRST_SEED: u64 = 42;

/// What to replay, and how.
#[derive(Args, Debug)]
pub struct Options {
    /// Node list: `sn,cpu_milli,memory_mib,gpu,model`; plain or gzip
    #[arg(long, value_name = "FILE")]
    pub nodes: PathBuf,
    /// Pod list: `name,cpu_milli,memory_mib,num_gpu,gpu_milli`, and `gpu_spec` if it has one
    #[arg(long, value_name = "FILE")]
    pub pods: PathBuf,
    /// How many times to replay, each in another order
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub seeds: u64,
    /// Who chooses nodes
    #[arg(long, value_enum, default_value_t)]
    pub policy: Policy,
    /// One choice among all nodes, or a member first and then a node of it
    #[arg(long, value_enum, default_value_t)]
    pub levels: Levels,
    /// Members that the nodes are dealt to, round-robin, with two levels
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub members: u32,
    /// Print one JSON object, and the table on standard error
    #[arg(long)]
    pub json: bool,
}

/// Who chooses nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// The engine, as an agent runs it
    #[default]
    Default,
    /// Chance, among the nodes that fit
    Random,
    /// The least CPU and GPU left
    Bestfit,
    /// The paper's fragmentation gradient
    Fgd,
}

/// In how many steps a node is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Levels {
    /// Among all nodes
    #[default]
    Flat,
    /// A member from counts of its nodes by class, then a node by the member
    Two,
}

/// Replays as `options` say.
///
/// # Errors
/// A file cannot be read or makes no sense.
pub fn run(options: &Options) -> Result<Report, Error> {
    let trace = files::read(&options.nodes, &options.pods)?;
    let mut runs = Vec::new();
    let mut busy = Duration::ZERO;
    for seed in (FIRST_SEED..).take(usize::try_from(options.seeds).unwrap_or(usize::MAX)) {
        let mut random = order::Random::new(seed);
        let order = order::arrivals(&trace, &mut random);
        let mut fleet = fleets::fleet(options, &trace, random);
        let run = replay::run(&trace, &order, fleet.as_mut());
        busy += run.busy;
        runs.push(run);
    }
    Ok(report::report(options, &runs, busy))
}

#[cfg(test)]
mod tests;
