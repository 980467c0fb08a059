//! Labels whose values others choose, folded into few.
//!
//! Members report reasons, models and versions, hubs answer with status codes: who can name a label's
//! value can fill a Prometheus.

/// Why jobs wait, attempts end and leases are refused.
const REASONS: &[&str] = &[
    "AffinityUnsatisfied",
    "BackingOff",
    "BackoffLimitExceeded",
    "ClusterLost",
    "DeadlineExceeded",
    "DigestMismatch",
    "ExceedsMaxQuota",
    "GangNotBound",
    "HubNotAllowed",
    "HubNotGranted",
    "HubRestored",
    "ImageNeedsRoot",
    "ImageNotAllowed",
    "ImagePullFailed",
    "InvalidLease",
    "JobDeleted",
    "JobFinished",
    "JurisdictionMismatch",
    "LeaseExists",
    "LeaseExpired",
    "Malformed",
    "MemberDrained",
    "MemberLeft",
    "MemberRefused",
    "MemberSilent",
    "MemberTainted",
    "Misconfigured",
    "NamespaceNotAllowed",
    "NoMatchingModel",
    "NoPoolFits",
    "NoSuchPool",
    "NodeFailure",
    "NotAccepted",
    "NotBound",
    "NotConfirmed",
    "NotEnoughFree",
    "NothingToAdopt",
    "NoticeTooShort",
    "OwnerReclaimed",
    "PodFailurePolicy",
    "PodsReadyTimeout",
    "PoolClosed",
    "PoolPaused",
    "Preempted",
    "QueueDrained",
    "QueueHeld",
    "QueueNotAllowed",
    "ResidencyUnsatisfied",
    "StaleEpoch",
    "Suspended",
    "TemplateNotAllowed",
    "TooLong",
    "TypeNotAllowed",
    "Unknown",
    "WaitingForAcceptance",
    "WaitingForCapacity",
    "WaitingForPodsReady",
    "WaitingForPreemptedWorkloads",
    "WaitingForQuota",
    "Withdrawn",
    "WrongHub",
];

/// Status codes that API servers give.
const CODES: &[(u16, &str)] = &[
    (0, "none"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (409, "409"),
    (410, "410"),
    (413, "413"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

/// Longest version that is shown.
const VERSION: usize = 32;

/// `reason` if it is one of ours, else `Other`.
#[must_use]
pub fn bounded(reason: &str) -> &'static str {
    REASONS.iter().find(|known| **known == reason).copied().unwrap_or("Other")
}

/// `code` if API servers give it, else its class; 0 = there was no answer.
#[must_use]
pub fn bounded_code(code: u16) -> &'static str {
    if let Some((_, known)) = CODES.iter().find(|(known, _)| *known == code) {
        return known;
    }
    match code {
        ..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// `version` if it reads like one, such as `0.1.0` or `1.2.3-rc.1`, else `other`.
#[must_use]
pub fn bounded_version(version: &str) -> &str {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-+".contains(letter);
    let numbered = version.starts_with(|first: char| first.is_ascii_digit());
    if numbered && version.len() <= VERSION && version.chars().all(plain) {
        version
    } else {
        "other"
    }
}
