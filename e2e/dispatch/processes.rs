//! Processor time and memory of every process of a federation, from `/proc`.

use std::collections::BTreeMap;

use idlewild::sandbox::{Federation, Process};
use serde_json::{Value, json};

/// What processes of one kind used by now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Processor time in milliseconds.
    pub(super) processor: f64,
    /// Most memory that was ever resident, in MiB, summed over the processes.
    pub(super) peak: f64,
}

/// By kind: `hub`, `agents`, `API servers` and so on.
pub(super) type Uses = BTreeMap<&'static str, Use>;

/// What each kind of process used by now.
pub(super) fn uses(federation: &Federation) -> Uses {
    let mut uses = Uses::new();
    for (kind, process) in processes(federation) {
        let Some(pid) = process.pid() else { continue };
        let (found, sum) = (of(&pid.to_string()), uses.entry(kind).or_default());
        sum.processor += found.processor;
        sum.peak += found.peak;
    }
    uses.insert("driver (apart)", of("self"));
    uses
}

/// Whether the processes of `kind` count for a job: the driver stands for users.
pub(super) fn counts(kind: &str) -> bool {
    kind != "driver (apart)"
}

/// What was used between two looks, the peak being that of the second.
pub(super) fn since(before: &Uses, after: &Uses) -> Uses {
    let part = |(kind, after): (&&'static str, &Use)| {
        let before = before.get(*kind).copied().unwrap_or_default();
        (*kind, Use { processor: after.processor - before.processor, peak: after.peak })
    };
    after.iter().map(part).collect()
}

/// Milliseconds of all that counts.
pub(super) fn sum(uses: &Uses) -> f64 {
    uses.iter().filter(|(kind, _)| counts(kind)).map(|(_, used)| used.processor).sum()
}

/// `uses` as milliseconds per job and MiB.
pub(super) fn as_json(uses: &Uses, jobs: f64) -> Value {
    let each = |(kind, used): (&&str, &Use)| {
        let one = json!({ "cpuMillisPerJob": used.processor / jobs, "peakMebibytes": used.peak });
        ((*kind).to_owned(), one)
    };
    Value::Object(uses.iter().map(each).collect())
}

fn processes(federation: &Federation) -> Vec<(&'static str, &Process)> {
    let hub = &federation.hub;
    let mut all: Vec<(&'static str, &Process)> = Vec::new();
    all.extend(hub.controllers.iter().map(|service| ("hub", &service.process)));
    all.extend(hub.gateway.iter().map(|gateway| ("gateway", &gateway.service.process)));
    let members = federation.members.values();
    all.extend(members.clone().filter_map(|one| Some(("agents", &one.agent.as_ref()?.process))));
    all.push(("API server of the hub", &hub.cluster.api_server));
    all.extend(
        members.clone().map(|member| ("API servers of members", &member.cluster.api_server)),
    );
    let clusters = || std::iter::once(&hub.cluster).chain(members.clone().map(|one| &one.cluster));
    all.extend(clusters().map(|cluster| ("etcd", &cluster.etcd)));
    all.extend(clusters().map(|cluster| ("controller managers", &cluster.controller_manager)));
    all.extend(clusters().filter_map(|cluster| Some(("schedulers", cluster.scheduler.as_ref()?))));
    all.extend(clusters().filter_map(|cluster| Some(("kwok", cluster.kwok.as_ref()?))));
    all
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn of(pid: &str) -> Use {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (stat, status) = (read("stat").unwrap_or_default(), read("status").unwrap_or_default());
    // After the name, which may hold spaces: user and system time are the 12th and 13th field, in
    // hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok());
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    let kibibytes = peak.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Use {
        processor: (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)) as f64 * 10.0,
        peak: kibibytes.unwrap_or(0) as f64 / 1024.0,
    }
}

/// The machine's load average and the processor time of everything on it, in milliseconds.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn machine() -> (String, f64) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or("");
    let fields: Vec<u64> = line.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq: all but idle and waiting.
    let busy = fields.iter().enumerate().filter(|(index, _)| ![3, 4].contains(index) && *index < 8);
    (load, busy.map(|(_, ticks)| *ticks).sum::<u64>() as f64 * 10.0)
}
