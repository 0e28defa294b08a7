//! That media run only in a scope that holds: what runs goes on when it is lost, nothing is added.
//! And that the tools of a cluster are told, in the kinds that they read.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::install;
use e2e::story::{Gathering, MeetingClusterBuilder, Meetings, Scene, Scope, Story, tell};
use serde_json::{Value, json};

/// How soon the story's attestation ends: long enough for its owner to look up.
const ENDS_IN_SECONDS: u64 = 8;

/// The scope does not hold: it is told in time, the meeting goes on, nothing new begins.
fn closed(scene: &Scene<'_>, story: &Story, cure: &str) -> Result<()> {
    let Scene { meetings, people, .. } = scene;
    meetings.told_in_time("Degraded", "True ScopeNotValid", cure)?;
    meetings.told_in_time("Ready", "False ScopeNotValid", cure)?;
    let before = media_nodes(meetings);
    meetings.wish("capacity", &json!({"minNodes": 3, "maxNodes": 3}))?;
    seen(story, meetings)?;
    let refused = Gathering::begin(story, meetings, "too-late", 2).map(Gathering::end);
    ensure!(refused.is_err(), "a new room began outside the scope");
    let after = media_nodes(meetings);
    let more: Vec<_> = after.difference(&before).collect();
    ensure!(more.is_empty(), "these were made outside the scope: {more:?}");
    people.flow(20)?;
    story.say("the meeting goes on; nothing was added");
    Ok(())
}

fn media_nodes(meetings: &Meetings<'_>) -> BTreeSet<String> {
    meetings.pods("media-node").into_iter().collect()
}

/// Waits until the operator has looked at the present wishes.
fn seen(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    let object = meetings.object();
    story.until("the operator has seen the wish", 10, || {
        let wished = story.value(&object, "{.metadata.generation}");
        story.value(&object, "{.status.observedGeneration}") == wished
    })?;
    Ok(())
}

#[test]
fn a_scope_that_is_lost_admits_nothing_and_ends_no_meeting() {
    tell("scope-lost", |story| {
        let scope = Scope::declare(story, &[1, 2, 3])?;
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2);
        let scene = builder.with("sovereignty", scope.chosen()).meet(story)?;

        scope.withdraw(true)?;
        closed(&scene, story, "spec.sovereignty.scopeRefs")?;
        scope.withdraw(false)?;
        scene.meetings.ready(30)?;
        Gathering::begin(story, &scene.meetings, "welcome-back", 2)?.end();

        scope.expire_in(ENDS_IN_SECONDS)?;
        story.until("the attestation ends, and is told to have", ENDS_IN_SECONDS + 5, || {
            scene.meetings.told("Degraded").contains("has expired")
        })?;
        closed(&scene, story, "renew")?;
        scope.renew()?;
        scene.meetings.ready(30)?;
        scene.people.end();
        Ok(())
    });
}

/// A kind in which cluster tools read findings, as far as ours need it: whatever else is written
/// is pruned, and what does not fit is refused. Gone with the value.
struct Tool<'a> {
    story: &'a Story,
    definition: String,
}

impl<'a> Tool<'a> {
    fn install(story: &'a Story, group: &str, version: &str, kind: &str) -> Result<Self> {
        let singular = kind.to_lowercase();
        let tool = Self { story, definition: format!("{singular}s.{group}") };
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": tool.definition, "annotations": {
                // Groups that end in k8s.io ask for it.
                "api-approved.kubernetes.io": "unapproved, for a test",
            }},
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": {"kind": kind, "singular": singular, "plural": format!("{singular}s")},
                "versions": [{"name": version, "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": report_schema()}}],
            },
        });
        install::apply_text(story.bed(), "tool", &definition.to_string())?;
        let wait =
            format!("wait --for=condition=Established crd/{} --timeout=30s", tool.definition);
        story.kubectl(&wait)?;
        Ok(tool)
    }

    /// What is written there of meeting cluster visio.
    fn report(&self) -> Value {
        let line = format!("get {}/visio-sovereignty -o json", self.definition);
        let said = self.story.kubectl(&line).unwrap_or_default();
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// The first finding with this result.
    fn finding(&self, result: &str) -> Option<Value> {
        let report = self.report();
        let all = report["results"].as_array()?;
        all.iter().find(|it| it["result"] == result).cloned()
    }
}

impl Drop for Tool<'_> {
    fn drop(&mut self) {
        let _ = install::kubectl(self.story.bed(), &["delete", "crd", &self.definition]);
    }
}

/// OpenReports v1alpha1 and wgpolicyk8s.io v1alpha2 agree in this much.
fn report_schema() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let reference = json!({"type": "object", "properties": {
        "apiVersion": text, "kind": text, "namespace": text, "name": text, "uid": text}});
    let result = json!({"type": "object", "required": ["policy"], "properties": {
        "source": text, "policy": text, "rule": text, "category": text, "message": text,
        "scored": {"type": "boolean"},
        "result": {"type": "string", "enum": ["pass", "fail", "warn", "error", "skip"]},
        "severity": {"type": "string", "enum": ["critical", "high", "medium", "low", "info"]},
        "resources": {"type": "array", "items": reference},
        "properties": {"type": "object", "additionalProperties": text},
    }});
    json!({"type": "object", "properties": {
        "source": text, "scope": reference,
        "summary": {"type": "object", "properties": {
            "pass": number, "fail": number, "warn": number, "error": number, "skip": number}},
        "results": {"type": "array", "items": result},
    }})
}

#[test]
fn tools_of_the_cluster_are_told_in_the_kind_that_is_there() {
    tell("reports", |story| {
        let older = Tool::install(story, "wgpolicyk8s.io", "v1alpha2", "PolicyReport")?;
        let scope = Scope::declare(story, &[1, 2])?;
        let builder = MeetingClusterBuilder::new("visio").media_nodes(1);
        let meetings = builder.with("sovereignty", scope.chosen()).serve(story)?;
        story.until("what is well is told", 20, || older.finding("pass").is_some())?;
        // A media node that nobody is on leaves within a third of a second, and with it what was
        // wrong.
        let council = Gathering::begin(story, &meetings, "council", 2)?;
        let newer = Tool::install(story, "openreports.io", "v1alpha1", "Report")?;
        let media_nodes = meetings.pods("media-node");
        let n = meetings.kubernetes_node_of(media_nodes.first().context("no media pod")?)?;
        scope.label_node(n, false)?;
        let mut told = Value::Null;
        story.until("what is wrong is told in the newer kind", 20, || {
            told = newer.finding("fail").unwrap_or_default();
            told.is_object()
        })?;
        story.say(&format!("{told}"));
        let node = format!("n{n}");
        ensure!(told["properties"]["kubernetesNode"] == node.as_str(), "where? {told}");
        ensure!(told["severity"] == "critical" && told["rule"] == "OutOfScope", "what? {told}");
        ensure!(told["resources"][0]["kind"] == "Pod", "of what? {told}");
        let remedy = told["properties"]["remedy"].as_str().unwrap_or_default();
        ensure!(!remedy.is_empty(), "and what to do? {told}");
        council.end();
        Ok(())
    });
}
