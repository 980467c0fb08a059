//! Where a lease stands, as conditions: what `kubectl wait` and people's tools look at.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::{LeasePhase, LeaseRefusal};
use crate::api::conditions::{Claim, set};
use crate::api::reasons::READY;

/// The member said yes.
const ACCEPTED: &str = "Accepted";

/// The conditions of a lease in `phase`, from those it had: `Accepted`, whether its member said
/// yes, and `Ready`, whether all its unended pods run.
#[must_use]
pub fn conditions(
    mut had: Vec<Condition>,
    phase: Option<LeasePhase>,
    refusal: Option<&LeaseRefusal>,
    end_reason: Option<&str>,
    (generation, now): (Option<i64>, Timestamp),
) -> Vec<Condition> {
    let Some(phase) = phase else { return had };
    let ended = end_reason.unwrap_or_default();
    let accepted = match (phase, refusal) {
        (LeasePhase::Reserved, _) => claim(ACCEPTED, "False", "WaitingForHub", ""),
        (LeasePhase::Refused, Some(no)) => claim(ACCEPTED, "False", &no.reason, &no.message),
        (LeasePhase::Refused, None) => claim(ACCEPTED, "False", "", ""),
        _ => claim(ACCEPTED, "True", ACCEPTED, ""),
    };
    let ready = match phase {
        LeasePhase::Running => claim(READY, "True", READY, ""),
        LeasePhase::Releasing | LeasePhase::Released => claim(READY, "False", ended, ""),
        LeasePhase::Refused => claim(READY, "False", "Refused", ""),
        LeasePhase::Reserved | LeasePhase::Accepted | LeasePhase::Starting => {
            claim(READY, "False", "WaitingForPodsReady", "")
        }
    };
    for claim in [accepted, ready] {
        set(&mut had, claim, generation, now);
    }
    had
}

fn claim<'a>(type_: &'a str, status: &'a str, reason: &'a str, message: &str) -> Claim<'a> {
    let reason = if reason.is_empty() { "Unknown" } else { reason };
    Claim { type_, status, reason, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_says_whether_it_was_accepted_and_whether_it_runs() {
        use LeasePhase::{Accepted, Refused, Released, Releasing, Reserved, Running, Starting};
        let no = LeaseRefusal { reason: "NotEnoughFree".into(), message: "0 of 8".into() };
        for (phase, accepted, ready) in [
            (Reserved, "False WaitingForHub", "False WaitingForPodsReady"),
            (Accepted, "True Accepted", "False WaitingForPodsReady"),
            (Refused, "False NotEnoughFree", "False Refused"),
            (Starting, "True Accepted", "False WaitingForPodsReady"),
            (Running, "True Accepted", "True Ready"),
            (Releasing, "True Accepted", "False OwnerReclaimed"),
            (Released, "True Accepted", "False OwnerReclaimed"),
        ] {
            let refusal = Some(&no).filter(|_| phase == Refused);
            let reason = Some("OwnerReclaimed").filter(|_| phase >= Releasing);
            let when = (Some(3), Timestamp::UNIX_EPOCH);
            let found = conditions(Vec::new(), Some(phase), refusal, reason, when);
            let shown: Vec<_> =
                found.iter().map(|one| format!("{} {}", one.status, one.reason)).collect();
            assert_eq!(shown, [accepted, ready], "{phase:?}");
            assert!(found.iter().all(|one| one.observed_generation == Some(3)));
        }
        let when = (None, Timestamp::UNIX_EPOCH);
        assert!(conditions(Vec::new(), None, None, None, when).is_empty(), "not answered");
    }
}
