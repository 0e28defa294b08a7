//! Builds NetworkPolicies and PodDisruptionBudgets. Pure.
//! Invariant: control listeners of media nodes are reached by the operator alone and signalling
//! listeners by the gateways of the same meeting cluster alone; and nobody but the operator ends a
//! media pod that may hold rooms.

use serde_json::{Value, json};

use super::{
    gateway,
    manifest::{Kind, Manifest},
    media_pod,
};
use crate::reconcile::workload::{GATEWAY, MEDIA_NODE, Workload};

/// More than any fleet has: no eviction of a media pod is ever allowed. `maxUnavailable: 0` would
/// say so more plainly, but the disruption controller wants a scale subresource on the pods' owner
/// for it.
const NEVER_EVICT: i32 = i32::MAX;

fn tcp(port: u16) -> Value {
    json!({"port": port, "protocol": "TCP"})
}

fn operator_pods(workload: &Workload) -> Value {
    json!({
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": workload.operator_namespace},
        },
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "hemicycle-operator"}},
    })
}

/// What may reach media nodes. What they may reach is not restricted: media goes anywhere.
#[must_use]
pub fn media_policy(workload: &Workload) -> Manifest {
    let media = &workload.media;
    let last = media_pod::udp_port_last(media);
    let gateways = json!({"podSelector": {"matchLabels": workload.selector(GATEWAY)}});
    let content = json!({"spec": {
        "podSelector": {"matchLabels": workload.selector(MEDIA_NODE)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": [
                {"port": media.udp_port_first, "endPort": last, "protocol": "UDP"},
                tcp(media.tcp_port),
                tcp(media_pod::ADMIN_PORT),
            ]},
            {"from": [gateways], "ports": [tcp(media_pod::SIGNAL_PORT)]},
            {"from": [operator_pods(workload)], "ports": [tcp(media_pod::CONTROL_PORT)]},
        ],
    }});
    let name = format!("{}-media-node", workload.name);
    Manifest::new(workload, Kind::NetworkPolicy, name, MEDIA_NODE, content)
}

/// What gateways may reach: DNS, the placer, media nodes of the same meeting cluster.
#[must_use]
pub fn gateway_policy(workload: &Workload) -> Manifest {
    let media_nodes = json!({"podSelector": {"matchLabels": workload.selector(MEDIA_NODE)}});
    let placer_port = workload
        .placer_address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(7400);
    let content = json!({"spec": {
        "podSelector": {"matchLabels": workload.selector(GATEWAY)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [
            tcp(gateway::PLAIN_PORT), tcp(gateway::TLS_PORT), tcp(gateway::ADMIN_PORT),
        ]}],
        "egress": [
            {"ports": [{"port": 53, "protocol": "UDP"}, tcp(53)]},
            {"to": [operator_pods(workload)], "ports": [tcp(placer_port)]},
            {"to": [media_nodes], "ports": [tcp(media_pod::SIGNAL_PORT)]},
        ],
    }});
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
