//! Figures that depend on the machine: printed by `make bench`, never a reason to fail.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::StreamExt;
use idlewild::api::{GpuJob, GpuPool, SYSTEM_NAMESPACE};
use idlewild::sandbox::{Federation, LABEL_LEND, OWNER_NAMESPACE, Process};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::PostParams;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{SOON, eventually, fresh, jobs, member, settings};
use crate::work::{condition, create, job};

/// Requests in flight while many objects are made.
const AT_ONCE: usize = 32;
/// How long an idle process is watched.
const IDLE: Duration = Duration::from_mins(1);

/// What a process uses, from `/proc`.
struct Usage {
    /// Resident memory in MiB.
    resident: f64,
    /// Most that it ever was.
    peak: f64,
    /// What of it is no file: heap and stacks; the rest is the program itself.
    own: f64,
    /// Processor time in seconds.
    processor: f64,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn usage(process: &Process) -> Usage {
    let pid = process.pid().expect("it runs");
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = read("status");
    let mebibytes = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() as f64 / 1024.0
    };
    // After the name, which may hold spaces: user and system time are the 12th and 13th field.
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u64>().unwrap() as f64;
    Usage {
        resident: mebibytes("VmRSS"),
        peak: mebibytes("VmHWM"),
        own: mebibytes("RssAnon"),
        processor: (ticks(11) + ticks(12)) / 100.0,
    }
}

/// Watches a process that has nothing to do, and prints what it uses.
async fn idle(what: &str, process: &Process) {
    let (before, began) = (usage(process), Instant::now());
    // This is the measurement itself: nothing waits for anything to happen.
    tokio::time::sleep(IDLE).await;
    let after = usage(process);
    let share = (after.processor - before.processor) / began.elapsed().as_secs_f64();
    println!(
        "{what}: {:.1} MiB resident ({:.1} of heap and stacks, {:.1} at most), {:.1} mCPU",
        after.resident,
        after.own,
        after.peak,
        share * 1000.0
    );
}

/// Makes many objects.
async fn make<K>(api: &Api<K>, objects: impl Iterator<Item = Value>)
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    futures::stream::iter(objects)
        .for_each_concurrent(AT_ONCE, async |object| {
            let object: K = serde_json::from_value(object).unwrap();
            api.create(&PostParams::default(), &object).await.expect("the API server takes it");
        })
        .await;
}

pub(crate) fn node(index: usize) -> Value {
    let resources = json!({
        "cpu": "128", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": "8",
    });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("big-{index}"), "labels": {
            "kubernetes.io/hostname": format!("big-{index}"), "kubernetes.io/arch": "amd64",
            "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", LABEL_LEND: "a100",
        } },
        "status": { "capacity": resources, "allocatable": resources,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Bench",
                "lastHeartbeatTime": null, "lastTransitionTime": null }] },
    })
}

fn bound(index: usize, nodes: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("busy-{index}") },
        "spec": { "nodeName": format!("big-{}", index % nodes), "containers": [{
            "name": "main", "image": "registry.example.org/work:1",
            "resources": { "limits": { "nvidia.com/gpu": "1", "cpu": "4", "memory": "16Gi" } },
        }] },
    })
}

/// GPUs that a pool offers, once the agent has seen all nodes and pods.
async fn offered(federation: &Federation, gpus: i64, owner: i64) {
    let api: Api<GpuPool> =
        Api::namespaced(federation.members["one"].cluster.admin.clone(), SYSTEM_NAMESPACE);
    eventually("the pool's picture is complete", SOON * 5, async || {
        let status = api.get("a100").await.map_err(|error| error.to_string())?.status;
        let found = status.unwrap_or_default().gpus;
        if (found.offered, found.owner) == (gpus, owner) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
}

#[test]
#[ignore = "a benchmark: it prints figures, see make bench"]
fn bench_an_idle_agent_and_hub() {
    fresh(&settings("bench-idle", vec![member("one", 100, 8)]), async |federation| {
        idle("agent, 100 nodes, idle", &federation.members["one"].agent().process).await;
        idle("hub, one member, idle", &federation.hub.controller().process).await;
    });
}

#[test]
#[ignore = "a benchmark: it prints figures, see make bench"]
fn bench_an_agent_of_a_large_cluster() {
    const NODES: usize = 5_000;
    const PODS: usize = 20_000;
    fresh(&settings("bench-large", vec![member("one", 1, 8)]), async |federation| {
        let cluster = &federation.members["one"].cluster;
        // Nobody renews the leases of so many nodes here, and nobody may call them lost for it.
        cluster.controller_manager.kill().await.unwrap();
        let nodes: Api<Node> = Api::all(cluster.admin.clone());
        make(&nodes, (0..NODES).map(node)).await;
        let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), OWNER_NAMESPACE);
        make(&pods, (0..PODS).map(|index| bound(index, NODES))).await;
        let (gpus, owner) = ((NODES + 1) * 8, PODS);
        offered(federation, i64::try_from(gpus).unwrap(), i64::try_from(owner).unwrap()).await;
        let agent = &federation.members["one"].agent().process;
        idle(&format!("agent, {NODES} nodes and {PODS} pods, after all of them came"), agent).await;
        agent.restart().await.unwrap();
        federation.members["one"].agent().ready().await.unwrap();
        offered(federation, i64::try_from(gpus).unwrap(), i64::try_from(owner).unwrap()).await;
        idle(&format!("agent, {NODES} nodes and {PODS} pods, restarted"), agent).await;
    });
}

#[test]
#[ignore = "a benchmark: it prints figures, see make bench"]
fn bench_a_hub_with_ten_thousand_live_jobs() {
    fresh(&settings("bench-live", vec![member("one", 1, 8)]), async |federation| {
        let api = jobs(federation).await;
        let hub = &federation.hub.controller().process;
        let mut before = 0;
        // How memory grows with jobs is the second figure.
        for count in [1_000, 10_000] {
            submit(&api, before..count).await;
            idle(&format!("hub, {count} live jobs, all but one waiting"), hub).await;
            before = count;
        }
        hub.restart().await.unwrap();
        federation.hub.controller().ready().await.unwrap();
        idle(&format!("hub, {before} live jobs, restarted"), hub).await;
    });
}

/// Makes jobs and waits until the last of them knows why it waits.
async fn submit(api: &Api<GpuJob>, indexes: Range<usize>) {
    let (began, last) = (Instant::now(), format!("live-{}", indexes.end - 1));
    let count = indexes.len();
    futures::stream::iter(indexes)
        .for_each_concurrent(AT_ONCE, async |index| {
            create(api, job(&format!("live-{index}"), 8, "600s")).await;
        })
        .await;
    println!("{count} jobs submitted in {:.0} s", began.elapsed().as_secs_f64());
    eventually("the last one says why it waits", SOON * 10, async || {
        let job: GpuJob = api.get(&last).await.map_err(|error| error.to_string())?;
        condition(&job, "Placed").map(drop).ok_or_else(|| "nothing yet".to_owned())
    })
    .await;
}
