//! Admission in the API server itself: what it must hold whoever asks, and for which objects.
//! `policies` says what, `guard` keeps it so, `attested` and `namespace` tell the API server where
//! media pods may run. Decides nothing about scopes: it repeats what was decided.
//! Invariant: a namespace is marked only while it has its [`hemicycle_crds::AttestedNodes`], so
//! that other pods in it are never refused for want of one.

pub mod attested;
pub mod guard;
pub mod namespace;
pub mod policies;

use std::{sync::Arc, time::Duration};

use hemicycle_crds::{AttestedNodes, MeetingCluster};
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, core::DeserializeGuard, runtime::reflector::Store};
use tokio::{sync::Mutex, time::interval};

use self::{
    attested::AttestedError,
    namespace::NamespaceError,
    policies::{PolicyError, Settings},
};
pub use self::{
    attested::{Attested, Entry},
    guard::{Guard, Keeper},
    namespace::Namespaces,
};

/// How often what was written is looked at again, and what is wanted no more is taken away.
pub(crate) const LOOK_AGAIN_SECONDS: i64 = 30;

/// Why the API server could not be told where media pods may run.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The list could not be kept.
    #[error(transparent)]
    Attested(#[from] AttestedError),
    /// The namespace could not be marked.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Everything of this module that a process has once.
#[derive(Debug)]
pub struct Admission {
    /// Watches over the policies.
    pub guard: Guard,
    /// Keeps the lists of Kubernetes nodes.
    pub attested: Attested,
    /// Keeps the marks.
    pub namespaces: Namespaces,
    /// Held while a namespace is entered or left, which are two writes each.
    turn: Mutex<()>,
}

impl Admission {
    /// Nothing is looked at yet.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn new(settings: &Settings) -> Result<Arc<Self>, PolicyError> {
        Ok(Arc::new(Self {
            guard: Guard::new(policies::wanted(settings)?),
            attested: Attested::default(),
            namespaces: Namespaces::default(),
            turn: Mutex::default(),
        }))
    }

    /// Tells the API server where media pods of a meeting cluster may run: before any is made.
    /// Says whether anything had to be written.
    ///
    /// # Errors
    /// The first call that fails; what was done before stays done.
    pub async fn attest(
        &self,
        client: &Client,
        entry: &Entry<'_>,
        now: Timestamp,
    ) -> Result<bool, AdmissionError> {
        let _turn = self.turn.lock().await;
        let written = self.attested.write(client, entry, now).await?;
        let marked = self.namespaces.mark(client, entry.namespace, now).await?;
        Ok(written || marked)
    }

    /// Watches over the policies and clears up behind meeting clusters that are gone, until
    /// dropped. For the leader alone: `leads` is asked before every write.
    pub async fn run(
        &self,
        keeper: &Keeper,
        meeting_clusters: &Store<DeserializeGuard<MeetingCluster>>,
        leads: impl Fn() -> bool + Copy,
    ) {
        let clear = async {
            let every = u64::try_from(LOOK_AGAIN_SECONDS).unwrap_or_default();
            let mut tick = interval(Duration::from_secs(every));
            // A store whose writer is gone knows nothing, and nothing is cleared.
            if meeting_clusters.wait_until_ready().await.is_err() {
                return;
            }
            loop {
                tick.tick().await;
                if leads()
                    && let Err(error) = self.clear(&keeper.client, meeting_clusters).await
                {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "could not clear up behind a meeting cluster");
                }
            }
        };
        tokio::join!(self.guard.run(keeper, leads), clear);
    }

    /// Takes away what belongs to no meeting cluster any more.
    async fn clear(
        &self,
        client: &Client,
        meeting_clusters: &Store<DeserializeGuard<MeetingCluster>>,
    ) -> Result<(), AdmissionError> {
        for object in attested::list(client).await? {
            let namespace = object.namespace().unwrap_or_default();
            let here = |name: &str| {
                meeting_clusters.state().iter().any(|cluster| {
                    cluster.name_any() == name && cluster.namespace().as_ref() == Some(&namespace)
                })
            };
            let mut stale = Vec::new();
            for entry in &object.spec.meeting_clusters {
                // A copy may lag: an absence is confirmed.
                if !here(&entry.name) && !exists(client, &namespace, &entry.name).await? {
                    stale.push(entry.name.as_str());
                }
            }
            if stale.len() == object.spec.meeting_clusters.len() {
                self.leave(client, &object).await?;
                continue;
            }
            for name in stale {
                self.attested.withdraw(client, &namespace, name).await?;
            }
        }
        Ok(())
    }

    /// Leaves a namespace in which no meeting cluster has an entry, unless one came since.
    async fn leave(&self, client: &Client, seen: &AttestedNodes) -> Result<(), AdmissionError> {
        let _turn = self.turn.lock().await;
        let namespace = seen.namespace().unwrap_or_default();
        let now = attested::get(client, &namespace).await?;
        if now.is_none_or(|now| now.resource_version() != seen.resource_version()) {
            return Ok(());
        }
        // In this order: see the invariant.
        self.namespaces.unmark(client, &namespace).await?;
        Ok(self.attested.remove(client, seen).await?)
    }
}

async fn exists(client: &Client, namespace: &str, name: &str) -> Result<bool, AttestedError> {
    let api: Api<MeetingCluster> = Api::namespaced(client.clone(), namespace);
    let found = api.get_metadata_opt(name).await.map_err(|source| AttestedError::Read {
        what: format!("MeetingCluster {name}"),
        namespace: namespace.to_owned(),
        source,
    })?;
    Ok(found.is_some())
}
