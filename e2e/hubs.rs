//! Two hubs that lease from one member.

use std::collections::BTreeMap;

use idlewild::api::gpujob::Phase;
use idlewild::api::{GpuJob, GpuLease, GpuPool, HubGrant, MemberCluster, SYSTEM_NAMESPACE};
use idlewild::sandbox::{Federation, Hub, OWNER, USER, USER_NAMESPACES};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::harness::{SOON, eventually, fresh, job_in, member, pods, settings};
use crate::work::{create, job};

/// ID of the second hub; a word that nothing else contains.
const SECOND: &str = "seconda";

async fn jobs_on(hub: &Hub) -> Api<GpuJob> {
    let client = hub.cluster.client_for(USER).await.expect("the user has a kubeconfig");
    Api::namespaced(client, USER_NAMESPACES[0])
}

/// GPUs that guests hold, by hub and node; pods that are on their way out are left out.
async fn held(federation: &Federation) -> BTreeMap<(String, String), i64> {
    let api = pods(&federation.members["one"].cluster.admin, idlewild::api::GUEST_NAMESPACE);
    let mut held = BTreeMap::new();
    for pod in api.list(&ListParams::default()).await.expect("the member answers") {
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        let over = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let hub = pod.labels().get(idlewild::api::LABEL_HUB).cloned().unwrap_or_default();
        *held.entry((hub, node)).or_default() += gpus(&pod);
    }
    held
}

fn gpus(pod: &Pod) -> i64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let asked =
        containers.filter_map(|one| one.resources.as_ref()?.limits.as_ref()?.get("nvidia.com/gpu"));
    asked.map(|quantity| quantity.0.parse::<i64>().unwrap()).sum()
}

/// Waits until the guests of both hubs hold so many GPUs.
async fn shared_as(federation: &Federation, first: i64, second: i64) {
    let label = idlewild::api::digest::hub_label;
    eventually(&format!("the hubs hold {first} and {second} GPUs"), SOON, async || {
        let held = held(federation).await;
        let of = |id: &str| {
            let mine = held.iter().filter(|((hub, _), _)| *hub == label(id));
            mine.map(|(_, gpus)| gpus).sum::<i64>()
        };
        let mut nodes: BTreeMap<&String, i64> = BTreeMap::new();
        for ((_, node), gpus) in &held {
            *nodes.entry(node).or_default() += gpus;
        }
        assert!(nodes.values().all(|gpus| *gpus <= 8), "a GPU was given twice: {held:?}");
        let found = (of(&federation.hub.id), of(SECOND));
        if found == (first, second) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Everything that the hub knows of its member, as text.
async fn known_to(hub: &Hub) -> String {
    async fn all<K>(client: &Client) -> String
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned + serde::Serialize,
    {
        let list = Api::<K>::all(client.clone()).list(&ListParams::default()).await.unwrap();
        serde_json::to_string(&list.items).unwrap()
    }
    let client = &hub.cluster.admin;
    all::<GpuPool>(client).await
        + &all::<GpuLease>(client).await
        + &all::<MemberCluster>(client).await
}

async fn know_nothing_of_each_other(first: &Hub, second: &Hub) {
    let known = known_to(first).await;
    assert!(!known.contains(SECOND), "the first hub knows of the second: {known}");
    let known = known_to(second).await;
    let name = format!("\"{}\"", first.id);
    assert!(known.contains(SECOND) && !known.contains(&name), "{known}");
}

async fn grants(federation: &Federation) -> (Api<HubGrant>, BTreeMap<String, String>) {
    let owner = federation.members["one"].cluster.client_for(OWNER).await.unwrap();
    let api: Api<HubGrant> = Api::namespaced(owner, SYSTEM_NAMESPACE);
    let all = api.list(&ListParams::default()).await.unwrap();
    let names = all.into_iter().map(|grant| (grant.spec.hub_id.clone(), grant.name_any()));
    let names = names.collect();
    (api, names)
}

fn spec(change: Value) -> Patch<Value> {
    Patch::Merge(json!({ "spec": change }))
}

#[test]
fn two_hubs_share_one_member_and_neither_sees_the_other() {
    let mut settings = settings("hubs", vec![member("one", 2, 8)]);
    settings.more_hubs = vec![SECOND.into()];
    fresh(&settings, async |federation| {
        let (first, second) = (&federation.hub, &federation.more_hubs[0]);
        let (of_first, of_second) = (jobs_on(first).await, jobs_on(second).await);
        // Both want all 16 GPUs, at the same time.
        let submit = async |api: &Api<GpuJob>| {
            for index in 0..16 {
                create(api, job(&format!("job-{index}"), 1, "600s")).await;
            }
        };
        tokio::join!(submit(&of_first), submit(&of_second));
        eventually("all GPUs are lent", SOON, async || {
            let sum: i64 = held(federation).await.values().sum();
            assert!(sum <= 16, "{sum} GPUs of 16");
            if sum == 16 { Ok(()) } else { Err(format!("{sum}")) }
        })
        .await;

        // The owner caps the second, then the whole pool; the second is the more important one.
        let (grants, names) = grants(federation).await;
        let params = PatchParams::default();
        let cap = spec(json!({ "maxGpus": 4, "priority": 10 }));
        grants.patch(&names[SECOND], &params, &cap).await.unwrap();
        shared_as(federation, 12, 4).await;
        let owner = federation.members["one"].cluster.client_for(OWNER).await.unwrap();
        let pools: Api<GpuPool> = Api::namespaced(owner, SYSTEM_NAMESPACE);
        pools.patch("a100", &params, &spec(json!({ "offer": { "maxGpus": 8 } }))).await.unwrap();
        shared_as(federation, 4, 4).await;
        let by_hub = async || {
            let hubs = pools.get("a100").await.unwrap().status.unwrap().hubs;
            hubs.into_iter().map(|hub| (hub.hub_id, hub.gpus)).collect::<BTreeMap<_, _>>()
        };
        eventually("the owner sees who holds what", SOON, async || {
            let seen = by_hub().await;
            let wanted = [(first.id.clone(), 4), (SECOND.to_owned(), 4)].into();
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;

        let copies: Api<GpuPool> = Api::namespaced(first.cluster.admin.clone(), "member-one");
        eventually("the first hub sees its own guests and the rest as taken", SOON, async || {
            let gpus = copies.get("a100").await.unwrap().status.unwrap().gpus;
            let seen = (gpus.offered, gpus.owner, gpus.guests, gpus.free);
            if seen == (8, 4, 4, 0) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
        know_nothing_of_each_other(first, second).await;

        // The first hub dies: its guests go on, and the second works as before.
        first.controller().process.kill().await.unwrap();
        first.cluster.api_server.kill().await.unwrap();
        of_second
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .unwrap();
        shared_as(federation, 4, 0).await;
        create(&of_second, job("after", 2, "1s")).await;
        job_in(&of_second, "after", &[Phase::Succeeded], SOON).await;
        shared_as(federation, 4, 0).await;

        // Its owner lets it go: its guests leave, though nobody can tell the hub.
        grants.delete(&names[&first.id], &DeleteParams::default()).await.unwrap();
        shared_as(federation, 0, 0).await;
    });
}
