//! Objects of those kinds of this project that only a hub has.

use serde_json::json;

use super::{OURS, Sample, conditions};

pub(super) fn all() -> Vec<Sample> {
    vec![member(), queue(), join()]
}

fn member() -> Sample {
    let mut statuses = conditions();
    statuses.extend([json!({"gpus": 3, "silentSeconds": 5}), json!({"gpus": null})]);
    Sample {
        plural: "memberclusters",
        group: OURS,
        kind: "MemberCluster",
        namespaced: false,
        body: json!({"spec": {}}),
        changes: vec![
            json!({"spec": {"fingerprint": "f", "accepted": true}}),
            json!({"spec": {"unschedulable": true}}),
            json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
            json!({"spec": {"jurisdictions": ["EU"]}}),
        ],
        mistakes: vec![
            json!({"spec": {"accepted": true, "fingerprint": ""}}),
            json!({"spec": {"taints": [{"key": "k", "effect": "Prefer"}]}}),
            json!({"spec": {"taints": [{"effect": "NoExecute"}]}}),
        ],
        statuses,
    }
}

fn queue() -> Sample {
    Sample {
        plural: "gpuqueues",
        group: OURS,
        kind: "GpuQueue",
        namespaced: false,
        body: json!({"spec": {}}),
        changes: vec![
            json!({"spec": {"weight": 5}}),
            json!({"spec": {"cohort": "c"}}),
            json!({"spec": {"quota": [{"gpus": 4}, {"gpus": 2, "model": "A100"}]}}),
            json!({"spec": {"quota": null, "stopPolicy": "Hold"}}),
        ],
        mistakes: vec![
            json!({"spec": {"weight": 0}}),
            json!({"spec": {"cohort": null, "quota": [{"gpus": 4, "lendingLimit": 2}]}}),
            json!({"spec": {"cohort": "c", "quota": [{"gpus": 4, "lendingLimit": 5}]}}),
            json!({"spec": {"quota": [{"gpus": 4}, {"gpus": 2}]}}),
            json!({"spec": {"quota": [{"model": ""}]}}),
            json!({"spec": {"stopPolicy": "Stop"}}),
        ],
        statuses: conditions(),
    }
}

fn join() -> Sample {
    Sample {
        plural: "joinrequests",
        group: OURS,
        kind: "JoinRequest",
        namespaced: true,
        body: json!({"spec": {"agentVersion": "1", "clusterIdentity": "i", "fingerprint": "f",
            "proof": "p", "publicKey": "k"}}),
        changes: vec![json!({"spec": {}}), json!({"spec": {"agentVersion": "1", "more": 2}})],
        mistakes: vec![
            json!({"spec": null}),
            json!({"spec": {"agentVersion": 1}}),
            json!({"spec": {"agentVersion": "2"}}),
            json!({"spec": {"proof": ""}}),
        ],
        statuses: conditions(),
    }
}
