//! That wishes which cannot be fulfilled are told in a condition with their cure, that what ran
//! goes on meanwhile, and that everything heals when the cause is gone.

use anyhow::{Context as _, Result, ensure};
use e2e::install;
use e2e::story::{Gathering, MeetingClusterBuilder, Meetings, Noticed, Scene, Story, tell};
use serde_json::{Value, json};

/// Nobody was sent away while something could not be fulfilled.
fn goes_on(noticed: &Noticed) -> Result<()> {
    ensure!(noticed.gone.is_empty(), "thrown out: {:?}", noticed.gone);
    ensure!(noticed.rejoined == 0, "they had to join anew: {:?}", noticed.reasons);
    Ok(())
}

/// What keeps the containers of `component` waiting, in the kubelet's words.
fn waiting(story: &Story, component: &str) -> String {
    let path = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
    let label = format!("get pods -l hemicycle.dev/component={component} -o {path}");
    story.kubectl(&label).unwrap_or_default()
}

/// Whether the scheduler has said that a pod has no place.
fn unplaced(story: &Story) -> bool {
    let path = "jsonpath={.items[*].status.conditions[?(@.type==\"PodScheduled\")].reason}";
    story.kubectl(&format!("get pods -o {path}")).is_ok_and(|said| said.contains("Unschedulable"))
}

/// All is well again, with as many media nodes as before.
fn healed(story: &Story, meetings: &Meetings<'_>, media_nodes: usize) -> Result<()> {
    story.until("it is as it should be again", 45, || {
        ["Degraded", "Progressing"].iter().all(|kind| meetings.condition(kind) == "False")
            && ["Ready", "CapacityOK"].iter().all(|kind| meetings.condition(kind) == "True")
            && meetings.pods("media-node").len() == media_nodes
    })?;
    Ok(())
}

/// An image by a tag, which the installation does not allow for media nodes.
fn an_image_that_is_not_allowed(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    meetings.wish("image", &json!({"mediaNode": "localhost/hemicycle/media-node:latest"}))?;
    story.until("the API server's refusal is told", 60, || {
        meetings.condition("Degraded") == "True" && meetings.told("Degraded").contains("ApiRefused")
    })?;
    meetings.told_in_time("Degraded", "True ApiRefused", "digest")?;
    ensure!(meetings.condition("Available") == "True", "what ran before is called unavailable");
    meetings.wish("image", &Value::Null)?;
    healed(story, meetings, 2)
}

/// An image that nobody has, for gateway and media nodes.
fn an_image_that_nobody_has(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    let image = format!("localhost/hemicycle/nobody-has-it@sha256:{}", "0".repeat(64));
    meetings
        .wish("image", &json!({"mediaNode": image, "gateway": image, "pullPolicy": "Always"}))?;
    story.until("a media pod cannot have its image", 60, || {
        waiting(story, "media-node").contains("ImagePull")
    })?;
    meetings.told_in_time("Degraded", "True MediaNodesFailing", "correct spec.image.mediaNode")?;
    ensure!(meetings.condition("Available") == "True", "what ran before is called unavailable");
    Gathering::begin(story, meetings, "begun-meanwhile", 2)?.end();
    // Pulling cannot help the images that were loaded, so only the media node's is put right.
    meetings.wish("image", &json!({"mediaNode": null, "pullPolicy": null}))?;
    story.until("a gateway pod cannot have its image", 60, || {
        waiting(story, "gateway").contains("Image")
    })?;
    meetings.told_in_time("Degraded", "True GatewayFailing", "correct spec.image.gateway")?;
    meetings.wish("image", &Value::Null)?;
    healed(story, meetings, 2)
}

/// More than any Kubernetes node has.
fn a_pod_larger_than_any_node(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    let before = story.value(&meetings.object(), "{.spec.podTemplate}");
    meetings.wish("podTemplate", &json!({"resources": {"cpuMillicores": 64_000}}))?;
    story.until("the scheduler finds no place", 30, || unplaced(story))?;
    let told = meetings.told_in_time(
        "CapacityOK",
        "False PodUnschedulable",
        "lower spec.podTemplate.resources",
    )?;
    ensure!(told.contains("Insufficient cpu"), "it does not say what is short: {told}");
    meetings.wish("podTemplate", &serde_json::from_str(&before)?)?;
    healed(story, meetings, 2)
}

/// The only Kubernetes node without a media node is cordoned, and the others' ports are taken.
fn no_kubernetes_node_left(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    let taken = meetings.pods("media-node");
    let taken: Vec<_> =
        taken.iter().map(|pod| meetings.kubernetes_node_of(pod)).collect::<Result<_>>()?;
    let free = story.bed().layout().nodes().into_iter().find(|n| !taken.contains(n));
    let free = format!("n{}", free.context("no Kubernetes node is free")?);
    install::kubectl(story.bed(), &["cordon", &free])?;
    meetings.wish("capacity", &json!({"minNodes": 3, "maxNodes": 3}))?;
    story.until("the scheduler finds no place", 30, || unplaced(story))?;
    meetings.told_in_time("CapacityOK", "False PodUnschedulable", "uncordon one")?;
    install::kubectl(story.bed(), &["uncordon", &free])?;
    healed(story, meetings, 3)
}

/// The namespace may not have another pod when one must be replaced.
fn a_quota_that_is_used_up(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    story.kubectl("create quota tight --hard=pods=1")?;
    story.until("the quota counts", 20, || {
        !story.value("resourcequota/tight", "{.status.used.pods}").is_empty()
    })?;
    let home = meetings.media_node_with_rooms()?;
    let empty = meetings.pods("media-node").into_iter().find(|name| *name != home);
    let empty = empty.context("every media node has people")?;
    story.kubectl(&format!("delete pod {empty} --grace-period=0 --force"))?;
    story.until("a media node stays without a pod", 30, || podless(story))?;
    meetings.told_in_time("Degraded", "True ApiRefused", "raise that ResourceQuota")?;
    story.kubectl("delete resourcequota tight")?;
    healed(story, meetings, 3)
}

/// Whether a media node is there that has had no pod.
fn podless(story: &Story) -> bool {
    let names = |kind: &str| story.value(kind, "{.items[*].metadata.name}");
    let (media_nodes, pods) = (names("medianodes"), names("pods"));
    media_nodes.split_whitespace().any(|name| !pods.split_whitespace().any(|pod| pod == name))
}

#[test]
fn what_cannot_be_fulfilled_is_told_and_heals() {
    tell("trouble", |story| {
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2);
        let Scene { meetings, mut people, .. } = builder.meet(story)?;
        type Trouble = fn(&Story, &Meetings<'_>) -> Result<()>;
        let troubles: [(&str, Trouble); 5] = [
            ("an image that nobody has", an_image_that_nobody_has),
            ("an image that is not allowed", an_image_that_is_not_allowed),
            ("a pod larger than any Kubernetes node", a_pod_larger_than_any_node),
            ("no Kubernetes node left", no_kubernetes_node_left),
            ("a quota that is used up", a_quota_that_is_used_up),
        ];
        for (what, trouble) in troubles {
            goes_on(&people.through(what, 20, || trouble(story, &meetings))?)?;
        }
        people.end();
        Ok(())
    });
}
