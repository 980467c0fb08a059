//! What is special about pods: defaults, priorities, and the grace of a deletion.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::deleting::later;
use super::kinds::Kind;
use super::refusal::{Cause, Refusal};
use super::store::Store;

/// What may be changed of a pod's specification.
const CHANGEABLE: &[&str] =
    &["activeDeadlineSeconds", "tolerations", "containers", "initContainers", "schedulingGates"];

/// Whether an object has the shape of a pod.
pub(super) fn readable(object: &Value) -> Result<(), Refusal> {
    match Pod::deserialize(object) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::bad_request(format!("the pod cannot be read: {error}"))),
    }
}

/// Fills in what a server fills in that has the usual admission plugins. The token of its service
/// account is not among that, nor is it looked at whether that account exists.
pub(super) fn fill(store: &Store, pod: &mut Value) -> Result<(), Refusal> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
    let (priority, policy) = priority(store, &name, &class)?;
    let given = pod["spec"]["priority"].as_i64();
    if given.is_some_and(|given| given != priority) {
        let why = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority \
             admission controller computed {priority} from the given PriorityClass name",
            given.unwrap_or(0)
        );
        return Err(Refusal::forbidden(Kind::of("pods"), &name, &why));
    }
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned();
    let tolerations = tolerations(pod["spec"].get("tolerations"));
    let Some(spec) = pod["spec"].as_object_mut() else {
        let cause = Cause::required("spec.containers");
        return Err(Refusal::invalid(Kind::of("pods"), &name, &[cause]));
    };
    spec.insert("priority".to_owned(), json!(priority));
    spec.insert("tolerations".to_owned(), tolerations);
    for (key, value) in [
        ("preemptionPolicy", json!(policy)),
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("terminationGracePeriodSeconds", json!(30)),
        ("enableServiceLinks", json!(true)),
        ("serviceAccountName", json!(account)),
        ("serviceAccount", json!(account)),
    ] {
        spec.entry(key).or_insert(value);
    }
    for list in ["containers", "initContainers"] {
        let all = spec.get_mut(list).and_then(Value::as_array_mut);
        all.into_iter().flatten().for_each(container);
    }
    let class = quality(spec.get("containers").unwrap_or(&Value::Null));
    pod["status"] = json!({ "phase": "Pending", "qosClass": class });
    Ok(())
}

fn priority(store: &Store, name: &str, class: &str) -> Result<(i64, String), Refusal> {
    let (priority, policy) = match class {
        "" => return Ok((0, "PreemptLowerPriority".to_owned())),
        "system-node-critical" => return Ok((2_000_001_000, "PreemptLowerPriority".to_owned())),
        class => {
            let Some(found) = store.get("priorityclasses", "", class) else {
                let why = format!("no PriorityClass with name {class} was found");
                return Err(Refusal::forbidden(Kind::of("pods"), name, &why));
            };
            (found["value"].as_i64().unwrap_or(0), found["preemptionPolicy"].as_str())
        }
    };
    Ok((priority, policy.unwrap_or("PreemptLowerPriority").to_owned()))
}

/// Adds what every pod tolerates, after a change as after its creation.
pub(super) fn tolerate(pod: &mut Value) {
    let all = tolerations(pod["spec"].get("tolerations"));
    pod["spec"]["tolerations"] = all;
}

/// A pod bears a node that is not ready for five minutes, unless it says otherwise.
fn tolerations(given: Option<&Value>) -> Value {
    let mut all = given.and_then(Value::as_array).cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let meant = |one: &Value| match one["key"].as_str().unwrap_or("") {
            "" => one["operator"] == "Exists",
            other => other == key,
        };
        let lasting = |one: &Value| matches!(one["effect"].as_str(), None | Some("" | "NoExecute"));
        if !all.iter().any(|one| meant(one) && lasting(one)) {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300}));
        }
    }
    Value::Array(all)
}

fn container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or("").to_owned();
    let tag = image.rsplit('/').next().and_then(|last| last.split_once(':'));
    let latest = !image.contains('@') && tag.is_none_or(|(_, tag)| tag == "latest");
    let Some(fields) = container.as_object_mut() else { return };
    for (key, value) in [
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" })),
        ("resources", json!({})),
    ] {
        fields.entry(key).or_insert(value);
    }
    let resources = &mut fields["resources"];
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in limits {
        if resources["requests"].get(&key).is_none() {
            resources["requests"][&key] = value;
        }
    }
}

/// The quality of service that a pod's requests amount to.
fn quality(containers: &Value) -> &'static str {
    let all = containers.as_array().map_or(&[][..], Vec::as_slice);
    let of = |one: &Value, list: &str, key: &str| one["resources"][list].get(key).cloned();
    let each = |test: &dyn Fn(&Value, &str) -> bool| {
        all.iter().flat_map(|one| [test(one, "cpu"), test(one, "memory")]).collect::<Vec<_>>()
    };
    let asked = each(&|one, key| of(one, "requests", key).or(of(one, "limits", key)).is_some());
    let fixed = each(&|one, key| {
        of(one, "limits", key).is_some() && of(one, "limits", key) == of(one, "requests", key)
    });
    match (asked.contains(&true), fixed.contains(&false)) {
        (false, _) => "BestEffort",
        (true, false) => "Guaranteed",
        (true, true) => "Burstable",
    }
}

/// What may not change in the specification of a pod.
pub(super) fn wrong_change(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let deadline = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].as_i64();
    if let Some(held) = deadline(old).filter(|_| deadline(new) != deadline(old)) {
        let why = match deadline(new) {
            Some(given) if given <= held => None,
            Some(_) => Some("must be less than or equal to previous value"),
            None => Some("must not update from a positive integer to nil value"),
        };
        if let Some(why) = why {
            let field = "spec.activeDeadlineSeconds";
            return causes.push(Cause::invalid(field, &json!(deadline(new)), why));
        }
    }
    let tolerated = |pod: &Value| -> Vec<Value> {
        let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        for one in all.iter_mut().filter_map(Value::as_object_mut) {
            one.remove("tolerationSeconds");
        }
        all
    };
    let (given, held) = (tolerated(new), tolerated(old));
    if held.iter().any(|one| !given.contains(one)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", why));
    }
    let rest = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|key, _| !CHANGEABLE.contains(&key.as_str()));
        }
        spec
    };
    if new["spec"] != old["spec"] && rest(new) != rest(old) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`, \
                   `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, \
                   `spec.tolerations` (only additions to existing tolerations), \
                   `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
}

/// What a new status does not change.
pub(super) fn keep_status(new: &mut Value, old: &Value) {
    if let Some(status) = new["status"].as_object_mut() {
        status.entry("qosClass").or_insert_with(|| old["status"]["qosClass"].clone());
    }
}

/// What is wrong with a new status of a pod.
pub(super) fn wrong_status(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let nominated = new["status"].get("nominatedNodeName").and_then(Value::as_str).unwrap_or("");
    let bound = old["spec"].get("nodeName").is_some();
    if bound && !nominated.is_empty() && old["status"]["nominatedNodeName"] != nominated {
        let why = "may not be set on pods that are already bound to a node";
        causes.push(Cause::forbidden("status.nominatedNodeName", why));
    }
}

/// What a request to delete does to a pod.
pub(super) enum Grace {
    /// It ends already, and not later than asked.
    Pending,
    /// It has had its time.
    Over,
    /// Its end was set or moved to an earlier time; without grace it is to be removed at once.
    Set,
}

/// Sets the time by which a pod has to be gone.
pub(super) fn shorten(pod: &mut Value, asked: Option<i64>, now: Timestamp) -> Grace {
    let asked = asked.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let since = pod["metadata"].get("deletionTimestamp").and_then(Value::as_str);
    if let Some(ends) = since.and_then(|at| at.parse::<Timestamp>().ok()) {
        let held = pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if held == 0 {
            return Grace::Over;
        }
        let Some(mut period) = asked.filter(|asked| *asked < held) else { return Grace::Pending };
        let mut at = later(ends, period - held);
        if at.parse::<Timestamp>().is_ok_and(|at| at < now) {
            at = later(now, 0);
            period = period.min(1);
        }
        pod["metadata"]["deletionTimestamp"] = json!(at);
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(period);
        return Grace::Set;
    }
    let unbound = pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    let period = if unbound || ended { 0 } else { asked.or(own).unwrap_or(0) };
    let metadata = &mut pod["metadata"];
    metadata["deletionTimestamp"] = json!(later(now, period));
    metadata["deletionGracePeriodSeconds"] = json!(period);
    metadata["generation"] = json!(metadata["generation"].as_i64().unwrap_or(0) + 1);
    Grace::Set
}
