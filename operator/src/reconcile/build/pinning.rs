//! Pins pods to the Kubernetes nodes of the scopes: the affinity and the toleration that media pods
//! and gateways share, and that the API server asks of both. Pure. Invariant: what is asked for
//! changes with the owner's wish alone, never with what a scope is worth today.

use hemicycle_crds::{SCOPE_LABEL_PREFIX, SCOPE_TAINT};
use operator_core::evidence::Level;
use serde_json::{Value, json};

use crate::reconcile::workload::Workload;

/// The required affinity: one term for each scope, of which one must hold. The operator's own label
/// says that a Kubernetes node lies there, and by which evidence. Without a scope there is no term,
/// and no term holds.
#[must_use]
pub fn affinity(workload: &Workload) -> Value {
    let enough = Level::ALL.into_iter().filter(|level| *level >= workload.minimum_evidence);
    let enough: Vec<&str> = enough.map(Level::as_str).collect();
    let term = |scope: &String| {
        let key = format!("{SCOPE_LABEL_PREFIX}{scope}");
        json!({"matchExpressions": [{"key": key, "operator": "In", "values": enough}]})
    };
    let terms: Vec<Value> = workload.scopes.iter().map(term).collect();
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": terms,
    }}})
}

/// Lets a pod onto Kubernetes nodes that a scope keeps for meetings.
#[must_use]
pub fn toleration() -> Value {
    json!({"key": SCOPE_TAINT, "operator": "Exists"})
}
