//! `make demo`: a federation joins, runs the samples, and an owner takes GPUs back so that a job
//! moves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::accounts::{USER, USER_NAMESPACES};
use super::error::Error;
use super::federation::Federation;
use super::say::say;
use super::settings::Settings;
use super::table::Table;
use super::up::{interrupted, started};
use crate::api::gpujob::Phase;
use crate::api::{GpuJob, GpuJobStatus};
use crate::cluster::{chain, within};

/// The samples run for seconds; on a busy machine everything around them takes longer.
const ENDED_WITHIN: Duration = Duration::from_mins(5);
/// From the owner's pods to a guest that runs elsewhere.
const MOVED_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks at the jobs.
const LOOK: Duration = Duration::from_millis(500);
/// The one sample that waits for ever, and the reason that it must give. All others succeed.
const NEVER_FITS: (&str, &str) = ("never-fits", "NoPoolFits");
/// Owners who try to take GPUs back before giving up: a job may end before it is evicted.
const OWNERS: u32 = 3;

/// A demonstration.
#[derive(Clone, Debug)]
pub struct Demo {
    /// What to start.
    pub sandbox: Settings,
    /// Folder with the manifests to apply.
    pub samples: PathBuf,
    /// Leave it up until Ctrl-C.
    pub keep: bool,
}

/// Whether a demonstration went as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every job ended, or waits, as it should, and one was seen to move.
    AsExpected,
    /// Something else happened; it was printed.
    Unexpected,
}

/// Runs the demonstration from start to stop.
///
/// # Errors
/// If the sandbox cannot be started or stopped, or a command fails. A job that ends wrongly is a
/// [`Verdict`].
pub async fn demo(demo: &Demo) -> Result<Verdict, Error> {
    let Some(federation) = started(&demo.sandbox).await? else { return Ok(Verdict::Unexpected) };
    let verdict = tokio::select! {
        verdict = show(&federation, demo) => verdict,
        stop = interrupted() => stop.map(|()| Verdict::Unexpected),
    };
    if verdict.is_ok() && demo.keep {
        say("\nLook around (kubectl get gpujobs,gpupools,gpuleases -A):");
        for line in federation.exports()? {
            say(format!("  {line}"));
        }
        say(format!("Logs: {}/logs. Ctrl-C stops everything.", federation.settings.dir.display()));
        interrupted().await?;
    } else if verdict.is_ok() {
        say("\nTo look around with kubectl: make demo KEEP=1 leaves it up and prints how.");
    }
    federation.stop().await?;
    verdict
}

async fn show(federation: &Federation, demo: &Demo) -> Result<Verdict, Error> {
    let hub = &federation.hub.cluster;
    let namespace = USER_NAMESPACES[0];
    let samples = demo.samples.display().to_string();
    say(format!("\n{USER} applies {samples} in namespace {namespace}:"));
    let applied = hub.kubectl(USER, &["apply", "-n", namespace, "-f", &samples], "").await?;
    say(applied.trim_end());
    say("");
    let mut scene = Scene {
        federation,
        jobs: Api::namespaced(hub.client_for(USER).await?, namespace),
        table: Table::new(),
    };
    let moved = scene.move_one().await?;
    let over = |jobs: &[GpuJob]| jobs.iter().all(|job| shortfall(job).is_none());
    let (Ok(jobs) | Err(jobs)) = scene.follow(ENDED_WITHIN, over).await?;
    let verdict = sum_up(&jobs, moved.as_deref());
    for arguments in [&["explain", NEVER_FITS.0, "-n", namespace][..], &["top"]] {
        say(format!("\n{USER} runs kubectl idlewild {}:", arguments.join(" ")));
        say(federation.command(USER, arguments).await?.trim_end());
    }
    Ok(verdict)
}

/// The stage of the demonstration.
struct Scene<'a> {
    federation: &'a Federation,
    jobs: Api<GpuJob>,
    table: Table,
}

impl Scene<'_> {
    /// Prints changes until `done` or, as an `Err`, until the time is over. A failed look is looked
    /// again; only the last one counts.
    async fn follow(
        &mut self,
        limit: Duration,
        done: impl Fn(&[GpuJob]) -> bool,
    ) -> Result<Result<Vec<GpuJob>, Vec<GpuJob>>, Error> {
        let began = Instant::now();
        loop {
            let look = within("list jobs", self.jobs.list(&ListParams::default())).await;
            let late = began.elapsed() >= limit;
            if let Ok(list) = &look {
                self.table.show(&list.items);
            }
            match look {
                Ok(list) if done(&list.items) => return Ok(Ok(list.items)),
                Ok(list) if late => return Ok(Err(list.items)),
                Ok(_) => {}
                Err(error) if late => return Err(Error::cluster("look at the jobs")(error)),
                Err(error) => self.table.note(chain(&error)),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has owners take GPUs back on which a job runs, until one was seen to run elsewhere. Returns the
    /// sentence that says so.
    async fn move_one(&mut self) -> Result<Option<String>, Error> {
        for _ in 0..OWNERS {
            let running = |jobs: &[GpuJob]| victim(jobs).is_some();
            let Ok(jobs) = self.follow(ENDED_WITHIN, running).await? else { break };
            let Some((name, cluster)) = victim(&jobs) else { break };
            let Some(member) = self.federation.members.get(&cluster) else { break };
            let gpus = member.take_back().await?;
            let table = &self.table;
            table.note(format!("the owner of {cluster} needs all {gpus} GPUs; {name} runs there"));
            let settled = |jobs: &[GpuJob]| jobs.iter().any(|job| settled(job, &name, &cluster));
            let (Ok(jobs) | Err(jobs)) = self.follow(MOVED_WITHIN, settled).await?;
            member.give_back().await?;
            self.table.note(format!("the owner of {cluster} is done and lends again"));
            let place = jobs.iter().find_map(|job| moved_to(job, &name, &cluster));
            if let Some(place) = place {
                return Ok(Some(format!(
                    "{name} was evicted from {cluster} and ran on in {place}"
                )));
            }
        }
        Ok(None)
    }
}

/// Whether the job `name` moved away from `cluster`, or ended before it was evicted.
fn settled(job: &GpuJob, name: &str, cluster: &str) -> bool {
    let ended = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
    job.name_any() == name && (ended || moved_to(job, name, cluster).is_some())
}

/// The running job to evict, and where it runs: one that fits elsewhere, in one piece, if possible.
fn victim(jobs: &[GpuJob]) -> Option<(String, String)> {
    let running = jobs.iter().filter_map(|job| {
        let status = job.status.as_ref()?;
        let [allocation] = status.allocations.as_slice() else { return None };
        (status.phase == Some(Phase::Running)).then_some((job, allocation))
    });
    let bound_to_place = |job: &GpuJob| {
        let affinity = job.spec.placement.as_ref().is_some_and(|p| p.cluster_affinity.is_some());
        (job.spec.gpu.any_of.len() == 1, job.spec.data.is_some() || affinity)
    };
    running
        .min_by_key(|(job, _)| (bound_to_place(job), job.spec.completions, job.name_any()))
        .map(|(job, allocation)| (job.name_any(), allocation.cluster.clone()))
}

/// Where the job `name` runs or ran after its eviction from `cluster`.
fn moved_to(job: &GpuJob, name: &str, cluster: &str) -> Option<String> {
    let status = job.status.as_ref().filter(|_| job.name_any() == name)?;
    let evicted = status.evictions.total > 0;
    let now = status.clusters.iter().find(|place| *place != cluster);
    let running = status.replicas.running > 0;
    let ended = status.attempts.iter().map(|attempt| &attempt.cluster);
    let place = now.filter(|_| running).or_else(|| {
        ended
            .rev()
            .find(|place| *place != cluster)
            .filter(|_| status.phase == Some(Phase::Succeeded))
    });
    place.filter(|_| evicted).cloned()
}

/// How the job ends, or the reason for which it waits.
fn expected(job: &GpuJob) -> &'static str {
    let (name, reason) = NEVER_FITS;
    if job.name_any() == name { reason } else { "Succeeded" }
}

/// How the job is not yet, or not, as it should be; `None` if it is.
fn shortfall(job: &GpuJob) -> Option<String> {
    let expected = expected(job);
    let nothing = GpuJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&nothing);
    let phase = status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default();
    let waits = status.conditions.iter().any(|found| found.reason == expected);
    let found = phase == expected || (status.completion_time.is_none() && waits);
    (!found).then(|| format!("should be {expected}, is {phase} {}", status.summary.reason))
}

fn sum_up(jobs: &[GpuJob], moved: Option<&str>) -> Verdict {
    let statuses = || jobs.iter().filter_map(|job| job.status.as_ref());
    let ended = statuses().filter(|status| status.completion_time.is_some()).count();
    let replicas: i32 = statuses().map(|status| status.replicas.succeeded).sum();
    let evictions: i32 = statuses().map(|status| status.evictions.total).sum();
    let reclaimed: i32 = statuses().map(|status| status.evictions.owner_reclaimed).sum();
    say(format!(
        "\n{} jobs, {ended} ended; {replicas} replicas succeeded; {evictions} evictions, {reclaimed} by owners",
        jobs.len()
    ));
    say(moved.unwrap_or("No job was seen to move, though an owner took GPUs back"));
    let mut verdict = if moved.is_some() { Verdict::AsExpected } else { Verdict::Unexpected };
    for job in jobs {
        let name = job.name_any();
        if let Some(shortfall) = shortfall(job) {
            say(format!("{name}: {shortfall}"));
            verdict = Verdict::Unexpected;
        }
        let waiting = job.status.iter().filter(|status| status.completion_time.is_none());
        let conditions = waiting.flat_map(|status| &status.conditions);
        for found in conditions.filter(|found| found.reason == expected(job)) {
            say(format!("{name} waits, and says why: {}: {}", found.reason, found.message));
        }
    }
    if jobs.is_empty() {
        say("There was no job to run");
        verdict = Verdict::Unexpected;
    }
    verdict
}
