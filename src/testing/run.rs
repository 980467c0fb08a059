//! One run: a federation lives through a plan, everything is mended, and what must be true is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::acts::apply;
use super::federation::{Counters, Federation, Process, TICK};
use super::judge::{Doubts, Judge, Mark, is_settled};
use super::network::Crash;
use super::plan::{Act, Plan, STORMY};
use super::programs::program;
use super::server::{Server, Snapshot};

/// After everything was mended, all must have come to its end within so much.
const MENDED: Duration = Duration::from_mins(25);
/// For so long a quiet federation is listened to.
const QUIET: Duration = Duration::from_secs(70);

/// More requests than any run needs: somebody goes in circles.
const REQUESTS: u64 = 20_000;

/// What came of a run.
pub(crate) struct Outcome {
    /// What was wrong, a sentence each.
    pub(crate) wrong: Vec<String>,
    /// What happened that may happen, faults included, and how often.
    pub(crate) seen: BTreeMap<String, u64>,
    /// What tells its trace from others.
    pub(crate) sum: (u64, u64),
    /// The end of its trace.
    pub(crate) tail: String,
    /// Writes of processes.
    pub(crate) writes: usize,
    /// What stands where in the end.
    pub(crate) state: Value,
}

/// A run while it goes on.
pub(crate) struct Run {
    pub(crate) all: Federation,
    pub(crate) judge: Judge,
    pub(crate) doubts: Doubts,
    pub(crate) random: StdRng,
    /// Backups of hubs' stores.
    pub(crate) backups: BTreeMap<usize, Snapshot>,
    /// Hubs that a member lied to.
    pub(crate) lied: BTreeSet<usize>,
    /// Whether processes that die at a write come back by themselves.
    revives: bool,
}

/// What a run is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// Whoever sends this write dies at it, and is started again.
    pub(crate) crash: Option<Crash>,
    /// Whether it is listened to in the end.
    pub(crate) quiet: bool,
}

impl Default for Ending {
    fn default() -> Self {
        Self { crash: None, quiet: true }
    }
}

/// Runs `plan` with the random numbers of `seed`.
pub(crate) fn run(seed: u64, plan: &Plan, ending: Ending, counters: &Counters) -> Outcome {
    let crash = ending.crash;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let all = Federation::new(seed, plan.shape.clone(), counters.clone());
        all.network.wire().crash = crash;
        let mut run = Run {
            judge: Judge::new(&all),
            all,
            doubts: Doubts::default(),
            random: StdRng::seed_from_u64(seed ^ 0x5851_f42d_4c95_7f2d),
            backups: BTreeMap::new(),
            lied: BTreeSet::new(),
            revives: crash.is_some(),
        };
        run.live(plan, ending.quiet).await;
        run.outcome()
    })
}

impl Run {
    async fn live(&mut self, plan: &Plan, quiet: bool) {
        let mut acts = plan.acts.iter().peekable();
        let stormy = plan.acts.last().map_or(Duration::ZERO, |(at, _)| *at);
        while acts.peek().is_some() && self.goes_on() {
            self.tick().await;
            while let Some((_, act)) = acts.next_if(|(at, _)| *at <= self.all.epoch.elapsed()) {
                apply(self, act);
            }
        }
        debug_assert!(stormy <= Duration::from_secs(STORMY * 2), "a plan without end");
        self.mend();
        let mended = self.all.epoch.elapsed();
        let mut open = Err(String::new());
        while open.is_err() && self.goes_on() && self.all.epoch.elapsed() < mended + MENDED {
            for _ in 0..20 {
                self.tick().await;
            }
            open = is_settled(&self.all, &self.lied);
        }
        if let Err(open) = open {
            self.judge.wrong.push(format!("after {} s: {open}", MENDED.as_secs()));
        }
        self.judge.conclude(&self.all, &self.lied);
        if quiet {
            self.quiet().await;
        }
    }

    fn goes_on(&self) -> bool {
        self.judge.wrong.is_empty()
    }

    /// Nobody writes anything any more.
    async fn quiet(&mut self) {
        // What the last end still brings; who waits is told a new reason once a minute.
        let some_wait = self.all.hubs.iter().any(|hub| somebody_waits(&hub.server));
        let seconds = if some_wait { 130 } else { 70 };
        let settle = self.all.epoch.elapsed() + Duration::from_secs(seconds);
        while self.all.epoch.elapsed() < settle && self.goes_on() {
            self.tick().await;
        }
        let mark = Mark::set(&self.all);
        let until = self.all.epoch.elapsed() + QUIET;
        while self.all.epoch.elapsed() < until && self.goes_on() {
            self.tick().await;
        }
        // What a member lied about may go on: nothing says when it is over.
        if self.lied.is_empty() {
            let late = mark.since(&self.all);
            self.judge.wrong.extend(late);
        }
        if let Err(open) = is_settled(&self.all, &self.lied) {
            self.judge.wrong.push(format!("L1: it does not stay so: {open}"));
        }
    }

    /// A moment passes.
    pub(crate) async fn tick(&mut self) {
        tokio::time::sleep(TICK).await;
        let dead = self.all.bury();
        for process in dead {
            self.doubt(process);
            if self.revives {
                self.all.start(process);
            }
        }
        let now = self.all.epoch.now();
        let random = &mut self.random;
        self.all.step(&mut |pod| {
            let pull = SignedDuration::from_millis(random.random_range(0..2_500));
            program(pod, pull, now)
        });
        if let Err(why) = self.all.revive() {
            self.judge.wrong.push(why);
        }
        self.judge.look(&self.all, &self.doubts);
        let (_, requests) = self.all.network.wire().trace.sum();
        if requests > REQUESTS {
            self.judge.wrong.push(format!("I22: more than {REQUESTS} requests"));
        }
    }

    /// What promises do not cover happened to a process.
    pub(crate) fn doubt(&mut self, process: Process) {
        if let Process::Agent(member) = process {
            self.doubts.0.insert(member, self.all.epoch.now());
        }
    }

    /// Nothing is broken any more, everybody is there, and owners need nothing.
    fn mend(&mut self) {
        self.all.network.wire().trace.say("everything is mended");
        self.all.network.heal();
        for process in self.all.processes() {
            self.all.start(process);
        }
        for member in 0..self.all.members.len() {
            for act in
                [Act::Api { member, up: true }, Act::Offer { member, offer: serde_json::json!({}) }]
            {
                apply(self, &act);
            }
            for node in 0..self.all.shape.members[member] {
                apply(self, &Act::Node { member, node, cut: false, rebooted: false });
                apply(self, &Act::Cordon { member, node, on: false });
            }
            super::acts::all_home(self, member);
        }
        super::acts::all_resume(self);
    }

    fn outcome(self) -> Outcome {
        let wire = self.all.network.wire();
        let mut seen = wire.met.clone();
        seen.extend(self.judge.seen.iter().map(|(what, count)| ((*what).to_owned(), *count)));
        let (sum, tail) = (wire.trace.sum(), wire.trace.tail(400));
        let writes = wire.writes;
        drop(wire);
        Outcome {
            wrong: self.judge.wrong,
            seen,
            sum,
            tail,
            writes,
            state: super::state::of(&self.all),
        }
    }
}

fn somebody_waits(hub: &Server) -> bool {
    hub.store().of_kind("gpujobs", "").any(|(_, job)| job["status"]["phase"] == "Queued")
}
