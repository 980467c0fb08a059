//! What must be true once nothing goes wrong any more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Judge;
use crate::testing::federation::{Federation, GUESTS, Hub};
use crate::testing::models::Run;
use crate::testing::server::Change;

/// What a job can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
    Either,
    /// It fits nowhere.
    Waits,
}

fn fate(job: &Value, all: &Federation) -> Fate {
    let spec = &job["spec"];
    let (size, count) =
        (spec["size"].as_i64().unwrap_or(1), spec["gpu"]["count"].as_i64().unwrap_or(1));
    let per_node = all.shape.gpus_per_node / count;
    let most = all.shape.members.iter().map(|nodes| i64::try_from(*nodes).unwrap_or(0) * per_node);
    if most.max().unwrap_or(0) < size {
        return Fate::Waits;
    }
    let args = &spec["template"]["spec"]["containers"][0]["args"];
    let limited = spec.get("maxRunningSeconds").is_some();
    match args[1].as_str() {
        Some("0") if !limited => Fate::Succeeds,
        Some("1") if !limited => Fate::Fails,
        _ => Fate::Either,
    }
}

fn phase(job: &Value) -> &str {
    job["status"]["phase"].as_str().unwrap_or("")
}

/// Whether everything has come to its end, or what has not yet.
/// Members that lied may keep work from their own pools for ever: of their hubs' jobs nothing is asked.
pub(crate) fn is_settled(all: &Federation, lied: &BTreeSet<usize>) -> Result<(), String> {
    for (number, hub) in all.hubs.iter().enumerate() {
        let store = hub.server.store();
        for (at, job) in store.of_kind("gpujobs", "") {
            let waits = fate(job, all) == Fate::Waits;
            let over = matches!(phase(job), "Succeeded" | "Failed");
            let waits = waits && phase(job) == "Queued";
            if !(over || waits || lied.contains(&number)) {
                return Err(format!("L2: job {} is {:?}", at.name, phase(job)));
            }
        }
        if let Some((at, lease)) = store.of_kind("gpuleases", "").next() {
            return Err(format!("I11: lease {} stays: {}", at.name, lease["status"]));
        }
        for (at, member) in store.of_kind("memberclusters", "") {
            if member["status"].get("silentSeconds").is_some_and(|silent| !silent.is_null()) {
                return Err(format!("I16: {} is told to be silent", at.name));
            }
        }
        for (at, pool) in store.of_kind("gpupools", "") {
            let gpus = &pool["status"]["gpus"];
            if gpus["free"] != gpus["offered"] || gpus["guests"] != 0 {
                return Err(format!("I16: {} on the hub shows {gpus}", at.namespace));
            }
        }
    }
    for member in &all.members {
        let store = member.server.store();
        for (at, lease) in store.of_kind("guestleases", "") {
            if !matches!(lease["status"]["phase"].as_str(), Some("Released" | "Refused")) {
                return Err(format!("I11: guest lease {} stays: {}", at.name, lease["status"]));
            }
        }
        if let Some((at, _)) = store.of_kind("pods", GUESTS).next() {
            return Err(format!("I11: guest {} stays", at.name));
        }
    }
    Ok(())
}

/// Where logs stood when everything was quiet.
pub(crate) struct Mark(Vec<usize>);

impl Mark {
    pub(crate) fn set(all: &Federation) -> Self {
        let hubs = all.hubs.iter().map(|hub| hub.server.store().log.len());
        Self(hubs.chain(all.members.iter().map(|one| one.server.store().log.len())).collect())
    }

    /// I23: what was written since, heartbeats and the like apart.
    pub(crate) fn since(&self, all: &Federation) -> Vec<String> {
        let servers = all.hubs.iter().map(|hub| &hub.server);
        let servers = servers.chain(all.members.iter().map(|member| &member.server));
        let mut found = Vec::new();
        for (server, from) in servers.zip(&self.0) {
            let store = server.store();
            // What a queue used counts less with time, and its status says so.
            let steady =
                |plural: &str| matches!(plural, "leases" | "hubgrants" | "secrets" | "gpuqueues");
            // Records of guests go an hour after their end, by a clock that may have jumped.
            let over = |one: &Change| one.at.plural == "guestleases" && one.new.is_none();
            let writes = store.log[*from..].iter();
            let writes = writes.filter(|one| !steady(one.at.plural) && !over(one));
            found.extend(writes.map(|one| {
                format!(
                    "I23: {} wrote {} {} of a quiet federation",
                    one.who, one.at.plural, one.at.name
                )
            }));
        }
        found
    }
}

impl Judge {
    /// What jobs came to, held against what their programs did.
    pub(crate) fn conclude(&mut self, all: &Federation, lied: &BTreeSet<usize>) {
        let mut runs: BTreeMap<(String, u32), Vec<&Run>> = BTreeMap::new();
        for run in all.members.iter().flat_map(|member| member.kubelet.history()) {
            let labels = &run.pod["metadata"]["labels"];
            let index = labels["idlewild.dev/replica-index"].as_str();
            let index = index.and_then(|text| text.parse().ok());
            if let (Some(uid), Some(index)) = (labels["idlewild.dev/job-uid"].as_str(), index) {
                runs.entry((uid.to_owned(), index)).or_default().push(run);
            }
        }
        for (number, hub) in all.hubs.iter().enumerate() {
            if !lied.contains(&number) {
                self.jobs(all, hub, &runs);
            }
        }
    }

    fn jobs(&mut self, all: &Federation, hub: &Hub, runs: &BTreeMap<(String, u32), Vec<&Run>>) {
        let store = hub.server.store();
        for (at, job) in store.of_kind("gpujobs", "") {
            let (fate, phase, name) = (fate(job, all), phase(job), &at.name);
            self.saw(match phase {
                "Succeeded" => "a job succeeded",
                "Failed" => "a job failed",
                _ => "a job fits nowhere",
            });
            let right = match fate {
                Fate::Succeeds => phase == "Succeeded",
                Fate::Fails => phase == "Failed",
                Fate::Either => phase == "Succeeded" || phase == "Failed",
                Fate::Waits => phase == "Queued",
            };
            if !right {
                self.wrong.push(format!(
                    "L1: job {name} is {phase}, and its program says {fate:?}: {}",
                    job["status"]
                ));
            }
            let uid = job["metadata"]["uid"].as_str().unwrap_or_default();
            let told = job["status"]["replicas"]["failed"].as_u64().unwrap_or(0);
            let of_job = runs.iter().filter(|((job, _), _)| job == uid).flat_map(|(_, runs)| runs);
            let failed = of_job.filter(|run| run.ended.is_some_and(|(_, code, _)| code != 0));
            if told > u64::try_from(failed.count()).unwrap_or(0) {
                self.wrong
                    .push(format!("I16: {name} tells of {told} failures, more than there were"));
            }
            for index in super::indexes(&job["status"]["completedIndexes"]).iter() {
                let ran = runs.get(&(uid.to_owned(), index)).map(Vec::as_slice).unwrap_or_default();
                let done = |run: &&&Run| {
                    run.began.is_some() && run.ended.is_some_and(|(_, code, _)| code == 0)
                };
                if ran.iter().filter(done).count() == 0 {
                    self.wrong.push(format!(
                        "I16: index {index} of {name} is complete, and no program was"
                    ));
                }
                if ran.iter().filter(|run| run.began.is_some()).count() > 1 {
                    self.saw("a replica ran more than once");
                }
            }
        }
    }
}
