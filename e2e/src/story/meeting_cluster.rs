//! A meeting cluster in a story: built word by word, applied as its owner would, asked from
//! outside.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Story;
use crate::cast::Credentials;
use crate::install;

/// Port of a gateway without TLS.
const GATEWAY_PORT: u16 = 8080;

/// The sample's specification with changes.
#[derive(Debug, Clone)]
pub struct MeetingClusterBuilder {
    name: String,
    spec: Value,
}

/// A meeting cluster that was applied.
#[derive(Debug)]
pub struct Meetings<'a> {
    story: &'a Story,
    name: String,
    /// Its API key.
    pub credentials: Credentials,
}

impl MeetingClusterBuilder {
    /// The least that a meeting cluster says, in the sample scope.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let spec = json!({
            "domain": "meet.example.org",
            "credentials": {"secretRef": {"name": format!("{name}-keys")}},
            "sovereignty": {"scopeRef": {"name": "demo"}},
            // Three media nodes share two cores with everything else.
            "podTemplate": {"resources": {"cpuMillicores": 200, "memoryMebibytes": 256}},
        });
        Self { name: name.to_owned(), spec }
    }

    /// Keeps exactly `count` media nodes.
    #[must_use]
    pub fn media_nodes(mut self, count: u32) -> Self {
        self.set("capacity", json!({"minNodes": count, "maxNodes": count}));
        self
    }

    /// Runs `count` gateways.
    #[must_use]
    pub fn gateways(mut self, count: u32) -> Self {
        self.set("gateway", json!({"replicas": count}));
        self
    }

    /// Sets a part of the specification.
    pub fn set(&mut self, part: &str, value: Value) {
        if let Some(spec) = self.spec.as_object_mut() {
            spec.insert(part.to_owned(), value);
        }
    }

    /// Makes the credentials and applies it.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn apply(self, story: &Story) -> Result<Meetings<'_>> {
        let Self { name, spec } = self;
        let secret = format!("{name}-keys");
        let credentials = install::credentials(story.bed(), story.namespace(), &secret)?;
        let object = json!({
            "apiVersion": "hemicycle.dev/v1alpha1",
            "kind": "MeetingCluster",
            "metadata": {"name": name, "namespace": story.namespace()},
            "spec": spec,
        });
        install::apply_text(story.bed(), "meetingcluster", &object.to_string())?;
        story.say(&format!("meeting cluster {name} is applied"));
        Ok(Meetings { story, name, credentials })
    }
}

impl Meetings<'_> {
    /// Kind and name, as kubectl takes them.
    #[must_use]
    pub fn object(&self) -> String {
        format!("meetingcluster/{}", self.name)
    }

    /// Status of condition `kind`, empty while there is none.
    #[must_use]
    pub fn condition(&self, kind: &str) -> String {
        let path = format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}");
        self.story.value(&self.object(), &path)
    }

    /// Waits for condition Ready.
    ///
    /// # Errors
    /// If it is not met within `seconds`.
    pub fn ready(&self, seconds: u64) -> Result<()> {
        let what = format!("{} is Ready", self.name);
        self.story.until(&what, seconds, || self.condition("Ready") == "True").map(|_| ())
    }

    /// Names of the pods of `component`, media-node or gateway.
    #[must_use]
    pub fn pods(&self, component: &str) -> Vec<String> {
        self.words(component, "{.items[*].metadata.name}")
    }

    /// Where a pod runs, as a Kubernetes node's number.
    ///
    /// # Errors
    /// If the pod is on no node of the bed.
    pub fn kubernetes_node_of(&self, pod: &str) -> Result<u8> {
        let node = self.story.value(&format!("pod/{pod}"), "{.spec.nodeName}");
        let number = node.trim_start_matches('n').parse();
        number.with_context(|| format!("pod {pod} is on node {node:?}"))
    }

    /// Addresses of the gateways that run.
    ///
    /// # Errors
    /// If there is none.
    pub fn gateways(&self) -> Result<Vec<SocketAddr>> {
        let words = self.words("gateway", "{.items[*].status.podIP}");
        let addresses = words.iter().map(|word| Ok(SocketAddr::new(word.parse()?, GATEWAY_PORT)));
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        ensure!(!addresses.is_empty(), "no gateway runs");
        Ok(addresses)
    }

    /// Where a client connects to: the first gateway.
    ///
    /// # Errors
    /// If there is none.
    pub fn url(&self) -> Result<String> {
        let gateways = self.gateways()?;
        let first = gateways.first().context("no gateway runs")?;
        Ok(format!("ws://{first}"))
    }

    fn words(&self, component: &str, path: &str) -> Vec<String> {
        let label = format!(
            "get pods -l hemicycle.dev/meeting-cluster={},hemicycle.dev/component={component} \
             --field-selector=status.phase=Running -o jsonpath={path}",
            self.name
        );
        let said = self.story.kubectl(&label).unwrap_or_default();
        said.split_whitespace().map(str::to_owned).collect()
    }
}
