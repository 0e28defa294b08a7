//! What media pods look like beyond what the operator fixes for safety.
//!
//! A tenant cannot choose a Kubernetes node, a service account or a security context here.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What media pods look like.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "PodTemplate::default")]
#[x_kube(
    cel,
    validation = Rule::new(
        "!has(self.labels) || self.labels.all(key, !key.startsWith('hemicycle.dev/') && \
         !key.startsWith('app.kubernetes.io/'))"
    ).message(
        "spec.podTemplate.labels must not begin with hemicycle.dev/ or app.kubernetes.io/: the \
         operator writes those"
    )
)]
pub struct PodTemplate {
    /// What each media pod asks for; requests equal limits, so that it is never throttled by
    /// others.
    pub resources: Resources,
    /// Priority class of media pods. Default: the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Further labels on media pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Further annotations on media pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Taints that media pods bear, beside the scope's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
}

/// What each media pod asks for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Resources::default")]
pub struct Resources {
    /// Processor time in thousandths of a core. A whole number of cores gives each shard its own.
    #[schemars(range(min = 10, max = 256_000))]
    pub cpu_millicores: i32,
    /// Memory in MiB.
    #[schemars(range(min = 32, max = 1_048_576))]
    pub memory_mebibytes: i32,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu_millicores: 1_000, memory_mebibytes: 1_024 }
    }
}

/// A taint that media pods bear.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Toleration::default")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.operator) || self.operator in ['Exists', 'Equal']").message(
        "spec.podTemplate.tolerations[].operator must be Exists or Equal"
    )
)]
pub struct Toleration {
    /// Key of the taint. Absent with operator `Exists`: every taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Exists` or `Equal`. Default: `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Value of the taint, for operator `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// For `NoExecute`: how many seconds the pod stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}
