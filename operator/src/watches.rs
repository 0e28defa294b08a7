//! Keeps warm copies of Kubernetes nodes, scopes and meeting clusters on every replica, and tells
//! the leader when something about Kubernetes nodes or scopes changed that a plan could depend on.
//! Decides nothing. A copy may lag: whoever acts on absence asks the API server by name.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
};

use futures_util::StreamExt;
use hemicycle_crds::{ANNOTATION_DECLARATION, MeetingCluster, QualificationScope};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, Lookup, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::seen;

/// Labels that scopes may name: all others of a Kubernetes node can change as they like.
const SCOPE_LABELS: &str = "node-restriction.kubernetes.io/";
/// Well-known label with a Kubernetes node's region.
const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// The copies.
#[derive(Clone)]
pub struct Watches {
    /// Kubernetes nodes.
    pub kubernetes_nodes: Store<Node>,
    /// Scopes; one that cannot be decoded is there as an error.
    pub scopes: Store<DeserializeGuard<QualificationScope>>,
    /// Meeting clusters; likewise.
    pub meeting_clusters: Store<DeserializeGuard<MeetingCluster>>,
    /// Counts changes of Kubernetes nodes and scopes that matter.
    pub changes: watch::Receiver<u64>,
}

impl Watches {
    /// Begins to watch, until `stop`.
    #[must_use]
    pub fn start(client: &Client, stop: &CancellationToken) -> Self {
        let (change, changes) = watch::channel(0);
        let change = Arc::new(change);
        Self {
            kubernetes_nodes: follow(client, stop, &change, trim_node, node_digest),
            scopes: follow(
                client,
                stop,
                &change,
                |_| {},
                |scope: &DeserializeGuard<QualificationScope>| {
                    scope.meta().generation.unwrap_or_default().unsigned_abs()
                },
            ),
            // Meeting clusters wake the controller by themselves.
            meeting_clusters: follow(client, stop, &change, |_| {}, |_| 0),
            changes,
        }
    }
}

/// Nine tenths of a Kubernetes node are its list of images, which nothing here reads.
fn trim_node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
}

/// What a plan could depend on: not the heartbeats, and not the labels and annotations of others.
fn node_digest(node: &Node) -> u64 {
    let seen = seen::kubernetes_node(node);
    let ours = seen.labels.iter().filter(|(key, _)| key.contains(SCOPE_LABELS));
    let mut hasher = DefaultHasher::new();
    (ours.collect::<Vec<_>>(), seen.zone.to_string(), seen.ready, seen.unschedulable)
        .hash(&mut hasher);
    let declaration = node.annotations().get(ANNOTATION_DECLARATION);
    (seen.labels.get(REGION_LABEL), seen.provider_id, declaration).hash(&mut hasher);
    hasher.finish()
}

fn follow<K>(
    client: &Client,
    stop: &CancellationToken,
    change: &Arc<watch::Sender<u64>>,
    trim: impl Fn(&mut K) + Send + 'static,
    digest: impl Fn(&K) -> u64 + Send + 'static,
) -> Store<K>
where
    K: Resource + Lookup + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    <K as Resource>::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
    K: Lookup<DynamicType = <K as Resource>::DynamicType>,
{
    let (store, writer) = reflector::store::<K>();
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(move |object| {
            object.managed_fields_mut().clear();
            trim(object);
        })
        .reflect(writer);
    let (stop, change) = (stop.clone(), change.clone());
    tokio::spawn(async move {
        let mut digests: BTreeMap<String, u64> = BTreeMap::new();
        let mut events = std::pin::pin!(events);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => {
                    if matters(&event, &digest, &mut digests) {
                        change.send_modify(|count| *count = count.wrapping_add(1));
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a watch broke");
                }
            }
        }
    });
    store
}

fn matters<K: Resource>(
    event: &watcher::Event<K>,
    digest: &impl Fn(&K) -> u64,
    digests: &mut BTreeMap<String, u64>,
) -> bool {
    match event {
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            let digest = digest(object);
            digests.insert(object.name_any(), digest) != Some(digest)
        }
        watcher::Event::Delete(object) => digests.remove(&object.name_any()).is_some(),
        watcher::Event::Init | watcher::Event::InitDone => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(change: impl FnOnce(&mut Value)) -> Node {
        let mut node = json!({
            "metadata": {"name": "n1", "labels": {
                "gold.scope.node-restriction.kubernetes.io/qualified": "true",
                "topology.kubernetes.io/zone": "a",
            }},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "images": [{"names": ["registry.example.org/a:1"]}],
            },
        });
        change(&mut node);
        serde_json::from_value(node).expect("a Node")
    }

    #[test]
    fn only_what_a_plan_depends_on_wakes_the_leader() {
        let before = node_digest(&node(|_| {}));
        let wakes = |change: fn(&mut Value)| node_digest(&node(change)) != before;
        assert!(!wakes(|node| node["metadata"]["labels"]["example.org/patched"] = json!("1")));
        assert!(!wakes(|node| {
            node["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:00Z");
        }));
        assert!(wakes(|node| {
            let label = "gold.scope.node-restriction.kubernetes.io/qualified";
            node["metadata"]["labels"][label] = json!("false");
        }));
        assert!(wakes(|node| {
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("b");
        }));
        assert!(wakes(|node| node["status"]["conditions"][0]["status"] = json!("Unknown")));
        assert!(wakes(|node| node["spec"] = json!({"unschedulable": true})));
        assert!(wakes(|node| node["spec"] = json!({"providerID": "aws:///eu-west-2a/i-0"})));
        assert!(wakes(|node| {
            node["metadata"]["labels"]["topology.kubernetes.io/region"] = json!("eu-west-2");
        }));
        assert!(wakes(|node| {
            node["metadata"]["annotations"] = json!({"hemicycle.dev/declaration": "{}"});
        }));
        assert!(!wakes(|node| node["metadata"]["annotations"] = json!({"example.org/a": "1"})));
    }

    #[test]
    fn what_nothing_reads_is_not_kept() {
        let mut node = node(|_| {});
        let before = node_digest(&node);
        trim_node(&mut node);
        assert!(node.status.as_ref().is_some_and(|status| status.images.is_none()));
        assert_eq!(node_digest(&node), before);
    }
}
