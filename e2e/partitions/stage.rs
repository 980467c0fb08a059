//! A federation with a proxy in every link, and partitions carried out on it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::future::join_all;
use idlewild::api::{GpuJob, HubGrant, MemberCluster, SYSTEM_NAMESPACE, conditions};
use idlewild::sandbox::{ControlPlane, Federation};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::sightings::Sightings;
use super::subjects::Subjects;
use super::wire::{Fault, Wire};
use super::{Link, Partition};
use crate::harness::{SOON, eventually, jobs};

/// A class of the owner's whose pods wait until GPUs come free by themselves.
pub(super) const POLITE: &str = "polite";
/// The hub's own name in a grant.
const GRANT: &str = "sandbox";

/// Both links of an agent.
struct Wires {
    hub: Wire,
    own: Wire,
}

/// A federation whose links can be broken.
pub(super) struct Stage<'a> {
    pub(super) federation: &'a Federation,
    pub(super) api: Api<GpuJob>,
    controller: Wire,
    wires: BTreeMap<String, Wires>,
    pub(super) sightings: Sightings,
    /// Combinations that were met as they are described.
    met: Mutex<Vec<String>>,
}

impl<'a> Stage<'a> {
    /// Puts a proxy into every link of `federation`.
    pub(super) async fn set(federation: &'a Federation) -> Stage<'a> {
        let hub = &federation.hub.cluster;
        let sightings = Sightings::start(federation);
        let controller = Wire::start(hub);
        lead_through(&controller, hub, "idlewild-hub");
        // One that is asked to end gives up its leadership, and nobody waits for that to expire.
        federation.hub.controller().process.terminate(SOON).await.unwrap();
        federation.hub.controller().process.restart().await.unwrap();
        let mut wires = BTreeMap::new();
        for (name, member) in &federation.members {
            let own = Wire::start(&member.cluster);
            lead_through(&own, &member.cluster, "idlewild-agent");
            let to_hub = Wire::start(hub);
            let grants: Api<HubGrant> =
                Api::namespaced(member.cluster.admin.clone(), SYSTEM_NAMESPACE);
            let address = Patch::Merge(json!({ "spec": { "address": to_hub.address } }));
            grants.patch(GRANT, &PatchParams::default(), &address).await.unwrap();
            member.agent().process.restart().await.unwrap();
            let classes: Api<PriorityClass> = Api::all(member.cluster.admin.clone());
            let class = serde_json::from_value(json!({ "metadata": { "name": POLITE },
                "value": 1000, "preemptionPolicy": "Never" }));
            classes.create(&PostParams::default(), &class.unwrap()).await.unwrap();
            wires.insert(name.clone(), Wires { hub: to_hub, own });
        }
        let (api, met) = (jobs(federation).await, Mutex::default());
        let stage = Self { federation, api, controller, wires, sightings, met };
        federation.hub.controller().ready().await.unwrap();
        for (name, wires) in &stage.wires {
            federation.members[name].agent().ready().await.unwrap();
            stage.ready(name, wires).await;
        }
        assert!(stage.controller.carried() > 0);
        stage
    }

    /// Waits until the member is heard through its proxies.
    async fn ready(&self, name: &str, wires: &Wires) {
        let members: Api<MemberCluster> = Api::all(self.federation.hub.cluster.admin.clone());
        eventually(&format!("{name} is heard through its proxies"), SOON, async || {
            let member = members.get(name).await.map_err(|error| error.to_string())?;
            let ready = conditions::is_true(&member.status.unwrap_or_default().conditions, "Ready");
            let carried = (wires.hub.carried(), wires.own.carried());
            let passes = carried.0 > 10_000 && carried.1 > 10_000;
            if ready && passes { Ok(()) } else { Err(format!("ready: {ready}, {carried:?}")) }
        })
        .await;
    }

    fn wire(&self, member: &str, link: Link) -> &Wire {
        match link {
            Link::Hub => &self.wires[member].hub,
            Link::Own => &self.wires[member].own,
            Link::Controller => &self.controller,
        }
    }

    /// Breaks links of `member`, one after another.
    pub(super) async fn breaks(&self, member: &str, partitions: &[Partition]) {
        for partition in partitions {
            let began = Instant::now();
            let mut subjects = Subjects::before(self, member, *partition).await;
            let wire = self.wire(member, partition.link);
            wire.set(partition.fault);
            let (fell, over) = (Instant::now(), Instant::now() + partition.lasts.time());
            subjects.meanwhile().await;
            if partition.moves() {
                subjects.told_silent().await;
            }
            sleep_until(over).await;
            wire.set(Fault::Nothing);
            let healed = Instant::now();
            subjects.settled().await;
            let met = subjects.met.iter().map(|moment| partition.name_of(*moment));
            self.met.lock().unwrap().extend(met);
            println!(
                "{partition} on {member}: {} moments, prepared in {:.1?}, broken for {:.1?}, settled in {:.1?}",
                subjects.met.len(),
                fell - began,
                healed - fell,
                healed.elapsed(),
            );
        }
    }

    /// Breaks links of several members side by side.
    pub(super) async fn break_all(&self, lanes: &[(&str, Vec<Partition>)]) {
        join_all(lanes.iter().map(|(member, partitions)| self.breaks(member, partitions))).await;
    }

    /// What was tried, at least `least` combinations.
    pub(super) fn tried(self, least: usize) {
        let met = self.met.into_inner().unwrap();
        println!("{} combinations: {}", met.len(), met.join(" "));
        assert!(met.len() >= least, "{} combinations are too few", met.len());
    }
}

/// Makes the kubeconfig of a service account of `cluster` lead through `wire`.
fn lead_through(wire: &Wire, cluster: &ControlPlane, account: &str) {
    let path = cluster.directory().join(format!("{account}.kubeconfig"));
    let direct = std::fs::read_to_string(&path).unwrap();
    let through = direct.replace(&cluster.endpoint.address, &wire.address);
    assert_ne!(direct, through, "{account} reaches its API server through a proxy");
    std::fs::write(path, through).unwrap();
}
