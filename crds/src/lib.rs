//! The words users write: MeetingCluster, MediaNode, QualificationScope; and AttestedNodes, which
//! the operator writes for the API server.
//!
//! One file a kind. Types, defaults and the rules that the API server enforces; no decision and no
//! I/O. The YAML beside this crate is generated from it (`crdgen`) and compared in the tests.
#![deny(missing_docs)]
#![allow(clippy::duplicated_attributes, reason = "each printer column names its type")]
#![allow(
    unreachable_pub,
    reason = "KubeSchema's derive makes public copies of types inside functions"
)]

pub mod attested_nodes;
pub mod condition;
pub mod generate;
pub mod media_node;
pub mod meeting_cluster;
pub mod qualification_scope;

pub use attested_nodes::{ATTESTED_NODES, AttestedNodes, AttestedNodesSpec};
pub use condition::Condition;
pub use media_node::{MediaNode, MediaNodeSpec, MediaNodeStatus};
pub use meeting_cluster::{MeetingCluster, MeetingClusterSpec, MeetingClusterStatus};
pub use qualification_scope::{
    QualificationScope, QualificationScopeSpec, QualificationScopeStatus,
};

/// API group of all kinds.
pub const GROUP: &str = "hemicycle.dev";
/// The one version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// Label with the meeting cluster's name on everything that the operator makes for it.
pub const LABEL_MEETING_CLUSTER: &str = "hemicycle.dev/meeting-cluster";
/// Label that tells `media-node` from `gateway`.
pub const LABEL_COMPONENT: &str = "hemicycle.dev/component";
/// Annotation on a `MediaNode`: any value asks that it be emptied; removing it takes that back.
pub const ANNOTATION_DRAIN: &str = "hemicycle.dev/drain";
/// Annotation on a `MediaNode` with the hash of the template that its pod was made from.
pub const ANNOTATION_TEMPLATE_HASH: &str = "hemicycle.dev/template-hash";
/// Annotation on a Kubernetes `Node` with the addresses that media nodes on it advertise, comma
/// separated, for `spec.media.addressSource: Annotation`.
pub const ANNOTATION_ADDRESSES: &str = "hemicycle.dev/media-addresses";

/// Under this prefix the operator writes on a Kubernetes node, by scope, the level of the evidence
/// that it lies there. Nobody else may write it.
pub const SCOPE_LABEL_PREFIX: &str = "scope.hemicycle.node-restriction.kubernetes.io/";
/// Taint of Kubernetes nodes in a dedicated scope; its value is the scope's name.
pub const SCOPE_TAINT: &str = "hemicycle.dev/scope";
/// Label on a Namespace with meeting clusters, by which admission knows it. The operator writes it.
pub const LABEL_MEDIA_NAMESPACE: &str = "hemicycle.dev/media-namespace";
/// Annotation on a Kubernetes node with a signed declaration that it lies in a scope.
pub const ANNOTATION_DECLARATION: &str = "hemicycle.dev/declaration";
