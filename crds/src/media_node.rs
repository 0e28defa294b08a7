//! `MediaNode`: one media-node pod, the process in it, and what it reports.
//!
//! Made and removed by the operator; a person reads it, and asks for a drain by annotation. Holds
//! no list of rooms: rooms live on the media node and nowhere else.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// One media node of a meeting cluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "hemicycle.dev",
    version = "v1alpha1",
    kind = "MediaNode",
    namespaced,
    doc = "One media-node pod of a meeting cluster, the process in it, and what it reports. Made \
           and removed by the operator.",
    status = "MediaNodeStatus",
    shortname = "mn",
    category = "hemicycle",
    annotation("helm.sh/resource-policy", "keep"),
    derive = "PartialEq",
    cel,
    printcolumn(
        name = "PHASE",
        type_ = "string",
        json_path = ".status.phase",
        description = "What it is doing."
    ),
    printcolumn(
        name = "K8S-NODE",
        type_ = "string",
        json_path = ".status.kubernetesNode",
        description = "The Kubernetes node under it."
    ),
    printcolumn(
        name = "ADDRESS",
        type_ = "string",
        json_path = ".status.address",
        description = "Where media reach it."
    ),
    printcolumn(
        name = "ROOMS",
        type_ = "integer",
        json_path = ".status.rooms",
        description = "Rooms on it."
    ),
    printcolumn(
        name = "PARTICIPANTS",
        type_ = "integer",
        json_path = ".status.participants",
        description = "People and programs in its rooms."
    ),
    printcolumn(
        name = "LOAD",
        type_ = "string",
        json_path = ".status.load",
        description = "How full it is, in percent."
    ),
    printcolumn(
        name = "SCOPE",
        type_ = "string",
        json_path = ".status.scope",
        description = "The scope that its Kubernetes node lies in."
    ),
    printcolumn(
        name = "EVIDENCE",
        type_ = "string",
        json_path = ".status.evidence",
        description = "How well that is known.",
        priority = 1
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the resource."
    ),
    selectable = ".spec.meetingCluster",
    selectable = ".spec.desiredState"
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.meetingCluster == oldSelf.meetingCluster")
        .message("spec.meetingCluster cannot be changed: a media node belongs to one"),
    validation = Rule::new("oldSelf.desiredState != 'Retired' || self.desiredState == 'Retired'")
        .message("spec.desiredState cannot leave Retired: a retired media node does not come back")
)]
pub struct MediaNodeSpec {
    /// Name of the meeting cluster, in the same namespace, that this media node belongs to.
    #[schemars(length(min = 1, max = 63))]
    pub meeting_cluster: String,
    /// What it is wanted to do.
    #[serde(default)]
    pub desired_state: DesiredState,
    /// Why it is not wanted to serve: `ScaleDown`, `Rollout`, `KubernetesNodeCordoned`, `ScopeLost`
    /// or `Requested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_state_reason: Option<String>,
    /// Since when, as an RFC 3339 time. The drain deadline counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub desired_state_since: Option<String>,
}

/// What a media node is wanted to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// Admit rooms.
    #[default]
    Serving,
    /// Admit no new room. Can be taken back.
    Draining,
    /// Admit no new room ever again.
    Retired,
}

/// What a media node is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MediaNodePhase {
    /// It has no pod, or its pod has no Kubernetes node.
    #[default]
    Pending,
    /// Its pod is there and has not reported yet.
    Starting,
    /// It reports and admits rooms.
    Serving,
    /// It admits no new room; its rooms go on.
    Draining,
    /// It does not report, although Kubernetes says that it runs.
    Silent,
    /// Neither it nor its Kubernetes node answers.
    Unreachable,
    /// Its process is over, or it is being removed.
    Terminating,
}

/// What is seen of a media node.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaNodeStatus {
    /// What it is doing.
    #[serde(default)]
    pub phase: MediaNodePhase,
    /// `metadata.uid` of its pod; set once, when the pod was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The Kubernetes node that its pod is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_node: Option<String>,
    /// The address that it gives to participants for media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The scope that its Kubernetes node lies in; absent when it lies in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// How well that is known: `E0`, `E1` or `E2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Rooms on it.
    #[serde(default)]
    pub rooms: i32,
    /// People and programs in its rooms.
    #[serde(default)]
    pub participants: i32,
    /// How full it is, 0 to 1: the greater of the participants' share of the stated maximum and the
    /// measured busy share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ratio: Option<f64>,
    /// `loadRatio` in percent, for people, such as `42%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<String>,
    /// The version of the binary that reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `Ready` with the reason, and what else is to be told of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
