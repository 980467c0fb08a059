//! Traces through the engine in virtual time: the figures of placement, on any machine.
//!
//! Invariant: nothing here knows the future. A policy sees what has been replayed so far, and the
//! same files and seeds give the same figures, speeds apart.

use std::io::Write;

use clap::Subcommand;
use serde_json::Value;

pub mod harvest;
pub mod kueue;
pub mod openb;
pub mod scale;
mod trace;

pub use trace::Table;

/// What to replay.
#[derive(Debug, Subcommand)]
pub enum Protocol {
    /// Guests on what owners leave idle, minute by minute (P3).
    Harvest(harvest::Options),
    /// The shapes of Kueue's performance suite (P5).
    Kueue(kueue::Options),
    /// How fast placement decides on very many GPUs (G5 to G7).
    Scale(scale::Options),
    /// Places the pods of an openb trace on its nodes, one by one, and says how much of the GPUs is
    /// used (P1).
    Openb(openb::Options),
}

/// What a run found.
#[derive(Debug)]
pub struct Report {
    /// One JSON object: what a program reads.
    pub json: Value,
    /// The same as a table: what a person reads.
    pub table: String,
}

/// What kept a run from its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A row that makes no sense.
    #[error("{path}, line {line}: {what}")]
    Row {
        /// The file.
        path: String,
        /// Its line; the first is 1.
        line: u64,
        /// What is wrong and what would be right.
        what: String,
    },
    /// Flags that make no sense together.
    #[error("{0}")]
    Flags(String),
    /// Standard output.
    #[error("print the figures")]
    Print(#[from] std::io::Error),
}

/// Replays what `protocol` says, and prints what was found: see [`print`].
///
/// # Errors
/// The protocol says which.
pub fn run(protocol: &Protocol, out: &mut dyn Write, aside: &mut dyn Write) -> Result<(), Error> {
    let (report, json) = match protocol {
        Protocol::Openb(options) => (openb::run(options)?, options.json),
        Protocol::Harvest(options) => (harvest::run(options)?, options.json),
        Protocol::Kueue(options) => (kueue::run(options)?, options.json),
        Protocol::Scale(options) => (scale::run(options)?, options.json),
    };
    print(&report, json, out, aside)
}

/// Prints the report: with `json` the object on `out` and the table on `aside`, else the table on
/// `out` alone.
///
/// # Errors
/// Neither can be written.
pub fn print(
    report: &Report,
    json: bool,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), Error> {
    if json {
        writeln!(out, "{}", report.json)?;
        write!(aside, "{}", report.table)?;
    } else {
        write!(out, "{}", report.table)?;
    }
    Ok(())
}
