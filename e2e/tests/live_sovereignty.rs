//! That no room is carried outside of its scope, whatever is tried: a label taken away under a
//! meeting, a pod that no API server was asked about, a forged label, a binding past the scheduler,
//! a policy deleted, a machine of another region, an operator that is away. Each attempt is made
//! for real. Harm if it fails: a meeting is carried abroad, and nobody is told.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::bed::node_address;
use e2e::install;
use e2e::story::{
    Gathering, Manner, MeetingClusterBuilder, Meetings, OperatorAway, Scene, Scope, Story, tell,
};
use serde_json::{Value, json};

/// How soon a media node takes no new room once its Kubernetes node has left the scope.
const DOOR_CLOSED: Duration = Duration::from_secs(2);

/// How soon a policy that was deleted is back.
const PUT_BACK: Duration = Duration::from_secs(5);

/// How long rooms may go on in a drain of these stories: long enough to be looked at.
const DRAIN_SECONDS: u64 = 12;

/// Tampering is told for a minute after it was repaired.
const TOLD_SECONDS: u64 = 75;

/// A fleet of `media_nodes` in the scope, whose drains are short enough for a story.
fn fleet(scope: &Scope<'_>, media_nodes: u32, on_loss: &str) -> MeetingClusterBuilder {
    let mut sovereignty = scope.chosen();
    sovereignty["onLoss"] = on_loss.into();
    sovereignty["minimumEvidence"] = "E1".into();
    MeetingClusterBuilder::new("visio")
        .media_nodes(media_nodes)
        .with("sovereignty", sovereignty)
        .with("drain", json!({"deadlineSeconds": DRAIN_SECONDS}))
}

/// Waits until media of the gathering come from another Kubernetes node than `n` alone.
fn elsewhere(story: &Story, people: &Gathering<'_>, n: u8, seconds: u64) -> Result<Duration> {
    let node = node_address(n);
    story.until(&format!("the meeting is not on n{n}"), seconds, || {
        people.media_address().is_ok_and(|address| address.ip().to_string() != node)
    })
}

/// The newest violation of a media node, as `kubectl get mc -o yaml` shows it.
fn violation(story: &Story, meetings: &Meetings<'_>) -> Result<Value> {
    let listed = violations(story, meetings)?;
    let mut of_media = listed
        .iter()
        .rev()
        .filter(|it| it["pod"].as_str().is_some_and(|pod| !pod.contains("-gateway-")));
    of_media.next().cloned().context("no violation is listed")
}

fn violations(story: &Story, meetings: &Meetings<'_>) -> Result<Vec<Value>> {
    let listed = story.kubectl(&format!("get {} -o json", meetings.object()))?;
    let object: Value = serde_json::from_str(&listed)?;
    Ok(object["status"]["violations"].as_array().cloned().unwrap_or_default())
}

/// Waits until every gateway runs on Kubernetes node `n`.
fn doors_on(story: &Story, meetings: &Meetings<'_>, n: u8) -> Result<()> {
    let node = format!("n{n}");
    story.until(&format!("every gateway runs on {node}"), 40, || {
        let on = meetings.kubernetes_nodes("gateway");
        !on.is_empty() && on.iter().all(|it| *it == node)
    })?;
    Ok(())
}

/// Waits until a violation `what` on Kubernetes node `n` is listed, with all that a person needs.
fn listed(story: &Story, meetings: &Meetings<'_>, what: &str, n: u8) -> Result<()> {
    listed_as(story, meetings, what, n, |seen| seen["ended"].is_null())
}

/// Like [`listed`], of one that may be over: what is told of it stays.
fn was_listed(story: &Story, meetings: &Meetings<'_>, what: &str, n: u8) -> Result<()> {
    listed_as(story, meetings, what, n, |_| true)
}

fn listed_as(
    story: &Story,
    meetings: &Meetings<'_>,
    what: &str,
    n: u8,
    as_wanted: impl Fn(&Value) -> bool,
) -> Result<()> {
    let mut seen = Value::Null;
    story.until(&format!("{what} is listed"), 10, || {
        seen = violation(story, meetings).unwrap_or_default();
        let node = format!("n{n}");
        as_wanted(&seen) && seen["what"] == what && seen["kubernetesNode"] == node.as_str()
    })?;
    let told = |field: &str| seen[field].as_str().is_some_and(|text| !text.is_empty());
    ensure!(told("since") && told("remedy") && told("message"), "it tells too little: {seen}");
    story.say(&format!("{}; remedy: {}", seen["message"], seen["remedy"]));
    Ok(())
}

/// Waits until the violation is over and all is well again.
fn closed(story: &Story, meetings: &Meetings<'_>) -> Result<()> {
    story.until("the violation is closed", 40, || {
        violation(story, meetings).is_ok_and(|it| it["ended"].is_string())
    })?;
    story.until("SovereigntyVerified is True", 10, || {
        meetings.condition("SovereigntyVerified") == "True"
    })?;
    Ok(())
}

/// Takes the label from Kubernetes node `n` and begins rooms one after the other until one is
/// refused; how long after the label's removal was asked for that one was asked for.
fn door_closes(
    story: &Story,
    meetings: &Meetings<'_>,
    scope: &Scope<'_>,
    n: u8,
) -> Result<Duration> {
    let begin = Instant::now();
    scope.label_node(n, false)?;
    for number in 0.. {
        let asked = begin.elapsed();
        let room = format!("after-the-loss-{number}");
        match Gathering::join(story, meetings, &room, 1, Manner::Sound) {
            Ok(people) => people.end(),
            Err(_) => return Ok(asked),
        }
        if begin.elapsed() > DOOR_CLOSED * 5 {
            break;
        }
    }
    bail!("new rooms begin although no scope reaches the media node")
}

#[test]
fn a_label_taken_away_closes_the_door_and_cuts_no_meeting() {
    tell("label-removed", |story| {
        let scope = Scope::declare(story, &[1])?;
        let Scene { meetings, mut people, kubernetes_node, .. } =
            fleet(&scope, 1, "Drain").meet(story)?;
        let led_away = people.ice_urls();
        ensure!(led_away.is_empty(), "people are sent to {led_away:?}");
        ensure!(meetings.condition("SovereigntyVerified") == "True", "not verified at first");
        let took = door_closes(story, &meetings, &scope, kubernetes_node)?;
        story.say(&format!("no new room {:.2} s after the label went", took.as_secs_f64()));
        ensure!(took <= DOOR_CLOSED, "new rooms began for {took:?}");
        listed(story, &meetings, "OutOfScope", kubernetes_node)?;
        meetings.told_in_time("SovereigntyVerified", "False ViolationsOpen", "remedy")?;
        let noticed = people.through("while the label is gone", 5, || Ok(()))?;
        ensure!(noticed.rejoined == 0 && noticed.gone.is_empty(), "{noticed:?}");
        scope.label_node(2, true)?;
        let noticed = people.through("drained", 60, || {
            story
                .until("another media node serves", 40, || meetings.condition("Ready") == "True")?;
            Ok(())
        })?;
        ensure!(noticed.gone.is_empty(), "gone: {:?}", noticed.gone);
        elsewhere(story, &people, kubernetes_node, 40)?;
        people.flow(20)?;
        doors_on(story, &meetings, 2)?;
        closed(story, &meetings)?;
        let all = violations(story, &meetings)?;
        ensure!(all.len() > 1, "no gateway is among the violations: {all:?}");
        people.end();
        Ok(())
    });
}

/// What a person's wrist watch would not do.
const TWO_HOURS: i32 = 7_200;

#[test]
fn a_clock_two_hours_off_gets_no_room_and_cuts_no_meeting() {
    tell("clock", |story| {
        let scope = Scope::declare(story, &[1, 2])?;
        let Scene { meetings, mut people, media_node, kubernetes_node: n } =
            fleet(&scope, 2, "Drain").meet(story)?;
        let uid = story.value(&format!("pod/{media_node}"), "{.metadata.uid}");
        for skew in [TWO_HOURS, -TWO_HOURS] {
            story.say(&format!("the clock of {media_node} is {skew} s ahead"));
            story.bed().skew_clock(&uid, skew)?;
            listed(story, &meetings, "ClockSkew", n)?;
            for number in 1..=4 {
                let room = format!("in-another-time-{skew}-{number}");
                let others = Gathering::begin(story, &meetings, &room, 2)?;
                let there = others.media_address()?.ip().to_string() == node_address(n);
                others.end();
                ensure!(!there, "room {number} is carried by it");
            }
            story.bed().skew_clock(&uid, 0)?;
            closed(story, &meetings)?;
        }
        let noticed = people.through("its clock was set right", 5, || Ok(()))?;
        ensure!(noticed.rejoined == 0 && noticed.gone.is_empty(), "{noticed:?}");
        people.end();
        Ok(())
    });
}

#[test]
fn whoever_asks_for_it_is_sent_home_at_once() {
    tell("terminate", |story| {
        let scope = Scope::declare(story, &[1, 2])?;
        let Scene { meetings, mut people, kubernetes_node: n, .. } =
            fleet(&scope, 2, "Terminate").meet(story)?;
        scope.label_node(n, false)?;
        let took = elsewhere(story, &people, n, DRAIN_SECONDS)?;
        story.say(&format!("sent home and met again after {:.1} s", took.as_secs_f64()));
        let noticed = people.through("met again", 20, || Ok(()))?;
        ensure!(noticed.gone.is_empty(), "gone: {:?}", noticed.gone);
        // The media node went with its last room, and the violation with it.
        was_listed(story, &meetings, "OutOfScope", n)?;
        closed(story, &meetings)?;
        people.end();
        Ok(())
    });
}

/// A static pod's manifest in a kubelet's directory; gone with the value.
struct StaticPod {
    manifest: PathBuf,
}

impl StaticPod {
    /// One that says of itself that it is a media node of `visio`, and is one: it takes whoever
    /// comes, since it asks no operator.
    fn place(story: &Story, n: u8, name: &str) -> Result<Self> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": story.namespace(), "labels": {
                "hemicycle.dev/component": "media-node",
                "hemicycle.dev/meeting-cluster": "visio",
                "app.kubernetes.io/managed-by": "hemicycle-operator",
            }},
            "spec": {"hostNetwork": true, "containers": [{
                "name": "media-node", "image": "localhost/hemicycle/media-node:dev",
                "imagePullPolicy": "Never", "args": ["--dev"],
            }]},
        });
        let manifest = story.bed().layout().static_pods(n).join(format!("{name}.yaml"));
        fs::write(&manifest, pod.to_string())?;
        Ok(Self { manifest })
    }
}

impl Drop for StaticPod {
    fn drop(&mut self) {
        // The kubelet ends the pod when its manifest is gone.
        let _ = fs::remove_file(&self.manifest);
    }
}

/// Whether the container runtime of Kubernetes node `n` runs a media node.
fn runs_there(story: &Story, n: u8) -> bool {
    let mut look = story.bed().on_node(n);
    let found = look.args(["pgrep", "-f", "^/media-node --dev"]).output();
    found.is_ok_and(|output| output.status.success())
}

#[test]
fn a_pod_that_no_api_server_was_asked_about_carries_no_room() {
    tell("static-pod", |story| {
        let scope = Scope::declare(story, &[1, 3])?;
        let meetings = fleet(&scope, 1, "Drain").serve(story)?;
        let own = meetings.pods("media-node");
        let outside = 2;
        let placed = StaticPod::place(story, outside, "visio-99")?;
        story.until("the kubelet runs it", 20, || runs_there(story, outside))?;
        let log = story.bed().layout().log(&format!("n{outside}.kubelet"));
        story.until("its mirror pod is refused", 20, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let of_ours =
                |line: &str| line.contains(story.namespace()) && line.contains("forbidden");
            said.lines().any(of_ours)
        })?;
        ensure!(meetings.pods("media-node") == own, "the API server shows it");
        for number in 1..=4 {
            let people = Gathering::begin(story, &meetings, &format!("room-{number}"), 2)?;
            let address = people.media_address()?;
            people.end();
            let there = address.ip().to_string() == node_address(outside);
            ensure!(!there, "room {number} is carried by it");
        }
        let seen = story.value("medianodes", "{.items[*].metadata.name}");
        ensure!(seen.split_whitespace().count() == own.len(), "it counts as a media node: {seen}");
        story.say("four rooms began, none of them on it");
        drop(placed);
        story.until("the kubelet has ended it", 40, || !runs_there(story, outside)).map(|_| ())
    });
}

/// Runs `kubectl` as `user` and gives what it was refused with.
fn refused(story: &Story, user: &str, line: &[&str], why: &str) -> Result<()> {
    let mut command = Command::new(story.bed().tools().path("kubectl"));
    command.arg("--kubeconfig").arg(story.bed().layout().kubeconfig(user));
    let output = command.args(["-n", story.namespace()]).args(line).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = line.join(" ");
    ensure!(!output.status.success(), "{user} was allowed: kubectl {shown}");
    ensure!(said.contains(why), "{user}: kubectl {shown}: not refused for {why:?}: {said}");
    story.say(&format!("{user} is refused: kubectl {shown}"));
    Ok(())
}

/// Writes an object to a file in the bed, for whoever is to send it.
fn written(story: &Story, name: &str, object: &Value) -> Result<String> {
    let path = story.bed().layout().state().join(format!("{name}.json"));
    fs::write(&path, object.to_string())?;
    Ok(path.display().to_string())
}

/// The media pod that finds no Kubernetes node in the scope.
fn pending(story: &Story) -> Result<String> {
    let mut found = String::new();
    story.until("a media pod finds no Kubernetes node", 30, || {
        let line = "get pods -l hemicycle.dev/component=media-node \
                    --field-selector=status.phase=Pending -o jsonpath={.items[*].metadata.name}";
        let unbound =
            |pod: &&str| story.value(&format!("pod/{pod}"), "{.spec.nodeName}").is_empty();
        let said = story.kubectl(line).unwrap_or_default();
        found = said.split_whitespace().find(unbound).unwrap_or_default().to_owned();
        !found.is_empty()
    })?;
    Ok(found)
}

#[test]
fn no_credential_goes_past_the_operator() {
    tell("forged", |story| {
        let scope = Scope::declare(story, &[1])?;
        let meetings = fleet(&scope, 2, "Drain").apply(story)?;
        let declared = format!("{}=true", scope.label());
        let not_yours = "is not allowed to modify labels";
        refused(story, "n2", &["label", "node", "n2", &declared], not_yours)?;
        let stamp =
            format!("scope.hemicycle.node-restriction.kubernetes.io/{}=E2", story.namespace());
        refused(story, "n2", &["label", "node", "n2", &stamp], not_yours)?;
        refused(story, "admin", &["label", "node", "n2", &stamp], "operator alone")?;
        let pod = pending(story)?;
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": "n2"});
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "target": target,
            "metadata": {"name": pod, "namespace": story.namespace()}});
        let binding = written(story, "binding", &binding)?;
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/binding", story.namespace());
        let bind = ["create", "--raw", &path, "-f", &binding];
        refused(story, "admin", &bind, "is not attested for pod")?;
        let made = story.kubectl(&format!("get pod {pod} -o json"))?;
        let mut copy: Value = serde_json::from_str(&made)?;
        copy["metadata"] = json!({"name": "visio-98", "namespace": story.namespace(),
            "labels": copy["metadata"]["labels"]});
        copy["spec"]["nodeName"] = "n2".into();
        let copy = written(story, "copy", &copy)?;
        refused(story, "admin", &["create", "-f", &copy], "ValidatingAdmissionPolicy 'hemicycle-")?;
        ensure!(meetings.pods("media-node").iter().all(|it| *it != pod), "{pod} runs");
        let bound = story.value(&format!("pod/{pod}"), "{.spec.nodeName}");
        ensure!(bound.is_empty(), "{pod} is bound to {bound}");
        Ok(())
    });
}

/// Deletes an object and waits until it is back.
fn put_back(story: &Story, kind: &str, name: &str) -> Result<()> {
    let uid = || story.value(&format!("{kind}/{name}"), "{.metadata.uid}");
    let before = uid();
    install::kubectl(story.bed(), &["delete", kind, name])?;
    let took = story.until(&format!("{kind} {name} is back"), 30, || {
        let now = uid();
        !now.is_empty() && now != before
    })?;
    ensure!(took <= PUT_BACK, "it was away for {took:?}");
    Ok(())
}

#[test]
fn a_policy_that_is_deleted_is_back_and_told() {
    tell("tampered", |story| {
        let scope = Scope::declare(story, &[1])?;
        let meetings = fleet(&scope, 1, "Drain").serve(story)?;
        // An earlier story's may still be told.
        let whole = || meetings.condition("SovereigntyVerified") == "True";
        story.until("nothing is told", TOLD_SECONDS, whole)?;
        put_back(story, "validatingadmissionpolicy", "hemicycle-media-pods")?;
        put_back(story, "validatingadmissionpolicybinding", "hemicycle-bindings")?;
        meetings.told_in_time("SovereigntyVerified", "False PoliciesTampered", "hemicycle-")?;
        Gathering::begin(story, &meetings, "meanwhile", 2)?.end();
        story.until("SovereigntyVerified is True again", TOLD_SECONDS, whole).map(|_| ())
    });
}

#[test]
fn a_machine_of_another_region_is_contradicted() {
    tell("region", |story| {
        let scope = Scope::declare_in(story, &[1, 2], "eu-elsewhere-1")?;
        let meetings = fleet(&scope, 1, "Drain").apply(story)?;
        let mut reason = String::new();
        story.until("the scope names what contradicts it", 15, || {
            reason = story.value(&scope.object(), "{.status.contradicted[0].reason}");
            !reason.is_empty()
        })?;
        story.say(&reason);
        ensure!(
            reason.contains("spec.providerID") && reason.contains("does not cover"),
            "{reason}"
        );
        let line =
            meetings.told_in_time("Ready", "False NoKubernetesNodeInScope", "correct the Qualif");
        let made = story.value("pods", "{.items[?(@.spec.nodeName)].metadata.labels}");
        ensure!(!made.contains("media-node"), "a media pod was made: {made}");
        line?;
        scope.cover("eu-example-1")?;
        meetings.ready(40)
    });
}

#[test]
fn what_happens_while_the_operator_is_away_is_seen_when_it_is_back() {
    tell("operator-away", |story| {
        let scope = Scope::declare(story, &[1, 2])?;
        let Scene { meetings, mut people, media_node, kubernetes_node: n } =
            fleet(&scope, 2, "Drain").meet(story)?;
        let away = OperatorAway::send(story)?;
        scope.label_node(n, false)?;
        let noticed = people.through("nobody looks", 10, || Ok(()))?;
        ensure!(noticed.rejoined == 0 && noticed.gone.is_empty(), "{noticed:?}");
        drop(away);
        let back = Instant::now();
        let object = format!("medianode/{media_node}");
        story.until("it is drained", 30, || {
            story.value(&object, "{.spec.desiredState}") != "Serving"
        })?;
        story.say(&format!("{:.1} s after it was wanted back", back.elapsed().as_secs_f64()));
        listed(story, &meetings, "OutOfScope", n)?;
        elsewhere(story, &people, n, 40)?;
        people.flow(20)?;
        closed(story, &meetings)?;
        people.end();
        Ok(())
    });
}
