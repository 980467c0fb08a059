//! P3: guests on what the owners of a trace leave idle, minute by minute.
//!
//! Every minute each member's owner takes what the trace says and always wins; behind it waits an
//! endless backlog of equal guests. Useful is the work of guests that finished, and what evicted
//! ones had saved; all shares are of the idle GPU time.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Error, Report, Table};

mod replay;

use replay::{Guests, Tally, most_finished, replay};

/// The rows of the published table: GPUs and minutes of a guest.
const ROWS: [(u32, u64); 7] = [(1, 30), (1, 120), (1, 480), (4, 120), (8, 30), (8, 120), (8, 480)];
/// Longest guest: a week, in minutes.
const LONGEST: f64 = 10_080.0;

/// Who decides what starts and what is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// The engine: starts where the idle history promises more work than waste, evicts whoever
    /// loses least.
    Default,
    /// Starts wherever there is room, evicts the youngest.
    Greedy,
}

/// What to replay.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The trace: `<member>_total` and `<member>_idle` GPUs, one row a minute; plain or gzip.
    #[arg(long)]
    trace: PathBuf,
    /// GPUs of a guest.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    gpus: u32,
    /// Hours that a guest runs, such as 8 or 0.5.
    #[arg(long, default_value_t = 8.0)]
    hours: f64,
    /// Minutes between saves; 0 = a guest never saves.
    #[arg(long, default_value_t = 10)]
    checkpoint_minutes: u64,
    /// Minutes that the policy thinks a restart costs; the replay itself charges nothing for it.
    #[arg(long, default_value_t = 5)]
    restart_minutes: u64,
    /// Who decides.
    #[arg(long, value_enum, default_value_t = Policy::Default)]
    policy: Policy,
    /// Replay the seven rows of the published table instead, greedy (before) and default (after),
    /// without checkpoints and with them.
    #[arg(long)]
    table: bool,
    /// Print one JSON object on standard output, and the table for people on standard error.
    #[arg(long)]
    pub(super) json: bool,
}

/// Idle GPUs of each member, minute by minute.
type Idle = Vec<Vec<u32>>;

/// Replays the trace.
///
/// # Errors
/// The trace cannot be read or makes no sense, or the flags do not.
pub fn run(options: &Options) -> Result<Report, Error> {
    let idle = read(options)?;
    if options.table {
        return Ok(table(options, &idle));
    }
    let guests = Guests {
        gpus: options.gpus,
        minutes: minutes(options.hours)?,
        checkpoint: options.checkpoint_minutes,
        restart: options.restart_minutes,
    };
    let found = figures(&guests, options.policy, &idle);
    let mut text = String::from(HEADER);
    line(&mut text, &guests, options.policy, &found);
    Ok(Report { json: found.json(), table: text })
}

/// The whole minutes of `hours`.
#[allow(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a flag for people, checked to be in range"
)]
fn minutes(hours: f64) -> Result<u64, Error> {
    let minutes = (hours * 60.0).round();
    if !(1.0..=LONGEST).contains(&minutes) {
        return Err(Error::Flags(format!("--hours {hours}: a guest runs a minute to a week")));
    }
    Ok(minutes as u64)
}

fn read(options: &Options) -> Result<Idle, Error> {
    let table = Table::read(&options.trace, &["time"])?;
    let mut places = Vec::new();
    for (place, column) in table.columns().enumerate() {
        let Some(member) = column.strip_suffix("_idle") else { continue };
        let total = format!("{member}_total");
        let found = table.column(&total);
        places.push((place, found.ok_or_else(|| lacks(options, &total))?));
    }
    if places.is_empty() {
        return Err(lacks(options, "<member>_idle"));
    }
    let mut idle = vec![Vec::new(); places.len()];
    for row in table.rows() {
        for (minutes, (place, total)) in idle.iter_mut().zip(&places) {
            let (free, all): (u32, u32) = (row.at(*place)?, row.at(*total)?);
            if free > all {
                return Err(row.wrong(format!("{free} idle GPUs of a total of {all}")));
            }
            minutes.push(free);
        }
    }
    Ok(idle)
}

fn lacks(options: &Options, column: &str) -> Error {
    let (path, what) = (options.trace.display().to_string(), format!("the header lacks {column}"));
    Error::Row { path, line: 1, what }
}

/// Shares of the idle GPU time.
#[derive(Clone, Copy, Debug)]
struct Figures {
    useful: f64,
    wasted: f64,
    unfinished: f64,
    evictions_per_start: f64,
    most: f64,
    tally: Tally,
}

#[allow(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "shares for people; every sum is whole"
)]
fn figures(guests: &Guests, policy: Policy, idle: &Idle) -> Figures {
    let all: u64 = idle.iter().flatten().map(|free| u64::from(*free)).sum();
    let mut tally = Tally::default();
    for member in idle {
        tally.add(&replay(member, guests, policy));
    }
    let share = |minutes: u64| {
        (minutes * u64::from(guests.gpus)) as f64 / if all == 0 { 1.0 } else { all as f64 }
    };
    let most = match guests.checkpoint {
        0 => idle.iter().map(|member| most_finished(member, guests)).sum::<u64>() * guests.minutes,
        _ => idle.iter().flatten().map(|free| u64::from(free / guests.gpus)).sum(),
    };
    Figures {
        useful: share(tally.useful),
        wasted: share(tally.wasted),
        unfinished: share(tally.unfinished),
        evictions_per_start: tally.evicted as f64 / tally.started.max(1) as f64,
        most: share(most),
        tally,
    }
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "useful": rounded(self.useful),
            "wasted": rounded(self.wasted),
            "evictionsPerStart": rounded(self.evictions_per_start),
            "unfinished": rounded(self.unfinished),
            "mostUseful": rounded(self.most),
            "starts": self.tally.started,
            "evictions": self.tally.evicted,
            "finished": self.tally.finished,
        })
    }
}

#[allow(clippy::float_arithmetic, reason = "figures for people")]
fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}

/// What each line of the text says. `most` bounds `useful` for whoever knows the whole future.
const HEADER: &str =
    "guest             checkpoint  policy   useful  wasted  evictions/start    most\n";

fn line(text: &mut String, guests: &Guests, policy: Policy, found: &Figures) {
    let Guests { gpus, minutes, checkpoint, .. } = guests;
    let name = format!("{gpus} GPU, {minutes} min");
    let policy = format!("{policy:?}").to_lowercase();
    let Figures { useful, wasted, evictions_per_start, most, .. } = found;
    // Writing to a string cannot fail.
    let _written = writeln!(
        text,
        "{name:<16}  {checkpoint:>6} min  {policy:<7} {useful:>7.4} {wasted:>7.4} \
         {evictions_per_start:>16.4} {most:>7.4}"
    );
}

/// The seven rows, before and after, without checkpoints and with those of `options`.
fn table(options: &Options, idle: &Idle) -> Report {
    let (mut text, mut rows) = (String::from(HEADER), Vec::new());
    let interval = if options.checkpoint_minutes == 0 { 10 } else { options.checkpoint_minutes };
    for (gpus, minutes) in ROWS {
        for checkpoint in [0, interval] {
            let guests = Guests { gpus, minutes, checkpoint, restart: options.restart_minutes };
            let mut row = json!({
                "gpus": gpus, "minutes": minutes, "checkpointMinutes": checkpoint,
            });
            for (when, policy) in [("before", Policy::Greedy), ("after", Policy::Default)] {
                let found = figures(&guests, policy, idle);
                line(&mut text, &guests, policy, &found);
                row[when] = found.json();
            }
            rows.push(row);
        }
    }
    Report { json: json!({ "rows": rows }), table: text }
}

#[cfg(test)]
mod tests;
