//! Members and hubs that lose sight of each other: who goes on, who stops, what is run elsewhere.

use std::time::Duration;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, LABEL_JOB_UID, SYSTEM_NAMESPACE};
use idlewild::sandbox::Federation;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, settings};
use crate::work::{create, guests, job_with};

/// Longer than any lease or tolerance of this test and what is added to them.
const EXPIRED: Duration = Duration::from_mins(3);

/// The hub's leases last a minute from now on: the shortest there is.
pub(crate) async fn short_leases(federation: &Federation) {
    let maps: Api<ConfigMap> =
        Api::namespaced(federation.hub.cluster.admin.clone(), SYSTEM_NAMESPACE);
    let change = Patch::Merge(json!({"data": {"leaseSeconds": "60"}}));
    maps.patch("idlewild-hub", &PatchParams::default(), &change).await.unwrap();
    federation.hub.controller().process.restart().await.unwrap();
    federation.hub.controller().ready().await.unwrap();
}

/// Guests of a job that were not told to go, by member, whatever the hub says.
async fn living(federation: &Federation, job: &GpuJob) -> Vec<(String, Pod)> {
    let found = guests(federation, &job.uid().unwrap()).await.into_iter();
    let all =
        found.flat_map(|(member, pods)| pods.into_iter().map(move |pod| (member.clone(), pod)));
    let runs = |pod: &Pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod.status.as_ref().is_some_and(|one| one.phase.as_deref() == Some("Running"))
    };
    all.filter(|(_, pod)| runs(pod)).collect()
}

/// The member where the one guest of the job runs.
async fn place(federation: &Federation, job: &GpuJob) -> String {
    let found = living(federation, job).await;
    assert_eq!(found.len(), 1, "{}: {found:?}", job.name_any());
    found[0].0.clone()
}

#[test]
fn guests_stop_or_go_on_without_their_hub_and_silent_members_work_is_run_elsewhere() {
    fresh(
        &settings("failover", vec![member("east", 2, 8), member("west", 2, 8)]),
        async |federation| {
            short_leases(federation).await;
            let api = jobs(federation).await;
            let make = async |name: &str, failover| {
                create(&api, job_with(name, 4, "3000s", json!({ "failover": failover }))).await;
                job_in(&api, name, &[Phase::Running], SOON).await
            };
            let stops = make("stops", json!({"afterLease": "Stop"})).await;
            let moves = make("moves", json!({"tolerationSeconds": 45})).await;
            let stays = make("stays", json!({})).await;
            assert_eq!(
                stops.status.unwrap().failover_bound_seconds,
                Some(169),
                "(60 + 60 + 30 + 10) s and slack"
            );
            let stops = api.get("stops").await.unwrap();
            hub_lost(federation, &api, [&stops, &moves, &stays]).await;
            member_lost(federation, &api, [&moves, &stays]).await;
        },
    );
}

/// The hub's API server answers nobody: only who may not go on without it stops.
async fn hub_lost(federation: &Federation, api: &Api<GpuJob>, [stops, moves, stays]: [&GpuJob; 3]) {
    federation.hub.cluster.api_server.pause().unwrap();
    eventually("the guest that may not go on stops", EXPIRED, async || {
        let left = living(federation, stops).await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} guests")) }
    })
    .await;
    place(federation, moves).await;
    place(federation, stays).await;
    federation.hub.cluster.api_server.resume().unwrap();
    federation.hub.cluster.ready().await.unwrap();
    eventually("it runs again, and the others were left alone", EXPIRED, async || {
        let job = api.get("stops").await.map_err(|error| error.to_string())?;
        let status = job.status.unwrap_or_default();
        let attempts: Vec<_> = status.attempts.iter().map(|one| one.reason.clone()).collect();
        let again = status.phase == Some(Phase::Running) && attempts == ["LeaseExpired"];
        if again { Ok(()) } else { Err(format!("{:?} {attempts:?}", status.phase)) }
    })
    .await;
    for name in ["moves", "stays"] {
        let status = job_in(api, name, &[Phase::Running], SOON).await.status.unwrap();
        assert_eq!(status.evictions.total, 0, "a hub that was deaf blames no member: {name}");
    }
}

/// An agent is gone while its cluster works on.
async fn member_lost(federation: &Federation, api: &Api<GpuJob>, [moves, stays]: [&GpuJob; 2]) {
    let (lost, home) = (place(federation, moves).await, place(federation, stays).await);
    federation.members[&lost].agent().process.pause().unwrap();
    eventually("it runs elsewhere", EXPIRED, async || {
        let status = api.get("moves").await.map_err(|error| error.to_string())?.status.unwrap();
        let away = status.phase == Some(Phase::Running) && !status.clusters.contains(&lost);
        if away { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.clusters)) }
    })
    .await;
    let status = api.get("moves").await.unwrap().status.unwrap();
    assert_eq!(
        (status.evictions.cluster_lost, status.attempts[0].reason.as_str()),
        (1, "ClusterLost")
    );
    assert_eq!(living(federation, moves).await.len(), 2, "nobody could tell the old copy");
    assert_eq!(place(federation, stays).await, home, "the other one bears it");
    federation.members[&lost].agent().process.resume().unwrap();
    eventually("the old copy goes", SOON, async || {
        let left = living(federation, moves).await;
        match left.as_slice() {
            [(member, _)] if *member != lost => Ok(()),
            other => Err(format!("{} guests", other.len())),
        }
    })
    .await;
    // What the superseded attempt said at its end changed nothing.
    let status = job_in(api, "moves", &[Phase::Running], SOON).await.status.unwrap();
    assert_eq!((status.evictions.total, status.attempts.len()), (1, 1));
    let pods: Api<Pod> =
        Api::namespaced(federation.members[&lost].cluster.admin.clone(), GUEST_NAMESPACE);
    let of_job = format!("{LABEL_JOB_UID}={}", moves.uid().unwrap());
    eventually("no pod of it is left there", SOON, async || {
        let left = pods.list(&ListParams::default().labels(&of_job)).await.unwrap().items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await;
    job_in(api, "stays", &[Phase::Running], SOON).await;
}
