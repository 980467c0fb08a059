//! Which pods of leases share nodes, told without telling which nodes.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most nodes that a lease lists: what is beyond is somewhere.
pub const MAX_NODES: usize = 256;

/// Pods of a lease on one node.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, KubeSchema,
)]
pub struct NodePods {
    /// Number of the node: the same for all leases of the pool, and of no other meaning.
    #[schemars(range(min = 0))]
    pub node: i64,
    /// Pods of the lease there that have not ended.
    #[schemars(range(min = 1))]
    pub pods: i32,
}

/// The number of a node of a pool.
///
/// `secret` is one that only the member knows, such as the UID of its `GpuPool`: names of nodes can be
/// guessed, and a hub that tried them all would learn them from a plain hash. 53 bits, so that every
/// reader of JSON keeps them; two of 5,000 nodes share one with a chance of 10⁻⁹.
#[must_use]
pub fn node_number(secret: &str, node: &str) -> i64 {
    let digest = Sha256::new().chain_update(secret).chain_update([0]).chain_update(node).finalize();
    let first = digest.iter().take(7).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    first & ((1 << 53) - 1)
}
