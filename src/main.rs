//! Parse, start, exit code.

use std::process::ExitCode;

use clap::Parser;
use idlewild::cli::Cli;
use idlewild::{cluster, start, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::start(&cli.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(start::run(cli.verb)) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

/// One line: what failed, why, and what to do.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    let line = cluster::chain(error);
    // A closed pipe is no reason for another failure.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {line}\n"));
    ExitCode::FAILURE
}
