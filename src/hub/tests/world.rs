//! Hubs, members and the API server between them, with time in the hands of the test.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::member::{Member, Mood};
use super::objects::{at, identity, identity_at, job, job_at, member, namespace, queue};
use super::process::Hub;
use super::request::Call;
use super::server::Server;
use crate::hub::facts::{Answer, Event};
use crate::hub::rounds::Now;

/// Steps of half a second without a request or a change after which nothing more will come: longer
/// than removals gather.
const QUIET: u32 = 6;

/// Lets everything go on that can.
pub(super) async fn rest() {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) hubs: Vec<Hub>,
    pub(super) members: Vec<Member>,
    pub(super) now: Now,
}

impl World {
    /// One hub and these members, with so many GPUs each; everybody was heard.
    pub(super) async fn new(members: &[(&str, i64)]) -> Self {
        let now = Now { instant: Instant::now(), wall: "2026-01-01T00:00:00Z".parse().unwrap() };
        let server = Server::default();
        let members: Vec<_> = members.iter().map(|(name, gpus)| Member::new(name, *gpus)).collect();
        let mut world = Self { server, hubs: Vec::new(), members, now };
        world.server.store().put(identity_at(), identity(1));
        world.put("gpuqueues", "", "default", queue());
        world.put("namespaces", "", "team", namespace());
        for n in 0..world.members.len() {
            let name = world.members[n].name.clone();
            world.put("memberclusters", "", &name, member());
            world.members[n].publish(&mut world.server.store());
        }
        world.after(0);
        world.hubs.push(Hub::start(&world.server, now));
        world.settle().await;
        world
    }

    pub(super) fn put(&mut self, plural: &str, namespace: &str, name: &str, object: Value) {
        let mut store = self.server.store();
        store.now = self.now.wall;
        store.put(at(plural, namespace, name), object);
    }

    /// A user creates a job of so many replicas.
    pub(super) fn submit(&mut self, name: &str, completions: u32, spec: Value) {
        let mut job = job(completions);
        for (key, value) in spec.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        self.put("gpujobs", "team", name, job);
    }

    /// Somebody changes fields of an object.
    pub(super) fn edit(&mut self, plural: &str, namespace: &str, name: &str, spec: Value) {
        let place = at(plural, namespace, name);
        let mut object = self.server.store().objects[&place].clone();
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        self.server.store().put(place, object);
    }

    /// Somebody changes metadata of an object of the cluster.
    pub(super) fn edit_metadata(&mut self, plural: &str, name: &str, metadata: Value) {
        let place = at(plural, "", name);
        let mut object = self.server.store().objects[&place].clone();
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        self.server.store().put(place, object);
    }

    /// Somebody deletes an object.
    pub(super) fn delete(&mut self, plural: &str, namespace: &str, name: &str) {
        self.server.store().remove(&at(plural, namespace, name));
    }

    pub(super) fn mood(&mut self, mood: Mood) {
        self.members.iter_mut().for_each(|member| member.mood = mood);
    }

    /// Time passes; members beat.
    pub(super) fn after(&mut self, millis: u64) {
        self.now.instant += Duration::from_millis(millis);
        self.now.wall += SignedDuration::from_millis(i64::try_from(millis).unwrap());
        let mut store = self.server.store();
        store.now = self.now.wall;
        self.members.iter().for_each(|member| member.beat(&mut store));
    }

    /// Time passes in steps, and everybody acts.
    pub(super) async fn pass_time(&mut self, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.after(5_000);
            self.members_act();
            self.pass(0).await;
            self.hear(0);
        }
    }

    pub(super) fn members_act(&mut self) {
        let mut store = self.server.store();
        self.members.iter_mut().for_each(|member| member.act(&mut store));
    }

    /// A hub takes in everything there is.
    pub(super) fn hear(&mut self, hub: usize) {
        let mut store = self.server.store();
        while self.hubs[hub].hear(&mut store, 0, self.now) {}
        while self.hubs[hub].learn(self.now) {}
    }

    /// The hub that died is replaced by a new process, which knows only what is stored.
    pub(super) fn reborn(&mut self, hub: usize) {
        self.server.store().dead.clear();
        let number = self.hubs[hub].number;
        self.server.store().fault = None;
        self.hubs[hub] = Hub::start(&self.server, self.now);
        self.server.store().news[number].clear();
    }

    /// A hub takes in everything and decides once; its writes are carried out, unless it dies.
    pub(super) async fn pass(&mut self, hub: usize) {
        self.hear(hub);
        self.hubs[hub].inner.pass(self.now);
        rest().await;
        let number = self.hubs[hub].number;
        for round in 0..1200 {
            if !self.hubs[hub].is_busy() || self.server.store().dead.contains(&number) {
                return;
            }
            rest().await;
            // A failed removal waits by the clock of the machine.
            if round > 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        panic!("writes that never end");
    }

    /// Goes on until nothing happens for 3 s, or a hub dies.
    pub(super) async fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..400 {
            let before = (self.calls().len(), self.versions());
            self.members_act();
            for hub in 0..self.hubs.len() {
                self.pass(hub).await;
                self.hear(hub);
            }
            if !self.server.store().dead.is_empty() {
                return;
            }
            quiet = if before == (self.calls().len(), self.versions()) { quiet + 1 } else { 0 };
            if quiet == QUIET {
                return;
            }
            self.after(500);
        }
        panic!("it never settles: {:#?}", self.calls().iter().rev().take(20).collect::<Vec<_>>());
    }

    /// Versions of all objects but heartbeats.
    fn versions(&self) -> Vec<Value> {
        let store = self.server.store();
        let lasting = store.objects.iter().filter(|(at, _)| at.0 != "leases");
        lasting.map(|(_, object)| object["metadata"]["resourceVersion"].clone()).collect()
    }

    /// Asserts that hubs which look at everything again do nothing.
    pub(super) async fn is_silent(&mut self) {
        assert_eq!(self.server.store().unrecorded, Vec::<String>::new(), "allocated too late");
        for hub in 0..self.hubs.len() {
            self.hear(hub);
            let before = self.calls().len();
            self.hubs[hub].doubt();
            self.hubs[hub].inner.pass(self.now);
            rest().await;
            let after: Vec<_> = self.calls()[before..].to_vec();
            assert!(after.is_empty(), "a second pass: {after:#?}");
            while let Ok(event) = self.hubs[hub].events.try_recv() {
                let of_queue = matches!(event, Event::Answer(Answer::Queue(_)));
                assert!(of_queue, "an answer to nothing: {event:?}");
                self.hubs[hub].inner.state.take(event, self.now.instant);
            }
        }
    }

    /// What was asked of the server about jobs and leases, all else apart.
    pub(super) fn calls(&self) -> Vec<Call> {
        let calls = self.server.store().calls.clone();
        let work = |call: &Call| call.at.0.starts_with("gpu") && call.at.0 != "gpuqueues";
        calls.into_iter().filter(work).collect()
    }

    pub(super) fn forget_calls(&mut self) {
        self.server.store().calls.clear();
    }

    pub(super) fn shorts(&self) -> Vec<String> {
        self.calls().iter().map(Call::short).collect()
    }

    pub(super) fn job(&self, name: &str) -> Value {
        self.server.store().objects[&job_at(name)].clone()
    }

    pub(super) fn phase(&self, name: &str) -> String {
        self.job(name)["status"]["phase"].as_str().unwrap_or("").to_owned()
    }

    /// Status, reason and message of a condition.
    pub(super) fn condition(&self, name: &str, type_: &str) -> (String, String, String) {
        let job = self.job(name);
        let all = job["status"]["conditions"].as_array().unwrap();
        let found = all.iter().find(|held| held["type"] == json!(type_)).unwrap();
        let text = |key: &str| found[key].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    pub(super) fn leases(&self) -> Vec<Value> {
        self.server.store().all("gpuleases")
    }

    /// Replicas that started, with repetitions.
    pub(super) fn starts(&self) -> Vec<(String, u32)> {
        let all = self.members.iter().flat_map(|member| &member.starts);
        let mut starts: Vec<_> = all.map(|(job, index, _)| (job.clone(), *index)).collect();
        starts.sort();
        starts
    }
}
