//! What may stand in a member's cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Findings, indexes};
use crate::engine::indexes::Indexes;
use crate::testing::federation::{GUESTS, Member};
use crate::testing::models::{GPU, gpus, is_over};
use crate::testing::server::{Change, Object};

/// What is known of a member's objects, as of the last revision that was looked at.
#[derive(Default)]
pub(crate) struct Book {
    looked: usize,
    leases: BTreeMap<String, Object>,
    pods: BTreeMap<String, Object>,
    /// UIDs of all pods that a lease ever had, with their indexes.
    made: BTreeMap<String, BTreeMap<String, u32>>,
    /// UIDs of all pods of a lease that were ever bound.
    placed: BTreeMap<String, BTreeSet<String>>,
    nodes: BTreeMap<String, i64>,
    incarnations: BTreeMap<String, u64>,
}

impl Book {
    pub(super) fn look(&mut self, member: &Member, findings: &mut Findings<'_>) {
        let store = member.server.store();
        let changes = store.log[self.looked..].to_vec();
        self.looked = store.log.len();
        drop(store);
        for change in changes {
            match change.at.plural {
                "guestleases" => self.lease(&change, findings),
                "pods" => self.pod(&change, findings),
                "configmaps" if change.at.namespace == GUESTS => self.gate(&change, findings),
                "hubgrants" => self.grant(&change, findings),
                "nodes" => {
                    let all = change.new.as_ref().map(|node| &node["status"]["allocatable"][GPU]);
                    let all = all.and_then(Value::as_str).and_then(|text| text.parse().ok());
                    self.nodes.insert(change.at.name.clone(), all.unwrap_or(0));
                }
                _ => {}
            }
        }
    }

    fn lease(&mut self, change: &Change, findings: &mut Findings<'_>) {
        let Some(new) = &change.new else {
            let old = change.old.as_ref().map(|old| old["metadata"]["uid"].clone());
            self.leases.remove(old.as_ref().and_then(Value::as_str).unwrap_or_default());
            return;
        };
        let uid = new["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let old = self.leases.insert(uid, Arc::clone(new));
        let phase = |lease: &Value| lease["status"]["phase"].as_str().unwrap_or("").to_owned();
        let before = old.as_ref().map(|old| phase(old)).unwrap_or_default();
        let name = &change.at.name;
        for over in ["Released", "Refused"] {
            findings.require(before != over || phase(new) == over, || {
                format!("I12: guest lease {name} was {over} and is {}", phase(new))
            });
        }
        let expired = new["status"]["endReason"] == "LeaseExpired";
        findings.require(!expired || new["spec"].get("stopAfterSeconds").is_some(), || {
            format!("R13: guest lease {name} ends because its hub is silent")
        });
        let was = old.as_ref().is_some_and(|old| old["status"].get("expiredAt").is_some());
        if !was && new["status"].get("expiredAt").is_some() {
            findings.seen("a lease expired");
        }
        if before != phase(new) {
            self.promised(new, &phase(new), findings);
        }
        if old.is_none() {
            self.made(new, findings);
        }
    }

    /// I5: no lease of an older hub than was seen.
    fn made(&self, lease: &Value, findings: &mut Findings<'_>) {
        let hub = lease["spec"]["hubId"].as_str().unwrap_or_default();
        let highest = self.incarnations.get(hub).copied().unwrap_or(0);
        let own = lease["spec"]["epoch"]["incarnation"].as_u64().unwrap_or(0);
        findings.require(own >= highest, || {
            format!("I5: a guest lease of incarnation {own} of {hub}, after {highest} was seen")
        });
    }

    /// I2: what was promised to guests of all hubs is there.
    fn promised(&self, lease: &Value, phase: &str, findings: &mut Findings<'_>) {
        if phase == "Refused" {
            findings.seen("the member refused a lease");
        }
        if phase != "Reserved" {
            return;
        }
        findings.seen("the member reserved GPUs");
        let held = |lease: &&Object| {
            matches!(
                lease["status"]["phase"].as_str(),
                Some("Reserved" | "Starting" | "Running" | "Releasing")
            )
        };
        let held: Vec<_> = self.leases.values().filter(held).collect();
        let hubs: BTreeSet<_> = held.iter().map(|lease| lease["spec"]["hubId"].as_str()).collect();
        if hubs.len() > 1 {
            findings.seen("guests of two hubs share a member");
        }
        let sum: i64 = held.iter().map(|lease| self.held(lease)).sum();
        let all: i64 = self.nodes.values().sum();
        findings.require(sum <= all, || {
            format!(
                "I2: {sum} GPUs are promised and there are {all}: {}",
                lease["metadata"]["name"]
            )
        });
    }

    /// GPUs that a lease holds or may yet take: what its status says of that may be a second old.
    fn held(&self, lease: &Value) -> i64 {
        let spec = &lease["spec"];
        let groups = lease["status"]["ended"].as_array().into_iter().flatten();
        let told = groups.fold(Indexes::default(), |all, one| all.union(&indexes(&one["indexes"])));
        let open = indexes(&spec["indexes"]).minus(&told);
        let size = spec["size"].as_i64().unwrap_or(1);
        let owner = lease["metadata"]["uid"].as_str().unwrap_or_default();
        let made = self.made.get(owner).into_iter().flatten();
        let over = made.filter(|(uid, index)| {
            open.contains(**index) && self.pods.get(*uid).is_none_or(|pod| is_over(pod))
        });
        let over = i64::try_from(over.count()).unwrap_or(0);
        (i64::from(open.len()) * size - over) * spec["gpu"]["count"].as_i64().unwrap_or(1)
    }

    fn pod(&mut self, change: &Change, findings: &mut Findings<'_>) {
        let Some(new) = &change.new else {
            let uid = change.old.as_ref().and_then(|old| old["metadata"]["uid"].as_str());
            self.pods.remove(uid.unwrap_or_default());
            return;
        };
        let uid = new["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let old = self.pods.insert(uid.clone(), Arc::clone(new));
        if old.is_none() && change.at.namespace == GUESTS {
            let owner = new["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
            let made = self.made.entry(owner.to_owned()).or_default();
            made.insert(uid.clone(), index_of(new));
            self.born(new, findings);
        }
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned();
        if old.is_none_or(|old| node(&old) != node(new)) && !node(new).is_empty() {
            let owner = new["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
            self.placed.entry(owner.to_owned()).or_default().insert(uid);
            self.bound(&node(new), findings);
        }
    }

    /// I1: nobody shares a GPU.
    fn bound(&self, node: &str, findings: &mut Findings<'_>) {
        let on = self.pods.values().filter(|pod| pod["spec"]["nodeName"] == node && !is_over(pod));
        let sum: i64 = on.map(|pod| gpus(pod)).sum();
        let all = self.nodes.get(node).copied().unwrap_or(0);
        findings.require(sum <= all, || format!("I1: {sum} GPUs of {node} are held, it has {all}"));
    }

    /// I10: a guest's pod belongs to a confirmed lease, and to one of its indexes.
    fn born(&self, pod: &Value, findings: &mut Findings<'_>) {
        let name = &pod["metadata"]["name"];
        let owner = pod["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
        let Some(lease) = self.leases.get(owner) else {
            // Its lease may be gone between decision and creation; the garbage collector takes it.
            findings.seen("a guest came after its lease was deleted");
            return;
        };
        findings.require(lease["spec"]["confirmed"] == true, || {
            format!("I10: guest {name} of a lease that its hub never confirmed")
        });
        findings.require(indexes(&lease["spec"]["indexes"]).contains(index_of(pod)), || {
            format!("I10: guest {name} of an index that its lease does not cover")
        });
        let deadline = pod["spec"]["activeDeadlineSeconds"].as_i64();
        findings.require(deadline.is_some_and(|deadline| deadline > 0), || {
            format!("I9: guest {name} has no deadline")
        });
    }

    /// I3: a gang starts only when all its pods are bound and none has ended.
    fn gate(&self, change: &Change, findings: &mut Findings<'_>) {
        let (Some(gate), None) = (&change.new, &change.old) else { return };
        let owner = gate["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
        let Some(lease) = self.leases.get(owner) else { return };
        // One may have ended since the agent looked, who then ends the others.
        let bound = self.placed.get(owner).map_or(0, BTreeSet::len);
        let bound = i64::try_from(bound).unwrap_or(0);
        let size = lease["spec"]["size"].as_i64().unwrap_or(0);
        findings.require(bound == size, || {
            format!("I3: the gate of {} opens with {bound} of {size} pods bound", change.at.name)
        });
        findings.seen("a gang started");
    }

    fn grant(&mut self, change: &Change, findings: &mut Findings<'_>) {
        let Some(new) = &change.new else { return };
        let hub = new["spec"]["hubId"].as_str().unwrap_or_default().to_owned();
        let highest = new["status"]["highestIncarnation"].as_u64().unwrap_or(0);
        let before = self.incarnations.insert(hub.clone(), highest).unwrap_or(0);
        findings.require(before <= highest, || {
            format!("I5: {hub} went from incarnation {before} to {highest}")
        });
    }
}

fn index_of(pod: &Value) -> u32 {
    let label = &pod["metadata"]["labels"]["idlewild.dev/replica-index"];
    label.as_str().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
}
