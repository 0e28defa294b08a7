//! Keeps CA and leaf certificates in Secrets, read and written by name only, so that the operator
//! needs no permission to list Secrets. Decides nothing: [`super::Authority`] says what is due.
//! Invariant: a Secret is replaced with the resourceVersion it was read at, never forced, and every
//! Secret has an owner, so that none outlives its meeting cluster.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};

use super::{Authority, Issued, PkiError};

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS_CERTIFICATE: &str = "previous.crt";

/// Why a Secret of the internal PKI could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server refused or did not answer.
    #[error("Secret {name} could not be read or written")]
    Api {
        /// The Secret.
        name: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// A certificate could not be issued.
    #[error("no certificate could be issued for Secret {name}")]
    Issue {
        /// The Secret.
        name: String,
        /// Why.
        #[source]
        source: PkiError,
    },
    /// The Secret's content is not what we wrote.
    #[error(
        "Secret {name} holds no usable certificate authority; delete it and a new one is issued"
    )]
    Damaged {
        /// The Secret.
        name: String,
    },
}

/// Where a Secret goes and who owns it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Namespace of the meeting cluster.
    pub namespace: &'a str,
    /// Name of the Secret.
    pub name: String,
    /// Whose deletion takes the Secret along.
    pub owner: OwnerReference,
    /// Labels of every object of the meeting cluster.
    pub labels: BTreeMap<String, String>,
}

/// Name of the Secret that holds a meeting cluster's CA.
#[must_use]
pub fn authority_name(meeting_cluster: &str) -> String {
    format!("{meeting_cluster}-internal-ca")
}

fn text(data: &BTreeMap<String, ByteString>, key: &str) -> Option<String> {
    data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
}

fn issued(data: &BTreeMap<String, ByteString>, certificate: &str, key: &str) -> Option<Issued> {
    Some(Issued { certificate: text(data, certificate)?, key: text(data, key)? })
}

fn authority_of(secret: &Secret) -> Option<Authority> {
    let data = secret.data.as_ref()?;
    Some(Authority {
        current: issued(data, CA_CERTIFICATE, CA_KEY)?,
        next: issued(data, NEXT_CERTIFICATE, NEXT_KEY),
        previous: text(data, PREVIOUS_CERTIFICATE),
    })
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn authority_data(authority: &Authority) -> BTreeMap<String, ByteString> {
    let mut data = BTreeMap::from([
        (CA_CERTIFICATE.to_owned(), bytes(&authority.current.certificate)),
        (CA_KEY.to_owned(), bytes(&authority.current.key)),
    ]);
    if let Some(next) = &authority.next {
        data.insert(NEXT_CERTIFICATE.to_owned(), bytes(&next.certificate));
        data.insert(NEXT_KEY.to_owned(), bytes(&next.key));
    }
    if let Some(previous) = &authority.previous {
        data.insert(PREVIOUS_CERTIFICATE.to_owned(), bytes(previous));
    }
    data
}

/// Reads a meeting cluster's CA; `None` when it was not issued yet. Writes nothing.
///
/// # Errors
/// When the API server does not give the Secret, or it is damaged.
pub async fn load_authority(
    client: &Client,
    namespace: &str,
    meeting_cluster: &str,
) -> Result<Option<Authority>, StoreError> {
    let name = authority_name(meeting_cluster);
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(&name).await.map_err(api_error(&name))?;
    found.map(|secret| authority_of(&secret).ok_or(StoreError::Damaged { name })).transpose()
}

fn api_error(name: &str) -> impl FnOnce(kube::Error) -> StoreError {
    let name = name.to_owned();
    move |source| StoreError::Api { name, source }
}

fn issue_error(name: &str) -> impl FnOnce(PkiError) -> StoreError {
    let name = name.to_owned();
    move |source| StoreError::Issue { name, source }
}

/// Reads the CA, makes it when there is none and takes the step that is due.
///
/// # Errors
/// When the Secret cannot be read or written, is damaged, or no key can be generated.
pub async fn ensure_authority(
    client: &Client,
    place: &Place<'_>,
    tenant: &str,
    now: Timestamp,
) -> Result<Authority, StoreError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), place.namespace);
    let found = api.get_opt(&place.name).await.map_err(api_error(&place.name))?;
    let (authority, found) = match found {
        None => (Authority::generate(tenant, now).map_err(issue_error(&place.name))?, None),
        Some(secret) => {
            let authority = authority_of(&secret)
                .ok_or_else(|| StoreError::Damaged { name: place.name.clone() })?;
            let advanced = authority.advanced(tenant, now).map_err(issue_error(&place.name))?;
            match advanced {
                None if is_owned(&secret, place) => return Ok(authority),
                None => (authority, Some(secret)),
                Some(advanced) => (advanced, Some(secret)),
            }
        }
    };
    write(&api, place, found, "Opaque", authority_data(&authority)).await?;
    tracing::info!(tenant, secret = place.name, "issued or advanced the internal CA");
    Ok(authority)
}

/// Makes or renews the leaf certificate in a Secret of type kubernetes.io/tls, when it is due.
///
/// # Errors
/// When the Secret cannot be read or written, or no certificate can be issued.
pub async fn ensure_leaf(
    client: &Client,
    place: &Place<'_>,
    authority: &Authority,
    dns_name: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), place.namespace);
    let found = api.get_opt(&place.name).await.map_err(api_error(&place.name))?;
    let bundle = authority.bundle();
    let before = found.as_ref().and_then(|secret| secret.data.as_ref());
    let leaf = before.and_then(|data| issued(data, "tls.crt", "tls.key"));
    let good = leaf.filter(|leaf| authority.still_good(&leaf.certificate, dns_name, now));
    let same_bundle = before.and_then(|data| text(data, CA_CERTIFICATE)).as_ref() == Some(&bundle);
    let owned = found.as_ref().is_some_and(|secret| is_owned(secret, place));
    let leaf = match good {
        Some(_) if same_bundle && owned => return Ok(()),
        Some(leaf) => leaf,
        None => authority.issue(dns_name, now).map_err(issue_error(&place.name))?,
    };
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), bytes(&leaf.certificate)),
        ("tls.key".to_owned(), bytes(&leaf.key)),
        (CA_CERTIFICATE.to_owned(), bytes(&bundle)),
    ]);
    write(&api, place, found, "kubernetes.io/tls", data).await
}

fn is_owned(secret: &Secret, place: &Place<'_>) -> bool {
    let owners = secret.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.uid == place.owner.uid)
}

async fn write(
    api: &Api<Secret>,
    place: &Place<'_>,
    found: Option<Secret>,
    type_: &str,
    data: BTreeMap<String, ByteString>,
) -> Result<(), StoreError> {
    let resource_version = found.and_then(|secret| secret.metadata.resource_version);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(place.name.clone()),
            namespace: Some(place.namespace.to_owned()),
            labels: Some(place.labels.clone()),
            owner_references: Some(vec![place.owner.clone()]),
            resource_version,
            ..ObjectMeta::default()
        },
        type_: Some(type_.to_owned()),
        data: Some(data),
        ..Secret::default()
    };
    let params = PostParams::default();
    let written = if secret.metadata.resource_version.is_some() {
        api.replace(&place.name, &params, &secret).await
    } else {
        api.create(&params, &secret).await
    };
    written.map(|_| ()).map_err(api_error(&place.name))
}
