//! What the end of a guest's pod means: its own result, or an eviction and its cause.
//!
//! Invariant: only a phase that the kubelet wrote ends a pod. Terminating is not terminated.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::guest::{EndedContainer, Guest, Stage, Trouble};

/// The pod ended well.
pub const SUCCEEDED: &str = "Succeeded";
/// User code failed.
pub const FAILED: &str = "Failed";
/// It ran longer than it might.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The owner needed its node or GPUs.
pub const OWNER_RECLAIMED: &str = "OwnerReclaimed";
/// Its node failed it.
pub const NODE_FAILURE: &str = "NodeFailure";
/// The owner closed the pool or withdrew the hub's grant.
pub const POOL_CLOSED: &str = "PoolClosed";
/// No node took it.
pub const NOT_BOUND: &str = "NotBound";
/// Its hub never confirmed it.
pub const NOT_CONFIRMED: &str = "NotConfirmed";
/// Not all pods of its gang found a node.
pub const GANG_NOT_BOUND: &str = "GangNotBound";
/// Its image cannot be pulled.
pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
/// Its image runs as root.
pub const IMAGE_NEEDS_ROOT: &str = "ImageNeedsRoot";
/// It never ran in time.
pub const PODS_READY_TIMEOUT: &str = "PodsReadyTimeout";
/// Its hub was out of reach for the length of its lease, and it may not go on without.
pub const LEASE_EXPIRED: &str = "LeaseExpired";
/// It vanished unseen.
pub const UNKNOWN: &str = "Unknown";

/// Causes that a member makes up itself.
const OURS: [&str; 11] = [
    LEASE_EXPIRED,
    DEADLINE_EXCEEDED,
    OWNER_RECLAIMED,
    NODE_FAILURE,
    POOL_CLOSED,
    NOT_BOUND,
    GANG_NOT_BOUND,
    IMAGE_PULL_FAILED,
    IMAGE_NEEDS_ROOT,
    PODS_READY_TIMEOUT,
    UNKNOWN,
];

/// Longest message that is passed on, in characters.
const MESSAGE: usize = 300;

/// How a pod, or a replica, ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One of the constants above, or the reason of a withdrawal.
    pub reason: String,
    /// Exit code of the container that decided.
    pub exit_code: Option<i32>,
    /// That container.
    pub container: Option<String>,
    /// Types of the true conditions that not every pod has.
    pub conditions: Vec<String>,
    /// One sentence.
    pub message: Option<String>,
    /// Its newest save, and when it was made.
    pub checkpoint: Option<(String, Timestamp)>,
    /// Seconds of work that it lost, if it was evicted and that is known.
    pub lost: Option<i64>,
    /// When it began to end, to find the first of a gang.
    pub onset: Timestamp,
    /// When it had ended.
    pub at: Timestamp,
}

impl Outcome {
    /// An eviction with nothing else known.
    #[must_use]
    pub fn evicted(reason: &str, at: Timestamp) -> Self {
        Self { reason: reason.into(), onset: at, at, ..Self::default() }
    }

    /// Whether it ended by itself; else it was evicted.
    #[must_use]
    pub fn is_own(&self) -> bool {
        is_own(&self.reason)
    }
}

/// Whether `reason` is a pod's own end, not an eviction.
#[must_use]
pub fn is_own(reason: &str) -> bool {
    [SUCCEEDED, FAILED, DEADLINE_EXCEEDED].contains(&reason)
}

/// `reason` of a notice or an eviction in one of few words: what only hubs make up is `Withdrawn`.
#[must_use]
pub fn told(reason: &str) -> &'static str {
    OURS.iter().find(|ours| **ours == reason).copied().unwrap_or("Withdrawn")
}

/// Whether it is the owner who wants the GPUs.
#[must_use]
pub fn is_owners(reason: &str) -> bool {
    [OWNER_RECLAIMED, POOL_CLOSED].contains(&reason)
}

/// How a terminal `guest` ended; `None` while the kubelet has not confirmed it. `cause` is why we
/// told it to go, if we did; `limit` the seconds that it might run; `now` stands in for times that
/// the kubelet did not write.
#[must_use]
pub fn of(guest: &Guest, cause: Option<&str>, limit: i64, now: Timestamp) -> Option<Outcome> {
    if !guest.is_terminal() {
        return None;
    }
    let at = guest.ended.iter().filter_map(|container| container.at).max().unwrap_or(now);
    let noticed = guest.notice.filter(|notice| *notice <= at);
    let mut outcome = Outcome {
        conditions: guest.conditions.clone(),
        onset: noticed.unwrap_or(at),
        at,
        ..Outcome::default()
    };
    outcome.reason = match noticed {
        Some(_) if ended_complete(guest) => SUCCEEDED.into(),
        Some(_) => leaving(guest, cause, limit).into(),
        None if guest.stage == Stage::Succeeded => SUCCEEDED.into(),
        None => own_failure(guest),
    };
    // Its pod had less time than the lease says: the owner's window ended, or he lends for less.
    if outcome.reason == DEADLINE_EXCEEDED && is_early(guest, at, limit) {
        outcome.reason = POOL_CLOSED.into();
    }
    let decided = match outcome.reason.as_str() {
        SUCCEEDED => None,
        _ => first_failed(guest),
    };
    if outcome.reason == SUCCEEDED {
        outcome.exit_code = Some(0);
    } else if let Some(container) = decided {
        outcome.exit_code = Some(container.exit_code);
        outcome.container = Some(container.name.clone());
        outcome.message = Some(sentence(container));
    }
    if let Some(Trouble::ImagePull(said) | Trouble::NeedsRoot(said)) = &guest.trouble {
        outcome.message = Some(said.chars().take(MESSAGE).collect());
    }
    outcome.checkpoint = newest_save(guest, at);
    if !outcome.is_own() {
        outcome.lost = unsaved(guest, outcome.checkpoint.as_ref().map(|(_, at)| *at), at);
    }
    Some(outcome)
}

fn is_early(guest: &Guest, end: Timestamp, limit: i64) -> bool {
    const SLACK: i64 = 5;
    guest.started.is_some_and(|started| end.duration_since(started).as_secs() + SLACK < limit)
}

/// The newest save that a container told of; one that does not say when was made at its end.
fn newest_save(guest: &Guest, end: Timestamp) -> Option<(String, Timestamp)> {
    let saves = guest.ended.iter().filter_map(|container| {
        let (reference, at) = container.said.checkpoint.clone()?;
        Some((reference, at.or(container.at).unwrap_or(end).min(end)))
    });
    saves.max_by_key(|(_, at)| *at)
}

/// Seconds that `guest` ran until `end` since it saved at `saved`, or at all.
fn unsaved(guest: &Guest, saved: Option<Timestamp>, end: Timestamp) -> Option<i64> {
    let began = guest.ran?;
    let since = saved.map_or(began, |saved| saved.max(began));
    Some(end.duration_since(since).as_secs().max(0))
}

fn sentence(container: &EndedContainer) -> String {
    let EndedContainer { name, exit_code, reason, .. } = container;
    let word = match reason.as_str() {
        "" | "Error" => String::new(),
        word => format!(": {word}"),
    };
    format!("container {name} ended with exit code {exit_code}{word}")
}

/// Exit code 0 after notice is ambiguous, since many programs trap SIGTERM and exit 0: it counts as
/// success only if the program said so. Better repeated than lost.
fn ended_complete(guest: &Guest) -> bool {
    guest.stage == Stage::Succeeded && guest.ended.iter().any(|container| container.said.complete)
}

/// Why `guest`, which was told to go, goes; `cause` is why we told it, if we did.
#[must_use]
pub fn leaving<'a>(guest: &Guest, cause: Option<&'a str>, limit: i64) -> &'a str {
    let over = SignedDuration::from_secs(limit);
    let overran = guest.started.zip(guest.notice);
    let overran = overran.is_some_and(|(started, notice)| notice.duration_since(started) >= over);
    match guest.disruption.as_deref() {
        Some("PreemptionByScheduler" | "EvictionByEvictionAPI") => OWNER_RECLAIMED,
        Some(_) => NODE_FAILURE,
        None if guest.reason.as_deref() == Some(DEADLINE_EXCEEDED) || overran => DEADLINE_EXCEEDED,
        // Nobody but the owner deletes a guest that we did not tell to go.
        None => cause.unwrap_or(OWNER_RECLAIMED),
    }
}

/// What the end of `guest` means when its object went before its result was recorded.
#[must_use]
pub fn vanished(guest: &Guest, cause: Option<&str>, limit: i64, now: Timestamp) -> Outcome {
    if let Some(outcome) = of(guest, cause, limit, now) {
        return outcome;
    }
    let told = guest.deleting || guest.notice.is_some();
    let reason = if told { leaving(guest, cause, limit) } else { cause.unwrap_or(UNKNOWN) };
    let (conditions, lost) = (guest.conditions.clone(), unsaved(guest, None, now));
    Outcome { conditions, lost, ..Outcome::evicted(reason, now) }
}

/// What the kubelet says of a container that was gone when it looked for it, as after its node lost
/// power; and what the runtime says that finds it dead.
const LOST_CONTAINER: [&str; 2] = ["ContainerStatusUnknown", "Unknown"];

fn own_failure(guest: &Guest) -> String {
    let lost = |one: &EndedContainer| LOST_CONTAINER.contains(&one.reason.as_str());
    match guest.reason.as_deref() {
        _ if guest.ended.iter().any(lost) => NODE_FAILURE,
        Some(DEADLINE_EXCEEDED) => DEADLINE_EXCEEDED,
        Some(
            "Evicted" | "NodeLost" | "Shutdown" | "NodeShutdown" | "Terminated" | "Preempting",
        ) => NODE_FAILURE,
        // The kubelet would not take it: its node had less than the scheduler thought.
        Some("UnexpectedAdmissionError" | "NodeAffinity") => NOT_BOUND,
        Some(reason) if reason.starts_with("OutOf") => NOT_BOUND,
        _ => FAILED,
    }
    .into()
}

fn first_failed(guest: &Guest) -> Option<&EndedContainer> {
    guest
        .ended
        .iter()
        .filter(|container| container.exit_code != 0)
        .min_by_key(|container| container.at)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn guest(phase: &str, more: Value) -> Guest {
        let mut pod = json!({
            "metadata": {"name": "l-0", "namespace": "g", "labels": {"idlewild.dev/replica-index": "0"},
                "ownerReferences": [{"apiVersion": "idlewild.dev/v1alpha1", "kind": "GuestLease",
                    "name": "l", "uid": "u", "controller": true}]},
            "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z"}});
        for part in ["metadata", "status"] {
            for (key, value) in more[part].as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        Guest::slim(&serde_json::from_value(pod).unwrap(), "g").unwrap()
    }

    fn ended(code: i32, at: &str, message: &str) -> Value {
        json!([{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "reason": "Error", "message": message,
                "finishedAt": format!("2026-01-01T00:{at}Z")}}}])
    }

    #[track_caller]
    fn check(phase: &str, more: Value, cause: Option<&str>, want: (&str, Option<i32>)) {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let outcome = of(&guest(phase, more), cause, 3000, now).unwrap();
        assert_eq!((outcome.reason.as_str(), outcome.exit_code), want);
    }

    #[test]
    fn own_ends() {
        let ends = |code| json!({"status": {"containerStatuses": ended(code, "01:00", "")}});
        check("Succeeded", ends(0), None, (SUCCEEDED, Some(0)));
        check("Failed", ends(3), None, (FAILED, Some(3)));
        check(
            "Failed",
            json!({"status": {"reason": "DeadlineExceeded"}}),
            None,
            (DEADLINE_EXCEEDED, None),
        );
        check(
            "Failed",
            json!({"status": {"reason": "OutOfnvidia.com/gpu"}}),
            None,
            (NOT_BOUND, None),
        );
        let early = json!({"status": {"reason": "DeadlineExceeded",
            "containerStatuses": ended(143, "30:00", "")}});
        check("Failed", early, None, (POOL_CLOSED, Some(143)));
        check("Failed", json!({"status": {"reason": "Evicted"}}), None, (NODE_FAILURE, None));
        assert_eq!(
            of(&guest("Running", json!({})), Some("Suspended"), 1, Timestamp::UNIX_EPOCH),
            None
        );
    }

    fn told(code: i32, at: &str, message: &str, disruption: Option<&str>) -> Value {
        let conditions = disruption.map(|reason| {
            json!([{"type": "DisruptionTarget",
            "status": "True", "reason": reason, "lastTransitionTime": "2026-01-01T00:05:00Z"}])
        });
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:05:30Z",
                "deletionGracePeriodSeconds": 30},
            "status": {"conditions": conditions.unwrap_or_else(|| json!([])),
                "containerStatuses": ended(code, at, message)}})
    }

    #[test]
    fn evictions_name_their_cause() {
        let preempted = Some("PreemptionByScheduler");
        check("Failed", told(143, "05:02", "", preempted), None, (OWNER_RECLAIMED, Some(143)));
        let tainted = Some("DeletionByTaintManager");
        check("Failed", told(143, "05:02", "", tainted), None, (NODE_FAILURE, Some(143)));
        check("Failed", told(85, "05:02", "", None), Some("Suspended"), ("Suspended", Some(85)));
        check("Failed", told(1, "05:02", "", None), None, (OWNER_RECLAIMED, Some(1)));
    }

    #[test]
    fn what_ended_before_the_notice_is_its_own() {
        check("Failed", told(3, "04:59", "", None), Some("Suspended"), (FAILED, Some(3)));
        check("Succeeded", told(0, "04:59", "", None), Some("Suspended"), (SUCCEEDED, Some(0)));
    }

    #[test]
    fn exit_0_after_notice_counts_only_if_the_program_says_complete() {
        check("Succeeded", told(0, "05:02", "", None), Some("Suspended"), ("Suspended", None));
        let complete = "done\n{\"complete\":true}\n";
        check(
            "Succeeded",
            told(0, "05:02", complete, None),
            Some("Suspended"),
            (SUCCEEDED, Some(0)),
        );
    }

    /// What was saved where, at which minute and second, and how many seconds were lost.
    fn saved(phase: &str, more: &Value, began: &str) -> (Option<(String, String)>, i64) {
        let mut more = more.clone();
        let began = format!("2026-01-01T00:{began}Z");
        more["status"]["containerStatuses"][0]["state"]["terminated"]["startedAt"] = began.into();
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let outcome = of(&guest(phase, more), None, 3000, now).unwrap();
        let at = |at: Timestamp| at.strftime("%M:%S").to_string();
        let saved = outcome.checkpoint.map(|(reference, time)| (reference, at(time)));
        (saved, outcome.lost.unwrap_or(0))
    }

    #[test]
    fn an_eviction_loses_what_ran_since_the_last_save() {
        let line = |at: &str| format!("saving\n{{\"checkpoint\":\"s3://b/x\",\"step\":7{at}}}\n");
        let at = |time: &str| line(&format!(",\"at\":\"2026-01-01T00:{time}Z\""));
        let kept = |time: &str| Some(("s3://b/x".to_owned(), time.to_owned()));
        let lost = |message: &str, began| saved("Failed", &told(85, "05:20", message, None), began);
        assert_eq!(lost("", "01:00"), (None, 260), "nothing was saved");
        assert_eq!(lost(&at("05:10"), "01:00"), (kept("05:10"), 10));
        assert_eq!(lost(&line(""), "01:00"), (kept("05:20"), 0), "saved as it left");
        assert_eq!(lost(&at("00:30"), "01:00"), (kept("00:30"), 260), "by an attempt before it");
        assert_eq!(lost(&at("09:00"), "01:00"), (kept("05:20"), 0), "clocks differ");
        assert_eq!(lost("{\"checkpoint\":\"a b\"}", "01:00"), (None, 260), "no reference");
        // A failure is no eviction, but the next attempt goes on from its save as well.
        let failed = json!({"status": {"containerStatuses": ended(1, "05:20", &at("05:10"))}});
        assert_eq!(saved("Failed", &failed, "01:00"), (kept("05:10"), 0));
    }

    /// Found by the simulation (seed 107): a node that lost power made jobs fail.
    #[test]
    fn what_its_node_lost_is_no_failure_of_its_own() {
        for (code, word) in [(137, "ContainerStatusUnknown"), (255, "Unknown")] {
            let mut containers = ended(code, "01:00", "");
            containers[0]["state"]["terminated"]["reason"] = word.into();
            let more = json!({"status": {"containerStatuses": containers}});
            check("Failed", more, None, (NODE_FAILURE, Some(code)));
        }
    }

    #[test]
    fn our_own_enforcement_of_the_deadline_reads_as_the_deadline() {
        let mut pod = told(137, "51:00", "", None);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:50:30Z");
        check("Failed", pod, None, (DEADLINE_EXCEEDED, Some(137)));
    }
}
