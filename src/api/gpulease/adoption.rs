//! The hub's word that an attempt is still the current one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The hub has made sure, by its own record, that no other attempt runs these replicas.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// The expiry that is over with this, as the member reported it in `status.expiredAt`. Absent: the
    /// lease only takes up again what the member holds of this attempt, and never begins it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<Time>,
}
