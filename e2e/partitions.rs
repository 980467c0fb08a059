//! Links that break while jobs stand at every moment of their lives: each process reaches its API
//! servers through a proxy of its own, and whatever the proxy does, each job comes to its right end
//! once.
//!
//! A partition is one fault of one link for a while, and meets one job at each moment; so one of them
//! tries as many combinations as there are moments.

mod proof;
mod settled;
mod sightings;
mod subjects;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use idlewild::api::{GpuJob, HubGrant, MemberCluster, SYSTEM_NAMESPACE, conditions};
use idlewild::sandbox::{ControlPlane, Federation, Settings};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::harness::{SOON, eventually, fresh, jobs, member, settings};
use sightings::Sightings;
use subjects::{Moment, Subjects};
use wire::{FAULTS, Fault, Wire};

/// Deadline of what waits for a lost connection to be given up, too.
const LOST: Duration = Duration::from_mins(4);
/// A class of the owner's whose pods wait until GPUs come free by themselves.
const POLITE: &str = "polite";
/// The member to which work moves; no link of its breaks.
const SPARE: &str = "spare";
/// The hub's own name in a grant.
const GRANT: &str = "sandbox";

/// Which connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// An agent's to the hub's API server.
    Hub,
    /// An agent's to its own API server.
    Own,
    /// The hub's to its own API server.
    Controller,
}

/// For how long at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lasts {
    /// A few seconds, in which no call is given up.
    Short,
    /// Longer than a call is waited for, shorter than the silence that is borne.
    Middle,
    /// Longer than that silence; and where work can move, until it has moved.
    Long,
}

impl Lasts {
    fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Short => 5,
            Self::Middle => 15,
            Self::Long => 48,
        })
    }

    /// So long runs what is to outlast it.
    fn and_more(self) -> &'static str {
        match self {
            Self::Short => "14s",
            Self::Middle => "25s",
            Self::Long => "75s",
        }
    }
}

/// One fault of one link for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Partition {
    link: Link,
    fault: Fault,
    lasts: Lasts,
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}-{:?}-{:?}", self.link, self.fault, self.lasts)
    }
}

impl Partition {
    fn name_of(self, moment: Moment) -> String {
        format!("{self}-{moment:?}").to_lowercase()
    }

    /// Without its own API server an agent can do nothing for its owner; schedulers can.
    fn reclaims(self) -> bool {
        self.link != Link::Own
    }

    /// Whether it lasts until work was moved.
    fn moves(self) -> bool {
        self.link != Link::Controller && self.lasts == Lasts::Long && self.fault.silences()
    }
}

/// `faults` of `link`, each for so long.
fn each(link: Link, lasts: Lasts, faults: &[Fault]) -> Vec<Partition> {
    faults.iter().map(|fault| Partition { link, fault: *fault, lasts }).collect()
}

/// Both links of an agent.
struct Wires {
    hub: Wire,
    own: Wire,
}

/// A federation whose links can be broken.
struct Stage<'a> {
    federation: &'a Federation,
    api: Api<GpuJob>,
    controller: Wire,
    wires: BTreeMap<String, Wires>,
    sightings: Sightings,
    spare: &'static str,
    /// Combinations that were met as they are described.
    met: Mutex<Vec<String>>,
}

impl<'a> Stage<'a> {
    /// Puts a proxy into every link of `federation`.
    async fn set(federation: &'a Federation) -> Stage<'a> {
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
        let stage = Self { federation, api, controller, wires, sightings, spare: SPARE, met };
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
    async fn breaks(&self, member: &str, partitions: &[Partition]) {
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
    async fn break_all(&self, lanes: &[(&str, Vec<Partition>)]) {
        join_all(lanes.iter().map(|(member, partitions)| self.breaks(member, partitions))).await;
    }

    /// What was tried, at least `least` combinations.
    fn tried(self, least: usize) {
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

/// With four members a broken one or two are not most of them: the hub never suspects itself.
fn four(name: &str) -> Settings {
    let names = ["north", "south", "west", SPARE];
    settings(name, names.map(|name| member(name, 3, 8)).into())
}

#[test]
fn links_break_at_every_moment_of_a_job_and_each_job_comes_to_its_end_once() {
    fresh(&four("partitions"), async |federation| {
        let stage = Stage::set(federation).await;
        let (hub, own) = (Link::Hub, Link::Own);
        let (short, middle) = (Lasts::Short, Lasts::Middle);
        let south = [
            each(hub, middle, &[Fault::Busy, Fault::Deaf]),
            each(hub, short, &[Fault::Cut, Fault::Reset]),
        ];
        let west = [
            each(own, middle, &[Fault::Hole, Fault::Mute]),
            each(own, short, &[Fault::Refused, Fault::Cut]),
        ];
        let lanes = [
            ("north", each(hub, Lasts::Long, &[Fault::Hole])),
            ("south", south.concat()),
            ("west", west.concat()),
        ];
        stage.break_all(&lanes).await;
        stage.breaks("south", &each(Link::Controller, middle, &[Fault::Hole])).await;
        stage.tried(12);
    });
}

/// Every fault of an agent's `link` on two members, and on a third those that make it silent until
/// its work has moved.
fn every_fault_of(name: &str, link: Link) {
    fresh(&four(name), async |federation| {
        let stage = Stage::set(federation).await;
        let silent = [Fault::Hole, Fault::Forgotten, Fault::Mute, Fault::Busy];
        let lanes = [
            ("north", each(link, Lasts::Long, &silent)),
            ("south", each(link, Lasts::Middle, &FAULTS)),
            ("west", each(link, Lasts::Short, &FAULTS)),
        ];
        stage.break_all(&lanes).await;
        stage.tried(60);
    });
}

#[test]
#[ignore = "many minutes: see make soak"]
fn soak_every_fault_between_agents_and_the_hub() {
    every_fault_of("partitions-hub", Link::Hub);
}

#[test]
#[ignore = "many minutes: see make soak"]
fn soak_every_fault_between_agents_and_their_own_clusters() {
    every_fault_of("partitions-own", Link::Own);
}

#[test]
#[ignore = "many minutes: see make soak"]
fn soak_every_fault_between_the_hub_and_its_own_cluster() {
    fresh(&four("partitions-controller"), async |federation| {
        let stage = Stage::set(federation).await;
        let link = Link::Controller;
        let mut all = each(link, Lasts::Middle, &FAULTS);
        all.extend(each(link, Lasts::Long, &[Fault::Hole, Fault::Forgotten, Fault::Busy]));
        stage.breaks("south", &all).await;
        stage.tried(60);
    });
}
