//! That a meeting cluster comes up, heals, refuses and goes on the real control plane.

use anyhow::{Context as _, Result, ensure};
use e2e::story::{MeetingClusterBuilder, Story, tell};

#[test]
fn ten_lines_become_a_fleet_and_leave_nothing() {
    tell("fleet", |story| {
        let meetings = MeetingClusterBuilder::new("visio").media_nodes(2).serve(story)?;
        let pods = meetings.pods("media-node");
        ensure!(pods.len() == 2, "media nodes: {pods:?}");
        ensure!(!meetings.pods("gateway").is_empty(), "no gateway runs");
        let table = story.kubectl("get mc,mn -o wide")?;
        story.say(&format!("kubectl get mc,mn\n{table}"));
        for pod in &pods {
            ensure!(table.contains(pod.as_str()), "{pod} is missing in the table");
        }

        story.kubectl("delete meetingcluster visio --timeout=60s")?;
        story
            .until("nothing of it is left", 60, || left(story).is_ok_and(|left| left.is_empty()))?;
        Ok(())
    });
}

/// Everything that the operator made, by its label.
fn left(story: &Story) -> Result<String> {
    let kinds = "pods,services,deployments,secrets,configmaps,networkpolicies,medianodes,pdb";
    let label = "-l app.kubernetes.io/managed-by=hemicycle";
    Ok(story.kubectl(&format!("get {kinds} {label} -o name"))?)
}

#[test]
fn a_media_pod_deleted_by_hand_comes_back() {
    tell("pod-deleted", |story| {
        let meetings = MeetingClusterBuilder::new("visio").media_nodes(2).serve(story)?;
        let pods = meetings.pods("media-node");
        let lost = pods.first().context("no media node")?;
        story.kubectl(&format!("delete pod {lost} --grace-period=0 --force"))?;
        story.until("two media nodes run again", 60, || {
            let now = meetings.pods("media-node");
            now.len() == 2 && meetings.condition("Ready") == "True"
        })?;
        Ok(())
    });
}

#[test]
fn weak_keys_are_refused_in_a_condition() {
    tell("weak-keys", |story| {
        let meetings = MeetingClusterBuilder::new("visio").media_nodes(1).apply(story)?;
        let patch =
            r#"patch secret visio-keys -p {"stringData":{"keys.yaml":"visio:\u0020secret"}}"#;
        story.kubectl(patch)?;
        story.until("a condition tells of the weak key", 30, || {
            meetings.messages().contains("visio-keys")
        })?;
        story.say(&meetings.messages());
        Ok(())
    });
}

#[test]
fn a_scope_that_no_node_lies_in_is_told() {
    tell("no-scope", |story| {
        let nowhere =
            serde_json::json!({"scopeRefs": [{"name": "nowhere"}], "minimumEvidence": "E0"});
        let builder = MeetingClusterBuilder::new("visio").media_nodes(1);
        let meetings = builder.with("sovereignty", nowhere).apply(story)?;
        story.until("a condition tells of it", 10, || meetings.messages().contains("nowhere"))?;
        ensure!(meetings.pods("media-node").is_empty(), "media run outside the scope");
        ensure!(meetings.condition("Ready") == "False", "it calls itself ready");
        story.say(&meetings.messages());
        Ok(())
    });
}
