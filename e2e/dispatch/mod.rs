//! Protocol P4: what it costs to dispatch a job through real API servers, and how long it takes.
//!
//! One driver submits from two writers and watches all API servers by one monotonic clock. It prints
//! figures and never fails for time; it fails for jobs that are lost or run twice. kwok's pods are
//! not containers: every latency here ends at the pod object, never at a running process.
//!
//! `BENCH_MEMBERS` ("3 6 12") and `BENCH_JOBS` choose how large it is, `BENCH_PHASES` ("half gangs")
//! what follows the burst; see `make bench-dispatch`.

mod ceiling;
mod figures;
mod load;
mod printing;
mod processes;
mod requests;
mod restart;
mod sight;

use std::path::Path;
use std::time::Duration;

use idlewild::sandbox::Federation;
use serde_json::{Value, json};

use self::load::{Load, measure};
use self::sight::Sight;
use crate::harness::{fresh, member, settings};

/// Nodes of a member, and GPUs of a node.
const NODES: u32 = 50;
const GPUS: u32 = 8;
/// How long an idle federation is watched.
const IDLE: Duration = Duration::from_secs(15);
/// Jobs of an open loop: enough for a 99th percentile.
const STEADY: usize = 300;
/// Where the figures go, for programs.
const FILE: &str = "target/bench-dispatch.json";

fn numbers(variable: &str, default: &str) -> Vec<u32> {
    let text = std::env::var(variable).ok().filter(|text| !text.trim().is_empty());
    let text = text.unwrap_or_else(|| default.to_owned());
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{variable}: {word}?"));
    text.split_whitespace().map(number).collect()
}

#[test]
#[ignore = "a benchmark: it prints figures, see make bench-dispatch"]
fn bench_dispatch() {
    let jobs = numbers("BENCH_JOBS", "1000")[0] as usize;
    let mut runs = Vec::new();
    for count in numbers("BENCH_MEMBERS", "3") {
        let members = (0..count).map(|index| member(&format!("m{index}"), NODES, GPUS)).collect();
        fresh(&settings(&format!("dispatch-{count}"), members), async |federation| {
            runs.push(run(federation, jobs).await);
        });
    }
    let found = json!({
        "protocol": "P4", "note": printing::NOTE,
        "machine": { "cores": std::thread::available_parallelism().map_or(0, usize::from) },
        "runs": runs, "growthWithMembers": printing::growth(&runs),
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    std::fs::write(&path, format!("{found:#}\n")).unwrap();
    println!("{found}");
    let broken = |run: &&Value| {
        let all = run["phases"].as_array().into_iter().flatten();
        all.clone().any(|phase| phase["lost"] != 0 || phase["doubled"] != 0)
    };
    assert_eq!(runs.iter().filter(broken).count(), 0, "no job is lost and none runs twice");
}

/// Everything that is measured on one federation.
async fn run(federation: &Federation, jobs: usize) -> Value {
    let members = federation.members.len();
    println!("\nhub and {members} members; {}", printing::NOTE);
    let idle = idle(federation).await;
    let sight = Sight::open(federation).await;
    let single = |name, jobs, rate| Load { name, jobs, size: 1, gpus: 1, run_for: "30s", rate };
    let burst = measure(federation, &sight, single("burst", jobs, None), idle).await;
    printing::show(&burst);
    let most = burst.outcome.rate;
    let mut phases = vec![burst];
    let steady = |name, share| single(name, STEADY.min(jobs), Some(most * share));
    let gangs = Load { size: 4, gpus: 8, jobs: 30, run_for: "10s", ..single("gangs", 0, None) };
    let all = [steady("quarter", 0.25), steady("half", 0.5), steady("three-quarters", 0.75), gangs];
    let chosen = std::env::var("BENCH_PHASES").ok().filter(|text| !text.trim().is_empty());
    let wanted = |load: &Load| {
        chosen.as_ref().is_none_or(|text| text.split_whitespace().any(|word| word == load.name))
    };
    for load in all.into_iter().filter(wanted) {
        phases.push(measure(federation, &sight, load, idle).await);
        printing::show(phases.last().expect("just pushed"));
    }
    let ceiling = ceiling::ceiling(federation).await;
    let share = printing::ceiling(ceiling, &phases[0]);
    json!({
        "members": members, "idleMilliCpu": idle,
        "ceiling": { "writesPerSecond": ceiling.rate, "cpuMillisPerWrite": ceiling.millis,
            "shareOfBurst": share },
        "phases": phases.iter().map(printing::as_json).collect::<Vec<_>>(),
    })
}

/// What the federation uses with nothing to do, in thousandths of a core.
async fn idle(federation: &Federation) -> f64 {
    let before = processes::uses(federation);
    // This is the measurement itself: nothing waits for anything to happen.
    tokio::time::sleep(IDLE).await;
    let used = processes::sum(&processes::since(&before, &processes::uses(federation)));
    let idle = used / IDLE.as_secs_f64();
    println!("idle: {idle:.0} mCPU of all processes together");
    idle
}
