//! Hubs that were away, or whose store was: what ran meanwhile is taken up again, and nothing twice.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, GpuLease, GpuPool, GuestLease, SYSTEM_NAMESPACE};
use idlewild::sandbox::{Federation, Process, Program};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::failover::short_leases;
use crate::faults::watch_starts;
use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, settings};
use crate::work::{condition, create, guests, job, leases};

/// Longer than a lease of a minute and what is added to it.
const EXPIRED: Duration = Duration::from_mins(3);

#[test]
fn what_ran_while_the_hub_and_its_store_were_gone_runs_on_and_is_taken_up_again() {
    let members = vec![member("east", 2, 8), member("west", 2, 8)];
    fresh(&settings("adoption", members), async |federation| {
        short_leases(federation).await;
        let starts = watch_starts(federation);
        let api = jobs(federation).await;
        let early = running(federation, &api, "early").await;
        lease_deleted(federation, &api, &early).await;
        // At the backup `late` waits for a hub that works, and `unknown` is not there yet.
        federation.hub.controller().process.kill().await.unwrap();
        create(&api, job("late", 4, "3000s")).await;
        back_up(federation).await;
        federation.hub.controller().process.restart().await.unwrap();
        let late = running(federation, &api, "late").await;
        let unknown = running(federation, &api, "unknown").await;
        let lost = leases(federation, &late.job).await.remove(0);

        federation.hub.controller().process.kill().await.unwrap();
        federation.hub.cluster.api_server.kill().await.unwrap();
        expired(federation, 3).await;
        let hub = restore(federation).await;

        for guest in [&early, &late] {
            job_in(&api, &guest.name, &[Phase::Running], EXPIRED).await;
            assert_eq!(pod(federation, &guest.job).await, guest.pod, "{}", guest.name);
        }
        let found = leases(federation, &late.job).await.remove(0);
        assert_eq!(found.name_any(), lost.name_any());
        assert_ne!(found.uid(), lost.uid(), "it was made again");
        assert!(api.get_opt("unknown").await.unwrap().is_none());
        assert_eq!(pod(federation, &unknown.job).await, unknown.pod, "nobody told it to end");
        orphans(federation, 1).await;
        expired(federation, 1).await;
        assert_eq!(incarnation(federation).await, "2");
        // What the restored hub issues is of a new incarnation.
        create(&api, job("new", 4, "3000s")).await;
        let new = job_in(&api, "new", &[Phase::Running], EXPIRED).await;
        assert_eq!(new.status.unwrap().summary.epoch, "2.0");
        let evicted = api.get("late").await.unwrap().status.unwrap().evictions.total;
        assert_eq!(evicted, 0);
        let twice = starts.lock().unwrap();
        let twice: Vec<_> = twice.pods.iter().filter(|(_, uids)| uids.len() > 1).collect();
        assert!(twice.is_empty(), "started twice: {twice:?}");
        drop(hub);
    });
}

/// A job that runs, and its one pod.
struct Running {
    name: String,
    job: String,
    pod: Option<String>,
}

async fn running(federation: &Federation, api: &Api<GpuJob>, name: &str) -> Running {
    if api.get_opt(name).await.unwrap().is_none() {
        create(api, job(name, 4, "3000s")).await;
    }
    let found = job_in(api, name, &[Phase::Running], SOON).await;
    let job = found.uid().unwrap();
    Running { name: name.into(), pod: pod(federation, &job).await, job }
}

/// The UID of the one pod of a job that runs.
async fn pod(federation: &Federation, job: &str) -> Option<String> {
    let found: Vec<Pod> = guests(federation, job).await.into_values().flatten().collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let phase = found[0].status.as_ref().and_then(|status| status.phase.clone());
    assert_eq!(
        (phase.as_deref(), found[0].metadata.deletion_timestamp.is_none()),
        (Some("Running"), true)
    );
    found[0].uid()
}

/// Somebody deletes the lease of what runs.
async fn lease_deleted(federation: &Federation, api: &Api<GpuJob>, guest: &Running) {
    let old = leases(federation, &guest.job).await.remove(0);
    let all: Api<GpuLease> =
        Api::namespaced(federation.hub.cluster.admin.clone(), &old.namespace().unwrap());
    all.delete(&old.name_any(), &DeleteParams::default()).await.unwrap();
    eventually("it is made again and finds its guest", SOON, async || {
        let found = leases(federation, &guest.job).await;
        let running = |lease: &&GpuLease| {
            lease.uid() != old.uid() && condition_of(lease, "Ready").as_deref() == Some("True")
        };
        if found.iter().find(running).is_some() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let found = job_in(api, &guest.name, &[Phase::Running], SOON).await;
    assert_eq!(found.status.as_ref().unwrap().evictions.total, 0);
    assert_eq!(condition(&found, "Placed").unwrap().0, "True");
    assert_eq!(pod(federation, &guest.job).await, guest.pod);
}

fn condition_of(lease: &GpuLease, type_: &str) -> Option<String> {
    let status = lease.status.as_ref()?;
    idlewild::api::conditions::find(&status.conditions, type_).map(|held| held.status.clone())
}

fn copy(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// Copies the hub's store, which stands still meanwhile.
async fn back_up(federation: &Federation) {
    let hub = &federation.hub.cluster;
    hub.etcd.kill().await.unwrap();
    copy(&hub.directory().join("etcd"), &hub.directory().join("backup"));
    hub.etcd.restart().await.unwrap();
    hub.ready().await.unwrap();
}

/// Puts the copy back, and starts a controller that is told so.
async fn restore(federation: &Federation) -> Process {
    let hub = &federation.hub.cluster;
    hub.etcd.kill().await.unwrap();
    copy(&hub.directory().join("backup"), &hub.directory().join("etcd"));
    hub.etcd.restart().await.unwrap();
    hub.api_server.restart().await.unwrap();
    hub.ready().await.unwrap();
    let kubeconfig = hub.directory().join("idlewild-hub.kubeconfig");
    let arguments = [
        "hub".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--namespace={SYSTEM_NAMESPACE}"),
        "--listen=127.0.0.1:0".to_owned(),
        "--restored".to_owned(),
    ];
    let name = "hub-controller-restored".to_owned();
    let path = federation.settings.idlewild.clone();
    federation.run(Program { name, path, arguments: arguments.to_vec() }).unwrap()
}

/// Waits until so many guests of all members are expired.
async fn expired(federation: &Federation, count: usize) {
    eventually(&format!("{count} guests are expired"), EXPIRED, async || {
        let mut found = 0;
        for member in federation.members.values() {
            let all: Api<GuestLease> =
                Api::namespaced(member.cluster.admin.clone(), GUEST_NAMESPACE);
            let all = all.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let expired = |guest: &&GuestLease| {
                guest.status.as_ref().is_some_and(|status| status.expired_at.is_some())
            };
            found += all.iter().filter(expired).count();
        }
        if found == count { Ok(()) } else { Err(format!("{found} are")) }
    })
    .await;
}

/// Waits until the hub's pictures tell of so many orphans.
async fn orphans(federation: &Federation, count: i64) {
    let pools: Api<GpuPool> = Api::all(federation.hub.cluster.admin.clone());
    eventually(&format!("{count} orphans"), SOON, async || {
        let all = pools.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let statuses = all.into_iter().filter_map(|pool| pool.status);
        let found: i64 = statuses.map(|status| status.orphan_count).sum();
        if found == count { Ok(()) } else { Err(format!("{found}")) }
    })
    .await;
}

async fn incarnation(federation: &Federation) -> String {
    let maps: Api<ConfigMap> =
        Api::namespaced(federation.hub.cluster.admin.clone(), SYSTEM_NAMESPACE);
    let map = maps.get("idlewild-hub").await.unwrap();
    json!(map.data)["incarnation"].as_str().unwrap().to_owned()
}
