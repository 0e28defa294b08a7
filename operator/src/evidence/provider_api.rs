//! What every provider's API must answer: where machines are, by their ids. Opens the API that a
//! scope names, with the Secret that it names.
//!
//! Judges no answer. Invariant: neither an error nor a debug output shows a secret.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc};

use hemicycle_crds::qualification_scope::{ProviderApi as Spec, ProviderApiKind};
use k8s_openapi::api::core::v1::Secret;
use thiserror::Error;

use super::outscale::{self, Outscale};
use crate::reconcile::context::Clock;

/// Key of the Secret that holds the access key.
pub const ACCESS_KEY: &str = "accessKey";
/// Key of the Secret that holds the secret key.
pub const SECRET_KEY: &str = "secretKey";
/// Key of the Secret that holds the authorities, as PEM.
pub const AUTHORITIES: &str = "ca.crt";

/// Where a machine is, in the provider's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The account that it belongs to.
    pub account: String,
    /// Its region.
    pub region: String,
    /// Its subregion.
    pub subregion: String,
}

/// Machines by id, each that was asked about; `None` for one that the provider does not know.
pub type Machines = BTreeMap<String, Option<Machine>>;

/// An answer to come.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Machines, ProviderApiError>> + Send + 'a>>;

/// A provider's API.
pub trait ProviderApi: Send + Sync {
    /// Asks where machines are, at most [`batch_max`] at once.
    fn machines<'a>(&'a self, ids: &'a [String]) -> Answer<'a>;
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ProviderApiError {
    /// The Secret or the scope's `spec.providerApi` is of no use.
    #[error("{what}: correct it")]
    Misconfigured {
        /// What is wrong where; never a secret.
        what: String,
    },
    /// The API was not reached, or could not answer now.
    #[error("{act} gave no answer: {why}")]
    Unreachable {
        /// The API's own word for the call.
        act: &'static str,
        /// What was met on the way.
        why: String,
    },
    /// The API refused to answer us.
    #[error("{act} was refused with status {status} ({words}): check the Secret's keys and rights")]
    Refused {
        /// The API's own word for the call.
        act: &'static str,
        /// HTTP status.
        status: u16,
        /// The API's words for it.
        words: String,
    },
    /// The answer is not of the shape that the API documents.
    #[error("the answer to {act} cannot be read: {why}")]
    Unreadable {
        /// The API's own word for the call.
        act: &'static str,
        /// What is wrong with it, without what it holds.
        why: String,
    },
}

impl ProviderApiError {
    /// The word in metrics and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Misconfigured { .. } => "misconfigured",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// A secret: no formatting shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Private(String);

impl Private {
    /// Marks a text as secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text. Whoever calls this keeps it out of logs and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("‹redacted›")
    }
}

/// What the Secret of a provider's API holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Names the user.
    pub access_key: String,
    /// Signs requests.
    pub secret_key: Private,
    /// PEM with the authorities that are trusted, and nobody else.
    pub authorities: String,
}

impl Credentials {
    /// Reads the Secret `name`; `None` when it does not exist.
    ///
    /// # Errors
    /// [`ProviderApiError::Misconfigured`] that names what is missing.
    pub fn read(name: &str, secret: Option<&Secret>) -> Result<Self, ProviderApiError> {
        let missing = |what: String| ProviderApiError::Misconfigured { what };
        let Some(secret) = secret else {
            return Err(missing(format!(
                "Secret {name} does not exist in the operator's namespace"
            )));
        };
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
            let text = text.map(str::trim).filter(|text| !text.is_empty());
            text.map(str::to_owned)
                .ok_or_else(|| missing(format!("Secret {name} holds no text under `{key}`")))
        };
        Ok(Self {
            access_key: text(ACCESS_KEY)?,
            secret_key: Private::new(text(SECRET_KEY)?),
            authorities: text(AUTHORITIES)?,
        })
    }
}

/// How many machines one call to such an API may ask about.
#[must_use]
pub fn batch_max(kind: ProviderApiKind) -> usize {
    match kind {
        ProviderApiKind::Outscale => outscale::BATCH_MAX,
    }
}

/// The API that a scope names.
///
/// # Errors
/// [`ProviderApiError::Misconfigured`] when the address or a part of the Secret is of no use.
pub fn open(
    spec: &Spec,
    credentials: Credentials,
    clock: Clock,
) -> Result<Arc<dyn ProviderApi>, ProviderApiError> {
    match spec.kind {
        ProviderApiKind::Outscale => Ok(Arc::new(Outscale::new(spec, credentials, clock)?)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(keys: &[&str]) -> Secret {
        let value = |key: &str| ByteString(format!("{key}-hunter2\n").into_bytes());
        let data = keys.iter().map(|key| ((*key).to_owned(), value(key)));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn a_secret_is_read_whole_and_not_shown() {
        let read = Credentials::read("api", Some(&secret(&[ACCESS_KEY, SECRET_KEY, AUTHORITIES])));
        let read = read.unwrap();
        assert_eq!(read.secret_key.expose(), "secretKey-hunter2");
        assert!(!format!("{read:?}").contains("secretKey-hunter2"));
    }

    #[test]
    fn what_a_secret_lacks_is_named() {
        let lacks = |secret: Option<&Secret>| {
            let error = Credentials::read("api", secret).unwrap_err();
            assert_eq!(error.kind(), "misconfigured");
            error.to_string()
        };
        assert!(lacks(None).contains("does not exist"));
        let told = lacks(Some(&secret(&[ACCESS_KEY, SECRET_KEY])));
        assert!(told.contains("ca.crt") && !told.contains("hunter2"), "{told}");
    }
}
