//! Nodes that do not exist, with the labels that GPU Feature Discovery would give them.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::error::Error;
use super::settings::{MemberSettings, PoolSettings};
use crate::api::{GpuPool, SYSTEM_NAMESPACE};
use crate::cluster::within;

/// Label of a node: the pool that its owner lends it in.
pub const LABEL_LEND: &str = "idlewild.dev/lend";

/// Requests in flight while nodes are created.
const AT_ONCE: usize = 16;

/// Creates all nodes of `member`.
pub(super) async fn create(client: &Client, member: &MemberSettings) -> Result<(), Error> {
    let api = Api::<Node>::all(client.clone());
    let nodes = member.pools.iter().flat_map(|pool| {
        (0..pool.nodes).map(move |index| (format!("{}-{index}", pool.name), pool))
    });
    stream::iter(nodes)
        .map(|(name, pool)| {
            let node = node(&name, pool, &member.region);
            let api = &api;
            async move {
                within("create node", api.create(&PostParams::default(), &node))
                    .await
                    .map_err(Error::cluster(format!("create node {name}")))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await
}

/// The pools that `member`'s owner lends.
pub(super) fn pools(member: &MemberSettings) -> Vec<GpuPool> {
    let pool = |pool: &PoolSettings| {
        serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1",
            "kind": "GpuPool",
            "metadata": { "name": pool.name, "namespace": SYSTEM_NAMESPACE },
            "spec": {
                "nodeSelector": { "matchLabels": { LABEL_LEND: pool.name } },
                "location": { "region": member.region, "jurisdiction": member.jurisdiction },
            },
        }))
        .expect("the literal above is a GpuPool")
    };
    member.pools.iter().map(pool).collect()
}

fn node(name: &str, pool: &PoolSettings, region: &str) -> Node {
    let gpus = pool.gpus_per_node.to_string();
    let resources = json!({
        "cpu": "128", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "110",
        "nvidia.com/gpu": gpus,
    });
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": { "kwok.x-k8s.io/node": "fake" },
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "topology.kubernetes.io/region": region,
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": pool.product,
                "nvidia.com/gpu.count": gpus,
                LABEL_LEND: pool.name,
            },
        },
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "kwok",
                "bootID": "", "containerRuntimeVersion": "kwok", "kernelVersion": "kwok",
                "kubeProxyVersion": "kwok", "machineID": "", "osImage": "kwok", "systemUUID": "",
            },
        },
    }))
    .expect("the literal above is a Node")
}
