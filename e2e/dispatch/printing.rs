//! Figures for people and for programs.

use serde_json::{Value, json};

use super::ceiling::Ceiling;
use super::load::Measured;
use super::{processes, requests};

/// Stands beside every figure.
pub(super) const NOTE: &str = "kwok's pods are not containers: latencies end at the pod object";

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn jobs(measured: &Measured) -> f64 {
    measured.load.jobs as f64
}

/// Prints one measurement.
pub(super) fn show(measured: &Measured) {
    let Measured { load, outcome, requests, uses, took, .. } = measured;
    let (jobs, seconds) = (jobs(measured), took.as_secs_f64());
    let pace = load.rate.map_or("burst".to_owned(), |rate| format!("open loop, {rate:.1} jobs/s"));
    println!("\n{}: {} jobs of {} x {} GPUs, {pace}", load.name, load.jobs, load.size, load.gpus);
    println!("  {:.1} jobs/s (20 % to 80 % of pods), {seconds:.0} s in all", outcome.rate);
    println!("  submit -> pod  {}", outcome.submit_to_pod);
    println!("  finish -> hub  {}", outcome.finish_to_hub);
    println!("  lost {}, doubled {}", outcome.lost, outcome.doubled);
    let writes = requests::Writes::of(requests, jobs);
    println!(
        "  API writes per job: {:.2} of user, hub and agents, {:.2} of the scheduler, {:.2} for the \
         owner's quota (kubelets' and background apart)",
        writes.ours, writes.scheduler, writes.quota
    );
    println!(
        "  hub's controller: {:.2} requests per job and {:.3} removals",
        measured.controller / jobs,
        measured.removals / jobs,
    );
    println!("{}", requests::table(requests, jobs).trim_end());
    let (all, idle) = (processes::sum(uses) / jobs, measured.idle / jobs);
    println!(
        "  {all:.1} ms of CPU per job over all processes, of which {idle:.1} without jobs too:"
    );
    for (kind, used) in uses {
        let (each, peak) = (used.processor / jobs, used.peak);
        println!("    {each:7.2} ms {peak:7.1} MiB at most  {kind}");
    }
    let others = measured.others * 100.0;
    println!("  other programs took {others:.0} % of two cores; load average {}", measured.loaded);
}

/// Prints the ceiling and returns the share of it that `burst` reached.
pub(super) fn ceiling(ceiling: Ceiling, burst: &Measured) -> f64 {
    let writes = requests::all_writes(&burst.requests) / jobs(burst);
    let share = writes * burst.outcome.rate / ceiling.rate;
    println!(
        "\nceiling: {:.0} writes/s of 1.2 kB from 64 writers, {:.2} ms of CPU each (API servers and \
         etcd); the burst's {:.1} jobs/s x {writes:.1} writes are {:.0} % of it",
        ceiling.rate,
        ceiling.millis,
        burst.outcome.rate,
        share * 100.0
    );
    share
}

/// One measurement for programs.
pub(super) fn as_json(measured: &Measured) -> Value {
    let Measured { load, requests, uses, .. } = measured;
    let jobs = jobs(measured);
    let mut found = measured.outcome.as_json();
    let more = json!({
        "name": load.name, "jobs": load.jobs, "size": load.size, "gpus": load.gpus,
        "openLoopRate": load.rate, "seconds": measured.took.as_secs_f64(),
        "writesPerJob": requests::Writes::of(requests, jobs).as_json(),
        "controllerRequestsPerJob": measured.controller / jobs,
        "controllerRemovalsPerJob": measured.removals / jobs,
        "requests": requests::as_json(requests, jobs),
        "cpuMillisPerJob": processes::sum(uses) / jobs, "ofWhichIdle": measured.idle / jobs,
        "processes": processes::as_json(uses, jobs),
        "othersShareOfMachine": measured.others, "loadAverage": measured.loaded,
    });
    if let (Value::Object(found), Value::Object(more)) = (&mut found, more) {
        found.extend(more);
    }
    found
}

/// Exponents of growth from the smallest to the largest number of members.
pub(super) fn growth(runs: &[Value]) -> Value {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Value::Null };
    let members = |run: &Value| run["members"].as_f64().unwrap_or(1.0);
    let wider = (members(last) / members(first)).ln();
    if wider <= 0.0 {
        return Value::Null;
    }
    let exponent = |name: &str| {
        let of = |run: &Value| run["phases"][0][name].as_f64().unwrap_or(f64::NAN);
        (of(last) / of(first)).ln() / wider
    };
    let names = ["jobsPerSecond", "controllerRequestsPerJob", "cpuMillisPerJob"];
    let all = names.map(|name| (name.to_owned(), json!(exponent(name))));
    let all = Value::Object(all.into_iter().collect());
    println!("\nexponents of growth with members: {all}");
    all
}
