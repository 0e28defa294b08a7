//! One object to apply: its kind and its content. Pure data; knows no client.
//! Invariant: name and labels are in the content, and the kind is one that the operator owns.

use std::collections::BTreeMap;

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::reconcile::workload::Workload;

/// Kinds that the operator writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// MediaNode of hemicycle.dev.
    MediaNode,
    /// Service.
    Service,
    /// NetworkPolicy.
    NetworkPolicy,
    /// PodDisruptionBudget.
    PodDisruptionBudget,
    /// Deployment.
    Deployment,
    /// Ingress.
    Ingress,
    /// HTTPRoute of the Gateway API.
    HttpRoute,
    /// Pod.
    Pod,
    /// Report of OpenReports.
    Report,
    /// PolicyReport of wgpolicyk8s.io, which OpenReports succeeds.
    PolicyReport,
}

impl Kind {
    /// Kinds whose objects are listed by label and removed when they are wanted no more. Pods and
    /// MediaNodes are not among them: only the plan ends a media node.
    pub const PRUNED: [Self; 6] = [
        Self::Service,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::Deployment,
        Self::Ingress,
        Self::HttpRoute,
    ];

    /// Group, version, kind and plural.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::MediaNode => ("hemicycle.dev", "v1alpha1", "MediaNode", "medianodes"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::PodDisruptionBudget => {
                ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            }
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Report => ("openreports.io", "v1alpha1", "Report", "reports"),
            Self::PolicyReport => ("wgpolicyk8s.io", "v1alpha2", "PolicyReport", "policyreports"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }
}

/// Tells contents apart; no secret and no signature. FNV-1a over the JSON, whose keys are ordered.
#[must_use]
pub fn hash_of<'a>(contents: impl IntoIterator<Item = &'a Value>) -> String {
    let add = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = contents
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, content| content.to_string().bytes().fold(hash, add));
    format!("{hash:016x}")
}

/// One object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The whole object, as it is sent.
    pub body: Value,
}

impl Manifest {
    /// An object of `workload` with its labels and owner; `content` holds everything but metadata.
    #[must_use]
    pub fn new(
        workload: &Workload,
        kind: Kind,
        name: String,
        component: &str,
        content: Value,
    ) -> Self {
        let resource = kind.resource();
        let mut body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": name,
                "namespace": workload.namespace,
                "labels": workload.labels(component),
                "ownerReferences": [workload.owner],
            },
        });
        if let (Some(body), Value::Object(content)) = (body.as_object_mut(), content) {
            body.extend(content);
        }
        Self { kind, name, body }
    }

    /// The same object with these annotations as well.
    #[must_use]
    pub fn annotated(mut self, annotations: &BTreeMap<String, String>) -> Self {
        if let (false, Some(metadata)) =
            (annotations.is_empty(), self.body.get_mut("metadata").and_then(Value::as_object_mut))
        {
            metadata.insert("annotations".to_owned(), json!(annotations));
        }
        self
    }
}
