//! The conditions of a job, in the words of `api.md`: every wait has a reason, every end a cause.

use super::jobs::{Sight, claim};
use crate::api::conditions::{self, Claim};
use crate::api::gpujob::{GpuJobStatus, Phase};
use crate::api::gpulease::LeasePhase;
use crate::api::reasons;
use crate::engine::lifecycle::{Attempt, PREEMPTED, SUCCEEDED, Verdict};

/// Every condition that `sight` speaks for; `status` holds all else already.
#[must_use]
pub(super) fn claims<'a>(sight: &'a Sight<'_>, status: &GpuJobStatus) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    if let Some(verdict) = &sight.record.verdict {
        claims.extend(ending(sight, verdict));
    }
    if sight.record.finished_at.is_none() {
        claims.push(quota(sight));
        claims.push(placed(sight, status));
    }
    claims.push(pods_ready(sight, status));
    claims.extend(evicted(sight, status));
    claims.extend(reachable(sight, status));
    let was = conditions::find(&status.conditions, reasons::SUSPENDED).is_some();
    if sight.job.spec.suspend {
        claims.push(claim(reasons::SUSPENDED, true, "", "spec.suspend is true"));
    } else if was {
        claims.push(claim(reasons::SUSPENDED, false, "Resumed", ""));
    }
    claims
}

fn ending<'a>(sight: &'a Sight<'_>, verdict: &'a Verdict) -> Vec<Claim<'a>> {
    let over = sight.record.finished_at.is_some();
    let message = verdict.message.as_str();
    if verdict.reason == SUCCEEDED {
        let complete = claim(reasons::COMPLETE, true, "", message);
        let mut finished = claim(reasons::FINISHED, true, "", message);
        finished.reason = SUCCEEDED;
        return if over { vec![finished, complete] } else { Vec::new() };
    }
    let mut target = claim(reasons::FAILURE_TARGET, true, "", message);
    target.reason = &verdict.reason;
    if !over {
        return vec![target];
    }
    let mut failed = claim(reasons::FAILED, true, "", message);
    failed.reason = &verdict.reason;
    let mut finished = claim(reasons::FINISHED, true, "", message);
    finished.reason = reasons::FAILED;
    vec![target, finished, failed]
}

fn quota<'a>(sight: &'a Sight<'_>) -> Claim<'a> {
    if sight.job.spec.suspend {
        return claim(reasons::QUOTA_RESERVED, false, reasons::SUSPENDED, "spec.suspend is true");
    }
    match sight.wait.as_ref().filter(|wait| wait.for_quota) {
        Some(wait) => claim(reasons::QUOTA_RESERVED, false, wait.reason, wait.message.as_str()),
        None => claim(reasons::QUOTA_RESERVED, true, "", ""),
    }
}

fn placed<'a>(sight: &'a Sight<'_>, status: &GpuJobStatus) -> Claim<'a> {
    if sight.job.spec.suspend {
        return claim(reasons::PLACED, false, reasons::SUSPENDED, "spec.suspend is true");
    }
    if let Some(wait) = &sight.wait {
        return claim(reasons::PLACED, false, wait.reason, wait.message.as_str());
    }
    let accepted = |epoch| {
        let lease = sight.leases.get(&epoch);
        lease.and_then(|lease| lease.phase).is_some_and(|phase| phase != LeasePhase::Refused)
    };
    let all = sight.record.allocations.iter().all(|allocation| accepted(allocation.epoch));
    match all && !sight.record.allocations.is_empty() {
        true => claim(reasons::PLACED, true, "", format!("on {}", status.clusters.join(", "))),
        false => {
            let message = format!("waiting for {} to accept", status.clusters.join(", "));
            claim(reasons::PLACED, false, reasons::WAITING_FOR_ACCEPTANCE, message)
        }
    }
}

fn pods_ready<'a>(sight: &'a Sight<'_>, status: &GpuJobStatus) -> Claim<'a> {
    let counts = status.replicas;
    let message = format!("{} of {} run", counts.running, counts.running + counts.starting);
    if sight.record.finished_at.is_some() {
        return claim(reasons::PODS_READY, false, reasons::FINISHED, "");
    }
    let ready = counts.starting == 0 && counts.running > 0;
    if let Some(last) = last_eviction(sight).filter(|last| !ready && is_about_pods(&last.reason)) {
        return claim(reasons::PODS_READY, false, &last.reason, last.message.as_str());
    }
    claim(
        reasons::PODS_READY,
        ready,
        reasons::WAITING_FOR_PODS_READY,
        if ready { String::new() } else { message },
    )
}

/// Whether an attempt ended because its pods could not run.
fn is_about_pods(reason: &str) -> bool {
    matches!(reason, "ImagePullFailed" | "ImageNeedsRoot" | "PodsReadyTimeout")
}

/// The last attempt, if it ended before its end.
fn last_eviction<'a>(sight: &'a Sight<'_>) -> Option<&'a Attempt> {
    sight.record.attempts.last().filter(|attempt| attempt.reason != "Completed")
}

fn evicted<'a>(sight: &'a Sight<'_>, status: &GpuJobStatus) -> Vec<Claim<'a>> {
    let before = conditions::find(&status.conditions, reasons::EVICTED).is_some();
    let waits = sight.record.allocations.is_empty() && sight.record.finished_at.is_none();
    let runs = status.replicas.running > 0;
    let Some(last) = last_eviction(sight) else {
        let ended = before.then(|| claim(reasons::EVICTED, false, "Completed", ""));
        let requeued = before.then(|| claim(reasons::REQUEUED, false, "Completed", ""));
        return ended.into_iter().chain(requeued).collect();
    };
    let (epoch, pool) = (last.epoch, &last.pool);
    let message = format!(
        "attempt {}.{} on {}/{} ended: {}",
        epoch.incarnation, epoch.attempt, pool.member, pool.pool, last.reason
    );
    let message = match (last.message.as_str(), cause(&last.reason)) {
        ("", "") => message,
        ("", said) | (said, _) => format!("{message} ({said})"),
    };
    let mut event = claim(reasons::EVICTED, true, "", message);
    event.reason = &last.reason;
    if runs {
        event.status = "False";
    }
    let mut requeued = claim(reasons::REQUEUED, waits, "Placed", "");
    if waits && sight.job.spec.suspend {
        requeued = claim(reasons::REQUEUED, false, reasons::SUSPENDED, "");
    }
    vec![event, requeued]
}

/// What a reason means, where its name leaves that open and the member had nothing to say.
fn cause(reason: &str) -> &'static str {
    match reason {
        PREEMPTED => "a job of higher priority took its place; it waits again at its old place",
        reasons::MEMBER_DRAINED => "the hub's operator drained the member; it is placed elsewhere",
        reasons::MEMBER_TAINTED => {
            "the member has a taint that placement.clusterTolerations lacks; it is placed elsewhere"
        }
        reasons::MEMBER_LEFT => "the member leaves this hub; it is placed elsewhere",
        _ => "",
    }
}

fn reachable<'a>(sight: &'a Sight<'_>, status: &GpuJobStatus) -> Option<Claim<'a>> {
    let before = conditions::find(&status.conditions, reasons::REACHABLE).is_some();
    if sight.silent.is_empty() {
        return before.then(|| claim(reasons::REACHABLE, true, "", ""));
    }
    let names: Vec<_> = sight.silent.iter().map(String::as_str).collect();
    let limit = crate::api::SILENT_AFTER_SECONDS;
    let known = conditions::find(&status.conditions, reasons::REACHABLE);
    let since = known
        .filter(|known| known.status == "False")
        .map_or(sight.now, |known| known.last_transition_time.0);
    let next = match (sight.suspects, status.failover_bound_seconds) {
        (Some((silent, all)), _) => format!(
            "{silent} of {all} members fell silent at once, so the hub suspects itself: nothing is run \
             elsewhere until they answer or its operator removes them"
        ),
        (None, Some(seconds)) => {
            format!("what runs there goes on, and is run elsewhere after {seconds} s of silence")
        }
        (None, None) => "what runs there goes on".into(),
    };
    let message = format!(
        "no heartbeat from {} for more than {limit} s at {}; {next}",
        names.join(", "),
        since.strftime("%Y-%m-%dT%H:%M:%SZ")
    );
    Some(claim(reasons::REACHABLE, false, reasons::MEMBER_SILENT, message))
}

/// The one reason that matters most now, for the column.
#[must_use]
pub(super) fn reason(sight: &Sight<'_>, status: &GpuJobStatus) -> String {
    if let Some(verdict) = &sight.record.verdict {
        return if verdict.reason == SUCCEEDED { String::new() } else { verdict.reason.clone() };
    }
    if let Some(wait) = sight.wait.as_ref().filter(|_| status.replicas.running == 0) {
        return wait.reason.to_owned();
    }
    match status.phase {
        Some(Phase::Unknown) => reasons::MEMBER_SILENT.to_owned(),
        Some(Phase::Requeued) => {
            last_eviction(sight).map(|last| last.reason.clone()).unwrap_or_default()
        }
        Some(Phase::Placed) => reasons::WAITING_FOR_ACCEPTANCE.to_owned(),
        Some(Phase::Starting) => reasons::WAITING_FOR_PODS_READY.to_owned(),
        Some(Phase::Suspended) => reasons::SUSPENDED.to_owned(),
        _ => String::new(),
    }
}
