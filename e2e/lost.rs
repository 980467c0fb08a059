//! A node that is lost inside a member that lives: what runs elsewhere, and what must not.

use std::time::Duration;

use idlewild::api::GpuJob;
use idlewild::api::gpujob::Phase;
use idlewild::sandbox::Federation;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{SOON, eventually, fresh, job_in, jobs, member, settings};
use crate::work::{create, guests, job_with};

/// Longer than a node must be away to be given up, and what follows from it.
const GIVEN_UP: Duration = Duration::from_mins(7);

#[test]
fn work_of_a_lost_node_is_run_elsewhere_unless_it_must_never_run_twice() {
    fresh(
        &settings("lost", vec![member("east", 2, 8), member("west", 2, 8)]),
        async |federation| {
            let api = jobs(federation).await;
            let twice = placed(&api, "twice", "Allow").await;
            let once = placed(&api, "once", "Never").await;
            let uids = [twice.uid().unwrap(), once.uid().unwrap()];
            let node = node_of(federation, &uids).await;
            federation.members["east"].cluster.kwok.as_ref().unwrap().kill().await.unwrap();
            turn(federation, &node, "Unknown", "first").await;
            // Somebody thinks that this ends it.
            let pods: Api<Pod> = Api::namespaced(
                federation.members["east"].cluster.admin.clone(),
                idlewild::api::GUEST_NAMESPACE,
            );
            let pod = guests(federation, &once.uid().unwrap()).await["east"][0].name_any();
            pods.delete(&pod, &DeleteParams::default().grace_period(0)).await.unwrap();

            let others = others(federation, &node).await;
            eventually("the one runs elsewhere", GIVEN_UP, async || {
                // Nobody else speaks for them while their kubelets are dead.
                for other in &others {
                    turn(federation, other, "True", "").await;
                }
                let status = status(&api, "twice").await?;
                let away = status.phase == Some(Phase::Running)
                    && status.clusters.contains(&"west".into());
                if away { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.clusters)) }
            })
            .await;
            let old = &guests(federation, &twice.uid().unwrap()).await["east"][0];
            assert!(old.metadata.deletion_timestamp.is_some(), "told to go, and not forced");
            assert_eq!(status(&api, "twice").await.unwrap().evictions.total, 1);
            let kept = status(&api, "once").await.unwrap();
            assert_eq!((kept.clusters, kept.evictions.total), (vec!["east".to_owned()], 0));
            assert!(guests(federation, &once.uid().unwrap()).await.is_empty(), "nor begun again");

            turn(federation, &node, "Unknown", "second").await;
            eventually("the other one too, once its machine started anew", SOON, async || {
                let status = status(&api, "once").await?;
                let away = status.phase == Some(Phase::Running) && status.clusters == ["west"];
                if away { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.clusters)) }
            })
            .await;
            federation.members["east"].cluster.kwok.as_ref().unwrap().restart().await.unwrap();
            eventually("the old copy goes", SOON * 2, async || {
                let left = guests(federation, &twice.uid().unwrap()).await;
                if left.contains_key("east") { Err(format!("{left:?}")) } else { Ok(()) }
            })
            .await;
            let status = job_in(&api, "twice", &[Phase::Running], SOON).await.status.unwrap();
            assert_eq!((status.clusters, status.evictions.total), (vec!["west".to_owned()], 1));
        },
    );
}

async fn status(api: &Api<GpuJob>, name: &str) -> Result<idlewild::api::GpuJobStatus, String> {
    let job = api.get(name).await.map_err(|error| error.to_string())?;
    Ok(job.status.unwrap_or_default())
}

/// A job that runs in the east, and may run anywhere from now on.
async fn placed(api: &Api<GpuJob>, name: &str, policy: &str) -> GpuJob {
    let only = json!({
        "failover": { "duplicatePolicy": policy },
        "placement": { "clusterAffinity": { "clusterNames": ["east"] } },
    });
    create(api, job_with(name, 4, "3000s", only)).await;
    job_in(api, name, &[Phase::Running], SOON).await;
    let anywhere = Patch::Merge(json!({ "spec": { "placement": null } }));
    api.patch(name, &PatchParams::default(), &anywhere).await.unwrap()
}

/// The one node in the east where the guests of both jobs are: two of four GPUs fill up one of eight.
async fn node_of(federation: &Federation, jobs: &[String]) -> String {
    let mut nodes = Vec::new();
    for job in jobs {
        let pods = guests(federation, job).await.remove("east").unwrap();
        nodes.extend(pods.into_iter().filter_map(|pod| pod.spec?.node_name));
    }
    nodes.dedup();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    nodes.remove(0)
}

/// The other nodes in the east.
async fn others(federation: &Federation, node: &str) -> Vec<String> {
    let nodes: Api<Node> = Api::all(federation.members["east"].cluster.admin.clone());
    let all = nodes.list(&ListParams::default()).await.unwrap();
    all.iter().map(ResourceExt::name_any).filter(|name| name != node).collect()
}

/// A node in the east, which is on this start of its machine, is ready or is not heard of.
async fn turn(federation: &Federation, node: &str, ready: &str, boot: &str) {
    let nodes: Api<Node> = Api::all(federation.members["east"].cluster.admin.clone());
    let change = Patch::Strategic(json!({ "status": {
        "conditions": [{ "type": "Ready", "status": ready, "reason": "Test",
            "lastHeartbeatTime": Timestamp::now() }],
        "nodeInfo": { "bootID": boot },
    }}));
    nodes.patch_status(node, &PatchParams::default(), &change).await.unwrap();
}
