//! `QualificationScope`: a service on a declared, expiring, revocable scope, and how to recognise
//! the Kubernetes nodes that lie in it.
//!
//! Cluster-scoped: tenants name a scope and cannot write one. It states a claim of its owner and
//! proves nothing by itself.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What a qualified service covers, until when, and which Kubernetes nodes lie in it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "hemicycle.dev",
    version = "v1alpha1",
    kind = "QualificationScope",
    doc = "A qualified service on a declared scope: who provides it, where, under which \
           referential, until when, and which Kubernetes nodes lie in it.",
    status = "QualificationScopeStatus",
    shortname = "qs",
    category = "hemicycle",
    annotation("helm.sh/resource-policy", "keep"),
    derive = "PartialEq",
    cel,
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether media may run in the scope."
    ),
    printcolumn(
        name = "PROVIDER",
        type_ = "string",
        json_path = ".spec.provider",
        description = "Who provides the service."
    ),
    printcolumn(
        name = "REFERENTIAL",
        type_ = "string",
        json_path = ".spec.referential",
        description = "Under which referential it is qualified."
    ),
    printcolumn(
        name = "EXPIRES",
        type_ = "string",
        json_path = ".spec.attestation.expiresAt",
        description = "When the attestation ends."
    ),
    printcolumn(
        name = "NODES",
        type_ = "integer",
        json_path = ".status.kubernetesNodes",
        description = "Kubernetes nodes in the scope."
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the resource."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct QualificationScopeSpec {
    /// Who provides the qualified service, such as `Example Cloud`.
    #[schemars(length(min = 1, max = 253))]
    pub provider: String,
    /// The service that is qualified, as the attestation names it. The unit of a qualification is a
    /// service, not a company.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// The provider's regions that the attestation covers.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub regions: Vec<String>,
    /// The referential and its version, such as `SecNumCloud 3.2`.
    #[schemars(length(min = 1, max = 63))]
    pub referential: String,
    /// The attestation that the qualification rests on.
    pub attestation: Attestation,
    /// The label by which a Kubernetes node in the scope is recognised.
    pub node_label: NodeLabel,
    /// Set it to true when the qualification is suspended or withdrawn: no new room and no new pod
    /// from then on, and `spec.sovereignty.onLoss` of each meeting cluster decides about rooms that
    /// go on.
    #[serde(default)]
    pub withdrawn: bool,
}

/// The attestation that a qualification rests on.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.issuedAt) || self.issuedAt < self.expiresAt")
        .message("spec.attestation.issuedAt must lie before expiresAt")
)]
pub struct Attestation {
    /// The attestation's number, as the authority published it.
    #[schemars(length(min = 1, max = 253))]
    pub id: String,
    /// When it was issued, as an RFC 3339 time such as `2026-01-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub issued_at: Option<String>,
    /// When it ends, as an RFC 3339 time. From then on no new room and no new pod.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: String,
}

/// The label by which a Kubernetes node in the scope is recognised.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct NodeLabel {
    /// The label's key. It must lie under `node-restriction.kubernetes.io`, which the API server
    /// keeps kubelets from writing, so that no machine can put itself into a scope.
    #[schemars(length(min = 1, max = 317))]
    #[x_kube(validation = Rule::new(
        "self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?[.])*node-restriction[.]kubernetes[.]io/\
         [A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')"
    ).message(
        "spec.nodeLabel.key must lie under node-restriction.kubernetes.io, such as \
         gold.scope.node-restriction.kubernetes.io/qualified"
    ))]
    pub key: String,
    /// The label's value.
    #[serde(default = "value_default")]
    #[schemars(length(max = 63))]
    pub value: String,
}

fn value_default() -> String {
    "true".into()
}

/// What is seen of the scope.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QualificationScopeStatus {
    /// Whether media may run in the scope (`Ready`), with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many Kubernetes nodes carry the scope's label.
    #[serde(default)]
    pub kubernetes_nodes: i32,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
