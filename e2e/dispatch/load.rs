//! Submits jobs, waits until they are over, and takes the figures of that time.

use std::time::Duration;

use futures::future::join_all;
use idlewild::api::{GpuJob, GpuLease};
use idlewild::sandbox::{Federation, USER, USER_NAMESPACES};
use kube::api::{DeleteParams, ListParams};
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde::Deserialize;
use serde_json::{Value, json};

use super::figures::{self, Outcome};
use super::processes::{self, Uses};
use super::requests::{self, Requests};
use super::sight::Sight;
use crate::harness::eventually;
use crate::work::job_with;

/// Writers that submit.
const WRITERS: usize = 2;
/// What one measurement takes at most, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(8);
/// The last writes about a job come after all that is waited for; this is part of the measurement.
const SETTLES: Duration = Duration::from_secs(4);

/// What is submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Names the jobs and the measurement.
    pub(super) name: &'static str,
    /// Jobs.
    pub(super) jobs: usize,
    /// Pods of each.
    pub(super) size: usize,
    /// GPUs of each pod.
    pub(super) gpus: i32,
    /// How long each runs.
    pub(super) run_for: &'static str,
    /// Jobs a second; `None` = as fast as they are taken.
    pub(super) rate: Option<f64>,
}

/// What one measurement found.
pub(super) struct Measured {
    pub(super) load: Load,
    pub(super) outcome: Outcome,
    pub(super) requests: Requests,
    pub(super) uses: Uses,
    /// Requests of the hub's controller about jobs and leases, by its own count.
    pub(super) controller: f64,
    /// Of those, removals of leases.
    pub(super) removals: f64,
    /// Milliseconds of `uses` that would have been used without jobs too.
    pub(super) idle: f64,
    /// From the first submission to the last write.
    pub(super) took: Duration,
    /// Share of two cores that other programs took.
    pub(super) others: f64,
    /// The machine's load average at the end.
    pub(super) loaded: String,
}

#[derive(Debug, Deserialize)]
struct Made {
    metadata: MadeMeta,
}

#[derive(Debug, Deserialize)]
struct MadeMeta {
    uid: String,
}

/// Runs `load` and takes its figures; everything is as before afterwards.
///
/// Without anything to do, all processes use `idle` thousandths of a core.
pub(super) async fn measure(
    federation: &Federation,
    sight: &Sight,
    load: Load,
    idle: f64,
) -> Measured {
    let user = federation.hub.cluster.client_for(USER).await.expect("the user has a kubeconfig");
    sight.forget();
    let before = (requests::requests(federation).await, processes::uses(federation));
    let controller = crate::budget::requests(federation).await;
    let ((_, machine), began) = (processes::machine(), sight.now());
    submit(&user, sight, load).await;
    over(federation, sight, load.jobs).await;
    tokio::time::sleep(SETTLES).await;
    let took = sight.now().saturating_sub(began);
    let spent = processes::since(&before.1, &processes::uses(federation));
    let (loaded, all) = processes::machine();
    let after = crate::budget::requests(federation).await;
    let each = |removal: bool| -> f64 {
        let kinds = after.iter().filter(|(what, _)| crate::budget::is_removal(what) == removal);
        kinds.map(|(what, count)| count - controller[what]).sum()
    };
    let (own, driver) = (processes::sum(&spent), spent["driver (apart)"].processor);
    let outcome = figures::outcome(&sight.stories(), load.jobs, load.size);
    let measured = Measured {
        load,
        outcome,
        requests: requests::since(&before.0, &requests::requests(federation).await),
        controller: each(false),
        removals: each(true),
        others: (all - machine - own - driver).max(0.0) / (took.as_secs_f64() * 2000.0),
        idle: idle * took.as_secs_f64(),
        uses: spent,
        took,
        loaded,
    };
    let api: Api<GpuJob> = Api::namespaced(user, USER_NAMESPACES[0]);
    let (params, all) = (DeleteParams::default(), ListParams::default());
    api.delete_collection(&params, &all).await.expect("the user deletes own jobs");
    measured
}

async fn submit(user: &Client, sight: &Sight, load: Load) {
    let began = tokio::time::Instant::now();
    let writers = (0..WRITERS).map(async |writer| {
        for index in (writer..load.jobs).step_by(WRITERS) {
            if let Some(rate) = load.rate {
                #[allow(clippy::cast_precision_loss, reason = "a few thousand jobs")]
                let due = Duration::from_secs_f64(index as f64 / rate);
                tokio::time::sleep_until(began + due).await;
            }
            let body = manifest(load, index).to_string().into_bytes();
            let url = GpuJob::url_path(&(), Some(USER_NAMESPACES[0]));
            let request = Request::new(url).create(&kube::api::PostParams::default(), body);
            let request = request.expect("the literal is valid");
            let at = sight.now();
            let made: Made = user.request(request).await.expect("the hub takes the job");
            sight.submitted(made.metadata.uid, at);
        }
    });
    join_all(writers).await;
}

fn manifest(load: Load, index: usize) -> Value {
    let extra = match load.size {
        1 => json!({}),
        size => json!({ "size": size }),
    };
    job_with(&format!("{}-{index}", load.name), load.gpus, load.run_for, extra)
}

/// Waits until all jobs are over, and nothing is left of them but their records.
async fn over(federation: &Federation, sight: &Sight, count: usize) {
    eventually("all jobs are over and their pods are gone", PATIENCE, async || {
        // Looked at rarely: the driver shares two cores with what it measures.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stories = sight.stories();
        let ours = || stories.values().filter(|story| story.submitted.is_some());
        let over = ours().filter(|story| story.over.is_some() || story.failed).count();
        let left = ours().flat_map(|story| story.pods.values()).filter(|pod| !pod.gone).count();
        if over == count && left == 0 { Ok(()) } else { Err(format!("{over} over, {left} pods")) }
    })
    .await;
    let leases: Api<GpuLease> = Api::all(federation.hub.cluster.admin.clone());
    eventually("all leases are removed", PATIENCE, async || {
        let one = ListParams::default().limit(1);
        let left = leases.list_metadata(&one).await.map_err(|error| error.to_string())?;
        if left.items.is_empty() { Ok(()) } else { Err("some leases".to_owned()) }
    })
    .await;
}
