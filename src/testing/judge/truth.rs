//! What truly runs, held against what each job was promised.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::hub::Book as HubBook;
use super::{Findings, after, seconds};
use crate::testing::federation::{Federation, GUESTS, Member};
use crate::testing::models::{GPU, Run, gpus, is_over};

/// When something last happened to a member that promises do not cover: its agent, its API server
/// or its nodes were away. And hubs to which a member lied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubts(pub(crate) BTreeMap<usize, Timestamp>, pub(crate) BTreeSet<usize>);

/// What is known of what ran.
#[derive(Default)]
pub(super) struct Book {
    judged: BTreeSet<String>,
    ended: BTreeSet<String>,
    /// Owner's pods that wait, and since when the agent could have helped.
    waiting: BTreeMap<(usize, String), Timestamp>,
}

/// The replica that a guest's pod is of: UID of the job, index and rank.
fn replica(run: &Run) -> Option<(&str, &str, &str)> {
    let labels = &run.pod["metadata"]["labels"];
    let word = |key: &str| labels[key].as_str();
    let rank = word("idlewild.dev/rank").unwrap_or("0");
    Some((word("idlewild.dev/job-uid")?, word("idlewild.dev/replica-index")?, rank))
}

/// Seconds within which the agent helps owner's pods that kube-scheduler does not: those that it
/// promises, and what this world's clocks and links add.
const HELPED_WITHIN: i64 = 5;

/// Seconds after a trouble within which its watches run again: a dead connection, and a wait.
const SEEN_WITHIN: i64 = 90;

impl Book {
    pub(super) fn look(
        &mut self,
        all: &Federation,
        hubs: &[HubBook],
        doubts: &Doubts,
        findings: &mut Findings<'_>,
    ) {
        for (number, member) in all.members.iter().enumerate() {
            for run in member.kubelet.running().filter(|run| run.at.namespace == GUESTS) {
                if self.judged.insert(run.uid.clone()) {
                    began(run, all, hubs, doubts, findings);
                }
                overdue(run, findings);
                silent(run, (number, &member.name), (all, hubs, doubts), findings);
            }
            self.ends(member, findings);
            if all.is_clear(member) {
                self.reclaim(number, member, doubts, findings);
            } else {
                self.waiting.retain(|(of, _), _| *of != number);
            }
        }
    }

    fn ends(&mut self, member: &Member, findings: &mut Findings<'_>) {
        for run in member.kubelet.past.iter().filter(|run| run.at.namespace == GUESTS) {
            if !self.ended.insert(run.uid.clone()) {
                continue;
            }
            findings.seen(match run.ended {
                Some((_, _, "DeadlineExceeded")) => "a guest ran into its deadline",
                Some((_, 0, _)) if run.told.is_none() => "a guest succeeded",
                Some((_, 85, _)) => "a guest saved and left",
                Some(_) if run.told.is_some() => "a guest was told to go",
                _ => "a guest failed",
            });
        }
    }

    /// I8 where kube-scheduler does not help: the agent tells guests to go, and soon.
    fn reclaim(
        &mut self,
        number: usize,
        member: &Member,
        doubts: &Doubts,
        findings: &mut Findings<'_>,
    ) {
        let store = member.server.store();
        for (at, pod) in store.of_kind("pods", "owner") {
            let waits = pod["spec"]["nodeName"].as_str().is_none()
                && pod["status"]["conditions"][0]["reason"] == "Unschedulable";
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            if !waits || !could_help(&store, pod) {
                self.waiting.remove(&(number, uid.to_owned()));
                continue;
            }
            let doubted = doubts.0.get(&number).copied().unwrap_or(Timestamp::UNIX_EPOCH);
            let since = *self.waiting.entry((number, uid.to_owned())).or_insert(findings.now);
            let since = since.max(after(doubted, SEEN_WITHIN));
            findings.require(seconds(since, findings.now) <= HELPED_WITHIN, || {
                format!("I8: owner's pod {} waits, and nobody is told to go for it", at.name)
            });
        }
    }
}

/// Whether guests that were not told to go hold what the pod waits for, and nobody was told.
fn could_help(store: &crate::testing::server::Store, pod: &Value) -> bool {
    let need = gpus(pod);
    let room = |node: &Value, name: &str| {
        let all = node["status"]["allocatable"][GPU].as_str().and_then(|text| text.parse().ok());
        let (mut firm, mut guests) = (0, 0);
        for (at, other) in store.of_kind("pods", "").filter(|(_, other)| !is_over(other)) {
            if other["spec"]["nodeName"] == name {
                let leaving = other["metadata"].get("deletionTimestamp").is_some();
                match (at.namespace == GUESTS, leaving) {
                    (_, true) => {}
                    (true, false) => guests += gpus(other),
                    (false, false) => firm += gpus(other),
                }
            }
        }
        (all.unwrap_or(0) - firm, guests)
    };
    let nodes = store.of_kind("nodes", "").filter(|(_, node)| {
        node["spec"]["unschedulable"] != true && node["spec"].get("taints").is_none()
    });
    let rooms: Vec<_> = nodes.map(|(at, node)| room(node, &at.name)).collect();
    let enough_soon = rooms.iter().any(|(free, guests)| free - guests >= need);
    !enough_soon && rooms.iter().any(|(free, guests)| *free >= need && *guests > 0)
}

/// I4: whether it may run while another copy of it does.
fn began(
    run: &Run,
    all: &Federation,
    hubs: &[HubBook],
    doubts: &Doubts,
    findings: &mut Findings<'_>,
) {
    let Some(this) = replica(run) else { return };
    let found = hubs.iter().enumerate().find_map(|(at, hub)| Some((at, hub.job_of(this.0)?)));
    if found.is_some_and(|(hub, _)| doubts.1.contains(&hub)) {
        return;
    }
    let job = found.map(|(_, job)| job);
    let failover = job.map(|job| job["spec"]["failover"].clone()).unwrap_or_default();
    let never = failover["duplicatePolicy"] == "Never";
    let stops = failover["afterLease"] == "Stop";
    for (number, member) in all.members.iter().enumerate() {
        let others = member.kubelet.running().filter(|other| other.uid != run.uid);
        for other in others.filter(|other| replica(other) == Some(this)) {
            let began = other.began.unwrap_or(Timestamp::UNIX_EPOCH);
            let covered = doubts.0.get(&number).is_none_or(|doubt| *doubt < began);
            findings.seen("two copies of a replica ran at once");
            findings.require(!never, || {
                format!(
                    "I4: {} runs while {} does, and its job says Never",
                    run.at.name, other.at.name
                )
            });
            findings.require(!(stops && covered), || {
                format!(
                    "I4: {} runs while {} does, and its job says Stop",
                    run.at.name, other.at.name
                )
            });
        }
    }
}

/// I9: nothing outlives its pod's deadline.
fn overdue(run: &Run, findings: &mut Findings<'_>) {
    let limit = run.pod["spec"]["activeDeadlineSeconds"].as_i64().unwrap_or(0);
    let grace = run.pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    findings.require(seconds(run.admitted, findings.now) <= limit + grace + 10, || {
        format!("I9: {} runs beyond its deadline", run.at.name)
    });
}

/// I9: what is to stop without its hub stops.
fn silent(
    run: &Run,
    (number, member): (usize, &str),
    (all, hubs, doubts): (&Federation, &[HubBook], &Doubts),
    findings: &mut Findings<'_>,
) {
    let Some((uid, ..)) = replica(run) else { return };
    let found = hubs.iter().find_map(|hub| Some((hub.job_of(uid)?, hub.beats.get(member)?)));
    let Some((job, beat)) = found else { return };
    if job["spec"]["failover"]["afterLease"] != "Stop" {
        return;
    }
    let grace = run.pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    let lease = i64::try_from(all.shape.lease_seconds).unwrap_or(i64::MAX);
    // One percent of drift, and a minute that a contact may be newer than the last beat.
    let limit = lease + lease / 50 + grace + 60;
    let since = doubts.0.get(&number).map_or(*beat, |doubt| (*beat).max(*doubt));
    let since = run.began.map_or(since, |began| since.max(began));
    findings.require(findings.now <= after(since, limit), || {
        format!("I9: {} runs on without its hub, and its job says Stop", run.at.name)
    });
}
