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
use hemicycle_crds::{MeetingCluster, QualificationScope};
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
            kubernetes_nodes: follow(client, stop, &change, node_digest),
            scopes: follow(
                client,
                stop,
                &change,
                |scope: &DeserializeGuard<QualificationScope>| {
                    scope.meta().generation.unwrap_or_default().unsigned_abs()
                },
            ),
            // Meeting clusters wake the controller by themselves.
            meeting_clusters: follow(client, stop, &change, |_| 0),
            changes,
        }
    }
}

/// What a plan could depend on: not the heartbeats.
fn node_digest(node: &Node) -> u64 {
    let seen = seen::kubernetes_node(node);
    let mut hasher = DefaultHasher::new();
    (seen.labels, seen.ready, seen.unschedulable).hash(&mut hasher);
    hasher.finish()
}

fn follow<K>(
    client: &Client,
    stop: &CancellationToken,
    change: &Arc<watch::Sender<u64>>,
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
        .modify(|object| object.managed_fields_mut().clear())
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
