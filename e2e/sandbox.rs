//! The sandbox itself: what every other test stands on.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use idlewild::sandbox::{Federation, OWNER, OWNER_NAMESPACE, Reach, Settings};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::harness::{
    SOON, apply, control_planes, end_of, eventually, fresh, member, pods, settings,
};

/// A pod of the owner with that name, annotations and labels, and two containers.
fn pod(name: &str, annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> String {
    let map = |prefix: &str, pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| (format!("{prefix}{key}"), json!(value)));
        serde_json::Value::Object(pairs.collect())
    };
    let container = |name: &str| json!({ "name": name, "image": "registry.example.org/x:1" });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": OWNER_NAMESPACE,
            "annotations": map("sandbox.idlewild.dev/", annotations),
            "labels": map("idlewild.dev/", labels),
        },
        "spec": { "restartPolicy": "Never", "containers": [container("main"), container("side")] },
    })
    .to_string()
}

async fn ended(federation: &Federation, name: &str) -> (String, Vec<i32>) {
    let api = pods(&federation.members["solo"].cluster.admin, OWNER_NAMESPACE);
    eventually(&format!("the end of {name}"), SOON, async || {
        let pod = api.get(name).await.map_err(|error| error.to_string())?;
        match end_of(&pod) {
            end if end.0 == "Succeeded" || end.0 == "Failed" => Ok(end),
            end => Err(format!("{end:?}")),
        }
    })
    .await
}

/// Processes whose arguments name a file in `directory`.
fn processes_of(directory: &Path) -> Vec<String> {
    let wanted = format!("{}/", directory.display());
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&wanted))
        .collect()
}

#[test]
fn a_sandbox_of_control_planes_starts_runs_pods_is_paused_and_leaves_nothing() {
    let settings = control_planes("control-planes", vec![member("solo", 50, 8)]);
    fresh(&settings, async |federation| {
        let began = Instant::now();
        println!("up in {:?}", federation.timeline.elapsed());
        for step in federation.timeline.steps() {
            println!("{:?} +{:?} {}", step.began, step.took, step.what);
        }
        fifty_nodes_are_ready(federation).await;
        pods_end_as_their_annotations_say(federation).await;
        a_gang_waits_for_its_gate(federation).await;
        a_deleted_pod_fails_before_it_goes(federation).await;
        a_paused_api_server_is_silent_and_comes_back(federation).await;
        a_killed_api_server_is_restarted_with_its_data(federation).await;
        println!("checked in {:?}", began.elapsed());
        assert!(!processes_of(&federation.settings.dir).is_empty(), "the search finds what runs");
    });
    assert_eq!(processes_of(&settings.dir), Vec::<String>::new());
    assert!(!settings.dir.join("solo/etcd").exists(), "the stores are removed");
}

async fn fifty_nodes_are_ready(federation: &Federation) {
    let api = Api::<Node>::all(federation.members["solo"].cluster.admin.clone());
    let nodes = api.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(nodes.len(), 50);
    let gpus =
        nodes[0].status.as_ref().unwrap().allocatable.as_ref().unwrap()["nvidia.com/gpu"].clone();
    assert_eq!(gpus.0, "8");
}

async fn pods_end_as_their_annotations_say(federation: &Federation) {
    let cluster = &federation.members["solo"].cluster;
    let manifests = [
        pod("good", &[("run-for", "1s")], &[]),
        pod("bad", &[("run-for", "100ms"), ("exit-code", "3")], &[]),
        pod("zero", &[("run-for", "1ms"), ("exit-code", "0")], &[]),
        pod("late", &[("run-for", "1h")], &[])
            .replace("\"spec\":{", "\"spec\":{\"activeDeadlineSeconds\":1,"),
    ];
    for manifest in &manifests {
        apply(cluster, OWNER, manifest).await.unwrap();
    }
    for (name, phase, codes) in [
        ("good", "Succeeded", [0, 0]),
        ("bad", "Failed", [3, 3]),
        ("zero", "Succeeded", [0, 0]),
        ("late", "Failed", [143, 143]),
    ] {
        assert_eq!(ended(federation, name).await, (phase.into(), codes.to_vec()), "{name}");
    }
    let late = pods(&cluster.admin, OWNER_NAMESPACE).get("late").await.unwrap();
    assert_eq!(late.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

async fn a_gang_waits_for_its_gate(federation: &Federation) {
    let cluster = &federation.members["solo"].cluster;
    let api = pods(&cluster.admin, OWNER_NAMESPACE);
    let manifest = pod("rank", &[("run-for", "100ms")], &[("rank", "0")]);
    apply(cluster, OWNER, &manifest).await.unwrap();
    let waiting = eventually("an address", SOON, async || {
        let status = api.get("rank").await.map_err(|error| error.to_string())?.status;
        status.filter(|status| status.pod_ip.is_some()).ok_or_else(|| "no address".to_string())
    })
    .await;
    assert_eq!(waiting.phase.as_deref(), Some("Pending"));
    let open = json!({"metadata": {"annotations": {"sandbox.idlewild.dev/gate": "open"}}});
    api.patch("rank", &PatchParams::default(), &Patch::Merge(&open)).await.unwrap();
    assert_eq!(ended(federation, "rank").await, ("Succeeded".into(), vec![0, 0]));
}

async fn a_deleted_pod_fails_before_it_goes(federation: &Federation) {
    let cluster = &federation.members["solo"].cluster;
    let api = pods(&cluster.admin, OWNER_NAMESPACE);
    // A finalizer keeps the object, so that its last state can be read.
    let held = |name: &str, annotations: &[(&str, &str)]| {
        let finalizers = "\"metadata\":{\"finalizers\":[\"example.org/held\"],";
        pod(name, annotations, &[]).replace("\"metadata\":{", finalizers)
    };
    for (name, annotations, code) in
        [("obedient", &[][..], 143), ("stubborn", &[("ignores-term", "true")][..], 137)]
    {
        apply(cluster, OWNER, &held(name, annotations)).await.unwrap();
        eventually("running", SOON, async || match end_of(&api.get(name).await.unwrap()) {
            (phase, _) if phase == "Running" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        api.delete(name, &DeleteParams::default().grace_period(1)).await.unwrap();
        assert_eq!(ended(federation, name).await, ("Failed".into(), vec![code, code]), "{name}");
        let release = json!({"metadata": {"finalizers": null}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
        eventually("gone", SOON, async || match api.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

async fn a_paused_api_server_is_silent_and_comes_back(federation: &Federation) {
    let cluster = &federation.members["solo"].cluster;
    let api = Api::<Node>::all(cluster.admin.clone());
    cluster.api_server.pause().unwrap();
    let params = ListParams::default();
    let answer = tokio::time::timeout(Duration::from_secs(1), api.list(&params)).await;
    assert!(answer.is_err(), "a paused API server does not answer");
    assert!(cluster.api_server.is_running());
    cluster.api_server.resume().unwrap();
    cluster.ready().await.unwrap();
}

async fn a_killed_api_server_is_restarted_with_its_data(federation: &Federation) {
    let cluster = &federation.members["solo"].cluster;
    cluster.api_server.kill().await.unwrap();
    assert!(!cluster.api_server.is_running());
    cluster.api_server.restart().await.unwrap();
    cluster.ready().await.unwrap();
    fifty_nodes_are_ready(federation).await;
}

#[test]
fn without_its_programs_a_sandbox_names_the_command_that_builds_them() {
    let settings = Settings {
        binaries: "/nowhere".into(),
        reach: Reach::ControlPlanes,
        ..settings("missing", vec![])
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(Federation::start(&settings)).err().unwrap().to_string();
    assert!(error.contains("e2e/controlplane/build.sh /nowhere"), "{error}");
}
