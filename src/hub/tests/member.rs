//! A member in memory: answers leases from its own books, one step at a time.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::objects::{at, heartbeat, pool};
use super::server::Store;
use crate::engine::indexes::Indexes;

/// How a member behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Runs what it accepts to its end.
    Works,
    /// Runs what it accepts, and it never ends.
    Runs,
    /// Refuses everything.
    Refuses,
    /// Beats, and answers no lease.
    Mute,
    /// Says nothing at all; what runs goes on.
    Silent,
}

/// A member and its one pool, `lab`.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) gpus: i64,
    /// Whether all of them are on one node, and its leases say so; else each is on its own.
    pub(super) one_node: bool,
    pub(super) serial: i64,
    pub(super) mood: Mood,
    /// Job and index of everything that it ever accepted, with the attempt.
    pub(super) starts: Vec<(String, u32, u64)>,
    /// GPUs that it holds, by the name of the lease.
    pub(super) held: BTreeMap<String, i64>,
    /// What it accepted, by the name of the lease: the contract, and what it said last.
    pub(super) guests: BTreeMap<String, (Value, Value)>,
    /// Highest incarnation of the hub that it knows.
    highest: u64,
}

impl Member {
    pub(super) fn new(name: &str, gpus: i64) -> Self {
        Self {
            name: name.to_owned(),
            gpus,
            one_node: false,
            serial: 1,
            mood: Mood::Works,
            starts: Vec::new(),
            held: BTreeMap::new(),
            guests: BTreeMap::new(),
            highest: 1,
        }
    }

    pub(super) fn namespace(&self) -> String {
        format!("member-{}", self.name)
    }

    fn free(&self) -> i64 {
        self.gpus - self.held.values().sum::<i64>()
    }

    /// Renews its heartbeat.
    pub(super) fn beat(&self, store: &mut Store) {
        if self.mood == Mood::Silent {
            return;
        }
        let place = at("leases", &self.namespace(), "member");
        let beat = heartbeat(&self.name, &store.now.to_string());
        let beat = store.objects.get(&place).cloned().map_or(beat.clone(), |mut old| {
            old["spec"] = beat["spec"].clone();
            old
        });
        store.put(place, beat);
    }

    /// Publishes its pool, if the picture changed.
    pub(super) fn publish(&self, store: &mut Store) {
        let place = at("gpupools", &self.namespace(), "lab");
        let mut new =
            pool(self.serial, self.gpus, (self.free(), self.one_node), &store.now.to_string());
        let orphans = self.orphans(store);
        if !orphans.is_empty() {
            new["status"]["orphans"] = json!(orphans);
            new["status"]["orphanCount"] = json!(orphans.len());
        }
        new["status"]["incarnation"] = json!(self.highest);
        let old = store.objects.get(&place).cloned();
        let said = |pool: &Value| {
            ["serial", "orphans", "incarnation"].map(|key| pool["status"].get(key).cloned())
        };
        if old.as_ref().map(said) != Some(said(&new)) {
            let mut object = old.unwrap_or_else(|| new.clone());
            object["status"] = new["status"].clone();
            store.put(place, object);
        }
    }

    /// What runs here and has no lease there.
    fn orphans(&self, store: &Store) -> Vec<Value> {
        let held = self.guests.iter().filter(|(name, _)| self.held.contains_key(*name));
        let lost = held.filter(|(name, _)| {
            !store.objects.contains_key(&at("gpuleases", &self.namespace(), name))
        });
        let orphan = |(_, (spec, _)): (&String, &(Value, Value))| {
            json!({"job": spec["job"], "epoch": spec["epoch"], "indexes": spec["indexes"],
                "model": spec["gpu"]["model"],
                "activeDeadlineSeconds": spec["activeDeadlineSeconds"],
                "expiresAfterSeconds": spec["expiresAfterSeconds"]})
        };
        lost.map(orphan).collect()
    }

    /// One step with each of its leases, then its picture.
    pub(super) fn act(&mut self, store: &mut Store) {
        if self.mood == Mood::Silent {
            return;
        }
        for lease in store.all("gpuleases") {
            if lease["metadata"]["namespace"] == json!(self.namespace()) {
                self.step(store, &lease, self.mood);
            }
        }
        self.publish(store);
    }

    /// One step with one lease, as it is stored now.
    pub(super) fn step(&mut self, store: &mut Store, lease: &Value, mood: Mood) {
        let Some(status) = self.next(lease, mood, &store.now.to_string()) else { return };
        let name = lease["metadata"]["name"].as_str().unwrap();
        let place = at("gpuleases", &self.namespace(), name);
        let mut object = store.objects[&place].clone();
        if let Some((_, said)) = self.guests.get_mut(name) {
            *said = status.clone();
        }
        object["status"] = status;
        object["status"]["observedGeneration"] = object["metadata"]["generation"].clone();
        store.put(place, object);
    }

    fn next(&mut self, lease: &Value, mood: Mood, now: &str) -> Option<Value> {
        let reason = lease["spec"]["withdrawn"]["reason"].as_str();
        let mut status = lease["status"].clone();
        let indexes = Indexes::parse(lease["spec"]["indexes"].as_str().unwrap()).unwrap();
        let known = self.guests.get(&name(lease)).map(|(_, said)| said.clone());
        match (status["phase"].as_str(), reason) {
            (None, _) if mood == Mood::Mute => return None,
            // A lease that was made again finds what runs here.
            (None, _) if known.is_some() => return known,
            (None, None) if lease["spec"].get("adopted").is_some() => {
                return Some(json!({"phase": "Refused",
                    "refusal": {"reason": "NothingToAdopt", "message": ""}}));
            }
            (None, Some(_)) => return Some(self.refusal("Withdrawn")),
            (None, None) => return self.answer(lease, &indexes, mood),
            (Some("Accepted" | "Running"), Some(reason)) => {
                self.release(lease);
                status["phase"] = json!("Released");
                status["endTime"] = json!(now);
                status["endReason"] = json!(reason);
            }
            (Some("Accepted"), None) => {
                status["phase"] = json!("Running");
                status["startTime"] = json!(now);
                status["pods"] = json!({"ready": indexes.len()});
                if self.one_node {
                    status["nodes"] = json!([{"node": 7, "pods": indexes.len()}]);
                }
            }
            (Some("Running"), None) if mood == Mood::Works => {
                self.release(lease);
                status["phase"] = json!("Released");
                status["endTime"] = json!(now);
                status["endReason"] = json!("Completed");
                status["ended"] = json!([{"reason": "Succeeded", "exitCode": 0,
                    "indexes": lease["spec"]["indexes"]}]);
            }
            _ => return None,
        }
        Some(status)
    }

    fn answer(&mut self, lease: &Value, indexes: &Indexes, mood: Mood) -> Option<Value> {
        let need = i64::from(indexes.len()) * lease["spec"]["gpu"]["count"].as_i64().unwrap();
        match mood {
            Mood::Mute | Mood::Silent => return None,
            Mood::Refuses => return Some(self.refusal("PoolPaused")),
            Mood::Works | Mood::Runs if need > self.free() => {
                return Some(self.refusal("NotEnoughFree"));
            }
            Mood::Works | Mood::Runs => {}
        }
        let incarnation = lease["spec"]["epoch"]["incarnation"].as_u64().unwrap();
        if incarnation < self.highest {
            return Some(self.refusal("StaleEpoch"));
        }
        self.highest = incarnation;
        self.serial += 1;
        self.held.insert(name(lease), need);
        self.guests.insert(name(lease), (lease["spec"].clone(), Value::Null));
        let (job, epoch) = (&lease["spec"]["job"]["uid"], &lease["spec"]["epoch"]["attempt"]);
        let (job, epoch) = (job.as_str().unwrap(), epoch.as_u64().unwrap());
        self.starts.extend(indexes.iter().map(|index| (job.to_owned(), index, epoch)));
        Some(json!({"phase": "Accepted", "serial": self.serial}))
    }

    fn refusal(&self, reason: &str) -> Value {
        json!({"phase": "Refused", "serial": self.serial,
            "refusal": {"reason": reason, "message": ""}})
    }

    fn release(&mut self, lease: &Value) {
        self.serial += 1;
        self.held.remove(&name(lease));
    }

    /// The owner takes back what a lease holds.
    pub(super) fn reclaim(&mut self, store: &mut Store, lease: &Value) {
        if lease["status"]["phase"] != json!("Running") {
            return;
        }
        let mut lease = lease.clone();
        lease["spec"]["withdrawn"] = json!({"reason": "OwnerReclaimed"});
        self.step(store, &lease, Mood::Runs);
    }
}

fn name(lease: &Value) -> String {
    lease["metadata"]["name"].as_str().unwrap().to_owned()
}
