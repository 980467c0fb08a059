//! The live table of jobs, in plain lines: a job's line is printed when it changed.

use std::collections::BTreeMap;
use std::time::Instant;

use kube::ResourceExt;

use super::say::say;
use crate::api::{GpuJob, GpuJobStatus};

/// What was printed so far.
#[derive(Debug)]
pub(super) struct Table {
    began: Instant,
    shown: BTreeMap<String, String>,
}

impl Table {
    /// Prints the head of the table; times count from now.
    pub(super) fn new() -> Self {
        say(format!("{:>8}  {}", "SECONDS", columns(&HEAD)));
        Self { began: Instant::now(), shown: BTreeMap::new() }
    }

    /// Prints the lines that changed.
    pub(super) fn show(&mut self, jobs: &[GpuJob]) {
        for job in jobs {
            let line = line(job);
            let name = job.name_any();
            if self.shown.get(&name) != Some(&line) {
                say(format!("{:>8.1}  {line}", self.began.elapsed().as_secs_f32()));
                self.shown.insert(name, line);
            }
        }
    }

    /// Prints something that happened beside the jobs.
    pub(super) fn note(&self, what: impl AsRef<str>) {
        say(format!("{:>8.1}  * {}", self.began.elapsed().as_secs_f32(), what.as_ref()));
    }
}

const HEAD: [&str; 6] = ["JOB", "STATUS", "DONE", "RUNNING", "CLUSTERS", "REASON"];

fn line(job: &GpuJob) -> String {
    let nothing = GpuJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&nothing);
    let phase = status.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
    let done = format!("{}/{}", status.replicas.succeeded, job.spec.completions);
    let running = status.replicas.running.to_string();
    let clusters = status.clusters.join(",");
    columns(&[&job.name_any(), &phase, &done, &running, &clusters, &status.summary.reason])
}

fn columns(cells: &[&str; 6]) -> String {
    let [job, status, done, running, clusters, reason] = cells;
    format!("{job:<22} {status:<10} {done:>9} {running:>8}  {clusters:<30} {reason}")
        .trim_end()
        .to_string()
}
