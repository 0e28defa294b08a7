//! That a media node is emptied without throwing anyone out: by hand, at its deadline, and by
//! `kubectl drain` of the Kubernetes node under it.

use anyhow::{Result, ensure};
use e2e::install;
use e2e::story::{Gathering, MeetingClusterBuilder, Noticed, Scene, Story, tell};
use serde_json::json;

/// Seconds that rooms may go on in the stories that wait for the deadline.
const DEADLINE_SECONDS: u64 = 5;

/// A meeting on one of two media nodes that are emptied within [`DEADLINE_SECONDS`].
fn soon_sent_home() -> MeetingClusterBuilder {
    let drain = json!({"deadlineSeconds": DEADLINE_SECONDS});
    MeetingClusterBuilder::new("visio").media_nodes(2).with("drain", drain)
}

/// Everyone was sent on with `Leave{RECONNECT}` and came back, on the media of another Kubernetes
/// node than before.
fn met_again(people: &Gathering<'_>, noticed: &Noticed, before: std::net::IpAddr) -> Result<()> {
    ensure!(noticed.gone.is_empty(), "thrown out: {:?}", noticed.gone);
    ensure!(noticed.rejoined == 2, "{} joined anew: {:?}", noticed.rejoined, noticed.reasons);
    let sent = |reason: &&String| reason.contains("leave") && reason.contains("Reconnect");
    let sent = noticed.reasons.iter().filter(sent).count();
    ensure!(sent >= 2, "they were not asked to reconnect: {:?}", noticed.reasons);
    people.flow(20)?;
    let after = people.media_address()?.ip();
    ensure!(after != before, "they are on {after} as before");
    Ok(())
}

fn is_gone(story: &Story, object: &str) -> bool {
    story.kubectl(&format!("get {object} --ignore-not-found -o name")).is_ok_and(|s| s.is_empty())
}

#[test]
fn a_drained_media_node_throws_nobody_out() {
    tell("drain", |story| {
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2);
        let Scene { meetings, mut people, media_node: pod, .. } = builder.meet(story)?;
        let noticed = people.through("its media node is drained", 30, || {
            story.kubectl(&format!("annotate medianode {pod} hemicycle.dev/drain=maintenance"))?;
            let object = format!("medianode/{pod}");
            let phase = || story.value(&object, "{.status.phase}");
            story.until("it drains", 30, || phase() == "Draining")?;
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

#[test]
fn people_left_at_the_deadline_meet_again_elsewhere() {
    tell("deadline", |story| {
        let Scene { mut people, media_node, .. } = soon_sent_home().meet(story)?;
        let before = people.media_address()?.ip();
        let object = format!("medianode/{media_node}");
        let noticed = people.through("its drain reached the deadline", 30, || {
            story.kubectl(&format!("annotate {object} hemicycle.dev/drain=maintenance"))?;
            story.until("the empty media node is removed", 60, || is_gone(story, &object))?;
            Ok(())
        })?;
        met_again(&people, &noticed, before)?;
        people.end();
        Ok(())
    });
}

#[test]
fn kubectl_drain_completes_under_a_meeting() {
    tell("kubectl-drain", |story| {
        let Scene { mut people, media_node, kubernetes_node, .. } = soon_sent_home().meet(story)?;
        let before = people.media_address()?.ip();
        let node = format!("n{kubernetes_node}");
        let told = people.through("kubectl drain of the Kubernetes node under it", 30, || {
            let options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"];
            install::kubectl(story.bed(), &[&["drain", &node][..], &options[..]].concat())?;
            story.say(&format!("kubectl drain {node} is done"));
            Ok(())
        });
        // The bed is whole again for the next story, whatever this one ends like.
        install::kubectl(story.bed(), &["uncordon", &node])?;
        let noticed = told?;
        ensure!(is_gone(story, &format!("pod/{media_node}")), "{media_node} is still there");
        met_again(&people, &noticed, before)?;
        people.end();
        Ok(())
    });
}
