//! The waist between the raw resource and the objects made from it: everything that `build` needs,
//! checked. Holds no decision about how many media nodes there are; that is the plan's.
//! Invariant: behind this type nobody reads a MeetingCluster's spec.

use std::collections::BTreeMap;

pub use hemicycle_crds::LABEL_COMPONENT as LABEL_OF_COMPONENT;
use hemicycle_crds::LABEL_MEETING_CLUSTER;
use k8s_openapi::{
    api::core::v1::{LocalObjectReference, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use operator_core::evidence::Level;

/// First label of every object: who made it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "hemicycle");
/// Value of [`hemicycle_crds::LABEL_COMPONENT`] on media nodes.
pub const MEDIA_NODE: &str = "media-node";
/// Value of [`hemicycle_crds::LABEL_COMPONENT`] on gateways.
pub const GATEWAY: &str = "gateway";

/// How media reaches a media node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Ports of the Kubernetes node are bound to the pod's.
    HostPort,
    /// The pod shares the Kubernetes node's network; asked for explicitly.
    HostNetwork,
    /// A Service of type NodePort for each media node.
    NodePort,
    /// A Service of type LoadBalancer for each media node.
    LoadBalancer,
}

/// Where the address that participants are told comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvertisedAddress {
    /// `status.hostIP` of the pod, by the downward API.
    HostIp,
    /// The Kubernetes node's ExternalIP, known once the pod is bound.
    NodeExternalIp,
    /// The Kubernetes node's annotation, known once the pod is bound.
    NodeAnnotation,
    /// The media node's own load balancer, known once the cloud has made it.
    LoadBalancer,
}

/// What makes media pods.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaTemplate {
    /// Image with tag or digest.
    pub image: String,
    /// Shards, each with a core of its own and a UDP port of its own.
    pub shards: u16,
    /// CPU request and limit, as a Kubernetes quantity.
    pub cpu: String,
    /// Memory request and limit, as a Kubernetes quantity.
    pub memory: String,
    /// UDP port of the first shard.
    pub udp_port_first: u16,
    /// ICE-TCP port.
    pub tcp_port: u16,
    /// How media reaches it.
    pub exposure: Exposure,
    /// Where the address that participants are told comes from.
    pub advertised: AdvertisedAddress,
    /// Priority class, if any.
    pub priority_class: Option<String>,
    /// More labels of the pods.
    pub labels: BTreeMap<String, String>,
    /// Tolerations beyond the scope's own.
    pub tolerations: Vec<Toleration>,
    /// More environment, for limits of rooms and the like.
    pub environment: BTreeMap<String, String>,
    /// Annotations of the pods.
    pub annotations: BTreeMap<String, String>,
}

/// What makes gateways.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayTemplate {
    /// Image with tag or digest.
    pub image: String,
    /// Pods.
    pub replicas: i32,
    /// Secret of type kubernetes.io/tls for the public door; none: plain, behind an Ingress.
    pub tls_secret: Option<String>,
    /// Type of the Service.
    pub service_type: String,
    /// Port on every Kubernetes node; none: Kubernetes chooses.
    pub node_port: Option<i32>,
    /// Annotations of the Service.
    pub service_annotations: BTreeMap<String, String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
}

/// How the public door is reached from outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The Service alone.
    None,
    /// An Ingress of this class.
    Ingress {
        /// Ingress class; none: the cluster's default.
        class: Option<String>,
        /// Secret with the certificate; none: plain.
        tls_secret: Option<String>,
        /// Annotations of the Ingress.
        annotations: BTreeMap<String, String>,
    },
    /// An HTTPRoute of this Gateway.
    HttpRoute {
        /// Name of the Gateway.
        gateway: String,
        /// Its namespace; none: that of the meeting cluster.
        namespace: Option<String>,
        /// Its listener; none: any that fits.
        section: Option<String>,
    },
}

/// A checked MeetingCluster, as far as objects are made from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Namespace of the meeting cluster and all its objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Owner reference that points to it.
    pub owner: OwnerReference,
    /// Public host name.
    pub domain: String,
    /// Secret with the API keys.
    pub credentials_secret: String,
    /// Pull policy of every pod.
    pub image_pull_policy: String,
    /// Pull secrets of every pod.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The scopes of which a Kubernetes node must lie in one.
    pub scopes: Vec<String>,
    /// The weakest evidence that is taken for it.
    pub minimum_evidence: Level,
    /// Public keys, base64 and comma separated, by which media nodes tell the operator's tickets.
    pub ticket_keys: String,
    /// Seconds that a media node may take to empty after SIGTERM.
    pub drain_seconds: u32,
    /// What makes media pods.
    pub media: MediaTemplate,
    /// What makes gateways.
    pub gateway: GatewayTemplate,
    /// How the public door is reached.
    pub route: Route,
    /// Where gateways find the placer.
    pub placer_address: String,
    /// Namespace of the operator, for NetworkPolicies.
    pub operator_namespace: String,
}

impl Workload {
    /// "namespace/name", the tenant.
    #[must_use]
    pub fn tenant(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Labels of an object of this meeting cluster.
    #[must_use]
    pub fn labels(&self, component: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        labels
    }

    /// Labels by which pods of one component are selected; they never change.
    #[must_use]
    pub fn selector(&self, component: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_MEETING_CLUSTER.to_owned(), self.name.clone()),
            (LABEL_OF_COMPONENT.to_owned(), component.to_owned()),
        ])
    }
}

/// A media node that is to have a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaPod {
    /// Name of the MediaNode resource and of its pod.
    pub name: String,
    /// Owner reference that points to the MediaNode.
    pub owner: OwnerReference,
    /// Epoch of the leader that makes it: its process obeys no former one.
    pub epoch: u64,
}
