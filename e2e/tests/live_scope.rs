//! That media run only in a scope that holds: what runs goes on when it is lost, nothing is added.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::story::{Gathering, MeetingClusterBuilder, Meetings, Scene, Scope, Story, tell};
use serde_json::json;

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
