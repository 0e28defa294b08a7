//! A flow that a meeting cluster needs, as the status lists it for who keeps the firewalls.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A flow that the NetworkPolicies let through; all others are denied.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Whose pods: `media-node` or `gateway`.
    pub component: String,
    /// `in` or `out`, as seen from the pod. Answers need no flow of their own.
    pub direction: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Port, or first and last port, at the side that is reached.
    pub ports: String,
    /// Who is at the other end.
    pub peer: String,
    /// What it is for.
    pub why: String,
}
