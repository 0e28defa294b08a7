//! That people meet through the gateway on media nodes of a real cluster.

use anyhow::ensure;
use e2e::story::{Gathering, MeetingClusterBuilder, tell};

#[test]
fn a_pair_meets_on_one_media_node() {
    tell("pair", |story| {
        let meetings = MeetingClusterBuilder::new("visio").media_nodes(2).apply(story)?;
        meetings.ready(30)?;
        let people = Gathering::begin(story, &meetings, "council", 2)?;
        story.until("one media node reports the room", 15, || {
            meetings.media_node_with_rooms().is_ok()
        })?;
        let pod = meetings.media_node_with_rooms()?;
        let node = meetings.kubernetes_node_of(&pod)?;
        story.say(&format!("{pod} on Kubernetes node n{node} carries it"));
        let path = "{.status.participants}";
        story.until("the meeting cluster counts two participants", 15, || {
            story.value(&meetings.object(), path) == "2"
        })?;
        people.end();
        story.until("the room ends after everyone left", 60, || {
            story.value(&meetings.object(), path) == "0"
        })?;
        Ok(())
    });
}

#[test]
fn a_drained_media_node_throws_nobody_out() {
    tell("drain", |story| {
        let meetings = MeetingClusterBuilder::new("visio").media_nodes(2).apply(story)?;
        meetings.ready(30)?;
        let mut people = Gathering::begin(story, &meetings, "council", 2)?;
        story.until("one media node reports the room", 15, || {
            meetings.media_node_with_rooms().is_ok()
        })?;
        let pod = meetings.media_node_with_rooms()?;
        let phase = "{.status.phase}";
        let noticed = people.through("its media node is drained", 30, || {
            story.kubectl(&format!("annotate medianode {pod} hemicycle.dev/drain=maintenance"))?;
            let object = format!("medianode/{pod}");
            story.until("it drains", 30, || story.value(&object, phase) == "Draining")?;
            Ok(())
        })?;
        ensure!(noticed.gone.is_empty(), "thrown out: {:?}", noticed.gone);

        let newcomers = Gathering::begin(story, &meetings, "another", 2)?;
        let rooms = format!("medianode/{pod}");
        story.until("the new room has another home", 20, || {
            let others = meetings.pods("media-node");
            others
                .iter()
                .filter(|other| **other != pod)
                .any(|other| story.value(&format!("medianode/{other}"), "{.status.rooms}") == "1")
        })?;
        let left = story.value(&rooms, "{.status.rooms}");
        ensure!(left == "1" || left == "0", "{pod} took the new room: it has {left}");
        newcomers.end();
        people.end();
        Ok(())
    });
}
