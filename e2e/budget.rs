//! Figures that are counts, not times: what a job costs the hub's API server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use idlewild::api::gpujob::Phase;
use idlewild::sandbox::{Federation, get, metric};
use kube::api::DeleteParams;

use crate::faults::all_over;
use crate::harness::{SOON, fresh, job_in, jobs, member, settings};
use crate::jobs::settled;
use crate::work::{create, job};

/// Requests of the hub's controller that are for jobs: heartbeats of its own election, watches and
/// their renewals, and reports on queues and members apart.
pub(crate) async fn requests(federation: &Federation) -> BTreeMap<String, f64> {
    let address = &federation.hub.controller().address;
    let page = get(address, "/metrics").await.unwrap().1;
    let of = |verb: &str, resource: &str| {
        metric(&page, "idlewild_api_requests_total", &[("verb", verb), ("resource", resource)])
    };
    let mut counts = BTreeMap::new();
    for resource in ["gpujobs", "gpujobs/status", "gpuleases"] {
        for verb in ["get", "create", "update", "patch", "delete", "deletecollection"] {
            counts.insert(format!("{verb} {resource}"), of(verb, resource));
        }
    }
    counts
}

async fn cost_per_job(federation: &Federation, count: usize) -> f64 {
    let before = requests(federation).await;
    let api = jobs(federation).await;
    for index in 0..count {
        create(&api, job(&format!("cost-{index}"), 1, "1s")).await;
    }
    let over = all_over(&api, count, Duration::from_mins(5)).await;
    let attempts =
        over.iter().map(|job| job.status.as_ref().map_or(0, |status| status.next_attempt));
    println!("{} attempts for {count} jobs", attempts.sum::<u32>());
    let after = requests(federation).await;
    #[allow(clippy::cast_precision_loss, reason = "a few hundred jobs")]
    let each = |what: &String| (after[what] - before[what]) / count as f64;
    let parts: Vec<_> = after.keys().map(|what| (what, each(what))).collect();
    let (removals, own): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|(what, _)| is_removal(what));
    let sum = |parts: &[(&String, f64)]| parts.iter().map(|(_, each)| each).sum::<f64>();
    println!(
        "{} members: {:.3} requests of the hub's controller per job from create to finished, bulk \
         removals apart ({:.3}):",
        federation.members.len(),
        sum(&own),
        sum(&removals)
    );
    for (what, each) in own.iter().filter(|(_, each)| *each > 0.0) {
        println!("  {each:.3} {what}");
    }
    sum(&own)
}

/// Leases that are over and on record go later, many at once.
pub(crate) fn is_removal(what: &str) -> bool {
    what == "deletecollection gpuleases" || what == "delete gpuleases"
}

#[test]
fn a_job_costs_the_hub_four_requests_however_many_members() {
    let mut costs = Vec::new();
    for count in [2_u32, 6] {
        // Room for all jobs at once: one that waits costs more.
        let members = (0..count).map(|index| member(&format!("m{index}"), 216 / 8 / count, 8));
        fresh(&settings(&format!("budget-{count}"), members.collect()), async |federation| {
            costs.push(cost_per_job(federation, 200).await);
        });
    }
    for cost in &costs {
        assert!(*cost <= 4.0, "{costs:?}");
    }
}

#[test]
fn a_job_that_had_to_wait_costs_one_request_more_and_one_a_minute() {
    let members = vec![member("m0", 1, 8), member("m1", 1, 8)];
    fresh(&settings("budget-waiting", members), async |federation| {
        let began = Instant::now();
        let cost = cost_per_job(federation, 100).await;
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        assert!(cost <= 5.0 + minutes, "{cost} in {minutes} minutes");
    });
}

#[test]
#[ignore = "a benchmark: it prints figures, see make bench"]
fn bench_thousand_jobs_over_three_members() {
    let members = (0..3).map(|index| member(&format!("m{index}"), 50, 8)).collect();
    fresh(&settings("thousand", members), async |federation| {
        thousand(federation, 1000).await;
    });
}

#[test]
fn bursts_spread_by_capacity_and_a_thousand_jobs_all_finish_and_none_runs_twice() {
    let members = vec![member("m0", 20, 8), member("m1", 10, 8), member("m2", 6, 8)];
    fresh(&settings("burst", members), async |federation| {
        spread(federation).await;
        thousand(federation, 1000).await;
    });
}

/// On members whose owners never came back: where they did, less goes there.
async fn spread(federation: &Federation) {
    let api = jobs(federation).await;
    let name = |index: usize| format!("spread-{index}");
    for index in 0..18 {
        create(&api, job(&name(index), 1, "600s")).await;
    }
    let mut of: BTreeMap<String, usize> = BTreeMap::new();
    for index in 0..18 {
        let job = job_in(&api, &name(index), &[Phase::Running], SOON).await;
        *of.entry(job.status.unwrap().clusters.join(",")).or_default() += 1;
    }
    // Ten to five to three, give or take one that meets a picture in between.
    for (member, want) in [("m0", 10_usize), ("m1", 5), ("m2", 3)] {
        assert!(of[member].abs_diff(want) <= 1, "{of:?}");
    }
    for index in 0..18 {
        api.delete(&name(index), &DeleteParams::default()).await.unwrap();
    }
    settled(federation).await;
}

async fn thousand(federation: &Federation, count: usize) {
    let starts = crate::faults::watch_starts(federation);
    let api = jobs(federation).await;
    let began = Instant::now();
    let all = futures::stream::iter(0..count);
    all.for_each_concurrent(8, async |index| {
        create(&api, job(&format!("burst-{index}"), 1, "1s")).await;
    })
    .await;
    let submitted = began.elapsed();
    let jobs = all_over(&api, count, Duration::from_mins(10)).await;
    let took = began.elapsed();
    crate::faults::assert_each_ran_once(&jobs, &starts);
    #[allow(clippy::cast_precision_loss, reason = "a thousand jobs")]
    let rate = count as f64 / took.as_secs_f64();
    println!(
        "{count} jobs over 3 members: submitted in {submitted:?}, all over after {took:?}, {rate:.1} jobs/s"
    );
}
