//! The meeting clusters under measurement: applied as their owners would, and asked how far they
//! are with as few and as small requests as will do, for these share the machine with what is
//! measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hemicycle_crds::{MediaNode, MeetingCluster};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::sleep;

use super::ground::{SCOPE, SCOPE_LABEL};
use crate::bed::Bed;
use crate::install;

/// Name of each; their namespaces tell them apart.
const NAME: &str = "visio";
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for anything: many times what it takes, on a machine that is busy.
const WITHIN: Duration = Duration::from_secs(150);

/// All of them.
pub(super) struct MeetingClusters {
    client: Client,
    namespaces: Vec<String>,
    /// Media nodes wanted of each.
    wanted: Vec<u32>,
}

impl MeetingClusters {
    /// Makes `count` namespaces with a key each, and no meeting cluster yet.
    ///
    /// # Errors
    /// If the API server refuses.
    pub(super) fn prepare(bed: &Bed, client: &Client, count: usize) -> Result<Self> {
        let namespaces: Vec<String> = (1..=count).map(|number| format!("scale-{number}")).collect();
        for namespace in &namespaces {
            install::namespace(bed, namespace)?;
            install::credentials(bed, namespace, &format!("{NAME}-keys"))?;
        }
        Ok(Self { client: client.clone(), wanted: vec![0; namespaces.len()], namespaces })
    }

    /// Media nodes wanted of all.
    pub(super) fn media_nodes(&self) -> u32 {
        self.wanted.iter().sum()
    }

    /// Wishes that meeting cluster `number` keeps `count` media nodes.
    ///
    /// # Errors
    /// If the API server refuses.
    pub(super) async fn wish(&mut self, number: usize, count: u32) -> Result<()> {
        let namespace = self.namespaces.get(number).context("no such meeting cluster")?;
        let object = json!({
            "apiVersion": "hemicycle.dev/v1alpha1",
            "kind": "MeetingCluster",
            "metadata": {"name": NAME, "namespace": namespace},
            "spec": {
                "domain": "meet.example.org",
                "credentials": {"secretRef": {"name": format!("{NAME}-keys")}},
                "sovereignty": {"scopeRefs": [{"name": SCOPE}], "minimumEvidence": "E0"},
                "capacity": {"minNodes": count, "maxNodes": count},
            },
        });
        let api: Api<MeetingCluster> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply("scale").force();
        api.patch(NAME, &params, &Patch::Apply(&object)).await?;
        if let Some(wanted) = self.wanted.get_mut(number) {
            *wanted = count;
        }
        Ok(())
    }

    /// Waits until there are as many MediaNode objects as are wanted, and no more.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub(super) async fn until_made(&self) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let mut right = true;
            for (namespace, wanted) in self.namespaces.iter().zip(&self.wanted) {
                right &= count::<MediaNode>(&self.client, namespace).await? == *wanted as usize;
            }
            if right {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < WITHIN, "the media nodes were not made in {WITHIN:?}");
            sleep(LOOK).await;
        }
    }

    /// Waits until every status says that all wanted media nodes serve, none is being emptied, and
    /// condition Ready is true, and there are as many MediaNode objects.
    ///
    /// # Errors
    /// If that does not happen in time; then with what the statuses say.
    pub(super) async fn until_told(&self) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let told = self.told().await?;
            if told.is_empty() {
                self.until_made().await?;
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < WITHIN, "not told in {WITHIN:?}:\n{}", told.join("\n"));
            sleep(LOOK).await;
        }
    }

    /// What is not yet as it should be.
    async fn told(&self) -> Result<Vec<String>> {
        let mut waiting = Vec::new();
        for (namespace, wanted) in self.namespaces.iter().zip(&self.wanted) {
            let api: Api<MeetingCluster> = Api::namespaced(self.client.clone(), namespace);
            let cluster = api.get(NAME).await?;
            let status = cluster.status.unwrap_or_default();
            let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let right = status.nodes.as_deref() == Some(&format!("{wanted}/{wanted}"))
                && status.nodes_draining == 0
                && status.observed_generation == cluster.metadata.generation;
            if !ready || !right {
                let words = status.conditions.iter().map(|c| format!("{}: {}", c.type_, c.message));
                let words = words.collect::<Vec<_>>().join("; ");
                waiting.push(format!("{namespace}: {:?} of {wanted}; {words}", status.nodes));
            }
        }
        Ok(waiting)
    }

    /// Deletes the pods of `count` media nodes of the first meeting cluster, as a person would by
    /// mistake, and waits until those media nodes are gone and others tell in their place.
    ///
    /// # Errors
    /// If the API server refuses, or that does not happen in time.
    pub(super) async fn lose_pods(&self, count: usize) -> Result<Duration> {
        let begun = Instant::now();
        let namespace = self.namespaces.first().context("no meeting cluster")?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let media_nodes: Api<MediaNode> = Api::namespaced(self.client.clone(), namespace);
        let lost: Vec<String> =
            pods.list_metadata(&media_label()).await?.iter().take(count).map(name_of).collect();
        ensure!(lost.len() == count, "there are only {} pods to lose", lost.len());
        for name in &lost {
            pods.delete(name, &DeleteParams::default()).await?;
        }
        loop {
            let there = media_nodes.list_metadata(&ListParams::default()).await?;
            if !there.iter().map(name_of).any(|name| lost.contains(&name)) {
                break;
            }
            ensure!(begun.elapsed() < WITHIN, "media nodes without a pod stay for {WITHIN:?}");
            sleep(LOOK).await;
        }
        self.until_told().await?;
        Ok(begun.elapsed())
    }

    /// Checks where the media pods are: in the scope, and no two on one Kubernetes node, whose
    /// ports they bind.
    ///
    /// # Errors
    /// If one is elsewhere.
    pub(super) async fn check_places(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let inside = ListParams::default().labels(&format!("{SCOPE_LABEL}=true"));
        let inside = nodes.list_metadata(&inside).await?;
        let inside: Vec<String> = inside.iter().map(name_of).collect();
        let mut taken = std::collections::BTreeSet::new();
        for namespace in &self.namespaces {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            for pod in pods.list(&media_label()).await? {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let node = node.with_context(|| format!("{} is not bound", pod.name_any()))?;
                ensure!(inside.contains(&node), "{} is on {node}, out of scope", pod.name_any());
                ensure!(taken.insert(node.clone()), "two media pods are on {node}");
            }
        }
        ensure!(taken.len() == self.media_nodes() as usize, "{} media pods run", taken.len());
        Ok(())
    }
}

fn media_label() -> ListParams {
    ListParams::default().labels("hemicycle.dev/component=media-node")
}

fn name_of<K>(object: &PartialObjectMeta<K>) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

/// How many objects there are, by one of them and what the API server says remains.
async fn count<K>(client: &Client, namespace: &str) -> Result<usize>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let one = api.list_metadata(&ListParams::default().limit(1)).await?;
    let rest = one.metadata.remaining_item_count.unwrap_or_default();
    Ok(one.items.len() + usize::try_from(rest).unwrap_or_default())
}
