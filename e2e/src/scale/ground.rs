//! What the fleet stands on: Kubernetes nodes that are only objects, kwok in place of their
//! kubelets, the scope that most of them lie in, and counters of the operator's calls in the API
//! server itself.
//!
//! Decides sizes. Invariant: the one real Kubernetes node takes no pod but the operator's.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::bed::Bed;
use crate::install;
use crate::process::run_line;

/// Kubernetes nodes that are only objects.
pub(super) const KUBERNETES_NODES: usize = 1_000;
/// Those of them that lie in the scope; the others are there to be kept out of.
pub(super) const IN_SCOPE: usize = 800;
/// Name of the scope, and the label of a Kubernetes node in it.
pub(super) const SCOPE: &str = "scale";
/// Only who may write Nodes freely may write this label.
pub(super) const SCOPE_LABEL: &str = "scale.scope.node-restriction.kubernetes.io/qualified";
/// Marks what kwok takes care of.
const FAKE_LABEL: &str = "scale.hemicycle.dev/kubelet";
/// Addresses of fake pods: within the bed they all lead to the simulated media nodes.
const POD_ADDRESSES: &str = "198.19.128.0/17";
/// A kubelet tells of at most 50 images, and most nodes have as many.
const IMAGES: usize = 50;
/// Longest wait until all of them may take pods.
const USABLE_WITHIN: Duration = Duration::from_secs(90);
/// Requests at once when objects are made in bulk.
const AT_ONCE: usize = 16;
/// The verbs that the API server counts apart.
pub(super) const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

/// Name of the flow schema that counts the operator's requests of `verb`.
pub(super) fn flow_schema(verb: &str) -> String {
    format!("hemicycle-operator-{verb}")
}

/// Name of fake Kubernetes node `number`.
pub(super) fn node_name(number: usize) -> String {
    format!("fake-{number:04}")
}

/// The kubelets, until dropped.
#[derive(Debug)]
pub(super) struct Ground {
    kwok: Child,
}

impl Drop for Ground {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        let _ = self.kwok.kill();
        let _ = self.kwok.wait();
    }
}

impl Ground {
    /// Makes it all.
    ///
    /// # Errors
    /// If the API server refuses or kwok does not start.
    pub(super) async fn prepare(bed: &Bed, client: &Client) -> Result<Self> {
        for node in bed.layout().nodes() {
            install::kubectl(bed, &["cordon", &format!("n{node}")])?;
        }
        run_line(&format!("ip route replace local {POD_ADDRESSES} dev lo"))?;
        count_calls(client).await?;
        declare_scope(client).await?;
        let mut ground = Self { kwok: start_kwok(bed)? };
        let nodes: Api<Node> = Api::all(client.clone());
        stream::iter((0..KUBERNETES_NODES).map(|number| {
            let nodes = nodes.clone();
            async move {
                let node = serde_json::from_value(kubernetes_node(number))?;
                nodes.create(&PostParams::default(), &node).await?;
                Ok::<_, anyhow::Error>(())
            }
        }))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
        .context("cannot make the fake Kubernetes nodes")?;
        // A new node bears a taint until Kubernetes' own controller has seen that it is Ready.
        let begun = Instant::now();
        for number in 0..KUBERNETES_NODES {
            while nodes
                .get(&node_name(number))
                .await?
                .spec
                .is_some_and(|spec| spec.taints.is_some())
            {
                ground.check_kwok()?;
                ensure!(begun.elapsed() < USABLE_WITHIN, "node {number} stays tainted");
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(ground)
    }

    /// Checks that every fake Kubernetes node is still there and Ready.
    ///
    /// # Errors
    /// If one is not, or kwok is gone.
    pub(super) async fn check(&mut self, client: &Client) -> Result<()> {
        self.check_kwok()?;
        let nodes: Api<Node> = Api::all(client.clone());
        let fake = ListParams::default().labels(&format!("{FAKE_LABEL}=kwok"));
        let ready = nodes.list(&fake).await?.items.into_iter().filter(is_ready).count();
        ensure!(
            ready == KUBERNETES_NODES,
            "{ready} of {KUBERNETES_NODES} Kubernetes nodes are Ready"
        );
        Ok(())
    }

    fn check_kwok(&mut self) -> Result<()> {
        let ended = self.kwok.try_wait()?;
        ensure!(ended.is_none(), "kwok ended with {ended:?}: see its log in the bed's directory");
        Ok(())
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let is = |it: &NodeCondition| it.type_ == "Ready" && it.status == "True";
    conditions.unwrap_or_default().iter().any(is)
}

fn start_kwok(bed: &Bed) -> Result<Child> {
    let state = bed.layout().state();
    let stages = state.join("kwok.yaml");
    std::fs::write(&stages, include_str!("kwok.yaml"))?;
    let log = File::create(bed.layout().log("kwok"))?;
    Command::new(bed.tools().path("kwok"))
        .arg(format!("--config={}", stages.display()))
        .arg(format!("--kubeconfig={}", bed.layout().kubeconfig("admin").display()))
        .arg(format!("--manage-nodes-with-label-selector={FAKE_LABEL}=kwok"))
        .arg("--manage-all-nodes=false")
        .arg(format!("--cidr={POD_ADDRESSES}"))
        // As kubelets do; without, kwok renews no Lease and every node is lost in a minute.
        .arg("--node-lease-duration-seconds=40")
        .arg("--v=WARN")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start kwok")
}

/// As a kubelet registers: labels, addresses, sizes, and a list of images, which is most of it.
fn kubernetes_node(number: usize) -> Value {
    let name = node_name(number);
    let zone = ["a", "b", "c"].get(number % 3);
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "c5.xlarge",
        "topology.kubernetes.io/region": "eu-example-1",
        "topology.kubernetes.io/zone": zone,
    });
    labels[FAKE_LABEL] = json!("kwok");
    if number < IN_SCOPE {
        labels[SCOPE_LABEL] = json!("true");
    }
    let address = format!("198.18.{}.{}", 128 + number / 250, 1 + number % 250);
    let images = (0..IMAGES).map(|image| {
        let digest = format!("{:064x}", number * IMAGES + image);
        let name = format!("registry.example.org/platform/component-{image}");
        json!({"names": [format!("{name}@sha256:{digest}"), format!("{name}:v1.{image}")],
            "sizeBytes": 50_000_000 + image})
    });
    let size = json!({"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "KubeletSaysSo",
            "message": "it is only an object", "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "phase": "Running",
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": name},
            ],
            "capacity": size,
            "allocatable": size,
            "conditions": [
                condition("Ready", "True"),
                condition("MemoryPressure", "False"),
                condition("DiskPressure", "False"),
                condition("PIDPressure", "False"),
            ],
            "images": images.collect::<Vec<_>>(),
        },
    })
}

async fn declare_scope(client: &Client) -> Result<()> {
    let scope: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "hemicycle.dev/v1alpha1",
        "kind": "QualificationScope",
        "metadata": {"name": SCOPE},
        "spec": {
            "provider": "Example Cloud",
            "service": "Example IaaS",
            "regions": ["eu-example-1"],
            "referential": "SecNumCloud 3.2",
            "attestation": {"id": "EXAMPLE-0001", "expiresAt": "2099-01-01T00:00:00Z"},
            "nodeLabel": {"key": SCOPE_LABEL},
        },
    }))?;
    let kind = kube::core::ApiResource::erase::<hemicycle_crds::QualificationScope>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    api.patch(SCOPE, &PatchParams::apply("scale").force(), &Patch::Apply(&scope)).await?;
    Ok(())
}

/// The API server counts requests by flow schema: one for each verb of the operator's, at the
/// priority that service accounts have anyway.
async fn count_calls(client: &Client) -> Result<()> {
    let api: Api<FlowSchema> = Api::all(client.clone());
    for verb in VERBS {
        let everything = ["*"];
        let name = flow_schema(verb);
        let schema = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "spec": {
                "priorityLevelConfiguration": {"name": "workload-low"},
                "matchingPrecedence": 90,
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [{
                    "subjects": [{"kind": "ServiceAccount", "serviceAccount": {
                        "name": "hemicycle-operator",
                        "namespace": install::OPERATOR_NAMESPACE,
                    }}],
                    "resourceRules": [{
                        "verbs": [verb],
                        "apiGroups": everything,
                        "resources": everything,
                        "clusterScope": true,
                        "namespaces": everything,
                    }],
                }],
            },
        });
        api.patch(&name, &PatchParams::apply("scale").force(), &Patch::Apply(&schema)).await?;
    }
    Ok(())
}
