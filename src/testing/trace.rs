//! What happened, line by line: two runs of one seed give the same.

use std::fmt::Write;

use super::network::Life;
use super::server::Call;
use super::time::Epoch;

/// The end of a run's story is what people read; its sum tells whether two are the same.
const KEPT: usize = 4_000;

/// Lines of a run.
pub(crate) struct Trace {
    epoch: Epoch,
    lines: std::collections::VecDeque<String>,
    /// FNV-1a of all lines.
    sum: u64,
    /// How many there were.
    count: u64,
    /// Whether each is printed at once, for whoever looks for what never ends.
    aloud: bool,
}

impl Trace {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            lines: std::collections::VecDeque::new(),
            sum: 0xcbf2_9ce4_8422_2325,
            count: 0,
            aloud: std::env::var_os("TRACE").is_some(),
        }
    }

    /// A request was answered.
    pub(crate) fn call(&mut self, life: &Life, to: &str, call: &Call, code: u16) {
        self.say(&format!("{}#{} → {to} {call} {code}", life.name, life.number));
    }

    /// Something else happened.
    pub(crate) fn say(&mut self, what: &str) {
        let mut line = String::with_capacity(what.len() + 12);
        write!(line, "{:10.3} {what}", self.epoch.elapsed().as_secs_f64()).expect("memory");
        for byte in line.bytes() {
            self.sum = (self.sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.aloud {
            println!("{line}");
        }
        self.count += 1;
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// What tells it from others.
    pub(crate) fn sum(&self) -> (u64, u64) {
        (self.sum, self.count)
    }

    /// Its last lines.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let skipped = self.lines.len().saturating_sub(lines);
        self.lines.iter().skip(skipped).cloned().collect::<Vec<_>>().join("\n")
    }
}
