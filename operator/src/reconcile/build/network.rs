//! Builds NetworkPolicies and PodDisruptionBudgets. Pure.
//! Invariant: control listeners of media nodes are reached by the operator alone and signalling
//! listeners by the gateways of the same meeting cluster alone; and nobody but the operator ends a
//! media pod that may hold rooms.

use serde_json::json;

use super::{
    flows, gateway,
    manifest::{Kind, Manifest},
};
use crate::reconcile::workload::{GATEWAY, MEDIA_NODE, Workload};

/// More than any fleet has: no eviction of a media pod is ever allowed. `maxUnavailable: 0` would
/// say so more plainly, but the disruption controller wants a scale subresource on the pods' owner
/// for it.
const NEVER_EVICT: i32 = i32::MAX;

/// What may reach media nodes, and what they may reach: nothing.
#[must_use]
pub fn media_policy(workload: &Workload) -> Manifest {
    let content = json!({"spec": flows::policy_spec(workload, MEDIA_NODE)});
    let name = format!("{}-media-node", workload.name);
    Manifest::new(workload, Kind::NetworkPolicy, name, MEDIA_NODE, content)
}

/// What may reach gateways, and what they may reach.
#[must_use]
pub fn gateway_policy(workload: &Workload) -> Manifest {
    let content = json!({"spec": flows::policy_spec(workload, GATEWAY)});
    Manifest::new(workload, Kind::NetworkPolicy, gateway::name(workload), GATEWAY, content)
}

/// No media pod is evicted. `kubectl drain` cordons first; the operator sees that, drains the media
/// node within its budget and deletes the empty pod itself, whereupon the drain completes. That
/// holds for pods that are not ready too: a draining media node is not ready and has rooms.
#[must_use]
pub fn media_budget(workload: &Workload) -> Manifest {
    let content = json!({"spec": {
        "minAvailable": NEVER_EVICT,
        "selector": {"matchLabels": workload.selector(MEDIA_NODE)},
    }});
    let name = format!("{}-media-node", workload.name);
    Manifest::new(workload, Kind::PodDisruptionBudget, name, MEDIA_NODE, content)
}

/// Gateways go one at a time.
#[must_use]
pub fn gateway_budget(workload: &Workload) -> Manifest {
    let content = json!({"spec": {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": workload.selector(GATEWAY)},
    }});
    Manifest::new(workload, Kind::PodDisruptionBudget, gateway::name(workload), GATEWAY, content)
}
