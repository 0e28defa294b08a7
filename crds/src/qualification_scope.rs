//! `QualificationScope`: a service on a declared, expiring, revocable scope, and how to recognise
//! the Kubernetes nodes that lie in it.
//!
//! Cluster-scoped: tenants name a scope and cannot write one. It states a claim of its owner and
//! proves nothing by itself.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
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
    validation = Rule::new("self.metadata.name.size() <= 63").message(
        "metadata.name must have at most 63 characters: it becomes part of a label's key"
    ),
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
        name = "STATE",
        type_ = "string",
        json_path = ".spec.state",
        description = "What the authority says of the qualification."
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
    /// How the provider's machines say where they are (`spec.providerID` of a Kubernetes node).
    #[serde(default)]
    pub platform: Platform,
    /// The provider's regions that the attestation covers.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub regions: Vec<String>,
    /// The subregions (zones) that it covers. Empty: all of those regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub subregions: Vec<String>,
    /// The provider's accounts whose machines count, which the provider's API alone can tell: the
    /// same subregion letter may be another building in another account. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub accounts: Vec<String>,
    /// The referential and its version, such as `SecNumCloud 3.2`.
    #[schemars(length(min = 1, max = 63))]
    pub referential: String,
    /// The attestation that the qualification rests on.
    pub attestation: Attestation,
    /// The label by which the scope's owner declares that a Kubernetes node lies in it: evidence of
    /// level E0, and the condition for all other evidence.
    pub node_label: NodeLabel,
    /// What the authority says of the qualification. Unless it is `Qualified` there is no new room
    /// and no new pod, and `spec.sovereignty.onLoss` of each meeting cluster decides about rooms
    /// that go on.
    #[serde(default)]
    pub state: QualificationState,
    /// Whether Kubernetes nodes in the scope are kept for media by a taint.
    #[serde(default)]
    pub dedicated: bool,
    /// Public keys (Ed25519, base64) of those who may declare in writing that a Kubernetes node
    /// lies
    /// in the scope, by the annotation `hemicycle.dev/declaration`. Such a declaration is evidence
    /// of level E2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 44, max = 44)))]
    pub declaration_keys: Vec<String>,
    /// The provider's API, asked about each machine: evidence of level E2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_api: Option<ProviderApi>,
}

/// What the authority says of a qualification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum QualificationState {
    /// It holds, until the attestation ends.
    #[default]
    Qualified,
    /// It is suspended: it may come back.
    Suspended,
    /// It is withdrawn.
    Withdrawn,
}

/// How a provider's machines say where they are, in `spec.providerID` of their Kubernetes nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Platform {
    /// `<scheme>://<anything>/<zone>/<id>`: the zone must be one of `spec.subregions`, or one of
    /// `spec.regions` followed by a letter, `-` and a letter or number.
    #[default]
    Generic,
    /// `aws:///<subregion>/<vm-id>`, as Outscale's cloud controller writes it.
    Outscale,
    /// `openstack://<region>/<id>`, as OVHcloud's does.
    OVHcloud,
    /// `scaleway://instance/<zone>/<id>`.
    Scaleway,
}

/// A provider's API that tells where a machine is.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("self.url.startsWith('https://')")
        .message("spec.providerApi.url must begin with https://")
)]
pub struct ProviderApi {
    /// What it speaks.
    pub kind: ProviderApiKind,
    /// Where it is, such as `https://api.cloudgouv-eu-west-1.outscale.com/api/v1`.
    #[schemars(length(min = 9, max = 253))]
    pub url: String,
    /// The region that it serves, such as `cloudgouv-eu-west-1`.
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// A Secret in the operator's namespace with `accessKey` and `secretKey` of a user who may read
    /// machines and nothing else, and with `ca.crt`, the authorities that are trusted for the API's
    /// certificate: no list of them is built in.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// What a provider's API speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProviderApiKind {
    /// `ReadVms` of Outscale's API.
    Outscale,
}

/// The attestation that a qualification rests on.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.decidedAt) || self.decidedAt < self.expiresAt")
        .message("spec.attestation.decidedAt must lie before expiresAt")
)]
pub struct Attestation {
    /// The attestation's number, as the authority published it.
    #[schemars(length(min = 1, max = 253))]
    pub id: String,
    /// SHA-256 of the attestation's document, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message(
        "spec.attestation.sha256 must be 64 hexadecimal digits in lower case"
    ))]
    pub sha256: Option<String>,
    /// When the authority decided, as an RFC 3339 time such as `2026-01-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub decided_at: Option<String>,
    /// When it ends, as an RFC 3339 time. From then on no new room and no new pod.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: String,
}

/// The label by which its owner declares that a Kubernetes node lies in the scope.
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
    /// Whether media may run in the scope (`Ready`) and whether its attestation ends soon
    /// (`Expiring`), with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many Kubernetes nodes lie in the scope, by any evidence.
    #[serde(default)]
    pub kubernetes_nodes: i32,
    /// How many of them by evidence of each level, such as `{"E0": 1, "E2": 5}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, i32>,
    /// Kubernetes nodes that carry the label and do not lie in the scope, at most 32, each with the
    /// reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradicted: Vec<Contradicted>,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A Kubernetes node that is declared to lie in a scope, and contradicts that.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contradicted {
    /// Its name.
    pub kubernetes_node: String,
    /// What speaks against it.
    pub reason: String,
}
