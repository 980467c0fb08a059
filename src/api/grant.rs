//! `HubGrant`: the owner's half of the double opt-in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// An owner lets a hub place work here. Deleting it drains that hub's guests.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "idlewild.dev",
    version = "v1alpha1",
    kind = "HubGrant",
    plural = "hubgrants",
    namespaced,
    status = "HubGrantStatus",
    derive = "PartialEq",
    shortname = "hg",
    category = "idlewild",
    doc = "An owner lets a hub place work here. Deleting it drains that hub's guests.",
    printcolumn(name = "Hub", type_ = "string", json_path = ".spec.hubId"),
    printcolumn(name = "Member", type_ = "string", json_path = ".spec.member"),
    printcolumn(name = "Fingerprint", type_ = "string", json_path = ".status.fingerprint"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Connected')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Connected')].reason"
    ),
    printcolumn(name = "Contact", type_ = "date", json_path = ".status.lastContact"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.hubId == oldSelf.hubId && self.member == oldSelf.member").message(
    "hubId and member cannot be changed; delete the HubGrant and apply a new one"))]
pub struct HubGrantSpec {
    /// Configured ID of the hub.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
        "hubId must be lower case letters, digits, dots and dashes, as the invitation gives it"))]
    #[schemars(length(min = 1, max = 253))]
    pub hub_id: String,
    /// Address of the hub's API server: `https://host:port`.
    #[x_kube(validation = Rule::new("self.startsWith('https://')").message(
        "address must start with https://: the hub is reached over TLS only"))]
    #[schemars(length(min = 1, max = 1024))]
    pub address: String,
    /// CA certificates of that server in PEM; nothing else is trusted.
    #[x_kube(validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')").message(
        "ca must hold at least one certificate in PEM"))]
    #[schemars(length(min = 1, max = 65536))]
    pub ca: String,
    /// This cluster's name on that hub.
    #[schemars(length(min = 1, max = 56))]
    pub member: String,
    /// This cluster's namespace on that hub.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Most GPUs that guests of this hub hold at once; default: no limit but the pools'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 10000000").message(
        "maxGpus must be 0 or more GPUs; leave it out for no limit"))]
    pub max_gpus: Option<i64>,
    /// Among several hubs: what a hub of higher priority asks is answered first, and its guests
    /// leave last when a limit is lowered. Nobody is evicted for another hub. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[x_kube(validation = Rule::new("self >= -1000 && self <= 1000").message(
        "priority must be between -1000 and 1000; leave it out for 0"))]
    pub priority: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// What the agent knows of a hub.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubGrantStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Connected`, and why not.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What the hub's operator must see too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Public key with which this cluster was enrolled; another one must be accepted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Hash of the invitation by which this cluster was enrolled; another one is used at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
    /// UID of the request by which this cluster was enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_request: Option<String>,
    /// CA certificates of the hub that the hub itself told over a connection that was trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed_ca: Option<FollowedCa>,
    /// Highest incarnation of the hub that was ever seen; lower ones are refused for ever.
    #[serde(default)]
    pub highest_incarnation: u32,
    /// When the hub last took a heartbeat, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact: Option<Time>,
    /// When the renew token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_expires: Option<Time>,
}

/// CA certificates that are trusted besides those of the spec, so that a hub can change its CA.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FollowedCa {
    /// Hash of address and CA of the spec they were learnt under; after a change there they count
    /// for nothing.
    pub pinned: String,
    /// The certificates in PEM.
    pub bundle: String,
}
