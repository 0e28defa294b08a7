//! That people meet through the gateway on media nodes of a real cluster.

use anyhow::{Context as _, ensure};
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
        let noticed = people.through("its media node is drained", 60, || {
            story.kubectl(&format!("annotate medianode {pod} hemicycle.dev/drain=maintenance"))?;
            story.until("it is not the room's home any more", 60, || {
                let now = meetings.media_node_with_rooms();
                now.is_ok_and(|now| now != pod)
            })?;
            Ok(())
        })?;
        ensure!(noticed.gone.is_empty(), "thrown out: {:?}", noticed.gone);
        let now = meetings.media_node_with_rooms().context("the room is nowhere")?;
        ensure!(now != pod, "the room is still on {pod}");
        people.end();
        Ok(())
    });
}
