//! Owners take GPUs back, also where no scheduler helps them, and the work goes on elsewhere.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, pin_mut};
use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, GpuPool, SYSTEM_NAMESPACE};
use idlewild::sandbox::{Federation, OWNER, OWNER_NAMESPACE};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, pods, settings};
use crate::work::{condition, create, guests, job_with};

/// A class of the owner's whose pods wait until GPUs come free by themselves.
const POLITE: &str = "polite";

async fn polite(client: &Client) {
    let classes: Api<PriorityClass> = Api::all(client.clone());
    let class = json!({"metadata": {"name": POLITE}, "value": 1000, "preemptionPolicy": "Never"});
    classes.create(&PostParams::default(), &read(class)).await.unwrap();
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// An owner's pod that wants `gpus` GPUs; `extra` is added to its spec.
fn owners(name: &str, gpus: u32, extra: Value) -> Pod {
    let limits = json!({"nvidia.com/gpu": gpus.to_string(), "cpu": "100m"});
    let mut pod = json!({"metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "registry.example.org/own:1",
            "resources": {"limits": limits}}]}});
    pod["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    read(pod)
}

/// The job once it runs on a member other than `before`, with that member and its guest.
async fn moved(federation: &Federation, api: &Api<GpuJob>, before: &str) -> (String, Pod) {
    eventually(&format!("it runs elsewhere than on {before}"), SOON, async || {
        let job = api.get("train").await.map_err(|error| error.to_string())?;
        let status = job.status.clone().unwrap_or_default();
        let found = guests(federation, &job.uid().unwrap()).await;
        let living = found.into_iter().find_map(|(member, pods)| {
            let runs = |pod: &Pod| {
                pod.status.as_ref().is_some_and(|one| one.phase.as_deref() == Some("Running"))
                    && pod.metadata.deletion_timestamp.is_none()
            };
            Some((member, pods.into_iter().find(runs)?))
        });
        let running = status.phase == Some(Phase::Running);
        let elsewhere = living.filter(|(member, _)| running && member != before);
        elsewhere.ok_or_else(|| format!("{:?} {:?}", status.phase, status.clusters))
    })
    .await
}

fn variable(pod: &Pod, name: &str) -> String {
    let env = pod.spec.as_ref().unwrap().containers[0].env.clone().unwrap();
    env.into_iter().find(|one| one.name == name).unwrap().value.unwrap_or_default()
}

async fn bound(api: &Api<Pod>, name: &str) {
    eventually(&format!("{name} is bound"), SOON, async || {
        let pod = api.get(name).await.map_err(|error| error.to_string())?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        node.ok_or_else(|| format!("{:?}", pod.status))
    })
    .await;
}

/// A condition of the pool, by which reason it is what it is.
async fn told(federation: &Federation, name: &str, type_: &str, want: (&str, &str)) -> GpuPool {
    let pools: Api<GpuPool> =
        Api::namespaced(federation.members[name].cluster.admin.clone(), SYSTEM_NAMESPACE);
    eventually(&format!("{type_} is {want:?}"), SOON, async || {
        let pool = pools.get("a100").await.map_err(|error| error.to_string())?;
        let status = pool.status.clone().unwrap_or_default();
        let found = idlewild::api::conditions::find(&status.conditions, type_).cloned();
        match &found {
            Some(one) if (one.status.as_str(), one.reason.as_str()) == want => Ok(pool),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// The owner of `name` wants all its GPUs for a pod that may not preempt.
async fn wants_back(federation: &Federation, name: &str) {
    let cluster = &federation.members[name].cluster;
    polite(&cluster.admin).await;
    let own: Api<Pod> = Api::namespaced(cluster.client_for(OWNER).await.unwrap(), OWNER_NAMESPACE);
    let pod = owners("mine", 8, json!({"priorityClassName": POLITE}));
    own.create(&PostParams::default(), &pod).await.unwrap();
    bound(&own, "mine").await;
    told(federation, name, "OwnerPriorityTooLow", ("True", "OwnerPriorityTooLow")).await;
    told(federation, name, "OwnerSchedulerUnsupported", ("False", "SchedulerPreempts")).await;
}

/// What the pool says of how soon guests leave; the hub sees what it is told from not.
async fn measured(federation: &Federation, name: &str) {
    let hub: Api<GpuPool> =
        Api::namespaced(federation.hub.cluster.admin.clone(), &format!("member-{name}"));
    let copy = eventually("the hub is told how soon guests leave", SOON, async || {
        let copy = hub.get("a100").await.map_err(|error| error.to_string())?;
        let status = copy.status.clone().unwrap_or_default();
        let samples = status.time_to_vacate.map(|time| time.samples);
        if samples == Some(1) { Ok(status) } else { Err(format!("{samples:?}")) }
    })
    .await;
    assert_eq!(copy.vacate_history, None);
    let own = told(federation, name, "Reclaiming", ("False", "NothingToReclaim")).await;
    assert_eq!(own.status.unwrap().vacate_history.unwrap().evictions, 1);
}

#[test]
fn guests_leave_for_pods_that_no_scheduler_helps_and_go_on_elsewhere_from_what_they_saved() {
    let members = vec![member("east", 1, 8), member("west", 1, 8)];
    fresh(&settings("reclaim", members), async |federation| {
        let api = jobs(federation).await;
        let saves = json!({"checkpoint": {"uri": "s3://team/train", "intervalSeconds": 60}});
        create(&api, job_with("train", 8, "600s", saves)).await;
        let (first, pod) = moved(federation, &api, "nowhere").await;
        assert_eq!(variable(&pod, "IDLEWILD_CHECKPOINT_URI"), "s3://team/train/1.0");
        assert_eq!(variable(&pod, "IDLEWILD_RESUME"), "");
        wants_back(federation, &first).await;
        let (second, pod) = moved(federation, &api, &first).await;
        assert_eq!(variable(&pod, "IDLEWILD_RESUME"), "s3://team/train/1.0/step-7");
        assert_eq!(variable(&pod, "IDLEWILD_EARLIER_EPOCHS"), "1.0");
        let status = api.get("train").await.unwrap().status.unwrap();
        assert_eq!((status.evictions.owner_reclaimed, status.replicas.failed), (1, 0));
        assert_eq!(status.last_checkpoint.unwrap().reference, "s3://team/train/1.0/step-7");
        assert!(status.lost_seconds <= 1 && status.attempts[0].lost_seconds <= 1);
        measured(federation, &first).await;
        cordoned(federation, &api, (&first, &second)).await;
        given_up(federation, &api, &first).await;
    });
}

/// A cordoned node is the owner's again: the job goes back to where it came from, where nobody wants
/// the GPUs any more.
async fn cordoned(federation: &Federation, api: &Api<GpuJob>, (first, second): (&str, &str)) {
    let cluster = &federation.members[first].cluster;
    let own: Api<Pod> = Api::namespaced(cluster.admin.clone(), OWNER_NAMESPACE);
    own.delete("mine", &DeleteParams::default()).await.unwrap();
    let nodes: Api<Node> = Api::all(federation.members[second].cluster.admin.clone());
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0).name_any();
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch(&node, &PatchParams::default(), &cordon).await.unwrap();
    let (_, pod) = moved(federation, api, second).await;
    assert_eq!(variable(&pod, "IDLEWILD_RESUME"), "s3://team/train/1.1/step-7");
    assert_eq!(variable(&pod, "IDLEWILD_EARLIER_EPOCHS"), "1.1 1.0");
    told(federation, second, "Degraded", ("True", "Degraded")).await;
    api.delete("train", &DeleteParams::default()).await.unwrap();
}

/// A job that bears no eviction fails at the first one.
async fn given_up(federation: &Federation, api: &Api<GpuJob>, name: &str) {
    create(api, job_with("fragile", 1, "600s", json!({"failover": {"maxEvictions": 0}}))).await;
    job_in(api, "fragile", &[Phase::Running], SOON).await;
    let pools: Api<GpuPool> =
        Api::namespaced(federation.members[name].cluster.admin.clone(), SYSTEM_NAMESPACE);
    // The owner lends at no time any more.
    let never = Patch::Merge(json!({"spec": {"offer": {"schedule": []}}}));
    pools.patch("a100", &PatchParams::default(), &never).await.unwrap();
    told(federation, name, "Ready", ("False", "WindowClosed")).await;
    let failed = job_in(api, "fragile", &[Phase::Failed], SOON).await;
    let (status, reason, message) = condition(&failed, "Failed").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "RequeuingLimitExceeded"));
    assert_eq!(message, "1 evictions, failover.maxEvictions is 0");
}

/// Pods of the owner, one by one, each of which wants one GPU of a full member: how long until a guest
/// is told to go.
async fn takes(
    federation: &Federation,
    count: usize,
    name: impl Fn(usize) -> String,
    extra: Value,
) -> Vec<Duration> {
    let cluster = &federation.members["m0"].cluster;
    let events =
        watcher::watcher(pods(&cluster.admin, GUEST_NAMESPACE), watcher::Config::default());
    pin_mut!(events);
    let own: Api<Pod> = Api::namespaced(cluster.admin.clone(), OWNER_NAMESPACE);
    let mut told = BTreeSet::new();
    let mut times = Vec::new();
    // What stands now is no news.
    while let Some(event) = events.next().await {
        match event.unwrap() {
            Event::InitApply(pod) if pod.metadata.deletion_timestamp.is_some() => {
                told.insert(pod.name_any());
            }
            Event::InitDone => break,
            _ => {}
        }
    }
    for index in 0..count {
        let began = Instant::now();
        let pod = owners(&name(index), 1, extra.clone());
        own.create(&PostParams::default(), &pod).await.unwrap();
        let next = async {
            while let Some(event) = events.next().await {
                let Ok(Event::Apply(pod)) = event else { continue };
                let going = pod.metadata.deletion_timestamp.is_some();
                if going && told.insert(pod.name_any()) {
                    return began.elapsed();
                }
            }
            unreachable!("a watch goes on");
        };
        times.push(tokio::time::timeout(SOON, next).await.expect("a guest is told to go"));
    }
    times
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_millis();
    println!(
        "{what}: {} owner's pods, guest told to go after p50 {} ms, p90 {} ms, p99 {} ms, at most {} ms",
        times.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

#[test]
#[ignore = "a benchmark: it prints figures, see make bench"]
fn bench_reclaim_without_hub_and_without_agent() {
    const CASES: usize = 200;
    fresh(&settings("reclaims", vec![member("m0", 50, 8)]), async |federation| {
        let api = jobs(federation).await;
        let all = json!({"completions": 2 * CASES});
        create(&api, job_with("guests", 1, "3000s", all)).await;
        eventually("the member is full", SOON * 3, async || {
            let job = api.get("guests").await.map_err(|error| error.to_string())?;
            let replicas = job.status.unwrap_or_default().replicas;
            if replicas.running == 400 { Ok(()) } else { Err(format!("{replicas:?}")) }
        })
        .await;
        federation.hub.controller().process.kill().await.unwrap();
        federation.hub.cluster.api_server.pause().unwrap();
        polite(&federation.members["m0"].cluster.admin).await;
        let extra = json!({"priorityClassName": POLITE});
        let times = takes(federation, CASES, |index| format!("polite-{index}"), extra).await;
        print("the agent, hub stopped (pods that may not preempt)", times);
        federation.members["m0"].agent().process.kill().await.unwrap();
        let times = takes(federation, CASES, |index| format!("plain-{index}"), json!({})).await;
        print("kube-scheduler alone, hub and agent stopped", times);
        federation.hub.cluster.api_server.resume().unwrap();
    });
}
