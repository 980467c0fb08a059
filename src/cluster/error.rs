//! What can go wrong when talking to an API server, and how to try again.

use std::time::Duration;

/// A failed attempt. Waiting, refusing and finishing are outcomes, not errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server, or the way to it, failed a call.
    #[error("{what}")]
    Call {
        /// The operation, such as `create lease`.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer within the deadline: the outcome is unknown.
    #[error("{what}: no answer within {limit:?}")]
    TimedOut {
        /// The operation.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// Credentials or addresses cannot be read.
    #[error("configure access to the cluster: {reason}")]
    Access {
        /// What is wrong and what to do.
        reason: String,
    },
    /// An object that must exist does not, or is not what it must be.
    #[error("{reason}")]
    Unfit {
        /// What is wrong and what to do.
        reason: String,
    },
}

/// What a failed write means for the one who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server refused it: nothing was written.
    Refused,
    /// Somebody else wrote first: read again, decide again.
    Conflict,
    /// The object exists already: compare before believing it is ours.
    Exists,
    /// The object is gone.
    Gone,
    /// It may or may not have been written: look.
    Unknown,
}

impl Error {
    /// Wraps the failure of one call.
    #[must_use]
    pub fn call(what: &'static str, source: kube::Error) -> Self {
        Self::Call { what, source: Box::new(source) }
    }

    /// What the failure means.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Call { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
                    (409, "AlreadyExists") => Outcome::Exists,
                    (409, _) => Outcome::Conflict,
                    (404, _) => Outcome::Gone,
                    // Another object has its name by now.
                    (422, _) if is_about(status, "metadata.uid") => Outcome::Conflict,
                    (400..=499, _) => Outcome::Refused,
                    _ => Outcome::Unknown,
                },
                _ => Outcome::Unknown,
            },
            Self::TimedOut { .. } => Outcome::Unknown,
            Self::Access { .. } | Self::Unfit { .. } => Outcome::Refused,
        }
    }

    /// Whether no server said anything: what is open to it may be dead.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Call { source, .. } => !matches!(source.as_ref(), kube::Error::Api(_)),
            Self::TimedOut { .. } => true,
            Self::Access { .. } | Self::Unfit { .. } => false,
        }
    }

    /// Short, fixed name for metric labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match (self, self.outcome()) {
            (Self::TimedOut { .. }, _) => "TimedOut",
            (_, Outcome::Conflict) => "Conflict",
            (_, Outcome::Exists) => "Exists",
            (_, Outcome::Gone) => "Gone",
            (_, Outcome::Refused) => "Refused",
            (_, Outcome::Unknown) => "Unreachable",
        }
    }
}

/// Whether the server refuses because of this field.
fn is_about(status: &kube::core::Status, field: &str) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.field == field)
}

/// The error and all its causes in one line, for logs and for people.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !line.contains(&next) {
            line.push_str(": ");
            line.push_str(&next);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_that_another_object_has_by_now_is_a_conflict_and_other_nonsense_is_refused() {
        for (field, want) in
            [("metadata.uid", Outcome::Conflict), ("spec.gpu.count", Outcome::Refused)]
        {
            let status = json!({"status": "Failure", "code": 422, "reason": "Invalid", "message": "",
                "details": {"causes": [{"reason": "FieldValueInvalid", "message": "", "field": field}]}});
            let status = serde_json::from_value(status).unwrap();
            let error = Error::call("write", kube::Error::Api(Box::new(status)));
            assert_eq!(error.outcome(), want, "{field}");
        }
    }
}
