//! What a lease says of the work that its program saves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::EpochRef;

/// Most characters of a reference to a save.
pub const MAX_REFERENCE: usize = 1024;
/// Most attempts before it that a lease names.
pub const MAX_EARLIER: usize = 10;

/// Where the program of a lease saves, and what it goes on from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeasedCheckpoint {
    /// The job's `checkpoint.uri`.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
    /// Seconds between two saves that the program intends.
    pub interval_seconds: i64,
    /// True: the job has several replicas, each with a folder of its own.
    #[serde(default)]
    pub indexed: bool,
    /// The newest save of each replica that has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = crate::api::MAX_CHECKPOINTS))]
    pub resume: Vec<Resume>,
    /// Attempts before this one, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_EARLIER))]
    pub earlier_epochs: Vec<EpochRef>,
}

/// What one replica goes on from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct Resume {
    /// The replica.
    pub index: i64,
    /// Its newest save.
    #[serde(rename = "ref")]
    #[schemars(length(max = MAX_REFERENCE))]
    pub reference: String,
}

/// A save that a program told of at its end.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct Saved {
    /// When it was made, by the program's clock.
    pub at: Time,
    /// Where.
    #[serde(rename = "ref")]
    #[schemars(length(max = MAX_REFERENCE))]
    pub reference: String,
}

impl LeasedCheckpoint {
    /// The folder of all attempts of a replica.
    #[must_use]
    pub fn root(&self, index: u32) -> String {
        if self.indexed { format!("{}/{index}", self.uri) } else { self.uri.clone() }
    }
}
