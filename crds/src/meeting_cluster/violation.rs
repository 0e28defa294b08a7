//! A violation: what runs where the scope does not reach, as the status lists it.
//!
//! It names no room and no participant. A violation that is over stays listed until newer ones push
//! it out.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A media node or a gateway that runs, or ran, where the scope does not reach.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// Names it in acknowledgements, Events and reports: the pod and the moment it began.
    pub id: String,
    /// What is wrong, in one word: `OutOfScope`, `ScopeNotValid`, `EvidenceTooWeak`,
    /// `EvidenceContradicted`, `ClockSkew`.
    pub what: String,
    /// What was seen.
    pub message: String,
    /// The pod of the gateway, or of the media node of that name.
    pub pod: String,
    /// The Kubernetes node under it.
    pub kubernetes_node: String,
    /// Since when, as an RFC 3339 time.
    pub since: String,
    /// When it was over, as an RFC 3339 time; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Rooms that were on the media node when it was seen last; a gateway has none.
    pub rooms: i32,
    /// Those rooms as keyed hashes, at most 16: who holds the key finds a given room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub room_hashes: Vec<String>,
    /// What remedies it.
    pub remedy: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// Until when, as an RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_until: Option<String>,
}
