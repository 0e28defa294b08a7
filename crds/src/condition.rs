//! Conditions as they are written to every status, and the reasons they may carry.
//!
//! Reasons are an interface: alerts and scripts match on them. One is never renamed and never
//! changes its meaning. Nothing here decides which one holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One condition of an object. `type` is the key: an object has at most one of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about, such as `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds: `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one stable word for programs.
    pub reason: String,
    /// Why, for people: what happened, to which object, what to do.
    pub message: String,
    /// When `status` changed last, as an RFC 3339 time.
    pub last_transition_time: String,
    /// The `metadata.generation` that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The conditions of a `MeetingCluster`, with what they say when they are true.
pub const MEETING_CLUSTER_CONDITIONS: &[(&str, &str)] = &[
    ("Ready", "everything that was asked for is there"),
    ("Available", "people can meet"),
    ("Progressing", "something is being changed"),
    ("Degraded", "something is wrong that needs a person"),
    ("Paused", "the owner stopped changes"),
    ("CapacityOK", "there is room for what is asked"),
    ("PlacementReady", "new rooms get a home"),
    ("SovereigntyVerified", "media run where they may, and nowhere else"),
];

/// Every reason that a condition may carry, with its meaning.
pub const REASONS: &[(&str, &str)] = &[
    ("AsExpected", "it is as it should be"),
    ("MediaNodesStarting", "media nodes are being made and do not serve yet"),
    ("MediaNodesFailing", "pods of media nodes do not run, or end soon after they start"),
    ("RollingOut", "media nodes of an older template are being replaced"),
    ("Draining", "media nodes are being emptied"),
    ("GatewayNotReady", "no gateway replica is ready"),
    ("GatewayRollingOut", "gateway replicas of an older template are being replaced"),
    ("GatewayFailing", "a pod of the gateway does not run, although others may"),
    ("ScopeNotValid", "the scope is missing, expired, suspended or withdrawn"),
    ("ScopeUnknown", "nobody could look at the scope"),
    ("NoKubernetesNodeInScope", "no Kubernetes node lies in a scope by the evidence asked for"),
    ("ViolationsOpen", "media run where no scope reaches, and nobody answers for it"),
    ("PoliciesTampered", "an admission policy was changed or deleted"),
    ("CredentialsMissing", "the Secret with the keys is missing or cannot be read"),
    ("CredentialsWeak", "a key could be guessed"),
    ("ApiRefused", "the API server refused a write (quota, admission, permission)"),
    ("ReportsMissing", "media nodes that should report do not"),
    ("PodUnschedulable", "the scheduler finds no place for a pod"),
    ("RoomsRefused", "new rooms were refused for want of capacity"),
    ("NodesMaxReached", "more media nodes are needed than maxNodes allows"),
    ("Paused", "the owner stopped changes"),
    ("Rebuilding", "a new leader is hearing the media nodes"),
    ("NotLeading", "the speaker does not lead"),
    ("SpecInvalid", "the wishes contradict each other in a way that no schema rule can see"),
];
