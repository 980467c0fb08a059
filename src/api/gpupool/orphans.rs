//! What a member holds for a hub that has no lease of it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::gpujob::DuplicatePolicy;
use crate::api::gpulease::{EpochRef, JobReference};

/// Most attempts without a lease that one picture names; the others follow as these find their end.
pub const MAX_ORPHANS: usize = 64;

/// An attempt that goes on in the member although the hub has no lease of it: all that the hub needs to
/// put it back on record.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// The job that it serves.
    pub job: JobReference,
    /// Number of the attempt.
    pub epoch: EpochRef,
    /// Replica indexes that it carries, as ranges.
    #[schemars(length(max = 4096))]
    pub indexes: String,
    /// GPU model.
    #[schemars(length(max = super::MAX_NAME))]
    pub model: String,
    /// Seconds that its pods may run.
    pub active_deadline_seconds: i64,
    /// Seconds without contact to the hub after which its pods stop; absent = they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_seconds: Option<i64>,
    /// Seconds without contact to the hub after which it is expired while its pods go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<i64>,
    /// Whether an old copy of it may still run when another begins; absent = `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_policy: Option<DuplicatePolicy>,
}

/// Whether a number says nothing.
pub(super) fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
