//! A meeting cluster in a story: built word by word, applied as its owner would, asked from
//! outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Story;
use crate::bed::{forward, node_address};
use crate::cast::Credentials;
use crate::install;
use crate::process::run;

/// What cannot be fulfilled is told within this time of being visible.
const TOLD_SECONDS: u64 = 5;

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
    url: OnceLock<String>,
    /// The Kubernetes node whose port is tried before the others'.
    entrance: u8,
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
            "sovereignty": {"scopeRefs": [{"name": "demo"}], "minimumEvidence": "E0"},
            // Three media nodes share two cores with everything else.
            "gateway": {"service": {"type": "NodePort"}},
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
        let service = json!({"type": "NodePort"});
        self.set("gateway", json!({"replicas": count, "service": service}));
        self
    }

    fn set(&mut self, part: &str, value: Value) {
        if let Some(spec) = self.spec.as_object_mut() {
            spec.insert(part.to_owned(), value);
        }
    }

    /// With a part of the specification.
    #[must_use]
    pub fn with(mut self, part: &str, value: Value) -> Self {
        self.set(part, value);
        self
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
        Ok(Meetings { story, name, url: OnceLock::new(), entrance: 1, credentials })
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

    /// Condition `kind` in one line: status, reason, message.
    #[must_use]
    pub fn told(&self, kind: &str) -> String {
        let of = format!(".status.conditions[?(@.type==\"{kind}\")]");
        let path = format!("{{{of}.status}} {{{of}.reason}}: {{{of}.message}}");
        self.story.value(&self.object(), &path)
    }

    /// Waits until condition `kind` begins with `head` (status, reason) and names `cure`, at most
    /// as long as the design allows after a fact can be seen, and returns its line.
    ///
    /// # Errors
    /// If it is told late, or without the cure.
    pub fn told_in_time(&self, kind: &str, head: &str, cure: &str) -> Result<String> {
        let (what, mut line) = (format!("{kind} is {head}"), String::new());
        let told = self.story.until(&what, TOLD_SECONDS, || {
            line = self.told(kind);
            line.starts_with(head) && line.contains(cure)
        });
        told.with_context(|| format!("no word of the cure ({cure}): {line}"))?;
        self.story.say(&line);
        Ok(line)
    }

    /// Changes its specification as its owner would.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn wish(&self, part: &str, value: &Value) -> Result<()> {
        self.story.say(&format!("spec.{part} becomes {value}"));
        self.story.patch(&self.object(), &json!({"spec": {part: value}}))
    }

    /// Waits until one media node alone reports rooms, and returns its name.
    ///
    /// # Errors
    /// If it does not within the time of a few reports and one write of the numbers.
    pub fn home(&self) -> Result<String> {
        let one = || self.media_node_with_rooms().is_ok();
        self.story.until("one media node reports the room", 15, one)?;
        self.media_node_with_rooms()
    }

    /// Waits for condition Ready.
    ///
    /// # Errors
    /// If it is not met within `seconds`.
    pub fn ready(&self, seconds: u64) -> Result<()> {
        let what = format!("{} is Ready", self.name);
        self.story.until(&what, seconds, || self.condition("Ready") == "True").map(|_| ())
    }

    /// The messages of all its conditions.
    #[must_use]
    pub fn messages(&self) -> String {
        self.story.value(&self.object(), "{.status.conditions[*].message}")
    }

    /// Names of the pods of `component`, media-node or gateway.
    #[must_use]
    pub fn pods(&self, component: &str) -> Vec<String> {
        self.words(component, "{.items[*].metadata.name}")
    }

    /// Kubernetes nodes of its running pods of one component, once for each pod.
    #[must_use]
    pub fn kubernetes_nodes(&self, component: &str) -> Vec<String> {
        self.words(component, "{.items[*].spec.nodeName}")
    }

    /// The media node at the Kubernetes node that has `address`, where a room's media goes.
    ///
    /// # Errors
    /// If none is there, or several.
    pub fn media_node_at(&self, address: IpAddr) -> Result<String> {
        let path = format!("{{.items[?(@.status.hostIP==\"{address}\")].metadata.name}}");
        let mut found = self.words("media-node", &path);
        let one = found.pop().with_context(|| format!("no media node is at {address}"))?;
        ensure!(found.is_empty(), "{one} is not alone at {address}: {found:?}");
        Ok(one)
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

    /// The same, entered by Kubernetes node `n` for as long as its port answers.
    #[must_use]
    pub fn entered_by(&self, n: u8) -> Self {
        let (story, name, credentials) = (self.story, self.name.clone(), self.credentials.clone());
        Self { story, name, url: OnceLock::new(), entrance: n, credentials }
    }

    /// Where a client connects to: a port on localhost that leads to any Kubernetes node's port of
    /// the gateway, so that it outlives both gateways and nodes.
    ///
    /// # Errors
    /// If the Service has no such port.
    pub fn url(&self) -> Result<String> {
        if let Some(url) = self.url.get() {
            return Ok(url.clone());
        }
        let service = format!("service/{}-gateway", self.name);
        let port = self.story.value(&service, "{.spec.ports[0].nodePort}");
        let port: u16 = port.parse().with_context(|| format!("{service} has no node port"))?;
        let mut nodes = self.story.bed().layout().nodes();
        nodes.sort_by_key(|n| *n != self.entrance);
        let targets = nodes.iter().map(|n| Ok(SocketAddr::new(node_address(*n).parse()?, port)));
        let targets = targets.collect::<Result<Vec<_>>>()?;
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        forward(listen, targets.clone())?;
        self.reach(&format!("http://{listen}/"), &targets)?;
        Ok(self.url.get_or_init(|| format!("ws://{listen}")).clone())
    }

    /// Where each gateway itself is connected to, with nothing between.
    #[must_use]
    pub fn gateways(&self) -> Vec<String> {
        let port = "{.items[0].spec.containers[0].ports[?(@.name==\"http\")].containerPort}";
        let port = self.words("gateway", port).join("");
        let addresses = self.words("gateway", "{.items[*].status.podIP}").into_iter();
        addresses.map(|address| format!("ws://{address}:{port}")).collect()
    }

    /// Ready gateways are not yet reachable ones: kube-proxy learns of them a moment later.
    fn reach(&self, page: &str, targets: &[SocketAddr]) -> Result<()> {
        // Each target may take a second to be given up.
        let ask = |page: &str| run(Command::new("curl").args(["-sSfm5", "-o", "/dev/null", page]));
        let mut last = String::new();
        let reached = self.story.until("the gateway answers", 20, || match ask(page) {
            Ok(_) => true,
            Err(error) => {
                last = error.to_string();
                false
            }
        });
        reached.map(|_| ()).with_context(|| {
            let each = targets.iter().map(|target| match ask(&format!("http://{target}/")) {
                Ok(_) => format!("{target} answers now"),
                Err(error) => format!("{target}: {error}"),
            });
            format!("the last answer was {last}\n{}", each.collect::<Vec<_>>().join("\n"))
        })
    }

    /// The media node that has rooms, if it is one alone.
    ///
    /// # Errors
    /// If there are none or several.
    pub fn media_node_with_rooms(&self) -> Result<String> {
        let path = "{range .items[?(@.status.rooms>0)]}{.metadata.name} {end}";
        let said = self.story.value("medianodes", path);
        let mut names = said.split_whitespace();
        let first = names.next().context("no media node has a room")?;
        ensure!(names.next().is_none(), "several media nodes have rooms: {said}");
        Ok(first.to_owned())
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
