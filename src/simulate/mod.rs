//! Traces through the engine in virtual time: the figures of placement, on any machine.
//!
//! Invariant: nothing here knows the future. A policy sees what has been replayed so far, and the
//! same files and seeds give the same figures, speeds apart.

use std::io::Write;

use clap::Subcommand;
use serde_json::Value;

pub mod openb;
mod trace;

pub use trace::Table;

/// What to replay.
#[derive(Debug, Subcommand)]
pub enum Protocol {
    /// Places the pods of an openb trace on its nodes, one by one, and says how much of the GPUs is used
    Openb(openb::Options),
}

/// Replays `protocol` and prints what it found.
///
/// # Errors
/// A file makes no sense, or the figures cannot be printed.
pub fn run(protocol: &Protocol, out: &mut dyn Write, aside: &mut dyn Write) -> Result<(), Error> {
    match protocol {
        Protocol::Openb(options) => print(&openb::run(options)?, options.json, out, aside),
    }
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
