//! What a hub may write.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Findings, indexes};
use crate::engine::indexes::Indexes;
use crate::testing::federation::Hub;
use crate::testing::server::{At, Change, Object};

/// What is known of a hub's objects, as of the last revision that was looked at.
#[derive(Default)]
pub(crate) struct Book {
    looked: usize,
    jobs: BTreeMap<String, Object>,
    leases: BTreeMap<(String, String), Object>,
    /// Leases of which a member told nonsense.
    lied: BTreeSet<(String, String)>,
    /// When each member's heartbeat was last taken.
    pub(super) beats: BTreeMap<String, Timestamp>,
}

/// Attempts that a job may need at most in a run: more is a hot loop.
const ATTEMPTS: u64 = 80;

impl Book {
    pub(super) fn look(&mut self, hub: &Hub, findings: &mut Findings<'_>) {
        let store = hub.server.store();
        let changes = store.log[self.looked..].to_vec();
        self.looked = store.log.len();
        drop(store);
        for change in changes {
            match change.at.plural {
                "gpujobs" => self.job(&change, findings),
                "gpuleases" => self.lease(&change, findings),
                "leases" if change.at.namespace.starts_with("member-") => {
                    self.beats.insert(change.at.namespace[7..].to_owned(), findings.now);
                }
                _ => {}
            }
        }
    }

    /// Begins anew with what the store holds.
    pub(super) fn reread(&mut self, hub: &Hub) {
        let store = hub.server.store();
        self.looked = store.log.len();
        let uid = |job: &Object| job["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.jobs = store.of_kind("gpujobs", "").map(|(_, job)| (uid(job), job.clone())).collect();
        let key = |at: &At| (at.namespace.clone(), at.name.clone());
        let leases = store.of_kind("gpuleases", "");
        self.leases = leases.map(|(at, lease)| (key(at), lease.clone())).collect();
    }

    /// The job with this UID as it was last seen.
    pub(super) fn job_of(&self, uid: &str) -> Option<&Object> {
        self.jobs.get(uid)
    }

    fn job(&mut self, change: &Change, findings: &mut Findings<'_>) {
        let Some(new) = &change.new else { return };
        let id = new["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let name = &change.at.name;
        let status = &new["status"];
        if let Some(old) = self.jobs.get(&id) {
            let old = &old["status"];
            let phase = |status: &Value| status["phase"].as_str().unwrap_or("").to_owned();
            if matches!(phase(old).as_str(), "Succeeded" | "Failed") {
                findings.require(phase(old) == phase(status), || {
                    format!("I12: {name} was {} and is {}", phase(old), phase(status))
                });
            }
            let epoch =
                |status: &Value| (status["incarnation"].as_u64(), status["nextAttempt"].as_u64());
            findings.require(epoch(old) <= epoch(status), || {
                format!(
                    "I5: the attempts of {name} went back: {:?} to {:?}",
                    epoch(old),
                    epoch(status)
                )
            });
            let done = |status: &Value| indexes(&status["completedIndexes"]);
            findings.require(done(old).minus(&done(status)).is_empty(), || {
                format!("I12: {name} lost completed indexes: {}", done(old))
            });
        }
        let mut live = Indexes::default();
        for allocation in status["allocations"].as_array().into_iter().flatten() {
            let own = indexes(&allocation["indexes"]).minus(&indexes(&allocation["ended"]));
            let both = own.intersection(&live);
            findings.require(both.is_empty(), || {
                format!("I4: {name} holds indexes {both} twice: {}", status["allocations"])
            });
            live = live.union(&own);
        }
        findings.require(status["nextAttempt"].as_u64().unwrap_or(0) < ATTEMPTS, || {
            format!("I22: {name} needs more than {ATTEMPTS} attempts")
        });
        self.jobs.insert(id, new.clone());
    }

    fn lease(&mut self, change: &Change, findings: &mut Findings<'_>) {
        let key = (change.at.namespace.clone(), change.at.name.clone());
        let Some(new) = &change.new else {
            self.leases.remove(&key);
            return;
        };
        if &*change.who == "liar" {
            self.lied.insert(key.clone());
        }
        match self.leases.get(&key) {
            None => self.created(new, findings),
            Some(old) if !self.lied.contains(&key) => changed(old, new, findings),
            Some(_) => {}
        }
        self.leases.insert(key, new.clone());
    }

    /// A lease exists only for an epoch on record, and only once every other lease of its indexes
    /// has ended or was taken back.
    fn created(&self, lease: &Value, findings: &mut Findings<'_>) {
        let spec = &lease["spec"];
        let name = lease["metadata"]["name"].as_str().unwrap_or_default();
        let uid = spec["job"]["uid"].as_str().unwrap_or_default();
        // Those that are taken up again, or told to end, are of a record that is lost.
        let again = spec.get("adopted").is_some() || spec.get("withdrawn").is_some();
        if let Some(job) = self.jobs.get(uid).filter(|_| !again) {
            let recorded =
                job["status"]["nextAttempt"].as_u64() > spec["epoch"]["attempt"].as_u64();
            findings.require(recorded, || format!("I4: lease {name} is not on record"));
        }
        let own = indexes(&spec["indexes"]);
        let honest = self.leases.iter().filter(|(key, _)| !self.lied.contains(*key));
        let others = honest.map(|(_, other)| other);
        for other in others.filter(|other| other["spec"]["job"]["uid"] == uid) {
            let ended = indexes_ended(other);
            let theirs = indexes(&other["spec"]["indexes"]).minus(&ended);
            let both = own.intersection(&theirs);
            let over = matches!(other["status"]["phase"].as_str(), Some("Released" | "Refused"));
            let back = other["spec"].get("withdrawn").is_some();
            findings.require(both.is_empty() || over || back, || {
                format!("I4: lease {name} covers {both}, which {} holds", other["metadata"]["name"])
            });
            if !both.is_empty() && !over {
                findings.seen("a silent attempt was superseded");
            }
        }
    }
}

fn indexes_ended(lease: &Value) -> Indexes {
    let groups = lease["status"]["ended"].as_array().into_iter().flatten();
    groups.fold(Indexes::default(), |all, group| all.union(&indexes(&group["indexes"])))
}

fn rank(lease: &Value) -> usize {
    let phases = ["Accepted", "Starting", "Running", "Releasing", "Released"];
    let phase = lease["status"]["phase"].as_str();
    phase.and_then(|phase| phases.iter().position(|one| *one == phase)).map_or(0, |at| at + 1)
}

fn changed(old: &Value, new: &Value, findings: &mut Findings<'_>) {
    let name = &new["metadata"]["name"];
    let withdrawn = |lease: &Value| lease["spec"].get("withdrawn").cloned();
    if withdrawn(old).is_some() {
        findings.require(withdrawn(new).is_some(), || {
            format!("I5: lease {name} was taken back, and given again")
        });
    }
    let phase = |lease: &Value| lease["status"]["phase"].as_str().unwrap_or("").to_owned();
    findings.require(rank(old) <= rank(new) || phase(new) == "Refused", || {
        format!("I12: lease {name} went from {} to {}", phase(old), phase(new))
    });
    for over in ["Released", "Refused"] {
        findings.require(phase(old) != over || phase(new) == over, || {
            format!("I12: lease {name} was {over} and is {}", phase(new))
        });
    }
    if phase(old) != "Refused" && phase(new) == "Refused" {
        findings.seen("a lease was refused");
    }
    let adopted = |lease: &Value| lease["spec"]["adopted"].get("expiredAt").is_some();
    if !adopted(old) && adopted(new) {
        findings.seen("a lease was adopted");
    }
    if withdrawn(old).is_none() && withdrawn(new).is_some() {
        findings.seen("a lease was withdrawn");
    }
}
