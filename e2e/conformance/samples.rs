//! Objects of each kind, changes that are fine, and changes that are not: here those of this
//! project that a member has, in `hub` those that only a hub has, and Kubernetes' own in `own`.

mod hub;
mod own;

use serde_json::{Value, json};

/// What can be done with one kind.
pub(super) struct Sample {
    pub(super) plural: &'static str,
    /// Group and version of a kind that is not of the core.
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
    /// All but metadata.
    pub(super) body: Value,
    /// Merge patches that are fine most of the time.
    pub(super) changes: Vec<Value>,
    /// Merge patches that are refused most of the time.
    pub(super) mistakes: Vec<Value>,
    /// Statuses of both sorts; empty: the kind has none.
    pub(super) statuses: Vec<Value>,
}

const OURS: &str = "idlewild.dev/v1alpha1";

/// All kinds that are compared.
pub(super) fn all() -> Vec<Sample> {
    let mut kinds = vec![job(), lease("gpuleases", "GpuLease"), guest(), pool(), grant()];
    kinds.extend(hub::all());
    kinds.extend(own::all());
    kinds
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn conditions() -> Vec<Value> {
    vec![
        json!({"conditions": [condition("A", "True")]}),
        json!({"conditions": [condition("A", "False"), condition("B", "True")]}),
        json!({"conditions": [condition("A", "True"), condition("A", "True")]}),
        json!({"conditions": [{"type": "A"}]}),
        json!({"conditions": [{"type": "A", "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "yesterday"}]}),
        json!({"conditions": null}),
        json!({"observedGeneration": 1}),
        json!({"observedGeneration": null}),
        json!({"observedGeneration": "one"}),
        json!({"unknown": 1}),
        json!([]),
        Value::Null,
    ]
}

fn job() -> Sample {
    let template = json!({"spec": {"containers": [{"name": "main", "image": "busybox"}]}});
    let mut statuses = conditions();
    statuses.extend([
        json!({"phase": "Queued", "nextAttempt": 1, "incarnation": 2}),
        json!({"phase": "Nothing"}),
        json!({"phase": null, "incarnation": -1}),
        json!({"allocations": [{"cluster": "c"}]}),
        json!({"replicas": {"running": 1}, "clusters": ["c"]}),
        json!({"replicas": null, "summary": {"gpus": 3}}),
        json!({"evictions": {"total": 1, "else": 2}}),
    ]);
    Sample {
        plural: "gpujobs",
        group: OURS,
        kind: "GpuJob",
        namespaced: true,
        body: json!({"spec": {"gpu": {"count": 1}, "template": template}}),
        changes: vec![
            json!({"spec": {"suspend": true}}),
            json!({"spec": {"suspend": false}}),
            json!({"spec": {"suspend": null}}),
            json!({"spec": {"parallelism": 2}}),
            json!({"spec": {"parallelism": null}}),
            json!({"spec": {"nonsense": {"deep": 1}}}),
            json!({"spec": {"ttlSecondsAfterFinished": 60, "backoffLimit": 3}}),
            json!({"spec": {"failover": {"tolerationSeconds": 100}}}),
            json!({"spec": {"failover": {}}}),
            json!({"spec": {"placement": {"clusterAffinity": {"clusterNames": ["x"]}}}}),
            json!({"spec": {"priorityClassName": "high"}, "status": {"phase": "Running"}}),
        ],
        mistakes: vec![
            json!({"spec": {"type": "Other"}}),
            json!({"spec": {"gpu": {"count": 99}}}),
            json!({"spec": {"gpu": {"count": 2}}}),
            json!({"spec": {"gpu": null}}),
            json!({"spec": {"completions": 2}}),
            json!({"spec": {"suspend": "yes"}}),
            json!({"spec": {"template": {"spec": {"more": 1}}}}),
            json!({"spec": {"failover": {"tolerationSeconds": 1}}}),
            json!({"spec": {"checkpoint": {"uri": "no uri"}}}),
            json!({"spec": {"podFailurePolicy": {"rules": []}}}),
            json!({"spec": {"queueName": ""}}),
            json!({"spec": {"data": {"residency": []}}}),
            json!({"spec": null}),
            json!({"spec": 1}),
        ],
        statuses,
    }
}

fn lease_spec() -> Value {
    json!({
        "activeDeadlineSeconds": 100, "digest": "sha256:0", "graceSeconds": 30, "hubId": "hub",
        "epoch": {"attempt": 0, "incarnation": 1}, "gpu": {"count": 1, "model": "A100"},
        "indexes": "0-1", "pool": "p", "size": 1, "template": {"spec": {"containers": []}},
        "job": {"generation": 1, "name": "j", "namespace": "n", "uid": "u"},
    })
}

fn lease(plural: &'static str, kind: &'static str) -> Sample {
    let mut statuses = conditions();
    statuses.extend([
        json!({"phase": "Accepted", "serial": 3}),
        json!({"phase": "Taken"}),
        json!({"serial": -1, "nodes": [{"node": 0, "pods": 0}]}),
        json!({"pods": {"bound": 1}, "nodes": [{"node": 0, "pods": 1}]}),
        json!({"ended": [{"indexes": "0", "reason": "Succeeded", "message": "x".repeat(1025)}]}),
        json!({"ended": [{"indexes": "0", "reason": "Succeeded", "exitCode": 0}]}),
        json!({"refusal": {"reason": "No", "message": "none"}}),
    ]);
    Sample {
        plural,
        group: OURS,
        kind,
        namespaced: true,
        body: json!({ "spec": lease_spec() }),
        changes: vec![
            json!({"spec": {"withdrawn": {"reason": "Superseded", "graceSeconds": 30}}}),
            json!({"spec": {"withdrawn": {"reason": "Superseded", "graceSeconds": 0}}}),
            json!({"spec": {"more": true}}),
        ],
        mistakes: vec![
            json!({"spec": {"withdrawn": null}}),
            json!({"spec": {"withdrawn": {"reason": "x"}}}),
            json!({"spec": {"digest": "sha256:1"}}),
            json!({"spec": {"epoch": {"attempt": -1}}}),
            json!({"spec": {"residency": ["EU"]}}),
            json!({"spec": {"size": 2.5}}),
            json!({"spec": {"template": {"spec": {"containers": [1]}}}}),
            json!({"spec": {"job": {"uid": null}}}),
            json!({"spec": {"pool": ""}}),
        ],
        statuses,
    }
}

fn guest() -> Sample {
    let mut sample = lease("guestleases", "GuestLease");
    for (key, value) in [("grant", "g"), ("leaseName", "l"), ("leaseUid", "u")] {
        sample.body["spec"][key] = json!(value);
    }
    sample.changes.extend([
        json!({"spec": {"confirmed": true}}),
        json!({"spec": {"forgotten": true, "template": {"spec": null}}}),
    ]);
    sample.mistakes.extend([
        json!({"spec": {"confirmed": false}}),
        json!({"spec": {"forgotten": false}}),
        json!({"spec": {"grant": "other"}}),
    ]);
    sample.statuses.push(json!({"gpus": 4, "until": "2026-01-01T00:00:00Z"}));
    sample
}

fn pool() -> Sample {
    let mut statuses = conditions();
    statuses.extend([
        json!({"gpus": {"free": 4}, "serial": 7}),
        json!({"gpus": {"free": -4}}),
        json!({"models": [{"model": "A100"}, {"free": 1}]}),
        json!({"shapes": [{"model": "A100", "gpusPerNode": 8, "nodes": 1}]}),
        json!({"conditions": [condition("A", "Maybe")]}),
        json!({"survival": [{"gpus": 1, "chances": [1, 2]}]}),
    ]);
    Sample {
        plural: "gpupools",
        group: OURS,
        kind: "GpuPool",
        namespaced: true,
        body: json!({"spec": {}}),
        changes: vec![
            json!({"spec": {"offer": {"paused": true}}}),
            json!({"spec": {"offer": {"paused": null, "reserveGpus": 2}}}),
            json!({"spec": {"offer": null}}),
            json!({"spec": {"allow": {"hubs": ["a", "b"], "types": ["Batch"]}}}),
            json!({"spec": {"nodeSelector": {"matchLabels": {"a": "b"}}}}),
            json!({"spec": {"offer": {"schedule": [{"from": "20:00", "to": "24:00"}]}}}),
            json!({"spec": {"modelOverride": {"model": "A100", "memory": "80Gi"}}}),
        ],
        mistakes: vec![
            json!({"spec": {"offer": {"reserveGpus": -1}}}),
            json!({"spec": {"offer": {"schedule": [{"from": "20:00", "to": "08:00"}]}}}),
            json!({"spec": {"offer": {"schedule": [{"from": "9:00", "to": "10:00"}]}}}),
            json!({"spec": {"nodeSelector": {"matchLabels": null, "matchExpressions": []}}}),
            json!({"spec": {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}),
            json!({"spec": {"modelOverride": {"model": "A100", "memory": "80GB"}}}),
            json!({"spec": {"allow": {"types": ["Service"]}}}),
            json!({"spec": {"podDefaults": {"tolerations": [{"operator": "Equal"}]}}}),
        ],
        statuses,
    }
}

fn grant() -> Sample {
    let mut statuses = conditions();
    statuses.extend([
        json!({"highestIncarnation": 4, "publicKey": "k"}),
        json!({"highestIncarnation": -4}),
        json!({"followedCa": {"pinned": "p"}}),
    ]);
    Sample {
        plural: "hubgrants",
        group: OURS,
        kind: "HubGrant",
        namespaced: true,
        body: json!({"spec": {"address": "https://hub:6443", "ca": "-----BEGIN CERTIFICATE-----",
            "hubId": "hub", "member": "m", "namespace": "n"}}),
        changes: vec![
            json!({"spec": {"maxGpus": 4}}),
            json!({"spec": {"maxGpus": null, "priority": 5}}),
            json!({"spec": {"namespace": "other"}}),
        ],
        mistakes: vec![
            json!({"spec": {"hubId": "other"}}),
            json!({"spec": {"hubId": "Other"}}),
            json!({"spec": {"address": "http://hub"}}),
            json!({"spec": {"ca": "none"}}),
            json!({"spec": {"priority": 1001}}),
            json!({"spec": {"member": "m".repeat(57)}}),
        ],
        statuses,
    }
}
