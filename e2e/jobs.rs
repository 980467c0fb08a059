//! What a user does with jobs, on a hub and two members.

use std::time::Duration;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, LABEL_RANK};
use idlewild::sandbox::{Federation, USER, USER_NAMESPACES};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{SOON, eventually, job_in, jobs, shared};
use crate::work::{condition, create, guests, job, job_with, leases};

const ENDED: [Phase; 2] = [Phase::Succeeded, Phase::Failed];

#[test]
fn a_job_runs_on_a_member_and_ends() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let made = create(&api, job("simple", 1, "1s")).await;
        let hub = &federation.hub.cluster;
        let wait = [
            "wait",
            "--for=condition=Complete",
            "gpujob/simple",
            "-n",
            USER_NAMESPACES[0],
            "--timeout=60s",
        ];
        hub.kubectl(USER, &wait, "").await.expect("kubectl wait works as for batch/v1 jobs");
        let job = job_in(&api, "simple", &[Phase::Succeeded], SOON).await;
        let status = job.status.clone().unwrap();
        assert_eq!(status.completed_indexes, "0");
        assert_eq!((status.replicas.succeeded, status.replicas.failed), (1, 0));
        assert_eq!(status.attempts.len(), 1);
        assert!(federation.members.contains_key(&status.attempts[0].cluster));
        assert_eq!(status.observed_generation, job.metadata.generation);
        assert_eq!(condition(&job, "Finished").unwrap().1, "Succeeded");
        let uid = made.uid().unwrap();
        eventually("lease and pods go once they are on record", SOON, async || {
            let (leases, pods) = (leases(federation, &uid).await, guests(federation, &uid).await);
            if leases.is_empty() && pods.is_empty() {
                return Ok(());
            }
            Err(format!("{} leases, {} pods", leases.len(), pods.len()))
        })
        .await;
    });
}

#[test]
fn an_array_runs_every_index_once_within_its_parallelism() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let extra = json!({ "completions": 30, "parallelism": 7 });
        create(&api, job_with("array", 1, "500ms", extra)).await;
        let mut most = 0;
        let job = eventually("the array ends", SOON * 2, async || {
            let job = api.get("array").await.map_err(|error| error.to_string())?;
            let status = job.status.clone().unwrap_or_default();
            most = most.max(status.replicas.running + status.replicas.starting);
            match status.phase {
                Some(Phase::Succeeded) => Ok(job),
                phase => Err(format!("{phase:?} {:?}", status.replicas)),
            }
        })
        .await;
        let status = job.status.unwrap();
        assert_eq!(status.completed_indexes, "0-29");
        assert!((1..=7).contains(&most), "{most} at once");
        assert_eq!(status.replicas.failed, 0);
    });
}

#[test]
fn a_failing_job_is_tried_again_and_then_fails_with_the_reason() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let annotations = json!({ "sandbox.idlewild.dev/exit-code": "3" });
        let template = json!({ "metadata": { "annotations": annotations } });
        let extra = json!({ "backoffLimit": 1, "template": template });
        create(&api, job_with("failing", 1, "200ms", extra)).await;
        let job = job_in(&api, "failing", &ENDED, SOON).await;
        let status = job.status.clone().unwrap();
        assert_eq!(status.phase, Some(Phase::Failed));
        assert_eq!(status.replicas.failed, 2, "one failure is forgiven");
        assert_eq!(condition(&job, "Failed").unwrap().1, "BackoffLimitExceeded");
        assert_eq!(status.evictions.total, 0);
    });
}

#[test]
fn failure_rules_decide_by_exit_code() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let rule = |action: &str| {
            json!({ "rules": [{ "action": action,
            "onExitCodes": { "operator": "In", "values": [42] } }] })
        };
        let template = json!({ "metadata": { "annotations": {
            "sandbox.idlewild.dev/exit-code": "42" } } });
        let extra = |action: &str| json!({ "podFailurePolicy": rule(action), "template": template, "backoffLimit": 0 });
        create(&api, job_with("rule-fail", 1, "200ms", extra("FailJob"))).await;
        create(&api, job_with("rule-ignore", 1, "200ms", extra("Ignore"))).await;
        let job = job_in(&api, "rule-fail", &ENDED, SOON).await;
        assert_eq!(condition(&job, "Failed").unwrap().1, "PodFailurePolicy");
        eventually("an ignored failure runs again, uncounted", SOON, async || {
            let job = api.get("rule-ignore").await.map_err(|error| error.to_string())?;
            let status = job.status.unwrap_or_default();
            let again = status.attempts.len() >= 2 && status.replicas.failed == 0;
            if again { Ok(()) } else { Err(format!("{} attempts", status.attempts.len())) }
        })
        .await;
        api.delete("rule-ignore", &DeleteParams::default()).await.unwrap();
    });
}

#[test]
fn a_gang_starts_together_in_one_pool_or_not_at_all() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let extra = json!({ "size": 3, "gpu": { "anyOf": [{ "model": "A100" }] } });
        let made = create(&api, job_with("gang", 8, "3s", extra)).await;
        let uid = made.uid().unwrap();
        let pods = eventually("all pods of the gang run", SOON, async || {
            let guests = guests(federation, &uid).await;
            let pods: Vec<Pod> = guests.values().flatten().cloned().collect();
            let phase =
                |pod: &Pod| pod.status.clone().unwrap_or_default().phase.unwrap_or_default();
            let bound = pods.iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.is_some());
            let running = pods.iter().filter(|pod| phase(pod) == "Running").count();
            assert!(running == 0 || bound.count() == 3, "none runs before all are bound");
            if running == 3 { Ok(pods) } else { Err(format!("{running} of {}", pods.len())) }
        })
        .await;
        let mut ranks: Vec<_> = pods.iter().map(|pod| pod.labels()[LABEL_RANK].clone()).collect();
        ranks.sort();
        assert_eq!(ranks, ["0", "1", "2"]);
        let container = &pods[0].spec.as_ref().unwrap().containers[0];
        let env = container.env.clone().unwrap();
        let value =
            |name: &str| env.iter().find(|env| env.name == name).and_then(|env| env.value.clone());
        assert_eq!(value("WORLD_SIZE").as_deref(), Some("3"));
        assert_eq!(value("PET_NPROC_PER_NODE").as_deref(), Some("8"));
        assert!(env.iter().any(|env| env.name == "MASTER_ADDR" && env.value_from.is_some()));
        job_in(&api, "gang", &[Phase::Succeeded], SOON).await;
    });
}

#[test]
fn a_gang_that_no_pool_can_hold_waits_and_others_pass_it() {
    shared(async |federation| {
        let api = jobs(federation).await;
        create(&api, job_with("too-large", 8, "1s", json!({ "size": 64 }))).await;
        create(&api, job("passes", 1, "500ms")).await;
        job_in(&api, "passes", &[Phase::Succeeded], SOON).await;
        let job = job_in(&api, "too-large", &[Phase::Queued], SOON).await;
        let (status, reason, message) = condition(&job, "Placed").unwrap();
        assert_eq!((status.as_str(), reason.as_str()), ("False", "NoPoolFits"), "{message}");
        assert!(message.starts_with("0/2 pools fit"), "{message}");
        assert!(leases(federation, &job.uid().unwrap()).await.is_empty());
        api.delete("too-large", &DeleteParams::default()).await.unwrap();
    });
}

#[test]
fn what_no_pool_offers_is_named() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let model = json!({ "gpu": { "anyOf": [{ "model": "Z9000" }] } });
        let labels = json!({ "matchLabels": { "topology.kubernetes.io/region": "moon" } });
        let affinity = json!({ "placement": { "clusterAffinity": { "labelSelector": labels } } });
        let residency = json!({ "data": { "residency": ["XX"] } });
        for (name, extra, want) in [
            ("no-model", model, "NoMatchingModel"),
            ("no-place", affinity, "AffinityUnsatisfied"),
            ("no-land", residency, "ResidencyUnsatisfied"),
        ] {
            create(&api, job_with(name, 1, "1s", extra)).await;
            eventually(&format!("{name} says {want}"), SOON, async || {
                let job = api.get(name).await.map_err(|error| error.to_string())?;
                let placed = condition(&job, "Placed").unwrap_or_default();
                if placed.1 == want { Ok(()) } else { Err(format!("{placed:?}")) }
            })
            .await;
            api.delete(name, &DeleteParams::default()).await.unwrap();
        }
    });
}

#[test]
fn suspend_gives_the_gpus_back_and_resume_runs_again() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let made = create(&api, job("suspended", 1, "600s")).await;
        job_in(&api, "suspended", &[Phase::Running], SOON).await;
        suspend(&api, "suspended", true).await;
        let job = job_in(&api, "suspended", &[Phase::Suspended], SOON).await;
        assert_eq!(condition(&job, "Suspended").unwrap().0, "True");
        assert!(job.status.clone().unwrap().allocations.is_empty());
        let uid = made.uid().unwrap();
        eventually("its pods are gone", SOON, async || {
            let left = guests(federation, &uid).await;
            if left.is_empty() { Ok(()) } else { Err(format!("{:?}", left.keys())) }
        })
        .await;
        suspend(&api, "suspended", false).await;
        let job = job_in(&api, "suspended", &[Phase::Running], SOON).await;
        assert_eq!(job.status.unwrap().evictions.total, 0, "asked for, not suffered");
        api.delete("suspended", &DeleteParams::default()).await.unwrap();
    });
}

async fn suspend(api: &Api<GpuJob>, name: &str, suspend: bool) {
    let patch = Patch::Merge(json!({ "spec": { "suspend": suspend } }));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

#[test]
fn a_deleted_job_goes_at_once_and_its_guests_with_it() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let made = create(&api, job_with("deleted", 1, "600s", json!({ "completions": 3 }))).await;
        job_in(&api, "deleted", &[Phase::Running], SOON).await;
        api.delete("deleted", &DeleteParams::default()).await.unwrap();
        assert!(api.get_opt("deleted").await.unwrap().is_none(), "no finalizer holds it");
        let uid = made.uid().unwrap();
        eventually("guests and leases go", SOON, async || {
            let (leases, pods) = (leases(federation, &uid).await, guests(federation, &uid).await);
            let left = (leases.len(), pods.len());
            if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    });
}

#[test]
fn a_finished_job_is_deleted_after_its_time() {
    shared(async |federation| {
        let api = jobs(federation).await;
        let extra = json!({ "ttlSecondsAfterFinished": 1 });
        create(&api, job_with("short-lived", 1, "200ms", extra)).await;
        eventually("it is gone", SOON, async || match api.get_opt("short-lived").await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|job| job.and_then(|job| job.status)))),
        })
        .await;
    });
}

#[test]
fn two_jobs_of_one_name_in_two_namespaces_are_two_jobs() {
    shared(async |federation| {
        let client = federation.hub.cluster.client_for(USER).await.unwrap();
        let api = |index: usize| Api::namespaced(client.clone(), USER_NAMESPACES[index]);
        let (first, second): (Api<GpuJob>, Api<GpuJob>) = (api(0), api(1));
        create(&first, job("twin", 1, "1s")).await;
        create(&second, job("twin", 1, "1s")).await;
        for api in [&first, &second] {
            let job = job_in(api, "twin", &[Phase::Succeeded], SOON).await;
            assert_eq!(job.status.unwrap().attempts.len(), 1);
        }
    });
}

#[test]
fn running_time_is_limited_over_all_attempts() {
    shared(async |federation| {
        let api = jobs(federation).await;
        create(&api, job_with("too-long", 1, "600s", json!({ "maxRunningSeconds": 2 }))).await;
        let job = job_in(&api, "too-long", &ENDED, SOON).await;
        assert_eq!(condition(&job, "Failed").unwrap().1, "DeadlineExceeded");
    });
}

#[test]
fn gpus_that_are_free_on_no_single_node_place_nothing() {
    shared(async |federation| {
        let member = &federation.members["uni-north"];
        let owner = member.cluster.client_for(idlewild::sandbox::OWNER).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(owner, idlewild::sandbox::OWNER_NAMESPACE);
        // One GPU of each of six nodes is the owner's: 42 are free, but no node has 8.
        for index in 0..6 {
            let pod = owner_pod(&format!("spread-{index}"), 1);
            pods.create(&kube::api::PostParams::default(), &pod).await.unwrap();
        }
        let api = jobs(federation).await;
        eventually("the pool shows 42 free GPUs", SOON, async || {
            let bound = pods.list(&ListParams::default().labels("app=owner")).await.unwrap();
            let nodes: std::collections::BTreeSet<_> =
                bound.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
            let copies: Api<idlewild::api::GpuPool> =
                Api::namespaced(federation.hub.cluster.admin.clone(), "member-uni-north");
            let free = copies.get("a100").await.unwrap().status.unwrap_or_default().gpus.free;
            if nodes.len() == 6 && free == 42 { Ok(()) } else { Err(format!("{nodes:?} {free}")) }
        })
        .await;
        let extra = json!({ "gpu": { "anyOf": [{ "model": "A100" }] } });
        let made = create(&api, job_with("whole-node", 8, "500ms", extra)).await;
        eventually("it waits and says why", SOON, async || {
            let job = api.get("whole-node").await.unwrap();
            let placed = condition(&job, "Placed").unwrap_or_default();
            let fits = placed.1 == "WaitingForCapacity" && placed.2.contains("too few free GPUs");
            if fits { Ok(()) } else { Err(format!("{placed:?}")) }
        })
        .await;
        assert!(leases(federation, &made.uid().unwrap()).await.is_empty());
        pods.delete_collection(
            &DeleteParams::default(),
            &ListParams::default().labels("app=owner"),
        )
        .await
        .unwrap();
        job_in(&api, "whole-node", &[Phase::Succeeded], SOON).await;
    });
}

/// A pod of the owner's that wants GPUs, one to a node.
pub(crate) fn owner_pod(name: &str, gpus: i32) -> Pod {
    let limits = json!({ "nvidia.com/gpu": gpus.to_string(), "cpu": "100m" });
    let spread = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "app": "owner" } } }]);
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": "owner" } },
        "spec": {
            "containers": [{ "name": "main", "image": "registry.example.org/own:1",
                "resources": { "limits": limits } }],
            "topologySpreadConstraints": spread,
            "terminationGracePeriodSeconds": 1,
        },
    }))
    .expect("a pod")
}
#[test]
fn owners_take_their_gpus_back_and_the_work_moves() {
    shared(async |federation| {
        settled(federation).await;
        let api = jobs(federation).await;
        let preference = json!({ "gpu": { "anyOf": [{ "model": "A100" }, { "model": "L40S" }] },
            "completions": 48 });
        create(&api, job_with("moves", 1, "600s", preference)).await;
        eventually("it fills the preferred pool", SOON, async || {
            let status = api.get("moves").await.unwrap().status.unwrap_or_default();
            let done = status.replicas.running == 48 && status.clusters == ["uni-north"];
            if done { Ok(()) } else { Err(format!("{:?} {:?}", status.replicas, status.clusters)) }
        })
        .await;
        let member = &federation.members["uni-north"];
        let owner = member.cluster.client_for(idlewild::sandbox::OWNER).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(owner, idlewild::sandbox::OWNER_NAMESPACE);
        let pod = owner_pod("wants-back", 8);
        pods.create(&kube::api::PostParams::default(), &pod).await.unwrap();
        eventually("the owner's pod runs", SOON, async || {
            let pod = pods.get("wants-back").await.unwrap();
            let phase = pod.status.unwrap_or_default().phase.unwrap_or_default();
            if phase == "Running" { Ok(()) } else { Err(phase) }
        })
        .await;
        let job = eventually("what was evicted runs elsewhere", SOON, async || {
            let job = api.get("moves").await.unwrap();
            let status = job.status.clone().unwrap_or_default();
            let moved = status.replicas.running == 48 && status.clusters.len() == 2;
            if moved {
                Ok(job)
            } else {
                Err(format!("{:?} {:?}", status.replicas, status.clusters))
            }
        })
        .await;
        let status = job.status.unwrap();
        assert!(status.evictions.owner_reclaimed > 0, "{:?}", status.evictions);
        assert_eq!(status.replicas.failed, 0, "an eviction is no failure");
        pods.delete("wants-back", &DeleteParams::default()).await.unwrap();
        api.delete("moves", &DeleteParams::default()).await.unwrap();
        settled(federation).await;
    });
}

/// Waits until no guest is left anywhere, so that the next test finds the pools empty.
pub(crate) async fn settled(federation: &Federation) {
    eventually("all guests are gone", SOON * 2, async || {
        let mut left = 0;
        for member in federation.members.values() {
            let api: Api<Pod> = Api::namespaced(member.cluster.admin.clone(), GUEST_NAMESPACE);
            left += api
                .list(&ListParams::default())
                .await
                .map_err(|error| error.to_string())?
                .items
                .len();
        }
        if left == 0 { Ok(()) } else { Err(format!("{left} guests")) }
    })
    .await;
    // A lease is removed a second after its end, by which time the pools' pictures are past it.
    eventually("all leases are removed", SOON, async || {
        let api: Api<idlewild::api::GpuLease> = Api::all(federation.hub.cluster.admin.clone());
        let left = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        if left.items.is_empty() { Ok(()) } else { Err(format!("{} leases", left.items.len())) }
    })
    .await;
    eventually("all pools are free", Duration::from_secs(20), async || {
        let api: Api<idlewild::api::GpuPool> = Api::all(federation.hub.cluster.admin.clone());
        let pools = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let busy: Vec<_> = pools
            .iter()
            .map(|pool| (pool.name_any(), pool.status.clone().unwrap_or_default().gpus))
            .filter(|(_, gpus)| gpus.guests > 0 || gpus.free != gpus.offered)
            .collect();
        if busy.is_empty() { Ok(()) } else { Err(format!("{busy:?}")) }
    })
    .await;
}
