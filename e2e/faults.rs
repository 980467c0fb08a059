//! What breaks, on federations of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob};
use idlewild::sandbox::{Election, Federation, MemberSettings};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, settings};
use crate::work::{Starts, create, guests, job, job_with, leases};

/// Watches every guest of every member until the end of the process.
pub(crate) fn watch_starts(federation: &Federation) -> Arc<Mutex<Starts>> {
    let starts = Arc::new(Mutex::new(Starts::default()));
    for member in federation.members.values() {
        let api: Api<Pod> = Api::namespaced(member.cluster.admin.clone(), GUEST_NAMESPACE);
        let starts = starts.clone();
        tokio::spawn(async move {
            // Without the pauses it would spin once the runtime shuts down, and never end.
            let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
                    starts.lock().unwrap().see(&pod);
                }
            }
        });
    }
    starts
}

/// Waits until all jobs are over, and returns them.
pub(crate) async fn all_over(api: &Api<GpuJob>, count: usize, limit: Duration) -> Vec<GpuJob> {
    // A watch: lists of a thousand jobs, again and again, would load the API server they measure.
    let events = watcher::watcher(api.clone(), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let mut phases: BTreeMap<String, Option<Phase>> = BTreeMap::new();
    let ended = async {
        while let Some(event) = events.next().await {
            if let Ok(Event::Apply(job) | Event::InitApply(job)) = event {
                phases.insert(job.name_any(), job.status.and_then(|status| status.phase));
            }
            let over =
                |phase: &Option<Phase>| matches!(phase, Some(Phase::Succeeded | Phase::Failed));
            if phases.len() == count && phases.values().all(over) {
                return;
            }
        }
    };
    if tokio::time::timeout(limit, ended).await.is_err() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for phase in phases.values() {
            *counts.entry(format!("{phase:?}")).or_default() += 1;
        }
        panic!("not all of {count} jobs ended within {limit:?}: {counts:?}");
    }
    api.list(&ListParams::default()).await.expect("the hub answers").items
}

pub(crate) fn assert_each_ran_once(jobs: &[GpuJob], starts: &Mutex<Starts>) {
    for job in jobs {
        let status = job.status.clone().unwrap();
        assert_eq!(status.phase, Some(Phase::Succeeded), "{}: {status:?}", job.name_any());
    }
    let starts = starts.lock().unwrap();
    let twice: Vec<_> = starts.succeeded.iter().filter(|(_, uids)| uids.len() > 1).collect();
    assert!(twice.is_empty(), "ran to success twice: {twice:?}");
    assert_eq!(starts.succeeded.len(), jobs.len(), "each job was seen to succeed");
}

#[test]
fn hub_and_agents_killed_ten_times_lose_nothing_and_double_nothing() {
    let members = vec![member("one", 6, 8), member("two", 6, 8)];
    fresh(&settings("killed", members), async |federation| {
        let starts = watch_starts(federation);
        let api = jobs(federation).await;
        for index in 0..300 {
            create(&api, job(&format!("job-{index}"), 1, "2s")).await;
        }
        // A fixed sequence stands for random moments: who dies when depends on how far things are.
        for round in 0_usize..10 {
            let done = 25 * (round + 1);
            eventually("the run gets on", SOON * 3, async || {
                let all =
                    api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
                let over = all.iter().filter(|job| {
                    job.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Succeeded))
                });
                let over = over.count();
                if over >= done { Ok(()) } else { Err(format!("{over} over")) }
            })
            .await;
            match round % 3 {
                0 => federation.hub.controller().process.restart().await.unwrap(),
                1 => federation.members["one"].agent().process.restart().await.unwrap(),
                _ => {
                    federation.members["two"].agent().process.restart().await.unwrap();
                    federation.hub.controller().process.restart().await.unwrap();
                }
            }
        }
        let jobs = all_over(&api, 300, SOON * 4).await;
        assert_each_ran_once(&jobs, &starts);
    });
}

#[test]
fn a_paused_member_does_not_slow_the_others() {
    let members = vec![member("one", 2, 8), member("two", 2, 8)];
    fresh(&settings("paused", members), async |federation| {
        let api = jobs(federation).await;
        create(&api, job("before", 1, "500ms")).await;
        job_in(&api, "before", &[Phase::Succeeded], SOON).await;
        let apiserver = &federation.members["one"].cluster.api_server;
        apiserver.pause().unwrap();
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut count = 0;
        let only = json!({ "placement": { "clusterAffinity": { "clusterNames": ["two"] } } });
        while began.elapsed() < Duration::from_secs(30) {
            let name = format!("during-{count}");
            let submitted = Instant::now();
            create(&api, job_with(&name, 1, "200ms", only.clone())).await;
            job_in(&api, &name, &[Phase::Succeeded], SOON).await;
            slowest = slowest.max(submitted.elapsed());
            count += 1;
        }
        apiserver.resume().unwrap();
        println!(
            "while one API server was paused for 30 s: {count} jobs in a row on the other, the slowest took {slowest:?}"
        );
        create(
            &api,
            job_with(
                "after",
                1,
                "200ms",
                json!({ "placement": {
            "clusterAffinity": { "clusterNames": ["one"] } } }),
            ),
        )
        .await;
        job_in(&api, "after", &[Phase::Succeeded], SOON * 2).await;
    });
}

#[test]
fn two_leaders_at_once_start_nothing_twice() {
    let members = vec![member("one", 4, 8), member("two", 4, 8)];
    let mut settings = settings("two-leaders", members);
    settings.election = Election::Off;
    fresh(&settings, async |federation| {
        federation.add_controller(Election::Off).unwrap();
        federation.hub.controllers[1].ready().await.unwrap();
        let starts = watch_starts(federation);
        let api = jobs(federation).await;
        for index in 0..100 {
            create(&api, job(&format!("job-{index}"), 1, "500ms")).await;
        }
        let jobs = all_over(&api, 100, SOON * 3).await;
        assert_each_ran_once(&jobs, &starts);
        let starts = starts.lock().unwrap();
        let twice: Vec<_> = starts.pods.iter().filter(|(_, uids)| uids.len() > 1).collect();
        assert!(twice.is_empty(), "started twice: {twice:?}");
    });
}

#[test]
fn a_job_deleted_while_its_member_is_down_goes_and_its_guests_go_when_it_returns() {
    fresh(&settings("down", vec![member("one", 2, 8)]), async |federation| {
        let api = jobs(federation).await;
        let made = create(&api, job("orphaned", 1, "600s")).await;
        job_in(&api, "orphaned", &[Phase::Running], SOON).await;
        let uid = made.uid().unwrap();
        federation.members["one"].agent().process.kill().await.unwrap();
        api.delete("orphaned", &DeleteParams::default()).await.unwrap();
        assert!(api.get_opt("orphaned").await.unwrap().is_none());
        eventually("its lease is withdrawn and stays", SOON, async || {
            let leases = leases(federation, &uid).await;
            let withdrawn = leases.iter().filter(|lease| lease.spec.withdrawn.is_some()).count();
            if withdrawn == 1 { Ok(()) } else { Err(format!("{} leases", leases.len())) }
        })
        .await;
        assert_eq!(guests(federation, &uid).await.len(), 1, "nobody stopped them yet");
        federation.members["one"].agent().process.restart().await.unwrap();
        eventually("guests and lease go", SOON, async || {
            let left = (leases(federation, &uid).await.len(), guests(federation, &uid).await.len());
            if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    });
}

#[test]
fn a_member_that_is_gone_for_ever_leaves_and_its_work_runs_elsewhere() {
    let members: Vec<MemberSettings> = vec![member("gone", 2, 8), member("stays", 2, 8)];
    fresh(&settings("gone", members), async |federation| {
        let api = jobs(federation).await;
        let only = json!({ "placement": { "clusterAffinity": { "clusterNames": ["gone"] } } });
        create(&api, job_with("survivor", 1, "2s", only)).await;
        job_in(&api, "survivor", &[Phase::Running], SOON).await;
        let member = &federation.members["gone"];
        member.agent().process.kill().await.unwrap();
        member.cluster.api_server.kill().await.unwrap();
        let anywhere = kube::api::Patch::Merge(json!({ "spec": { "placement": null } }));
        api.patch("survivor", &kube::api::PatchParams::default(), &anywhere).await.unwrap();
        job_in(&api, "survivor", &[Phase::Unknown], SOON * 2).await;
        federation.operate(&["leave", "gone"]).await.unwrap();
        let job = job_in(&api, "survivor", &[Phase::Succeeded], SOON).await;
        let status = job.status.unwrap();
        assert_eq!(status.evictions.cluster_lost, 1);
        assert_eq!(status.attempts.last().unwrap().cluster, "stays");
    });
}
