//! How soon guests leave when the owner wants the GPUs, as a pool tells it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Longest times, in seconds, that are told apart; one more class holds what took longer.
pub const VACATE_CLASSES: [i64; 17] =
    [1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600];

/// How long guests took to leave, from when they were told to go for the owner until they were gone.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeToVacate {
    /// Half of them took no more seconds than this.
    #[schemars(range(min = 0))]
    pub p50_seconds: i64,
    /// 99 of 100 took no more seconds than this.
    #[schemars(range(min = 0))]
    pub p99_seconds: i64,
    /// Number of guests that this is told from; older ones fade.
    #[schemars(range(min = 0))]
    pub samples: i64,
}

/// What both figures are told from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VacateHistory {
    /// Guests by the time that they took: at most 1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120, 180, 300,
    /// 600, 1200 and 3600 seconds, and more.
    #[schemars(length(max = VACATE_CLASSES.len() + 1), inner(range(min = 0)))]
    pub counts: Vec<i64>,
    /// Guests that were told to go for the owner.
    #[schemars(range(min = 0))]
    pub evictions: i64,
    /// GPU-seconds that guests held meanwhile.
    #[schemars(range(min = 0))]
    pub gpu_seconds: i64,
}
