//! That meetings go on while the cluster around them breaks: on real processes, really killed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::bed::node_address;
use e2e::install;
use e2e::story::{Gathering, MeetingClusterBuilder, Meetings, Noticed, Scene, Story, tell};

/// A pause that nobody would call one on a machine that runs a whole cluster on two cores.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What happens without the people noticing: no pause, nobody moved, nobody gone.
fn unnoticed(what: &str, noticed: &Noticed) -> Result<()> {
    ensure!(noticed.gone.is_empty(), "{what}: gone {:?}", noticed.gone);
    ensure!(noticed.rejoined == 0, "{what}: {} had to join anew", noticed.rejoined);
    ensure!(noticed.pause_max <= PAUSE_MAX, "{what}: paused for {:?}", noticed.pause_max);
    Ok(())
}

/// A verb of the test bed.
fn testbed(story: &Story, line: &str) -> Result<()> {
    let mut command = Command::new(story.bed().layout().program());
    let output = command.args(line.split(' ')).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "testbed {line}: {said}");
    story.say(&format!("testbed {line}"));
    Ok(())
}

/// How long the API server is away, in seconds, where the default is too short. The measured form
/// is `HEMICYCLE_API_OUTAGE_SECONDS=300 ./verify live`.
const OUTAGE_VARIABLE: &str = "HEMICYCLE_API_OUTAGE_SECONDS";

/// By default it outlasts everything that could run out: grants to media nodes and the operator's
/// Lease (seconds each), whatever gateways wait for (30 s at most).
const OUTAGE_SECONDS: u64 = 60;

/// Rooms begun while the API server is away, spread over that time.
const ROOMS_BEGUN: u32 = 3;

fn outage() -> Result<Duration> {
    let Ok(text) = std::env::var(OUTAGE_VARIABLE) else {
        return Ok(Duration::from_secs(OUTAGE_SECONDS));
    };
    let seconds = text.parse();
    Ok(Duration::from_secs(seconds.with_context(|| format!("{OUTAGE_VARIABLE} is {text:?}"))?))
}

/// Lets the outage pass, and a room begin at the end of each part of it.
fn begun_while_away<'a>(
    story: &'a Story,
    meetings: &Meetings<'_>,
    outage: Duration,
) -> Result<Vec<Gathering<'a>>> {
    let begin = Instant::now();
    let mut begun = Vec::new();
    for part in 1..=ROOMS_BEGUN {
        std::thread::sleep((outage * part / ROOMS_BEGUN).saturating_sub(begin.elapsed()));
        begun.push(Gathering::begin(story, meetings, &format!("begun-without-api-{part}"), 2)?);
    }
    Ok(begun)
}

/// Waits until the API server is back.
fn api_is_back(story: &Story) -> Result<()> {
    story.until("the API server answers", 60, || api_answers(story)).map(|_| ())
}

fn api_answers(story: &Story) -> bool {
    install::kubectl(story.bed(), &["get", "--raw", "/readyz"]).is_ok()
}

#[test]
fn the_control_plane_may_fail() {
    tell("control-plane", |story| {
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2);
        let Scene { meetings, mut people, .. } = builder.meet(story)?;

        let outage = outage()?;
        let mut begun = Vec::new();
        let what = format!("API server away for {} s", outage.as_secs());
        let noticed = people.through(&what, 30, || {
            testbed(story, "stop kube-apiserver")?;
            begun = begun_while_away(story, &meetings, outage)?;
            testbed(story, "start kube-apiserver")?;
            api_is_back(story)
        })?;
        unnoticed("API server", &noticed)?;
        for other in begun {
            other.flow(20).context("a room begun without the API server")?;
            other.end();
        }

        let noticed = people.through("etcd stopped and started", 30, || {
            testbed(story, "stop etcd")?;
            std::thread::sleep(Duration::from_secs(5));
            testbed(story, "start etcd")?;
            api_is_back(story)
        })?;
        unnoticed("etcd", &noticed)?;
        story.until("it is Ready again", 60, || meetings.condition("Ready") == "True")?;
        people.end();
        Ok(())
    });
}

#[test]
fn the_leader_may_be_killed() {
    tell("leader", |story| {
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2);
        let Scene { meetings, mut people, .. } = builder.meet(story)?;
        let operator = ["-n", install::OPERATOR_NAMESPACE];
        let path = "jsonpath={.items[0].spec.holderIdentity}";
        let leader = || {
            install::kubectl(story.bed(), &[&operator[..], &["get", "lease", "-o", path]].concat())
        };
        let old = leader()?;
        let pods = install::kubectl(
            story.bed(),
            &[&operator[..], &["get", "pods", "-o", "name"]].concat(),
        )?;
        let pod = pods.lines().find(|pod| old.contains(pod.trim_start_matches("pod/")));
        let pod = pod.with_context(|| format!("no operator pod is {old}"))?.to_owned();
        let noticed = people.through("the leader is killed", 30, || {
            let delete = ["delete", &pod, "--grace-period=0", "--force"];
            install::kubectl(story.bed(), &[&operator[..], &delete].concat())?;
            let begin = Instant::now();
            story.until("a new room starts", 30, || {
                Gathering::begin(story, &meetings, "begun-after-leader", 2)
                    .map(Gathering::end)
                    .is_ok()
            })?;
            story.say(&format!("new rooms after {:.1} s", begin.elapsed().as_secs_f64()));
            Ok(())
        })?;
        unnoticed("leader", &noticed)?;
        story.until("someone else leads", 30, || leader().is_ok_and(|now| now != old))?;

        let noticed = people.through("all operators restarted", 60, || {
            let restart = ["rollout", "restart", "deployment/hemicycle-operator"];
            install::kubectl(story.bed(), &[&operator[..], &restart].concat())?;
            let status = ["rollout", "status", "deployment/hemicycle-operator", "--timeout=120s"];
            install::kubectl(story.bed(), &[&operator[..], &status].concat())?;
            Ok(())
        })?;
        unnoticed("operators", &noticed)?;
        people.end();
        Ok(())
    });
}

#[test]
fn gateways_restart_and_media_goes_on() {
    tell("gateways", |story| {
        let Scene { mut people, .. } =
            MeetingClusterBuilder::new("visio").media_nodes(1).meet(story)?;
        let noticed = people.through("gateways restarted", 60, || {
            story.kubectl("rollout restart deployment/visio-gateway")?;
            story.kubectl("rollout status deployment/visio-gateway --timeout=120s")?;
            Ok(())
        })?;
        unnoticed("gateways", &noticed)?;
        people.end();
        Ok(())
    });
}

#[test]
fn a_kubelet_may_crash_under_a_meeting() {
    tell("kubelet", |story| {
        let Scene { meetings, mut people, media_node: pod, kubernetes_node: n } =
            MeetingClusterBuilder::new("visio").media_nodes(2).meet(story)?;
        let noticed = people.through("kubelet crashed and came back", 60, || {
            testbed(story, &format!("node-crash {n}"))?;
            let path = "{.status.conditions[?(@.type==\"Ready\")].status}";
            let ready = |wanted: &str| story.value(&format!("node/n{n}"), path) == wanted;
            story.until("Kubernetes calls the node not ready", 60, || ready("Unknown"))?;
            testbed(story, &format!("node-start {n}"))?;
            story.until("the node is Ready", 60, || ready("True")).map(|_| ())
        })?;
        unnoticed("kubelet", &noticed)?;
        ensure!(meetings.pods("media-node").contains(&pod), "{pod} did not live on");
        people.end();
        Ok(())
    });
}

#[test]
fn people_on_a_lost_node_come_back_by_themselves() {
    tell("node-loss", |story| {
        let Scene { meetings, people, kubernetes_node: n, .. } =
            MeetingClusterBuilder::new("visio").media_nodes(2).meet(story)?;
        // Their way to the gateway leads through the node that goes, so that nothing tells them
        // but their own patience.
        people.end();
        let meetings = meetings.entered_by(n);
        let mut people = Gathering::begin(story, &meetings, "council", 2)?;
        let address = people.media_address()?.ip().to_string();
        ensure!(address == node_address(n), "the room has moved to {address}");
        let told = people
            .through("the node's power went", 60, || testbed(story, &format!("node-loss {n}")));
        // The bed is whole again for the next story, whatever this one ends like.
        testbed(story, &format!("node-start {n}"))?;
        let wait = format!("node/n{n}");
        let ready = ["wait", "--for=condition=Ready", &wait, "--timeout=90s"];
        install::kubectl(story.bed(), &ready)?;
        let noticed = told?;
        let away = noticed.pause_max.as_secs_f64();
        story.say(&format!("everybody is back after {away:.1} s; on a machine of one's own, 5 s"));
        ensure!(noticed.gone.is_empty(), "gone: {:?}", noticed.gone);
        story.until("it is Ready again", 120, || meetings.condition("Ready") == "True")?;
        people.end();
        Ok(())
    });
}
