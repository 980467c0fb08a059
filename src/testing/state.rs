//! What stands where when a run is over, without what two right runs may differ in.

use serde_json::{Value, json};

use super::federation::Federation;

/// Jobs and what they came to, and whatever else is left.
pub(crate) fn of(all: &Federation) -> Value {
    let hubs = all.hubs.iter().map(|hub| {
        let store = hub.server.store();
        let jobs = store.of_kind("gpujobs", "").map(|(at, job)| {
            let status = &job["status"];
            json!({"name": at.name, "phase": status["phase"], "replicas": status["replicas"],
                "done": status["completedIndexes"], "allocations": status["allocations"]})
        });
        let jobs: Vec<Value> = jobs.collect();
        json!({"jobs": jobs, "leases": store.of_kind("gpuleases", "").count()})
    });
    let hubs: Vec<Value> = hubs.collect();
    let members = all.members.iter().map(|member| {
        let store = member.server.store();
        let open = store.of_kind("guestleases", "").filter(|(_, lease)| {
            !matches!(lease["status"]["phase"].as_str(), Some("Released" | "Refused"))
        });
        let open: Vec<Value> = open.map(|(_, lease)| Value::clone(lease)).collect();
        json!({"pods": store.of_kind("pods", "").count(), "open": open,
            "owners": store.of_kind("pods", "owner").map(|(_, pod)| Value::clone(pod)).collect::<Vec<_>>()})
    });
    json!({"hubs": hubs, "members": members.collect::<Vec<_>>()})
}
