//! Keeps the `AttestedNodes` of each namespace: by server-side apply, each meeting cluster its own
//! entry under a field manager of its own. Decides nothing about Kubernetes nodes.
//! Invariant: an entry that is as wanted is not written; one meeting cluster never touches
//! another's. The object has no owner: it must outlive the namespace's mark, which a garbage
//! collector does not know.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hemicycle_crds::{
    ATTESTED_NODES, AttestedNodes, GROUP, VERSION, attested_nodes::AttestedMeetingCluster,
};
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::LOOK_AGAIN_SECONDS;
use crate::reconcile::workload::MANAGED_BY;

/// Field manager of one entry; a meeting cluster's name has at most 63 bytes, a manager's 128.
const FIELD_MANAGER: &str = "hemicycle-operator/attested/";

/// Why the list could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum AttestedError {
    /// Something could not be read.
    #[error("{what} in namespace {namespace:?} could not be read")]
    Read {
        /// What was read.
        what: String,
        /// Where; empty: everywhere.
        namespace: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// An entry could not be written or taken away.
    #[error(
        "could not {act} the entry of MeetingCluster {namespace}/{meeting_cluster} in AttestedNodes"
    )]
    Write {
        /// What was tried.
        act: &'static str,
        /// Namespace.
        namespace: String,
        /// Whose entry.
        meeting_cluster: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The object could not be removed.
    #[error("could not delete AttestedNodes {namespace}/{ATTESTED_NODES}")]
    Remove {
        /// Namespace.
        namespace: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
}

/// Where media pods of one meeting cluster may run.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Namespace of the meeting cluster.
    pub namespace: &'a str,
    /// Its name.
    pub meeting_cluster: &'a str,
    /// Names of the Kubernetes nodes, in any order.
    pub kubernetes_nodes: &'a [String],
    /// Whether its media pods may share the Kubernetes node's network.
    pub host_network: bool,
}

impl Entry<'_> {
    fn wanted(&self) -> AttestedMeetingCluster {
        let mut kubernetes_nodes = self.kubernetes_nodes.to_vec();
        kubernetes_nodes.sort();
        kubernetes_nodes.dedup();
        AttestedMeetingCluster {
            name: self.meeting_cluster.to_owned(),
            kubernetes_nodes,
            host_network: self.host_network,
        }
    }
}

/// What was written last, by namespace and meeting cluster, and when it was seen so.
#[derive(Debug, Default)]
pub struct Attested {
    known: Mutex<Known>,
}

type Known = BTreeMap<(String, String), (AttestedMeetingCluster, Timestamp)>;

impl Attested {
    /// Makes the entry so and says whether it had to be written. An entry that was so less than
    /// half a minute ago is taken for granted.
    ///
    /// # Errors
    /// When the object cannot be read or written.
    pub async fn write(
        &self,
        client: &Client,
        entry: &Entry<'_>,
        now: Timestamp,
    ) -> Result<bool, AttestedError> {
        let wanted = entry.wanted();
        let known = self.known(entry.namespace, entry.meeting_cluster);
        let written = match known.filter(|(known, _)| *known == wanted) {
            Some((_, at)) if now.as_second() - at.as_second() < LOOK_AGAIN_SECONDS => {
                return Ok(false);
            }
            Some(_) if read(client, entry).await?.as_ref() == Some(&wanted) => false,
            _ => {
                let entries = json!([wanted]);
                apply(client, entry.namespace, entry.meeting_cluster, &entries, "write").await?;
                true
            }
        };
        if written {
            tracing::info!(
                namespace = entry.namespace,
                meeting_cluster = entry.meeting_cluster,
                kubernetes_nodes = wanted.kubernetes_nodes.len(),
                "told the API server which Kubernetes nodes are attested"
            );
        }
        let key = (entry.namespace.to_owned(), entry.meeting_cluster.to_owned());
        self.lock().insert(key, (wanted, now));
        Ok(written)
    }

    /// Takes the entry of a meeting cluster away. Not the last one: without any the object is
    /// [removed](Self::remove), for its spec cannot be empty.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn withdraw(
        &self,
        client: &Client,
        namespace: &str,
        meeting_cluster: &str,
    ) -> Result<(), AttestedError> {
        self.lock().remove(&(namespace.to_owned(), meeting_cluster.to_owned()));
        apply(client, namespace, meeting_cluster, &json!([]), "take away").await
    }

    /// Removes the object as it was seen; one that changed since stays.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn remove(&self, client: &Client, seen: &AttestedNodes) -> Result<(), AttestedError> {
        let namespace = seen.namespace().unwrap_or_default();
        let api: Api<AttestedNodes> = Api::namespaced(client.clone(), &namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: seen.uid(),
                resource_version: seen.resource_version(),
            }),
            ..DeleteParams::default()
        };
        self.lock().retain(|(of, _), _| *of != namespace);
        match api.delete(ATTESTED_NODES, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(AttestedError::Remove { namespace, source }),
        }
    }

    fn known(
        &self,
        namespace: &str,
        meeting_cluster: &str,
    ) -> Option<(AttestedMeetingCluster, Timestamp)> {
        self.lock().get(&(namespace.to_owned(), meeting_cluster.to_owned())).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every `AttestedNodes` of the cluster.
///
/// # Errors
/// When they cannot be listed.
pub async fn list(client: &Client) -> Result<Vec<AttestedNodes>, AttestedError> {
    let listed = Api::<AttestedNodes>::all(client.clone()).list(&ListParams::default()).await;
    let failed = |source| AttestedError::Read {
        what: "the list of AttestedNodes".to_owned(),
        namespace: String::new(),
        source,
    };
    Ok(listed.map_err(failed)?.items)
}

/// The one of a namespace.
///
/// # Errors
/// When it cannot be read.
pub async fn get(client: &Client, namespace: &str) -> Result<Option<AttestedNodes>, AttestedError> {
    let api: Api<AttestedNodes> = Api::namespaced(client.clone(), namespace);
    api.get_opt(ATTESTED_NODES).await.map_err(|source| AttestedError::Read {
        what: format!("AttestedNodes {ATTESTED_NODES}"),
        namespace: namespace.to_owned(),
        source,
    })
}

async fn read(
    client: &Client,
    entry: &Entry<'_>,
) -> Result<Option<AttestedMeetingCluster>, AttestedError> {
    let found = get(client, entry.namespace).await?;
    let all = found.map(|object| object.spec.meeting_clusters).unwrap_or_default();
    Ok(all.into_iter().find(|found| found.name == entry.meeting_cluster))
}

async fn apply(
    client: &Client,
    namespace: &str,
    meeting_cluster: &str,
    entries: &Value,
    act: &'static str,
) -> Result<(), AttestedError> {
    let api: Api<AttestedNodes> = Api::namespaced(client.clone(), namespace);
    let manager = format!("{FIELD_MANAGER}{meeting_cluster}");
    let body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "AttestedNodes",
        "metadata": {
            "name": ATTESTED_NODES,
            "namespace": namespace,
            "labels": {MANAGED_BY.0: MANAGED_BY.1},
        },
        "spec": {"meetingClusters": entries},
    });
    let params = PatchParams::apply(&manager).force();
    api.patch(ATTESTED_NODES, &params, &Patch::Apply(&body)).await.map(|_| ()).map_err(|source| {
        AttestedError::Write {
            act,
            namespace: namespace.to_owned(),
            meeting_cluster: meeting_cluster.to_owned(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_kubernetes_nodes_is_no_difference() {
        let [here, there] = ["n1", "n2"].map(str::to_owned);
        let entry = |kubernetes_nodes: &[String]| {
            let host_network = false;
            let (namespace, meeting_cluster) = ("ministry", "visio");
            Entry { namespace, meeting_cluster, kubernetes_nodes, host_network }.wanted()
        };
        let sorted = entry(&[here.clone(), there.clone()]);
        assert_eq!(sorted, entry(&[there.clone(), here, there]));
    }
}
