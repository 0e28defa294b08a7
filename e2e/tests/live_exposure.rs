//! That media reach media nodes in each of the ways that a meeting cluster may ask for.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::bed::node_address;
use e2e::install;
use e2e::story::{Gathering, MeetingClusterBuilder, Meetings, Scene, Story, tell};
use serde_json::{Value, json};

/// Addresses that the stories give to Kubernetes nodes and load balancers: of the block for test
/// networks, and nobody else's in the bed.
const OUTSIDE: &str = "198.18.9";

/// On one machine a port that leads somewhere answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(2);

fn exposed(media: Value) -> MeetingClusterBuilder {
    MeetingClusterBuilder::new("visio").media_nodes(1).with("media", media)
}

/// People's media goes to the Kubernetes node under their media node, at `port`.
fn goes_to_the_node(scene: &Scene<'_>, port: u16) -> Result<()> {
    let node: IpAddr = node_address(scene.kubernetes_node).parse()?;
    let address = scene.people.media_address()?;
    ensure!(address.ip() == node && address.port() == port, "their media goes to {address}");
    Ok(())
}

/// A line of `ip` where tests run, which is where people are.
fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip").args(line.split(' ')).output()?;
    ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Gives every Kubernetes node one more address, as a provider's router would lead to it.
fn outside_addresses(story: &Story) -> Result<()> {
    for n in story.bed().layout().nodes() {
        let mut command = story.bed().on_node(n);
        command.args(["ip", "address", "replace", &format!("{OUTSIDE}.{n}/32"), "dev", "lo"]);
        ensure!(command.status()?.success(), "n{n} does not take another address");
        ip(&format!("route replace {OUTSIDE}.{n}/32 via {}", node_address(n)))?;
    }
    Ok(())
}

#[test]
fn media_come_through_a_node_port_of_each_media_node() {
    tell("node-port", |story| {
        let media = json!({"exposure": "NodePort", "udpPortFirst": 31_000});
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2).with("media", media);
        let scene = builder.meet(story)?;
        let service = format!("service/{}-media", scene.media_node);
        let port: u16 = story.value(&service, "{.spec.ports[0].nodePort}").parse()?;
        goes_to_the_node(&scene, port)?;
        let node: IpAddr = node_address(scene.kubernetes_node).parse()?;
        // Whom no UDP reaches has the same number for TCP.
        let stream = TcpStream::connect_timeout(&SocketAddr::new(node, port), ANSWER_MAX);
        stream.with_context(|| format!("no media over TCP at {node}:{port}"))?;
        story.say(&format!("their media goes through NodePort {port}, UDP and TCP"));
        scene.people.end();
        Ok(())
    });
}

#[test]
fn media_come_straight_to_the_hosts_network_where_that_is_asked_for() {
    tell("host-network", |story| {
        let scene =
            exposed(json!({"exposure": "HostNetwork", "udpPortFirst": 52_000})).meet(story)?;
        let pod = format!("pod/{}", scene.media_node);
        ensure!(story.value(&pod, "{.spec.hostNetwork}") == "true", "the pod has its own network");
        goes_to_the_node(&scene, 52_000)?;
        scene.people.end();
        Ok(())
    });
}

#[test]
fn the_address_may_come_from_an_annotation_of_the_kubernetes_node() {
    tell("annotated", |story| {
        outside_addresses(story)?;
        let meetings = exposed(json!({"addressSource": "Annotation"})).apply(story)?;
        story.until("its pod waits for an address", 30, || {
            meetings.told("Degraded").contains("no annotation hemicycle.dev/media-addresses")
        })?;
        meetings.told_in_time("Ready", "False MediaNodesFailing", "addressSource")?;
        for n in story.bed().layout().nodes() {
            let pair = format!("hemicycle.dev/media-addresses={OUTSIDE}.{n}");
            let line = ["annotate", "--overwrite", "node", &format!("n{n}"), &pair];
            install::kubectl(story.bed(), &line)?;
        }
        let met = meet_outside(story, &meetings);
        let line = ["annotate", "nodes", "--all", "hemicycle.dev/media-addresses-"];
        install::kubectl(story.bed(), &line)?;
        met
    });
}

/// Two people meet, and their media goes to an outside address of the media node's Kubernetes node.
fn meet_outside(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    meetings.ready(60)?;
    let people = Gathering::begin(story, meetings, "council", 2)?;
    let media_nodes = meetings.pods("media-node");
    ensure!(media_nodes.len() == 1, "not one media node: {media_nodes:?}");
    let n = meetings.kubernetes_node_of(media_nodes.first().context("no media node")?)?;
    let address = people.media_address()?;
    ensure!(address.ip() == format!("{OUTSIDE}.{n}").parse::<IpAddr>()?, "it goes to {address}");
    story.say(&format!("their media goes to {address}"));
    people.end();
    Ok(())
}

#[test]
fn the_address_may_be_the_kubernetes_nodes_external_one() {
    tell("external-ip", |story| {
        outside_addresses(story)?;
        let meetings = exposed(json!({"addressSource": "NodeExternalIP"})).apply(story)?;
        // The cloud's part. Each kubelet takes it for a mistake and writes its own addresses again,
        // for it was told of no cloud; so it is said until the pod has heard it.
        story.until("the pod knows its Kubernetes node's external address", 30, || {
            external_addresses(story).is_ok() && knows_an_address(story)
        })?;
        meet_outside(story, &meetings)
    });
}

/// Whether the operator has written an address onto the media pod.
fn knows_an_address(story: &Story) -> bool {
    let path = "{.items[*].metadata.annotations.hemicycle\\.dev/media-addresses}";
    !story.value("pods", path).is_empty()
}

/// Writes an ExternalIP into the status of every Kubernetes node.
fn external_addresses(story: &Story) -> Result<()> {
    for n in story.bed().layout().nodes() {
        let addresses = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": node_address(n)},
            {"type": "ExternalIP", "address": format!("{OUTSIDE}.{n}")},
        ]}});
        let (node, text) = (format!("n{n}"), addresses.to_string());
        let line = ["patch", "node", &node, "--subresource=status", "--type=merge", "-p", &text];
        install::kubectl(story.bed(), &line)?;
    }
    Ok(())
}

#[test]
fn media_come_through_a_load_balancer_of_each_media_node() {
    tell("load-balancer", |story| {
        let meetings = exposed(json!({"exposure": "LoadBalancer"})).apply(story)?;
        story.until("its pod waits for the load balancer", 30, || {
            meetings.told("Degraded").contains("has no IP in status.loadBalancer")
        })?;
        let pods = meetings.pods("media-node");
        let media_node = pods.first().context("no media pod runs")?;
        let n = meetings.kubernetes_node_of(media_node)?;
        // The cloud's part: an address that its balancer leads to the Kubernetes node with the pod.
        let address = format!("{OUTSIDE}.100");
        ip(&format!("route replace {address}/32 via {}", node_address(n)))?;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        let (service, status) = (format!("{media_node}-media"), status.to_string());
        let patch = ["patch", "service", &service, "--subresource=status", "--type=merge", "-p"];
        let own = ["-n", story.namespace()];
        install::kubectl(story.bed(), &[&own[..], &patch[..], &[&status]].concat())?;

        meetings.ready(60)?;
        let people = Gathering::begin(story, &meetings, "council", 2)?;
        let found = people.media_address()?;
        ensure!(found.ip() == address.parse::<IpAddr>()?, "their media goes to {found}");
        story.say(&format!("their media goes to {found}"));
        people.end();
        Ok(())
    });
}
