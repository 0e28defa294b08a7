//! Marks the namespaces that have meeting clusters, by which the admission policies know them.
//! Touches nothing else of a namespace, and makes none.
//! Invariant: a mark that is there is not written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hemicycle_crds::LABEL_MEDIA_NAMESPACE;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::LOOK_AGAIN_SECONDS;

/// Field manager of the mark.
const FIELD_MANAGER: &str = "hemicycle-operator/namespace";
/// The mark's value.
const MARK: &str = "true";

/// Why a namespace could not be marked.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// It could not be read.
    #[error("Namespace {namespace} could not be read")]
    Read {
        /// Which.
        namespace: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The mark could not be written or taken away.
    #[error("could not {act} label {LABEL_MEDIA_NAMESPACE} on Namespace {namespace}")]
    Write {
        /// What was tried.
        act: &'static str,
        /// Which.
        namespace: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
}

/// When each namespace was seen with its mark.
#[derive(Debug, Default)]
pub struct Namespaces {
    marked: Mutex<BTreeMap<String, Timestamp>>,
}

impl Namespaces {
    /// Marks a namespace and says whether that had to be written. A mark that was there less than
    /// half a minute ago is taken for granted.
    ///
    /// # Errors
    /// When the namespace cannot be read or written.
    pub async fn mark(
        &self,
        client: &Client,
        namespace: &str,
        now: Timestamp,
    ) -> Result<bool, NamespaceError> {
        let seen = self.lock().get(namespace).copied();
        if seen.is_some_and(|at| now.as_second() - at.as_second() < LOOK_AGAIN_SECONDS) {
            return Ok(false);
        }
        let found = Api::<Namespace>::all(client.clone()).get(namespace).await;
        let found = found
            .map_err(|source| NamespaceError::Read { namespace: namespace.to_owned(), source })?;
        let marked = found.labels().get(LABEL_MEDIA_NAMESPACE).is_some_and(|mark| mark == MARK);
        if !marked {
            apply(client, namespace, &json!({LABEL_MEDIA_NAMESPACE: MARK}), "write").await?;
            tracing::info!(namespace, "marked a namespace for the admission policies");
        }
        self.lock().insert(namespace.to_owned(), now);
        Ok(!marked)
    }

    /// Takes the mark away; a namespace that is gone needs none.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn unmark(&self, client: &Client, namespace: &str) -> Result<(), NamespaceError> {
        self.lock().remove(namespace);
        match apply(client, namespace, &json!({}), "take away").await {
            Err(NamespaceError::Write { source: kube::Error::Api(status), .. })
                if status.code == 404 =>
            {
                Ok(())
            }
            done => done,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn apply(
    client: &Client,
    namespace: &str,
    labels: &Value,
    act: &'static str,
) -> Result<(), NamespaceError> {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": labels},
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let api = Api::<Namespace>::all(client.clone());
    let applied = api.patch(namespace, &params, &Patch::Apply(&body)).await;
    applied.map(|_| ()).map_err(|source| NamespaceError::Write {
        act,
        namespace: namespace.to_owned(),
        source,
    })
}
