//! Members that are cordoned, drained and that leave, from either side and with the other one gone.

use std::time::Instant;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GUEST_NAMESPACE, GpuJob, GuestLease, HubGrant, MemberCluster, TOKEN_SECRET};
use idlewild::cluster::chain;
use idlewild::sandbox::{self, ControlPlane, Federation, OWNER, USER};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{SOON, eventually, fresh, jobs, member, settings};
use crate::work::{condition, create, job, job_with};

/// Runs `idlewild` as `user` of a cluster; `Err` is what it said.
async fn idlewild(
    federation: &Federation,
    cluster: &ControlPlane,
    user: &str,
    arguments: &[&str],
) -> Result<String, String> {
    let kubeconfig = cluster.kubeconfig_for(user).unwrap().display().to_string();
    let mut all = arguments.to_vec();
    all.extend(["--kubeconfig", &kubeconfig]);
    let program = &federation.settings.idlewild;
    sandbox::run(program, &all, "").await.map_err(|error| chain(&error))
}

/// Creates jobs that run on `cluster`, and lets them go anywhere afterwards.
async fn run_on(api: &Api<GpuJob>, cluster: &str, names: &[&str]) {
    let only = json!({ "placement": { "clusterAffinity": { "clusterNames": [cluster] } } });
    for name in names {
        create(api, job_with(name, 1, "900s", only.clone())).await;
    }
    let anywhere = Patch::Merge(json!({ "spec": { "placement": null } }));
    for name in names {
        runs_on(api, name, cluster).await;
        api.patch(name, &PatchParams::default(), &anywhere).await.unwrap();
    }
}

async fn runs_on(api: &Api<GpuJob>, name: &str, cluster: &str) -> GpuJob {
    eventually(&format!("{name} runs on {cluster}"), SOON, async || {
        let job = api.get(name).await.map_err(|error| error.to_string())?;
        let status = job.status.clone().unwrap_or_default();
        match status.phase == Some(Phase::Running) && status.clusters == [cluster] {
            true => Ok(job),
            false => Err(format!("{:?} {:?}", status.phase, status.clusters)),
        }
    })
    .await
}

/// Pods of guests in a member.
async fn guests(cluster: &ControlPlane) -> usize {
    let api: Api<Pod> = Api::namespaced(cluster.admin.clone(), GUEST_NAMESPACE);
    api.list(&ListParams::default()).await.unwrap().items.len()
}

/// Asserts that nothing of a hub is left in a member: no guest, no grant, no token.
async fn nothing_is_left(cluster: &ControlPlane) {
    assert_eq!(guests(cluster).await, 0);
    let grants: Api<HubGrant> = Api::namespaced(cluster.admin.clone(), "idlewild-system");
    assert!(grants.list(&ListParams::default()).await.unwrap().items.is_empty());
    let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), "idlewild-system");
    let tokens = secrets.get(TOKEN_SECRET).await.unwrap().data.unwrap_or_default();
    assert!(tokens.is_empty(), "{:?}", tokens.keys());
    let leases: Api<GuestLease> = Api::namespaced(cluster.admin.clone(), GUEST_NAMESPACE);
    let leases = leases.list(&ListParams::default()).await.unwrap();
    let live = leases.iter().filter(|lease| {
        let phase = lease.status.as_ref().and_then(|status| status.phase);
        phase.is_none_or(|phase| format!("{phase:?}") != "Released")
    });
    assert_eq!(live.count(), 0);
}

async fn cordoned_and_drained(federation: &Federation, api: &Api<GpuJob>) {
    let hub = &federation.hub.cluster;
    run_on(api, "north", &["one", "two"]).await;
    let said = federation.operate(&["cordon", "north"]).await.unwrap();
    assert!(said.contains("2 jobs with 2 leases and 2 GPUs there go on"), "{said}");
    let said = federation.operate(&["cordon", "north"]).await.unwrap();
    assert!(said.contains("cordoned already"), "{said}");
    let row = hub.kubectl(USER, &["get", "memberclusters"], "").await.unwrap_err();
    assert!(chain(&row).contains("forbidden"), "users see no members");
    for index in 0..3 {
        let name = format!("new-{index}");
        create(api, job(&name, 1, "900s")).await;
        runs_on(api, &name, "south").await;
    }
    for name in ["one", "two"] {
        runs_on(api, name, "north").await;
    }
    let began = Instant::now();
    let said = federation.operate(&["drain", "north", "--timeout", "60"]).await.unwrap();
    println!("a member with two jobs was drained in {:?}: {}", began.elapsed(), said.trim());
    assert!(said.contains("2 jobs with 2 leases and 2 GPUs there get notice"), "{said}");
    assert!(said.contains("stays cordoned"), "{said}");
    assert_eq!(guests(&federation.members["north"].cluster).await, 0);
    for name in ["one", "two"] {
        let job = runs_on(api, name, "south").await;
        let status = job.status.clone().unwrap();
        assert_eq!(status.attempts[0].reason, "MemberDrained");
        assert_eq!(status.replicas.failed, 0, "an eviction is no failure");
        let (_, reason, message) = condition(&job, "Evicted").unwrap();
        assert_eq!(reason, "MemberDrained", "{message}");
    }
    let members: Api<MemberCluster> = Api::all(hub.admin.clone());
    assert!(members.get("north").await.unwrap().spec.unschedulable);
    let said = federation.operate(&["drain", "north"]).await.unwrap();
    assert!(said.contains("nothing of this hub runs there"), "{said}");
    let said = federation.operate(&["uncordon", "north"]).await.unwrap();
    assert!(said.contains("takes new work again"), "{said}");
    let spec = members.get("north").await.unwrap().spec;
    assert!(!spec.unschedulable && spec.taints.is_empty(), "{:?}", spec.taints);
    run_on(api, "north", &["back"]).await;
    for (arguments, user, words) in [
        (["cordon", "nobody"], "operator", "there is no member nobody"),
        (["drain", "Nobody!"], "operator", "cannot name a member"),
        (["drain", "north"], USER, "forbidden"),
        (["uncordon", "north"], USER, "forbidden"),
    ] {
        let error = idlewild(federation, hub, user, &arguments).await.unwrap_err();
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    assert!(!members.get("north").await.unwrap().spec.unschedulable, "nothing was written");
}

/// The owner leaves while the hub answers: how its guests ended is on record there.
async fn owner_leaves(federation: &Federation, api: &Api<GpuJob>, hub_id: &str) {
    let south = &federation.members["south"].cluster;
    let error = idlewild(federation, south, OWNER, &["leave", "--hub", "other"]).await;
    assert!(error.unwrap_err().contains("no HubGrant lets other place work here"));
    let leave = ["leave", "--hub", hub_id, "--timeout", "60"];
    let said = idlewild(federation, south, OWNER, &leave).await.unwrap();
    assert!(said.contains("5 leases of guests got notice"), "{said}");
    assert!(said.contains("kubectl idlewild leave south"), "{said}");
    nothing_is_left(south).await;
    for name in ["one", "two", "new-0", "new-1", "new-2"] {
        let job = api.get(name).await.unwrap();
        let status = job.status.unwrap();
        let last = status.attempts.last().unwrap();
        assert_eq!((last.cluster.as_str(), last.reason.as_str()), ("south", "OwnerReclaimed"));
        runs_on(api, name, "north").await;
    }
    federation.operate(&["leave", "south"]).await.unwrap();
    let members: Api<MemberCluster> = Api::all(federation.hub.cluster.admin.clone());
    assert!(members.get_opt("south").await.unwrap().is_none());
}

#[test]
fn members_are_cordoned_drained_and_leave_from_either_side_with_the_other_one_gone() {
    let members = vec![member("north", 2, 8), member("south", 2, 8), member("east", 1, 8)];
    fresh(&settings("membership", members), async |federation| {
        federation.operate(&["cordon", "east"]).await.unwrap();
        let api = jobs(federation).await;
        cordoned_and_drained(federation, &api).await;
        let grants: Api<HubGrant> =
            Api::namespaced(federation.members["south"].cluster.admin.clone(), "idlewild-system");
        let grant = grants.list(&ListParams::default()).await.unwrap().items.remove(0);
        assert_eq!(grant.name_any(), grant.spec.hub_id);
        owner_leaves(federation, &api, &grant.spec.hub_id).await;

        federation.operate(&["uncordon", "east"]).await.unwrap();
        run_on(&api, "east", &["far"]).await;
        federation.hub.cluster.api_server.kill().await.unwrap();
        federation.members["east"].agent().process.kill().await.unwrap();

        let (north, east) =
            (&federation.members["north"].cluster, &federation.members["east"].cluster);
        let began = Instant::now();
        assert_eq!(guests(north).await, 6);
        let leave = ["leave", "--all-hubs", "--timeout", "60"];
        let said = idlewild(federation, north, OWNER, &leave).await.unwrap();
        println!("an owner left with the hub down in {:?}", began.elapsed());
        assert!(!said.contains("in time"), "they ended by themselves: {said}");
        assert!(said.contains("6 leases of guests got notice"), "{said}");
        nothing_is_left(north).await;
        let again = idlewild(federation, north, OWNER, &leave).await.unwrap();
        assert!(again.contains("no hub may place work here"), "{again}");

        // With neither hub nor agent: the records go, and the cluster collects the pods.
        let began = Instant::now();
        assert_eq!(guests(east).await, 1);
        let leave = ["leave", "--all-hubs", "--timeout", "3"];
        let said = idlewild(federation, east, OWNER, &leave).await.unwrap();
        println!("the same with the agent dead too in {:?}", began.elapsed());
        assert!(said.contains("1 did not end in time"), "{said}");
        nothing_is_left(east).await;
    });
}
