use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn template(container: Value) -> Value {
    let mut whole = json!({"name": "train", "image": "registry.example.org/train:1"});
    for (key, value) in container.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({"spec": {"containers": [whole]}})
}

fn check(template: &Value, expected: &[&str]) {
    let found = violations(template, 1);
    for words in expected {
        assert!(found.iter().any(|one| one.contains(words)), "{words:?} is not in {found:#?}");
    }
    assert_eq!(found.is_empty(), expected.is_empty(), "{found:#?}");
}

#[test]
fn the_smallest_template_is_allowed() {
    check(&template(json!({})), &[]);
}

#[test]
fn the_policy_file_is_what_the_table_generates() {
    let documents = policy().map(|object| serde_yaml::to_string(&object).unwrap());
    let head = "# Generated from src/api/template/table.rs; do not edit. Refuses templates that hold\n# what a guest may not have, with a sentence for each field.\n";
    let content = format!("{head}{}---\n{}", documents[0], documents[1]);
    assert!(!content.contains("{{"), "helm would read it as its own");
    let file = "charts/idlewild-hub/templates/policy-gpujob-template.yaml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("IDLEWILD_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &content).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == content, "{file} is stale: run make generate");
}

/// The nonsense templates of the e2e suite: the API server's policy refuses them with the words
/// given there, and so must we.
#[test]
fn nonsense_is_refused_with_the_words_of_the_policy() {
    let mut seen = 0;
    for document in include_str!("../../../e2e/manifests/templates.yaml").split("---\n").skip(1) {
        let mut lines = document.lines();
        let name = lines.next().unwrap();
        let words = lines.next().unwrap().strip_prefix("# refused: ").unwrap();
        let job: Value = serde_yaml::from_str(document).unwrap();
        let count = i32::try_from(job["spec"]["gpu"]["count"].as_i64().unwrap()).unwrap();
        let found = violations(&job["spec"]["template"], count).join(". ");
        // Where an element has no name, the policy cannot count and writes `*`.
        let found = found.replace("[0]", "[*]");
        for word in words.split(" | ") {
            assert!(found.contains(word), "{name}: {word:?} is not in {found:?}");
        }
        seen += 1;
    }
    assert!(seen > 60);
}

#[test]
fn every_allowed_field_is_allowed_at_once() {
    let whole = json!({
        "metadata": {
            "labels": {"app": "train", "app.kubernetes.io/name": "train", "example.org/team": "a"},
            "annotations": {"sandbox.idlewild.dev/run-for": "3s", "note": "anything"},
        },
        "spec": {
            "initContainers": [
                {"name": "fetch", "image": "registry.example.org/fetch:1"},
                {"name": "proxy", "image": "registry.example.org/proxy:1", "restartPolicy": "Always",
                 "startupProbe": {"tcpSocket": {"port": "http"}}},
            ],
            "containers": [{
                "name": "train",
                "image": "registry.example.org/train@sha256:0123",
                "imagePullPolicy": "IfNotPresent",
                "command": ["python"],
                "args": ["train.py", "--epochs", "3"],
                "workingDir": "/work",
                "env": [
                    {"name": "EPOCHS", "value": "3"},
                    {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                ],
                "resources": {
                    "limits": {"nvidia.com/gpu": "1", "cpu": 4, "memory": "16Gi"},
                    "requests": {"nvidia.com/gpu": 1, "cpu": 0.5, "ephemeral-storage": "1e9"},
                },
                "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 10},
                "readinessProbe": {"exec": {"command": ["true"]}},
                "startupProbe": {"grpc": {"port": 9000}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
                "volumeMounts": [{"name": "scratch", "mountPath": "/work", "readOnly": false}],
                "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
            }],
            "volumes": [
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
                {"name": "info", "downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                ]}},
            ],
            "securityContext": {"runAsNonRoot": true, "fsGroup": 1000, "supplementalGroups": [1]},
            "terminationGracePeriodSeconds": 120,
        },
    });
    check(&whole, &[]);
}

#[test]
fn all_violations_come_at_once() {
    let found = violations(
        &json!({"spec": {"hostNetwork": true, "containers": [{"imagee": "a", "name": "x"}]}}),
        1,
    );
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn a_template_may_have_64_kib_and_no_more() {
    check(&template(json!({"args": ["x".repeat(65_000)]})), &[]);
    check(&template(json!({"args": ["x".repeat(66_000)]})), &["at most 65536 are allowed"]);
}

fn needs(spec: Value) -> (u64, u64) {
    let found = need(&json!({"spec": spec}), 1).unwrap();
    assert_eq!(found.gpus, 1);
    (found.milli_cpu, found.memory_bytes >> 20)
}

fn asking(name: &str, kind: &str, cpu: &str, memory: &str) -> Value {
    json!({"name": name, "image": "a", "resources": {kind: {"cpu": cpu, "memory": memory}}})
}

#[test]
fn a_pod_needs_what_its_containers_ask_for() {
    assert_eq!(needs(json!({"containers": [{"name": "a", "image": "b"}]})), (100, 256));
    let two = json!({"containers": [asking("a", "requests", "1500m", "1Gi"), asking("b", "limits", "2", "64Mi")]});
    assert_eq!(needs(two), (3500, 1088));
    let only_cpu = json!({"name": "a", "image": "b", "resources": {"requests": {"cpu": 3}}});
    assert_eq!(needs(json!({"containers": [only_cpu]})), (3000, 256));
}

#[test]
fn init_containers_count_while_they_run_and_sidecars_always() {
    let mut sidecar = asking("s", "requests", "1", "10Mi");
    sidecar["restartPolicy"] = json!("Always");
    let init = asking("i", "requests", "8", "20Mi");
    let main = asking("m", "requests", "2", "100Mi");
    let of = |inits: &[&Value]| needs(json!({"initContainers": inits, "containers": [main]}));
    assert_eq!(of(&[&init]), (8000, 100));
    assert_eq!(of(&[&init, &sidecar]), (8000, 110));
    assert_eq!(of(&[&sidecar, &init]), (9000, 110));
}

#[test]
fn what_cannot_be_counted_has_no_need() {
    let bad = template(json!({"resources": {"requests": {"cpu": "four"}}}));
    assert!(need(&bad, 1).unwrap_err()[0].contains("requests.cpu"));
}

#[test]
fn the_first_container_gets_the_gpus_unless_limits_say_otherwise() {
    let plain = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    assert_eq!(gpu_limits(&plain, 4), [4, 0]);
    let second = json!({"spec": {"containers": [
        {"name": "a"},
        {"name": "b", "resources": {"limits": {"nvidia.com/gpu": "4"}}},
    ]}});
    assert_eq!(gpu_limits(&second, 4), [0, 4]);
}

#[test]
fn images_and_grace_are_read_from_the_template() {
    let two = json!({"spec": {
        "initContainers": [{"name": "i", "image": "b:1"}],
        "containers": [{"name": "a", "image": "a:1"}],
        "terminationGracePeriodSeconds": 5,
    }});
    assert_eq!(images(&two).into_iter().collect::<Vec<_>>(), ["a:1", "b:1"]);
    assert_eq!(grace_seconds(&two), 5);
    assert_eq!(grace_seconds(&json!({})), 30);
}

/// Any JSON of a small size, often with keys that mean something in a template.
fn anything() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let keys = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("containers"),
        Just("initContainers"),
        Just("name"),
        Just("image"),
        Just("env"),
        Just("resources"),
        Just("limits"),
        Just("requests"),
        Just("cpu"),
        Just("volumes"),
        Just("emptyDir"),
        Just("volumeMounts"),
        Just("labels"),
    ];
    leaf.prop_recursive(6, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(String::from), inner, 0..5)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn no_template_makes_us_stumble(template in anything()) {
        let found = violations(&template, 1);
        proptest::prop_assert_eq!(need(&template, 1).is_ok(), found.is_empty());
        let _ = (gpu_limits(&template, 1), images(&template), grace_seconds(&template));
    }
}
