//! What charts, owners and operators set up before anything runs.

use std::sync::OnceLock;

use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

use super::federation::{Federation, GUESTS, SYSTEM, TEAM, object};
use super::models::patch;
use super::server::{At, Store};
use crate::api::applicant::encoded;

const WHO: &str = "set-up";

/// A CA that nobody asks, and an agent's key.
fn secrets() -> &'static (String, Vec<u8>) {
    static MADE: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let pair = rcgen::generate_simple_self_signed(["hub".to_owned()]).expect("a certificate");
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        (pair.cert.pem(), key.as_ref().to_vec())
    })
}

fn put(store: &mut Store, namespace: &str, plural: &str, body: Value) {
    store.create(WHO, namespace, plural, body);
}

/// The hub's chart, its members' namespaces, and a user's.
pub(crate) fn hubs(all: &mut Federation) {
    let names: Vec<String> = all.members.iter().map(|member| member.name.clone()).collect();
    for hub in &all.hubs {
        let mut store = hub.server.store();
        for name in [SYSTEM, TEAM] {
            store.add_namespace(name);
        }
        let data = json!({"id": hub.id, "incarnation": "1",
            "leaseSeconds": all.shape.lease_seconds.to_string()});
        put(
            &mut store,
            SYSTEM,
            "configmaps",
            json!({"metadata": {"name": "idlewild-hub"}, "data": data}),
        );
        let queue = json!({"namespaceSelector": {}});
        put(&mut store, "", "gpuqueues", object("GpuQueue", "default", &queue));
        for name in &names {
            let space = format!("member-{name}");
            store.add_namespace(&space);
            for account in ["renew", "agent"] {
                put(&mut store, &space, "serviceaccounts", json!({"metadata": {"name": account}}));
            }
            let labels = json!({"idlewild.dev/member": name});
            let beat = json!({"metadata": {"name": "member", "labels": labels}, "spec": {}});
            put(&mut store, &space, "leases", beat);
            let spec = json!({"accepted": true, "fingerprint": "f", "jurisdictions": ["eu"]});
            let mut member = object("MemberCluster", name, &spec);
            member["metadata"]["finalizers"] = json!(["idlewild.dev/leave"]);
            put(&mut store, "", "memberclusters", member);
        }
    }
}

/// The member's chart, its nodes, its owner's pool and grants, and the tokens of joining.
pub(crate) fn members(all: &mut Federation) {
    let (ca, key) = secrets();
    for (member, nodes) in all.members.iter().zip(&all.shape.members) {
        let mut store = member.server.store();
        for name in ["kube-system", SYSTEM, GUESTS, "owner"] {
            store.add_namespace(name);
        }
        let never = "Never";
        for (name, value, policy) in [
            ("idlewild-guest", -1000, never),
            ("idlewild-guest-gang", -999, never),
            ("polite", 100, never),
            ("low", -999, "PreemptLowerPriority"),
        ] {
            put(
                &mut store,
                "",
                "priorityclasses",
                json!({"metadata": {"name": name},
                "value": value, "preemptionPolicy": policy}),
            );
        }
        let tokens: serde_json::Map<String, Value> =
            all.hubs.iter().map(|hub| (hub.id.clone(), encoded(b"renew").into())).collect();
        put(
            &mut store,
            SYSTEM,
            "secrets",
            json!({"metadata": {"name": "idlewild-hub-tokens"}, "data": tokens}),
        );
        put(
            &mut store,
            SYSTEM,
            "secrets",
            json!({"metadata": {"name": "idlewild-agent-key"},
            "data": {"ed25519": encoded(key)}}),
        );
        for number in 0..*nodes {
            let name = format!("{}-n{number}", member.name);
            let labels = json!({"lend": "a", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
                "kubernetes.io/hostname": name});
            let all = json!({"cpu": "256", "memory": "2Ti", "pods": "250",
                "nvidia.com/gpu": all.shape.gpus_per_node.to_string()});
            let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastTransitionTime": store.now}]);
            let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {}});
            put(&mut store, "", "nodes", node);
            let status = json!({"allocatable": all, "capacity": all, "conditions": ready});
            let at = At::new("nodes", "", &name);
            patch(&mut store, WHO, (&at, "/status"), &json!({ "status": status }));
        }
        let pool =
            json!({"nodeSelector": {"matchLabels": {"lend": "a"}}, "location": {"country": "DE"}});
        put(&mut store, SYSTEM, "gpupools", object("GpuPool", "lab", &pool));
        for (rank, hub) in all.hubs.iter().enumerate() {
            let grant = json!({"hubId": hub.id, "address": "https://hub.invalid:6443", "ca": ca,
                "member": member.name, "namespace": format!("member-{}", member.name),
                "priority": rank});
            put(&mut store, SYSTEM, "hubgrants", object("HubGrant", &hub.id, &grant));
        }
    }
}
