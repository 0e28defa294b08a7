//! `AttestedNodes`: the Kubernetes nodes that media pods of one namespace may be bound to, for the
//! API server's own admission.
//!
//! Written by the operator alone, one object a namespace, called [`ATTESTED_NODES`]; the admission
//! policies read it as their parameter. It repeats decisions and makes none.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Name of the one `AttestedNodes` of a namespace.
pub const ATTESTED_NODES: &str = "attested-nodes";

/// The Kubernetes nodes that media pods of this namespace may be bound to.
#[derive(
    CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "hemicycle.dev",
    version = "v1alpha1",
    kind = "AttestedNodes",
    plural = "attestednodes",
    singular = "attestednodes",
    doc = "The Kubernetes nodes that media pods of this namespace may be bound to, as the operator \
           attests them for the API server's admission.",
    namespaced,
    derive = "PartialEq",
    cel,
    validation = Rule::new("self.metadata.name == 'attested-nodes'").message(
        "metadata.name must be attested-nodes: there is one in a namespace"
    ),
    printcolumn(
        name = "MEETINGCLUSTERS",
        type_ = "string",
        json_path = ".spec.meetingClusters[*].name",
        description = "Meeting clusters of the namespace."
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the resource."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AttestedNodesSpec {
    /// By meeting cluster of the namespace.
    #[serde(default)]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub meeting_clusters: Vec<AttestedMeetingCluster>,
}

/// Where media pods of one meeting cluster may run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttestedMeetingCluster {
    /// Name of the meeting cluster; its media pods are called `<name>-<number>`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The Kubernetes nodes.
    #[serde(default)]
    #[schemars(
        length(max = 5000),
        inner(length(max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub kubernetes_nodes: Vec<String>,
    /// Whether its media pods may share the Kubernetes node's network.
    #[serde(default)]
    pub host_network: bool,
}
