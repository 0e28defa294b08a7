//! Small signed documents of ours, each with its type inside and outside: what [`Checkpoint`]
//! and [`Declaration`] share.
//!
//! Invariant: a document of one type is never read as another, since its type is signed twice.
//!
//! [`Checkpoint`]: crate::checkpoint::Checkpoint
//! [`Declaration`]: crate::declaration::Declaration

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::contradiction::Contradiction;
use crate::dsse::{Envelope, EnvelopeError};
use crate::key::{PublicKey, SigningKey};

/// The types that a document carries.
pub(crate) trait Document: Clone + Serialize + DeserializeOwned {
    /// Type of the envelope's payload.
    const PAYLOAD_TYPE: &'static str;
    /// `_type` in the payload.
    const TYPE: &'static str;
}

/// Why a signed document was refused or not made.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Its envelope was.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It does not read as its type.
    #[error("the signed content is not a document of type {0}")]
    Malformed(&'static str),
    /// It contradicts itself.
    #[error("the document contradicts itself: {0}")]
    Unsound(Contradiction),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<T> {
    #[serde(rename = "_type")]
    document_type: String,
    body: T,
}

pub(crate) fn seal<T: Document>(body: &T, key: &SigningKey) -> Result<Envelope, DocumentError> {
    let wire = Wire { document_type: T::TYPE.to_owned(), body: body.clone() };
    let payload = serde_json::to_vec(&wire).map_err(|_| DocumentError::Malformed(T::TYPE))?;
    Ok(Envelope::seal(T::PAYLOAD_TYPE, payload, key)?)
}

pub(crate) fn open<T: Document>(
    envelope: &Envelope,
    keys: &[PublicKey],
) -> Result<T, DocumentError> {
    read(envelope.open(T::PAYLOAD_TYPE, keys)?)
}

pub(crate) fn read<T: Document>(payload: &[u8]) -> Result<T, DocumentError> {
    let wire: Wire<T> =
        serde_json::from_slice(payload).map_err(|_| DocumentError::Malformed(T::TYPE))?;
    if wire.document_type != T::TYPE {
        return Err(DocumentError::Malformed(T::TYPE));
    }
    Ok(wire.body)
}
