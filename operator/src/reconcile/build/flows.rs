//! The flows that a meeting cluster needs: one table, of which its NetworkPolicies are made and
//! which its status shows. Pure. Invariant: what is not in the table is denied, in and out.
//!
//! A media node opens no connection and sends nothing unasked (ICE-lite, RFC 8445 section 2.5):
//! answers to those who reached it need no flow of their own, so it has no way out at all.

use hemicycle_crds::meeting_cluster::Flow as ListedFlow;
use serde_json::{Value, json};

use super::{gateway, media_pod};
use crate::reconcile::workload::{GATEWAY, MEDIA_NODE, Workload};

/// Where the placer listens, unless its address says otherwise.
const PLACER_PORT: u16 = 7_400;
const DNS_PORT: u16 = 53;

/// In or out, as seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Others reach the pod.
    Ingress,
    /// The pod reaches others.
    Egress,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Anybody: participants are everywhere.
    Anybody,
    /// Who scrapes metrics and probes.
    Supervision,
    /// The cluster's DNS.
    Dns,
    /// Gateways of the same meeting cluster.
    Gateways,
    /// Media nodes of the same meeting cluster.
    MediaNodes,
    /// The operator.
    Operator,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// [`MEDIA_NODE`] or [`GATEWAY`].
    pub component: &'static str,
    /// In or out.
    pub direction: Direction,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// First port.
    pub first: u16,
    /// Last port; the same for a single one.
    pub last: u16,
    /// The other end.
    pub peer: Peer,
    /// What for.
    pub why: &'static str,
}

/// Every flow of a meeting cluster.
#[must_use]
pub fn flows(workload: &Workload) -> Vec<Flow> {
    use Direction::{Egress, Ingress};
    let media = &workload.media;
    let (udp, tcp) = (media_pod::udp_ports(media), media_pod::tcp_ports(media));
    let placer = workload.placer_address.rsplit_once(':');
    let placer = placer.and_then(|(_, port)| port.parse().ok()).unwrap_or(PLACER_PORT);
    let media_node = |direction, protocol, (first, last), peer, why| Flow {
        component: MEDIA_NODE,
        direction,
        protocol,
        first,
        last,
        peer,
        why,
    };
    let gateway = |direction, protocol, port: u16, peer, why| Flow {
        component: GATEWAY,
        direction,
        protocol,
        first: port,
        last: port,
        peer,
        why,
    };
    let one = |port: u16| (port, port);
    vec![
        media_node(Ingress, "UDP", udp, Peer::Anybody, "media (ICE, DTLS, SRTP)"),
        media_node(Ingress, "TCP", tcp, Peer::Anybody, "media over TCP"),
        media_node(
            Ingress,
            "TCP",
            one(media_pod::SIGNAL_PORT),
            Peer::Gateways,
            "signalling and API calls, mutual TLS",
        ),
        media_node(
            Ingress,
            "TCP",
            one(media_pod::CONTROL_PORT),
            Peer::Operator,
            "reports, grants and commands, mutual TLS",
        ),
        media_node(
            Ingress,
            "TCP",
            one(media_pod::ADMIN_PORT),
            Peer::Supervision,
            "health and metrics, no content",
        ),
        gateway(Ingress, "TCP", gateway::PLAIN_PORT, Peer::Anybody, "clients behind an Ingress"),
        gateway(Ingress, "TCP", gateway::TLS_PORT, Peer::Anybody, "clients, TLS"),
        gateway(
            Ingress,
            "TCP",
            gateway::ADMIN_PORT,
            Peer::Supervision,
            "health and metrics, no content",
        ),
        gateway(Egress, "UDP", DNS_PORT, Peer::Dns, "the placer's name"),
        gateway(Egress, "TCP", DNS_PORT, Peer::Dns, "the placer's name"),
        gateway(Egress, "TCP", placer, Peer::Operator, "where a room is, mutual TLS"),
        gateway(
            Egress,
            "TCP",
            media_pod::SIGNAL_PORT,
            Peer::MediaNodes,
            "signalling and API calls, mutual TLS",
        ),
    ]
}

/// The flows as the status lists them.
#[must_use]
pub fn listed(workload: &Workload) -> Vec<ListedFlow> {
    let list = |flow: Flow| ListedFlow {
        component: flow.component.to_owned(),
        direction: flow.direction.as_str().to_owned(),
        protocol: flow.protocol.to_owned(),
        ports: if flow.first == flow.last {
            flow.first.to_string()
        } else {
            format!("{}-{}", flow.first, flow.last)
        },
        peer: flow.peer.as_str().to_owned(),
        why: flow.why.to_owned(),
    };
    flows(workload).into_iter().map(list).collect()
}

/// The spec of the NetworkPolicy that lets a component's flows through and nothing else.
#[must_use]
pub fn policy_spec(workload: &Workload, component: &str) -> Value {
    let rules = |direction: Direction| -> Vec<Value> {
        let of = |flow: &Flow| flow.component == component && flow.direction == direction;
        flows(workload).iter().filter(|flow| of(flow)).map(|flow| rule(workload, flow)).collect()
    };
    json!({
        "podSelector": {"matchLabels": workload.selector(component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": rules(Direction::Ingress),
        "egress": rules(Direction::Egress),
    })
}

fn rule(workload: &Workload, flow: &Flow) -> Value {
    let mut port = json!({"port": flow.first, "protocol": flow.protocol});
    if let (true, Some(port)) = (flow.last > flow.first, port.as_object_mut()) {
        port.insert("endPort".to_owned(), json!(flow.last));
    }
    let mut rule = json!({"ports": [port]});
    let peer = match flow.peer {
        // DNS may be a Kubernetes node's own, and Prometheus may be anywhere.
        Peer::Anybody | Peer::Supervision | Peer::Dns => return rule,
        Peer::Gateways => json!({"podSelector": {"matchLabels": workload.selector(GATEWAY)}}),
        Peer::MediaNodes => json!({"podSelector": {"matchLabels": workload.selector(MEDIA_NODE)}}),
        Peer::Operator => json!({
            "namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": workload.operator_namespace},
            },
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "hemicycle-operator"}},
        }),
    };
    let side = match flow.direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    if let Some(rule) = rule.as_object_mut() {
        rule.insert(side.to_owned(), json!([peer]));
    }
    rule
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "in",
            Self::Egress => "out",
        }
    }
}

impl Peer {
    fn as_str(self) -> &'static str {
        match self {
            Self::Anybody => "anybody",
            Self::Supervision => "supervision",
            Self::Dns => "cluster DNS",
            Self::Gateways => "gateways of this meeting cluster",
            Self::MediaNodes => "media nodes of this meeting cluster",
            Self::Operator => "operator",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::build::tests::workload;

    #[test]
    fn a_media_node_has_no_way_out() {
        let spec = policy_spec(&workload(), MEDIA_NODE);
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(spec["egress"], json!([]));
    }

    #[test]
    fn every_flow_out_of_a_gateway_has_a_peer_but_dns() {
        let spec = policy_spec(&workload(), GATEWAY);
        for rule in spec["egress"].as_array().expect("rules") {
            let dns = rule["ports"][0]["port"] == json!(DNS_PORT);
            assert!(dns || rule["to"].is_array(), "{rule}");
        }
    }

    #[test]
    fn the_status_lists_what_the_policies_allow() {
        let workload = workload();
        let rules: usize = [MEDIA_NODE, GATEWAY]
            .map(|component| policy_spec(&workload, component))
            .iter()
            .flat_map(|spec| [spec["ingress"].clone(), spec["egress"].clone()])
            .map(|rules| rules.as_array().map_or(0, Vec::len))
            .sum();
        let listed = listed(&workload);
        assert_eq!(listed.len(), rules);
        assert_eq!(listed[0].ports, "50000-50001");
        assert!(listed.iter().all(|flow| !flow.why.is_empty()));
    }
}
