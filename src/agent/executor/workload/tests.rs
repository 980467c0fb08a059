use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn lease(size: i32, gpus: i32, model: &str, template: Value) -> GuestLease {
    serde_json::from_value(json!({
        "apiVersion": "idlewild.dev/v1alpha1", "kind": "GuestLease",
        "metadata": {"name": "l", "namespace": "g", "uid": "u", "labels": {"idlewild.dev/hub": "h"}},
        "spec": {"hubId": "hub", "grant": "g", "leaseName": "l", "leaseUid": "x",
            "job": {"namespace": "team", "name": "job", "uid": "j", "generation": 1}, "pool": "a",
            "epoch": {"incarnation": 2, "attempt": 7}, "indexes": "3", "size": size,
            "gpu": {"count": gpus, "model": model}, "graceSeconds": 120,
            "activeDeadlineSeconds": 100, "digest": "d", "template": template}}))
    .unwrap()
}

fn build(lease: &GuestLease, rank: u32, sandbox: bool) -> Result<Value, Vec<String>> {
    let pool = json!({"offer": {"noticeSeconds": 60},
        "podDefaults": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "runtimeClassName": "nvidia"}});
    let plan = Plan { key: Key { index: 3, rank }, node: "n1", sandbox, closes_in: None };
    pod(lease, &serde_json::from_value(pool).unwrap(), plan)
}

fn simple() -> Value {
    json!({"spec": {"containers": [{"name": "main", "image": "i"}]}})
}

fn variable<'a>(pod: &'a Value, container: usize, name: &str) -> &'a Value {
    let env = pod["spec"]["containers"][container]["env"].as_array().unwrap();
    env.iter().find(|variable| variable["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn a_single_guest_has_all_that_the_owner_demands() {
    let pod = build(&lease(1, 2, "A100", simple()), 0, false).unwrap();
    assert_eq!(pod["metadata"]["name"], "l-3");
    assert_eq!(pod["metadata"]["labels"]["idlewild.dev/replica-index"], "3");
    assert_eq!(pod["metadata"]["labels"]["idlewild.dev/hub"], "h");
    assert_eq!(pod["metadata"]["labels"].get("idlewild.dev/rank"), None);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["restartPolicy"], &spec["priorityClassName"]),
        (&"Never".into(), &"idlewild-guest".into())
    );
    assert_eq!(spec["terminationGracePeriodSeconds"], 60);
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["runtimeClassName"], "nvidia");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 3);
    let security = json!({"runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(spec["securityContext"], security);
    let main = &spec["containers"][0];
    let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    assert_eq!(main["securityContext"], own);
    let amounts = json!({"limits": {"nvidia.com/gpu": "2"},
        "requests": {"cpu": "100m", "memory": "256Mi", "nvidia.com/gpu": "2"}});
    assert_eq!(main["resources"], amounts);
    assert_eq!(main["volumeMounts"][0]["mountPath"], "/dev/shm");
    assert_eq!(variable(&pod, 0, "IDLEWILD_EPOCH")["value"], "2.7");
    assert_eq!(variable(&pod, 0, "HOME")["value"], "/tmp");
    assert_eq!(variable(&pod, 0, "NVIDIA_VISIBLE_DEVICES"), &Value::Null);
    let affinity = spec["affinity"].to_string();
    assert!(affinity.contains("metadata.name") && affinity.contains("n1"));
}

#[test]
fn a_program_is_told_where_it_saves_and_what_it_goes_on_from() {
    let mut lease = lease(1, 1, "A100", simple());
    let pod = build(&lease, 0, false).unwrap();
    assert_eq!(variable(&pod, 0, "IDLEWILD_CHECKPOINT_URI"), &Value::Null, "it saves nothing");
    lease.spec.checkpoint = serde_json::from_value(json!({
        "uri": "s3://b/job", "intervalSeconds": 600,
        "resume": [{"index": 2, "ref": "s3://b/job/2.5/other"}, {"index": 3, "ref": "s3://b/job/2.5/$(HOME)"}],
        "earlierEpochs": [{"incarnation": 2, "attempt": 5}, {"incarnation": 1, "attempt": 9}]}))
    .unwrap();
    let told = |lease: &GuestLease| {
        let pod = build(lease, 0, false).unwrap();
        let names = ["CHECKPOINT_ROOT", "CHECKPOINT_URI", "EARLIER_EPOCHS", "RESUME"];
        names.map(|name| variable(&pod, 0, &format!("IDLEWILD_{name}"))["value"].clone())
    };
    // Two dollars are one to the kubelet: it puts no variable there.
    let want = ["s3://b/job", "s3://b/job/2.7", "2.5 1.9", "s3://b/job/2.5/$$(HOME)"];
    assert_eq!(told(&lease), want.map(Value::from));
    let saves = lease.spec.checkpoint.as_mut().unwrap();
    (saves.indexed, saves.resume) = (true, vec![]);
    let want = ["s3://b/job/3", "s3://b/job/3/2.7", "2.5 1.9", ""];
    assert_eq!(told(&lease), want.map(Value::from));
}

#[test]
fn slices_are_asked_for_by_their_resource_and_gpus_go_where_the_template_says() {
    let template = json!({"spec": {"containers": [{"name": "helper", "image": "i"},
        {"name": "main", "image": "i", "resources": {"limits": {"nvidia.com/gpu": 2}}}]}});
    let pod = build(&lease(1, 2, "A100/1g.10gb", template), 0, false).unwrap();
    let limits = &pod["spec"]["containers"][1]["resources"]["limits"];
    assert_eq!(*limits, json!({"nvidia.com/mig-1g.10gb": "2"}));
    assert_eq!(variable(&pod, 0, "NVIDIA_VISIBLE_DEVICES")["value"], "void");
}

#[test]
fn a_gang_waits_at_its_gate_in_every_container() {
    let template = json!({"spec": {"initContainers": [{"name": "prepare", "image": "i"}],
        "containers": [{"name": "main", "image": "i"}]}});
    let pod = build(&lease(4, 8, "A100", template), 2, false).unwrap();
    assert_eq!(pod["metadata"]["name"], "l-3-2");
    assert_eq!(pod["metadata"]["labels"]["idlewild.dev/rank"], "2");
    assert_eq!(pod["spec"]["priorityClassName"], "idlewild-guest-gang");
    let init = pod["spec"]["initContainers"][0]["env"].to_string();
    assert!(init.contains("configMapKeyRef"));
    let gate = json!({"name": "l", "key": "master-addr", "optional": false});
    assert_eq!(variable(&pod, 0, "MASTER_ADDR")["valueFrom"]["configMapKeyRef"], gate);
    for (name, value) in [("WORLD_SIZE", "4"), ("RANK", "2"), ("PET_NPROC_PER_NODE", "8")] {
        assert_eq!(variable(&pod, 0, name)["value"], value);
    }
}

#[test]
fn the_users_security_settings_stay_where_they_are_stricter() {
    let template = json!({"spec": {"securityContext": {"runAsUser": 1000, "fsGroup": 7},
        "containers": [{"name": "main", "image": "i",
            "securityContext": {"readOnlyRootFilesystem": true},
            "env": [{"name": "HOME", "value": "/home/me"}]}]}});
    let pod = build(&lease(1, 1, "A100", template), 0, false).unwrap();
    let security = &pod["spec"]["securityContext"];
    assert_eq!((&security["runAsUser"], &security["fsGroup"]), (&1000.into(), &7.into()));
    assert_eq!(pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(variable(&pod, 0, "HOME")["value"], "/home/me");
}

#[test]
fn annotations_of_the_sandbox_pass_in_a_sandbox_only() {
    let mut template = simple();
    template["metadata"] =
        json!({"annotations": {"sandbox.idlewild.dev/run-for": "5s", "example.org/a": "b"}});
    let lease = lease(1, 1, "A100", template);
    let annotations =
        |sandbox| build(&lease, 0, sandbox).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(annotations(false), json!({}));
    assert_eq!(annotations(true), json!({"sandbox.idlewild.dev/run-for": "5s"}));
}

#[test]
fn labels_that_could_steer_the_owners_cluster_stay_on_the_hub() {
    let mut template = simple();
    template["metadata"] = json!({"labels": {"app": "train", "app.kubernetes.io/name": "train",
        "azure.workload.identity/use": "true", "sidecar.istio.io/inject": "true"}});
    let pod = build(&lease(1, 1, "A100", template), 0, true).unwrap();
    let labels = pod["metadata"]["labels"].as_object().unwrap();
    let users: Vec<_> = labels.keys().filter(|key| !key.contains("idlewild.dev")).collect();
    assert_eq!(users, ["app", "app.kubernetes.io/managed-by", "app.kubernetes.io/name"]);
}

#[test]
fn images_are_always_pulled_and_no_pod_runs_longer_than_the_pool_offers() {
    let template = json!({"spec": {
        "initContainers": [{"name": "prepare", "image": "i", "imagePullPolicy": "Never"}],
        "containers": [{"name": "main", "image": "i", "imagePullPolicy": "IfNotPresent"}]}});
    let lease = lease(1, 1, "A100", template);
    let pool = json!({"offer": {"maxAttemptSeconds": 40}});
    let plan = Plan { key: Key { index: 3, rank: 0 }, node: "n1", sandbox: false, closes_in: None };
    let pod = pod(&lease, &serde_json::from_value(pool).unwrap(), plan).unwrap();
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 40);
    for list in ["initContainers", "containers"] {
        assert_eq!(pod["spec"][list][0]["imagePullPolicy"], "Always");
    }
    assert_eq!(build(&lease, 0, false).unwrap()["spec"]["activeDeadlineSeconds"], 100);
}

/// Values that some field may or may not hold.
fn values() -> impl Strategy<Value = Value> + Clone {
    prop::sample::select(vec![
        json!(true),
        json!(0),
        json!("x"),
        json!([]),
        json!({}),
        json!({"privileged": true}),
        json!({"runAsUser": 0}),
        json!({"runAsUser": 1000}),
        json!({"capabilities": {"add": ["SYS_ADMIN"]}}),
        json!({"allowPrivilegeEscalation": false}),
        json!([{"name": "v", "hostPath": {"path": "/"}}]),
        json!([{"name": "v", "emptyDir": {}}]),
        json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
        json!([{"name": "A", "value": "b"}]),
        json!({"limits": {"nvidia.com/gpu": 1}}),
        json!(["true"]),
        json!([{"containerPort": 80, "hostPort": 80}]),
        json!([{"containerPort": 80}]),
    ])
}

/// A pod template with anything at all in it, known and unknown fields mixed.
fn anything() -> impl Strategy<Value = Value> {
    let fields = prop::sample::select(vec![
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "hostUsers",
        "nodeName",
        "serviceAccountName",
        "schedulerName",
        "priorityClassName",
        "volumes",
        "tolerations",
        "ephemeralContainers",
        "resourceClaims",
        "terminationGracePeriodSeconds",
        "securityContext",
        "nonsense",
    ]);
    let of_container = prop::sample::select(vec![
        "securityContext",
        "envFrom",
        "env",
        "volumeMounts",
        "resources",
        "lifecycle",
        "command",
        "volumeDevices",
        "stdin",
        "ports",
        "restartPolicy",
    ]);
    let value = values();
    let pod = prop::collection::vec((fields, value.clone()), 0..3);
    let container = prop::collection::vec((of_container, value), 0..3);
    (pod, container).prop_map(|(pod, container)| {
        let mut template = simple();
        for (field, value) in pod {
            template["spec"][field] = value;
        }
        for (field, value) in container {
            template["spec"]["containers"][0][field] = value;
        }
        template
    })
}

/// What no guest may have, whatever its template says.
fn forbidden(pod: &Value) -> Vec<&'static str> {
    let text = pod.to_string();
    let words = [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "hostPath",
        "hostPort",
        "nodeName",
        "privileged",
        "serviceAccountName",
        "SYS_ADMIN",
        "resourceClaims",
        "ephemeralContainers",
        "finalizers",
        "schedulerName",
        "envFrom",
        "nonsense",
        "\"runAsUser\":0",
        "\"value\":\"all\"",
    ];
    words.into_iter().filter(|word| text.contains(word)).collect()
}

proptest! {
    #[test]
    fn a_pod_is_a_pure_function_and_never_holds_what_is_forbidden(template in anything()) {
        let lease = lease(1, 1, "A100", template);
        let built = build(&lease, 0, false);
        prop_assert_eq!(&built, &build(&lease, 0, false));
        match built {
            Ok(pod) => {
                prop_assert_eq!(forbidden(&pod), Vec::<&str>::new());
                let spec = &pod["spec"];
                prop_assert_eq!(&spec["securityContext"]["runAsNonRoot"], &json!(true));
                let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap();
                prop_assert!((1..=60).contains(&grace), "0 would be no wait for its end: {grace}");
                let own = &spec["containers"][0]["securityContext"];
                prop_assert_eq!(&own["allowPrivilegeEscalation"], &json!(false));
                prop_assert_eq!(&own["capabilities"], &json!({"drop": ["ALL"]}));
            }
            Err(violations) => prop_assert!(violations.iter().all(|why| why.contains("spec."))),
        }
    }
}
