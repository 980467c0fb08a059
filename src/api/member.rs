//! `MemberCluster` and `JoinRequest`: who lends to this hub, and how they came to it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::RENEW_SECONDS;

/// A cluster that lends GPUs to this hub. Its namespace is its identity.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "MemberCluster",
    plural = "memberclusters",
    status = "MemberClusterStatus",
    derive = "PartialEq",
    shortname = "mc",
    category = "idlewild",
    doc = "A cluster that lends GPUs to this hub. Its namespace is its identity.",
    printcolumn(name = "Accepted", type_ = "boolean", json_path = ".spec.accepted"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Cordoned", type_ = "boolean", json_path = ".spec.unschedulable"),
    printcolumn(name = "Pools", type_ = "integer", json_path = ".status.pools"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Silent", type_ = "integer", json_path = ".status.silentSeconds"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 56 && !self.metadata.name.contains('.')").message(
        "a member's name must be at most 56 characters without dots: its namespace is member-<name>"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.accepted || (has(self.fingerprint) && self.fingerprint != '')").message(
    "accepted needs the fingerprint that both sides saw; use kubectl idlewild accept"))]
pub struct MemberClusterSpec {
    /// True once an operator has compared fingerprints; only `kubectl idlewild accept` sets it.
    #[serde(default)]
    pub accepted: bool,
    /// Fingerprint of the join request that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub fingerprint: Option<String>,
    /// Hash of the identity of the cluster that was accepted: a new key of the same cluster may be
    /// accepted again, another cluster may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub cluster_identity: Option<String>,
    /// True: no new leases there; what runs goes on. Default false.
    #[serde(default)]
    pub unschedulable: bool,
    /// Taints, at most 18: `NoSchedule` keeps jobs away that do not tolerate it, `NoExecute` also
    /// ends what runs there without. The hub itself sets `idlewild.dev/not-ready` and
    /// `idlewild.dev/unreachable`; `drain` sets `idlewild.dev/drain`, which nothing tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 18))]
    pub taints: Vec<MemberTaint>,
    /// Jurisdictions that the operator vouches for, at most 64; a pool counts for none other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub jurisdictions: Vec<String>,
}

/// A taint of a member, as of a node.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
pub struct MemberTaint {
    /// Key.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// Value; default empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub value: String,
    /// Effect.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema,
)]
pub enum TaintEffect {
    /// Nothing new is placed there without a toleration.
    NoSchedule,
    /// The same, and what runs there without a toleration gets notice and is placed elsewhere.
    NoExecute,
}

/// What the hub knows of a member.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its namespace on this hub.
    #[serde(default)]
    pub namespace: String,
    /// `Invited`, `Accepted`, `Joined`, `Ready`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Seconds since its last heartbeat by the hub's clock; only while it is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<i64>,
    /// Version of its agent.
    #[serde(default)]
    pub agent_version: String,
    /// Pools that it lends.
    #[serde(default)]
    pub pools: i64,
    /// GPUs that it offers.
    #[serde(default)]
    pub gpus: i64,
}

/// A cluster asks to lend. The name is fixed, so a second poster meets `AlreadyExists`.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "JoinRequest",
    plural = "joinrequests",
    namespaced,
    derive = "PartialEq",
    status = "JoinRequestStatus",
    shortname = "jr",
    category = "idlewild",
    doc = "A cluster asks to lend. The name is fixed, so a second poster meets AlreadyExists.",
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".spec.fingerprint"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.agentVersion"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name == 'join'").message(
        "a JoinRequest must be named join: one request for each invitation"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message(
    "a JoinRequest cannot be changed; ask the operator for a new invitation"))]
pub struct JoinRequestSpec {
    /// Short hash over `clusterIdentity`, `publicKey`, the hub and the member that both sides show.
    #[schemars(length(min = 1, max = 128))]
    pub fingerprint: String,
    /// SHA-256 of the member cluster's identity: `sha256:<hex>`.
    #[schemars(length(min = 1, max = 128))]
    pub cluster_identity: String,
    /// Public key of the agent: `ed25519:<base64>`.
    #[schemars(length(min = 1, max = 128))]
    pub public_key: String,
    /// Signature by that key over all that the fingerprint covers, in base64.
    #[schemars(length(min = 1, max = 128))]
    pub proof: String,
    /// Version of the agent that asks.
    #[schemars(length(max = 64))]
    pub agent_version: String,
}

/// What the hub answered.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The holder of a member's heartbeat: its name, and the UID of the request that enrolled it.
#[must_use]
pub fn holder(member: &str, request: Option<&str>) -> String {
    request.map_or_else(|| member.to_owned(), |request| format!("{member} {request}"))
}

/// How long a renew token of `seconds` lives, in words, if that is shorter than a member may be away
/// for. Managed control planes may cap it.
#[must_use]
pub fn short_life(seconds: u64) -> Option<String> {
    let short = i64::try_from(seconds).is_ok_and(|seconds| seconds < RENEW_SECONDS);
    short.then(|| match seconds / 3_600 {
        0 => format!("{} min", seconds / 60),
        hours => format!("{hours} h"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_below_seven_days_is_named() {
        for (seconds, want) in [
            (600, Some("10 min")),
            (86_400, Some("24 h")),
            (604_799, Some("167 h")),
            (604_800, None),
        ] {
            assert_eq!(short_life(seconds).as_deref(), want, "{seconds}");
        }
    }
}
