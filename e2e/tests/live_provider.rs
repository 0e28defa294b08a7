//! That the provider's own word counts, and outweighs what a machine says of itself: the operator
//! in its pod asks an API that answers as Outscale's does, with the rights and the way out that the
//! chart gives it. Harm if it fails: a machine of another account, behind the same subregion
//! letter, carries a meeting.

#[path = "../../operator/tests/provider_api/mod.rs"]
#[expect(dead_code, reason = "it always answers here")]
mod provider_api;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use e2e::install::{self, OPERATOR_NAMESPACE};
use e2e::story::{MeetingClusterBuilder, Scene, Scope, Story, tell};
use provider_api::{ACCESS_KEY, ACCOUNT, Recorded, SECRET_KEY};
use serde_json::json;
use tokio::runtime::Runtime;

/// Where the bed's control plane is; the port is one that the chart lets the operator reach.
const API_ADDRESS: &str = "198.18.0.1:443";
/// An account of somebody else.
const FOREIGN_ACCOUNT: &str = "999999999999";

/// Gives the scope the provider's API at `api`, and the one account that it covers.
fn ask(story: &Story, scope: &Scope<'_>, api: &Recorded) -> Result<()> {
    let name = format!("{}-api", story.namespace());
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": OPERATOR_NAMESPACE},
        "stringData": {
            "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY, "ca.crt": api.authority},
    });
    install::apply_text(story.bed(), "provider-api", &secret.to_string())?;
    let provider = json!({"kind": "Outscale", "url": api.url, "region": "eu-west-2",
        "secretName": name});
    let change = json!({"spec": {"providerApi": provider, "accounts": [ACCOUNT]}});
    story.patch(&scope.object(), &change)?;
    Ok(())
}

#[test]
fn the_same_subregion_of_another_account_carries_no_room() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tell("provider", |story| {
        let runtime = Runtime::new()?;
        let address: SocketAddr = API_ADDRESS.parse()?;
        let api = runtime.block_on(Recorded::start(address));
        api.put("i-00000001", ACCOUNT, "eu-example-1a");
        api.put("i-00000002", FOREIGN_ACCOUNT, "eu-example-1b");
        let scope = Scope::declare(story, &[1, 2, 3])?;
        ask(story, &scope, &api)?;
        let mut sovereignty = scope.chosen();
        sovereignty["minimumEvidence"] = "E2".into();
        let builder = MeetingClusterBuilder::new("visio").media_nodes(1);
        let Scene { people, kubernetes_node, meetings, .. } =
            builder.with("sovereignty", sovereignty).meet(story)?;
        ensure!(kubernetes_node == 1, "n{kubernetes_node} carries it");
        let reason = |n: u8| {
            let path = format!("{{.status.contradicted[?(@.kubernetesNode==\"n{n}\")].reason}}");
            story.value(&scope.object(), &path)
        };
        let account = "the provider's API says account 999999999999";
        story.until("what another account has is contradicted", 20, || {
            reason(2).contains(account)
        })?;
        story.until("so is what nobody has", 20, || !reason(3).is_empty())?;
        story.say(&format!("n2: {}", reason(2)));
        story.say(&format!("n3: {}", reason(3)));
        let stamp = |n: u8| {
            let label = format!("scope.hemicycle.node-restriction.kubernetes.io/{}", scope.name());
            let path = format!("{{.metadata.labels.{}}}", label.replace('.', "\\."));
            story.value(&format!("node/n{n}"), &path)
        };
        ensure!((stamp(1).as_str(), stamp(2).as_str(), stamp(3).as_str()) == ("E2", "", ""));
        meetings.wish("capacity", &json!({"minNodes": 2, "maxNodes": 2}))?;
        meetings.told_in_time("CapacityOK", "False", "Kubernetes node")?;
        let on = meetings.kubernetes_nodes("media-node");
        ensure!(on == ["n1"], "media pods run on {on:?}");
        people.end();
        Ok(())
    });
}
