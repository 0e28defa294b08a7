//! That the operator's objects are its own: what is edited by hand is put back, and one bad meeting
//! cluster costs no other anything.

use anyhow::{Context as _, Result, ensure};
use e2e::install;
use e2e::story::{MeetingClusterBuilder, Meetings, Story, tell};
use serde_json::{Value, json};

/// An object as it is.
fn object(story: &Story, name: &str) -> Result<Value> {
    let text = story.kubectl(&format!("get {name} -o json"))?;
    serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))
}

/// Edits an object by hand and waits until its `spec` is what it was.
fn edit(story: &Story, name: &str, change: &Value) -> Result<()> {
    let spec = |name: &str| object(story, name).map(|object| object["spec"].clone());
    let before = spec(name)?;
    story.patch(name, change)?;
    let what = format!("{name} is put back after {change}");
    let back = story.until(&what, 15, || spec(name).is_ok_and(|now| now == before));
    back.map(|_| ()).with_context(|| {
        let now = spec(name).unwrap_or_default();
        format!("it was {before} and is {now}")
    })
}

#[test]
fn what_is_edited_by_hand_is_put_back() {
    tell("edited", |story| {
        let meetings = MeetingClusterBuilder::new("visio").media_nodes(1).serve(story)?;
        let intruder = json!({"name": "intruder", "port": 81, "targetPort": 22});
        let ports = &object(story, "service/visio-gateway")?["spec"]["ports"];
        let both = [ports.as_array().cloned().unwrap_or_default(), vec![intruder]].concat();
        let somebody = json!({"spec": {"selector": {"app": "somebody-else"}}});
        let policy = "networkpolicy/visio-media-node";
        edit(story, "service/visio-gateway", &somebody)?;
        edit(story, "service/visio-gateway", &json!({"spec": {"ports": both}}))?;
        edit(story, "deployment/visio-gateway", &json!({"spec": {"replicas": 0}}))?;
        edit(story, policy, &json!({"spec": {"ingress": [{}]}}))?;
        edit(story, "poddisruptionbudget/visio-media-node", &json!({"spec": {"minAvailable": 0}}))?;

        story.kubectl(
            "label service visio-gateway app.kubernetes.io/managed-by=somebody-else \
                       --overwrite",
        )?;
        let label = "{.metadata.labels.app\\.kubernetes\\.io/managed-by}";
        story.until("the Service bears our label again", 15, || {
            story.value("service/visio-gateway", label) == "hemicycle"
        })?;
        media_node(story, &meetings)
    });
}

/// A media node belongs to its meeting cluster, and is drained by annotation only.
fn media_node(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    let pods = meetings.pods("media-node");
    let name = format!("medianode/{}", pods.first().context("no media node")?);
    let moved = story.patch(&name, &json!({"spec": {"meetingCluster": "another"}}));
    let refusal = format!("{:#}", moved.err().context("it may belong to another")?);
    ensure!(refusal.contains("cannot be changed"), "{refusal}");
    let drained = story.patch(&name, &json!({"spec": {"desiredState": "Draining"}}));
    let refusal = format!("{:#}", drained.err().context("it may be drained by hand")?);
    ensure!(refusal.contains("hemicycle.dev/drain"), "{refusal}");
    ensure!(meetings.pods("media-node") == pods, "its pod was replaced");
    meetings.ready(20)
}

/// Where the definition of meeting clusters says what `spec.drain` may be.
const DRAIN_SCHEMA: &str =
    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/drain";
const DEFINITION: &str = "crd/meetingclusters.hemicycle.dev";

fn redefine_drain(story: &Story, schema: &Value) -> Result<()> {
    let change = json!([{"op": "replace", "path": DRAIN_SCHEMA, "value": schema}]).to_string();
    let line = ["patch", DEFINITION, "--type=json", "-p", &change];
    install::kubectl(story.bed(), &line)?;
    Ok(())
}

/// Stores a meeting cluster that no schema rule of ours would let in, as an older definition might
/// have done.
fn store_unreadable(story: &Story) -> Result<()> {
    let definition = install::kubectl(story.bed(), &["get", DEFINITION, "-o", "json"])?;
    let definition: Value = serde_json::from_str(&definition)?;
    let schema = definition.pointer(DRAIN_SCHEMA).context("the definition has no spec.drain")?;
    redefine_drain(
        story,
        &json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    )?;
    let unreadable = || {
        let drain = json!({"deadlineSeconds": "soon"});
        MeetingClusterBuilder::new("unreadable").with("drain", drain).apply(story).is_ok()
    };
    // The API server takes a moment to go by a changed definition.
    let stored = story.until("a meeting cluster that cannot be read is stored", 20, unreadable);
    redefine_drain(story, schema)?;
    stored.map(|_| ())
}

#[test]
fn a_bad_meeting_cluster_costs_a_good_one_nothing() {
    tell("bad-neighbour", |story| {
        store_unreadable(story)?;
        let nowhere = json!({"scopeRefs": [{"name": "nowhere"}], "minimumEvidence": "E0"});
        let homeless = MeetingClusterBuilder::new("homeless").with("sovereignty", nowhere);
        let homeless = homeless.apply(story)?;
        let good = MeetingClusterBuilder::new("visio").media_nodes(1).serve(story)?;
        homeless.told_in_time("Ready", "False ScopeNotValid", "create it")?;
        let unreadable = "meetingcluster/unreadable";
        let path = "{.status.conditions[?(@.type==\"Ready\")].message}";
        story.until("the unreadable one is told what is wrong with it", 10, || {
            story.value(unreadable, path).contains("soon")
        })?;
        good.wish("capacity", &json!({"minNodes": 2, "maxNodes": 2}))?;
        story.until("the good one grows as it is told", 30, || {
            good.pods("media-node").len() == 2 && good.condition("Ready") == "True"
        })?;
        Ok(())
    });
}
