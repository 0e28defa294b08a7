//! The public door: replicas, Service, TLS, who may come in, and the meeting page.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LocalRef;

/// The public door.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Gateway::default")]
#[x_kube(
    cel,
    validation = Rule::new("!(has(self.ingress) && has(self.httpRoute))").message(
        "spec.gateway.ingress and httpRoute exclude each other: keep one"
    )
)]
pub struct Gateway {
    /// How many run. Any of them may be restarted at any time.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// How it is reached.
    pub service: GatewayService,
    /// Its certificate. Without one it speaks plain HTTP, for use behind an Ingress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,
    /// Origins of web pages that may connect, such as `https://visio.example.org`. Empty: all.
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new(
        "self.all(origin, origin.matches('^https?://[^/ ]+$'))"
    ).message(
        "spec.gateway.allowedOrigins must each be http:// or https:// with a host and no path"
    ))]
    pub allowed_origins: Vec<String>,
    /// Whether the page for trying it out is served at `/meet/`.
    pub meeting_page: MeetingPage,
    /// An Ingress in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// A Gateway API route in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRoute>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            replicas: 2,
            service: GatewayService::default(),
            tls: None,
            allowed_origins: vec![],
            meeting_page: MeetingPage::default(),
            ingress: None,
            http_route: None,
        }
    }
}

/// How the gateway is reached.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "GatewayService::default")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'").message(
        "spec.gateway.service.nodePort needs type NodePort or LoadBalancer"
    )
)]
pub struct GatewayService {
    /// Type of the Service.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// Port on every Kubernetes node. Default: Kubernetes chooses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub node_port: Option<i32>,
    /// Annotations on the Service, such as those that a cloud's load balancer reads.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reached from inside, such as by an Ingress.
    #[default]
    ClusterIP,
    /// A port on every Kubernetes node.
    NodePort,
    /// A load balancer of the cloud.
    LoadBalancer,
}

impl ServiceType {
    /// The word that a Service carries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// The gateway's certificate.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayTls {
    /// A Secret of type `kubernetes.io/tls` in the same namespace. A change takes effect without a
    /// restart.
    pub secret_ref: LocalRef,
}

/// Whether the page for trying it out is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MeetingPage {
    /// It is served at `/meet/`; whoever opens it needs a token.
    Enabled,
    /// It is not.
    #[default]
    Disabled,
}

/// An Ingress in front of the gateway.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Ingress::default")]
pub struct Ingress {
    /// Its class. Default: the cluster's default class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// The Secret with the certificate for `spec.domain`. Default: plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_secret_ref: Option<LocalRef>,
    /// Annotations on the Ingress.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A Gateway API route in front of the gateway.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// Name of the `Gateway` (of the Gateway API) that the route attaches to.
    #[schemars(length(min = 1, max = 253))]
    pub parent_name: String,
    /// Its namespace. Default: the meeting cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_namespace: Option<String>,
    /// Its listener. Default: any that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}
