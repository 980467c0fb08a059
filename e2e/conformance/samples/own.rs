//! Objects of Kubernetes' own kinds. That a field has the wrong type is not among the mistakes: the
//! simulated server reads pods only as strictly as a real one.

use serde_json::json;

use super::Sample;

/// Those that are compared. Nodes are not: a real server taints a new one.
pub(super) fn all() -> Vec<Sample> {
    vec![config_map(), secret(), heartbeat(), pod(), account(), class(), policy(), binding()]
}

fn config_map() -> Sample {
    Sample {
        plural: "configmaps",
        group: "",
        kind: "ConfigMap",
        namespaced: true,
        body: json!({"data": {"a": "1"}}),
        changes: vec![
            json!({"data": {"a": "2"}}),
            json!({"data": {"b": "1", "a": null}}),
            json!({"data": null}),
        ],
        mistakes: vec![json!({"immutable": true}), json!({"data": {"no key": "1"}})],
        statuses: vec![],
    }
}

fn secret() -> Sample {
    Sample {
        plural: "secrets",
        group: "",
        kind: "Secret",
        namespaced: true,
        body: json!({"data": {"a": "MQ=="}}),
        changes: vec![
            json!({"data": {"a": "Mg=="}}),
            json!({"data": {"b": "MQ==", "a": null}}),
            json!({"data": null}),
        ],
        mistakes: vec![json!({"type": "other/type"}), json!({"data": {"no key": "MQ=="}})],
        statuses: vec![],
    }
}

fn heartbeat() -> Sample {
    Sample {
        plural: "leases",
        group: "coordination.k8s.io/v1",
        kind: "Lease",
        namespaced: true,
        body: json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 40}}),
        changes: vec![
            json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
            json!({"spec": {"renewTime": "2026-01-01T00:00:01.500000Z"}}),
            json!({"spec": {"holderIdentity": "b", "leaseTransitions": 1}}),
            json!({"spec": {"holderIdentity": null}}),
        ],
        mistakes: vec![json!({"spec": {"leaseDurationSeconds": 0}})],
        statuses: vec![],
    }
}

fn pod() -> Sample {
    Sample {
        plural: "pods",
        group: "",
        kind: "Pod",
        namespaced: true,
        body: json!({"spec": {"automountServiceAccountToken": false, "containers": [
            {"name": "main", "image": "busybox:1",
                "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}),
        changes: vec![
            json!({"spec": {"activeDeadlineSeconds": 100}}),
            json!({"spec": {"activeDeadlineSeconds": 50}}),
            json!({"metadata": {"annotations": {"a": "b"}}}),
        ],
        mistakes: vec![
            json!({"spec": {"terminationGracePeriodSeconds": 5}}),
            json!({"spec": {"nodeName": "other"}}),
            json!({"spec": {"restartPolicy": "Never"}}),
            json!({"spec": {"priorityClassName": "missing"}}),
            json!({"spec": {"priority": 5}}),
            json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}),
        ],
        statuses: vec![
            json!({"phase": "Running"}),
            json!({"phase": "Succeeded"}),
            json!({"phase": "Failed", "reason": "Evicted", "message": "m"}),
            json!({"phase": "Pending", "nominatedNodeName": "n"}),
        ],
    }
}

fn account() -> Sample {
    Sample {
        plural: "serviceaccounts",
        group: "",
        kind: "ServiceAccount",
        namespaced: true,
        body: json!({}),
        changes: vec![
            json!({"automountServiceAccountToken": false}),
            json!({"automountServiceAccountToken": null, "more": 1}),
        ],
        mistakes: vec![json!({"status": {}})],
        statuses: vec![],
    }
}

fn class() -> Sample {
    Sample {
        plural: "priorityclasses",
        group: "scheduling.k8s.io/v1",
        kind: "PriorityClass",
        namespaced: false,
        body: json!({"value": 5}),
        changes: vec![json!({"description": "a"}), json!({"description": null})],
        mistakes: vec![json!({"value": 6}), json!({"preemptionPolicy": "Never"})],
        statuses: vec![],
    }
}

fn policy() -> Sample {
    Sample {
        plural: "networkpolicies",
        group: "networking.k8s.io/v1",
        kind: "NetworkPolicy",
        namespaced: true,
        body: json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        changes: vec![
            json!({"spec": {"policyTypes": ["Ingress", "Egress"]}}),
            json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
        ],
        mistakes: vec![json!({"metadata": {"labels": {"a": "no label!"}}})],
        statuses: vec![],
    }
}

fn binding() -> Sample {
    let role = |name: &str| {
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
        "name": name})
    };
    Sample {
        plural: "rolebindings",
        group: "rbac.authorization.k8s.io/v1",
        kind: "RoleBinding",
        namespaced: true,
        body: json!({"roleRef": role("a"),
            "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "b"}]}),
        changes: vec![
            json!({"subjects": [{"kind": "ServiceAccount", "name": "b", "namespace": "b"}]}),
            json!({"subjects": null}),
            json!({"spec": {"more": 1}}),
        ],
        mistakes: vec![json!({"roleRef": role("b")})],
        statuses: vec![],
    }
}
