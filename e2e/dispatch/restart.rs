//! A hub that comes back to ten thousand live jobs: when it decides again, and that nothing is lost or
//! doubled meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, GpuLease, GpuPool};
use idlewild::sandbox::Federation;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::bench::node;
use crate::harness::{SOON, eventually, fresh, jobs, member, settings};
use crate::work::{condition, create, job};

/// Live jobs: how the time grows with them is the second figure.
const JOBS: [usize; 2] = [1_000, 10_000];
/// Requests in flight while jobs are made.
const AT_ONCE: usize = 32;
/// Jobs that run; all others wait.
const RUNNING: usize = 32;
const COPIES: &str = "member-one";

/// Epochs of each job that has any, and the UIDs of all pods.
type Held = (BTreeMap<String, Vec<String>>, BTreeSet<String>);

#[test]
#[ignore = "a benchmark: it prints figures, see make bench-dispatch"]
fn bench_a_hub_that_restarts_with_ten_thousand_live_jobs() {
    for count in JOBS {
        let members = vec![member("one", u32::try_from(RUNNING).unwrap(), 8)];
        fresh(&settings("restart", members), async |federation| restart(federation, count).await);
    }
}

async fn restart(federation: &Federation, count: usize) {
    let api = jobs(federation).await;
    let all = futures::stream::iter(0..count);
    all.for_each_concurrent(AT_ONCE, async |index| {
        create(&api, job(&format!("live-{index}"), 8, "3600s")).await;
    })
    .await;
    steady(&api, count).await;
    let before = held(federation, &api).await;
    assert_eq!(before.0.len(), RUNNING, "as many run as there is room for");
    // In order, so that it gives up its leadership: a process that was killed comes back under
    // another name here, and waits until the lease of the one before is over.
    federation.hub.controller().process.terminate(SOON).await.unwrap();
    let decided = first_decision(federation).await;
    println!("hub, {count} live jobs: first new lease {decided:.2?} after its start");
    settled(federation, &api, count, &before).await;
}

/// Waits until the room is used and the last job knows why it waits.
async fn steady(api: &Api<GpuJob>, count: usize) {
    eventually("jobs run and the rest says why it waits", SOON * 10, async || {
        // Looked at rarely: ten thousand jobs are a long list.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let told = all.iter().filter(|job| condition(job, "Placed").is_some()).count();
        let phase = |job: &GpuJob| job.status.as_ref().and_then(|status| status.phase);
        let running = all.iter().filter(|job| phase(job) == Some(Phase::Running)).count();
        let found = format!("{running} of {RUNNING} run, {told} of {count} were told");
        if (running, told) == (RUNNING, count) { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Room for one more job appears while the hub is away; how long it takes from its start to the
/// lease that uses it.
async fn first_decision(federation: &Federation) -> Duration {
    let cluster = &federation.members["one"].cluster;
    let mut node = node(0);
    node["metadata"]["annotations"] = json!({ "kwok.x-k8s.io/node": "fake" });
    let node: Node = serde_json::from_value(node).unwrap();
    let nodes: Api<Node> = Api::all(cluster.admin.clone());
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let hub = &federation.hub.cluster.admin;
    let copies: Api<GpuPool> = Api::namespaced(hub.clone(), COPIES);
    eventually("the member shows the new node", SOON, async || {
        let copy = copies.get("a100").await.map_err(|error| error.to_string())?;
        let gpus = copy.status.unwrap_or_default().gpus;
        if gpus.free == 8 { Ok(()) } else { Err(format!("{gpus:?}")) }
    })
    .await;
    let leases: Api<GpuLease> = Api::namespaced(hub.clone(), COPIES);
    let list = leases.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap_or_default();
    let events = leases.watch(&WatchParams::default(), &version).await.unwrap();
    let mut events = std::pin::pin!(events);
    let began = Instant::now();
    federation.hub.controller().process.restart().await.unwrap();
    loop {
        if let Some(Ok(WatchEvent::Added(_))) = events.next().await {
            return began.elapsed();
        }
        assert!(began.elapsed() < SOON, "the hub decides nothing");
    }
}

/// The same jobs hold what they held, one more runs, and no pod was made twice.
async fn settled(federation: &Federation, api: &Api<GpuJob>, count: usize, before: &Held) {
    eventually("one more job runs", SOON, async || {
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let phase = |job: &GpuJob| job.status.as_ref().and_then(|status| status.phase);
        let running = all.iter().filter(|job| phase(job) == Some(Phase::Running)).count();
        if running == RUNNING + 1 { Ok(()) } else { Err(format!("{running} run")) }
    })
    .await;
    let after = held(federation, api).await;
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), count, "none is lost");
    assert_eq!(after.0.len(), RUNNING + 1);
    for (job, epochs) in &before.0 {
        assert_eq!(after.0.get(job), Some(epochs), "{job} runs as before");
    }
    assert_eq!(after.1.len(), RUNNING + 1, "a pod for each");
    assert!(before.1.is_subset(&after.1), "all that ran run on");
}

async fn held(federation: &Federation, api: &Api<GpuJob>) -> Held {
    let all = api.list(&ListParams::default()).await.unwrap();
    let epochs = |job: &GpuJob| -> Vec<String> {
        let status = job.status.iter();
        status.flat_map(|one| &one.allocations).map(|held| held.epoch.to_string()).collect()
    };
    let epochs = all.iter().map(|job| (job.name_any(), epochs(job)));
    let epochs = epochs.filter(|(_, epochs)| !epochs.is_empty()).collect();
    let member = &federation.members["one"].cluster.admin;
    let pods: Api<Pod> = Api::namespaced(member.clone(), GUEST_NAMESPACE);
    let pods = pods.list(&ListParams::default()).await.unwrap();
    (epochs, pods.iter().filter_map(ResourceExt::uid).collect())
}
