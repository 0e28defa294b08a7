//! How participants reach media nodes: ports, exposure, and where the address comes from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How participants reach media nodes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Media::default")]
#[x_kube(
    cel,
    validation = Rule::new("self.udpPortFirst + self.shards <= 65536").message(
        "spec.media.udpPortFirst plus shards must not exceed 65536: each shard has its own port"
    ),
    validation = Rule::new(
        "self.exposure != 'NodePort' || \
         (self.udpPortFirst >= 30000 && self.udpPortFirst + self.shards <= 32768)"
    ).message(
        "spec.media.udpPortFirst and all shards' ports must lie within 30000 to 32767 if exposure \
         is NodePort"
    )
)]
pub struct Media {
    /// How a media pod's ports are opened to the outside.
    pub exposure: Exposure,
    /// UDP port of the first shard; each further shard has the next one. With exposure NodePort
    /// each media node has ports of its own, the next ones by its number.
    #[schemars(range(min = 1024, max = 65_535))]
    pub udp_port_first: i32,
    /// TCP port for participants whose network lets no UDP through. With exposure NodePort it is
    /// not read: each media node has the number of its first UDP port for TCP as well.
    #[schemars(range(min = 1024, max = 65_535))]
    pub tcp_port: i32,
    /// Threads that forward media; 0 takes one for each whole core of the pod, at least one.
    #[schemars(range(min = 0, max = 64))]
    pub shards: i32,
    /// Where the address that participants are given comes from.
    pub address_source: AddressSource,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            exposure: Exposure::default(),
            udp_port_first: 50_000,
            tcp_port: 7_883,
            shards: 0,
            address_source: AddressSource::default(),
        }
    }
}

/// How a media pod's ports are opened to the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// Ports of the Kubernetes node are mapped into the pod. One media node per Kubernetes node.
    #[default]
    HostPort,
    /// Each media node has a Service of type LoadBalancer.
    LoadBalancer,
    /// Each media node has a Service of type NodePort, with ports that no other has.
    NodePort,
    /// The pod shares the Kubernetes node's network. It then sees all of its traffic: choose it
    /// only where the others cannot work.
    HostNetwork,
}

/// Where the address that participants are given comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressSource {
    /// The pod's `status.hostIP`.
    #[default]
    HostIP,
    /// The ExternalIP in the Kubernetes node's status.
    NodeExternalIP,
    /// The annotation `hemicycle.dev/media-addresses` on the Kubernetes node.
    Annotation,
}
