//! Conditions: set without rewriting what did not change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The condition of `type_`, if there is one.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of `type_` is true.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// What a condition says now.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Type of the condition.
    pub type_: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// One word.
    pub reason: &'a str,
    /// One sentence; may be empty.
    pub message: String,
}

/// Sets the condition that `claim` speaks of; its time changes only when its status flips.
pub fn set(
    conditions: &mut Vec<Condition>,
    claim: Claim<'_>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let Claim { type_, status, reason, message } = claim;
    if let Some(found) = conditions.iter_mut().find(|condition| condition.type_ == type_) {
        if found.status != status {
            found.last_transition_time = Time(now);
            found.status = status.into();
        }
        found.reason = reason.into();
        found.message = message;
        found.observed_generation = generation;
        return;
    }
    conditions.push(Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: Time(now),
    });
}
