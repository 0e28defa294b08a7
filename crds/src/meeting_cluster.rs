//! `MeetingCluster`: a fleet of media nodes and its public door, as its owner wants it.
//!
//! Ten lines are enough: all that has a safe default has one, and the default is visible in
//! `kubectl explain`. Where media may run has none: it must be said.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

mod capacity;
mod flow;
mod gateway;
mod media;
mod pod_template;
mod violation;

pub use capacity::{Capacity, Drain, Rooms};
pub use flow::Flow;
pub use gateway::{
    Gateway, GatewayService, GatewayTls, HttpRoute, Ingress, MeetingPage, ServiceType,
};
pub use media::{AddressSource, Exposure, Media};
pub use pod_template::{PodTemplate, Resources, Toleration};
pub use violation::Violation;

/// A meeting cluster as its owner wants it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "hemicycle.dev",
    version = "v1alpha1",
    kind = "MeetingCluster",
    namespaced,
    doc = "An autoscaled fleet of media nodes on the Kubernetes nodes of a qualified scope, with a \
           public gateway, that LiveKit's clients use unchanged.",
    status = "MeetingClusterStatus",
    shortname = "mc",
    category = "hemicycle",
    annotation("helm.sh/resource-policy", "keep"),
    derive = "PartialEq",
    cel,
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && \
        size(self.metadata.name) <= 40")
        .message("metadata.name must be at most 40 characters of a-z, 0-9 and -, and begin with a \
                  letter: names of pods and Services are made from it"),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether everything that was asked for is there."
    ),
    printcolumn(
        name = "NODES",
        type_ = "string",
        json_path = ".status.nodes",
        description = "Media nodes that serve, of those wanted."
    ),
    printcolumn(
        name = "ROOMS",
        type_ = "integer",
        json_path = ".status.rooms",
        description = "Rooms that exist."
    ),
    printcolumn(
        name = "PARTICIPANTS",
        type_ = "integer",
        json_path = ".status.participants",
        description = "People and programs in all rooms."
    ),
    printcolumn(
        name = "LOAD",
        type_ = "string",
        json_path = ".status.load",
        description = "How full the serving media nodes are on average."
    ),
    printcolumn(
        name = "SCOPE",
        type_ = "string",
        json_path = ".spec.sovereignty.scopeRefs[*].name",
        description = "The scope that media stay in."
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the resource."
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MeetingClusterSpec {
    /// The DNS name under which clients reach the gateway, such as `meet.example.org`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')"
    ).message("spec.domain must be a DNS name in lower case without scheme, port or path, such as \
               meet.example.org"))]
    pub domain: String,
    /// The keys that access tokens are signed with.
    pub credentials: Credentials,
    /// Where media may run.
    pub sovereignty: Sovereignty,
    /// How many media nodes, and how full.
    #[serde(default)]
    pub capacity: Capacity,
    /// How participants reach media nodes.
    #[serde(default)]
    pub media: Media,
    /// When rooms end and how large they may be.
    #[serde(default)]
    pub rooms: Rooms,
    /// How a media node is emptied.
    #[serde(default)]
    pub drain: Drain,
    /// The public door.
    #[serde(default)]
    pub gateway: Gateway,
    /// What runs.
    #[serde(default)]
    pub image: Image,
    /// What media pods look like.
    #[serde(default)]
    pub pod_template: PodTemplate,
    /// Set it to true to stop every change. Rooms go on, and new ones are still placed.
    #[serde(default)]
    pub paused: bool,
}

/// The keys that access tokens are signed with.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret in the same namespace whose `keys.yaml` maps API keys to secrets of at least 32
    /// bytes. Several keys are valid at once; a change reaches everything without a restart.
    pub secret_ref: LocalRef,
}

/// An object in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where media may run.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sovereignty {
    /// The `QualificationScope`s whose Kubernetes nodes media pods run on, and no others.
    #[schemars(length(min = 1, max = 8))]
    pub scope_refs: Vec<ScopeRef>,
    /// The weakest evidence that is accepted for a Kubernetes node. There is no default: it is the
    /// owner's choice.
    pub minimum_evidence: EvidenceLevel,
    /// What happens to rooms whose Kubernetes node leaves the scope. New rooms are refused there in
    /// any case.
    #[serde(default)]
    pub on_loss: OnLoss,
    /// Violations that somebody answers for, until when. They stay listed and are no longer
    /// counted as open.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub acknowledgements: Vec<Acknowledgement>,
}

/// How well it is known that a Kubernetes node lies in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvidenceLevel {
    /// The scope's owner says so by a label that no kubelet may write.
    E0,
    /// So does what the machine's `spec.providerID` tells of its region.
    E1,
    /// So does somebody outside of the cluster: the provider's API, or a signed declaration.
    E2,
}

/// Who answers for a violation, and until when.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// `id` of the violation in the status.
    #[schemars(length(min = 1, max = 63))]
    pub violation: String,
    /// Who answers for it.
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
    /// Why it is borne.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Until when, as an RFC 3339 time.
    #[schemars(extend("format" = "date-time"))]
    pub until: String,
}

/// A `QualificationScope`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What happens to rooms whose Kubernetes node leaves the scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnLoss {
    /// They end by themselves, or are sent home at the drain deadline.
    #[default]
    Drain,
    /// They are sent home at once.
    Terminate,
}

/// What runs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Image::default")]
pub struct Image {
    /// Image of the media node. Default: the one that the operator was installed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_node: Option<String>,
    /// Image of the gateway. Default: the one that the operator was installed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// When images are pulled.
    pub pull_policy: PullPolicy,
    /// Secrets of type `kubernetes.io/dockerconfigjson` in the same namespace, by which registries
    /// that ask who pulls are reached.
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull_secret_refs: Vec<LocalRef>,
}

/// When images are pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// When the Kubernetes node does not have it.
    #[default]
    IfNotPresent,
    /// At each start.
    Always,
    /// Never: it must be there.
    Never,
}

impl PullPolicy {
    /// The word that a container carries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// What is seen of the meeting cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeetingClusterStatus {
    /// `Ready`, `Available`, `Progressing`, `Degraded`, `Paused`, `CapacityOK`, `PlacementReady`,
    /// `SovereigntyVerified`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Media nodes that serve, of those wanted, such as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// Media nodes that serve.
    #[serde(default)]
    pub nodes_serving: i32,
    /// Media nodes that are wanted.
    #[serde(default)]
    pub nodes_wanted: i32,
    /// Media nodes that are being emptied.
    #[serde(default)]
    pub nodes_draining: i32,
    /// Rooms that exist.
    #[serde(default)]
    pub rooms: i32,
    /// People and programs in all rooms.
    #[serde(default)]
    pub participants: i32,
    /// How full the serving media nodes are on average, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ratio: Option<f64>,
    /// `loadRatio` in percent, for people, such as `42%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<String>,
    /// The highest number ever given to a media node; numbers are not given twice.
    #[serde(default)]
    pub ordinal_high_water: i64,
    /// Media that run, or ran, where the scope does not reach: newest last, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// Violations that go on and that nobody answers for.
    #[serde(default)]
    pub violations_open: i32,
    /// The flows that are let through, in and out; all others are denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<Flow>,
    /// What the plan holds back, and on what each waits, at most 16 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
    /// Where clients connect, such as `wss://meet.example.org`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Further facts by name: `epoch`, the fencing number of the leader that wrote this status, and
    /// `proofKey`, the public key (Ed25519, base64) by which the proof of where meetings ran
    /// verifies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
