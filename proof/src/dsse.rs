//! DSSE envelopes with one Ed25519 signature, each on a line of its own.
//!
//! DSSE 1.0: <https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md>. Stricter than
//! the protocol: one signature, key ids that are the hash of the key, base64 without slack bits,
//! and one spelling. Invariant: an accepted line is, byte for byte, what [`Envelope::to_line`]
//! writes, so that no byte of it can change unseen. What was signed is not read before
//! [`Envelope::open`] has verified it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::Sha256;
use crate::key::{KeyError, KeyId, PublicKey, SIGNATURE_BYTES, SigningKey};

/// Longest line that is parsed, in bytes: a statement with every list full stays below it.
pub const LINE_BYTES_MAX: usize = 256 * 1024;
/// Longest payload: base64 makes four bytes of three, and the rest of a line is below 1 KiB.
pub const PAYLOAD_BYTES_MAX: usize = (LINE_BYTES_MAX - 1024) / 4 * 3;
/// Longest payload type.
const TYPE_BYTES_MAX: usize = 128;

/// Why an envelope was refused or not made.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// The line is longer than any that is written.
    #[error("the line has {length} bytes, at most {LINE_BYTES_MAX} are read")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The line is no envelope.
    #[error("the line is not a DSSE envelope with one signature")]
    Malformed,
    /// The line says an envelope in other bytes than those that are written.
    #[error("the line spells its envelope in another way than it is written")]
    Spelling,
    /// The envelope holds something else.
    #[error("the envelope holds `{found}` where `{wanted}` belongs")]
    PayloadType {
        /// What it holds.
        found: String,
        /// What belongs there.
        wanted: &'static str,
    },
    /// The envelope names a key that was not given.
    #[error("the envelope is signed with the key {key_id}, which is not among those given")]
    UnknownKey {
        /// The key's id.
        key_id: KeyId,
    },
    /// The signature is not that key's on this content.
    #[error("the signature does not fit the content")]
    Signature,
    /// The content is larger than a line may carry.
    #[error("the content has {length} bytes, at most {PAYLOAD_BYTES_MAX} fit")]
    PayloadTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A signed payload with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    key_id: KeyId,
    signature: [u8; SIGNATURE_BYTES],
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    payload_type: String,
    payload: String,
    signatures: [WireSignature; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: KeyId,
    sig: String,
}

impl Envelope {
    /// Signs `payload` as a `payload_type`.
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadTooLong`], or [`EnvelopeError::Key`] when the key does not sign.
    pub fn seal(
        payload_type: &'static str,
        payload: Vec<u8>,
        key: &SigningKey,
    ) -> Result<Self, EnvelopeError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EnvelopeError::PayloadTooLong { length: payload.len() });
        }
        let signature = key.sign(&pae(payload_type, &payload))?;
        let key_id = key.public_key().key_id();
        Ok(Self { payload_type: payload_type.to_owned(), payload, key_id, signature })
    }

    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// [`EnvelopeError`] `TooLong`, `Malformed` or `Spelling`.
    pub fn parse(line: &[u8]) -> Result<Self, EnvelopeError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(EnvelopeError::TooLong { length: line.len() });
        }
        let wire: Wire = serde_json::from_slice(line).map_err(|_| EnvelopeError::Malformed)?;
        let [WireSignature { keyid, sig }] = wire.signatures;
        let payload = STANDARD.decode(&wire.payload).map_err(|_| EnvelopeError::Malformed)?;
        let signature = STANDARD.decode(&sig).map_err(|_| EnvelopeError::Malformed)?;
        let signature = signature.try_into().map_err(|_| EnvelopeError::Malformed)?;
        if wire.payload_type.len() > TYPE_BYTES_MAX {
            return Err(EnvelopeError::Malformed);
        }
        let read = Self { payload_type: wire.payload_type, payload, key_id: keyid, signature };
        if read.to_line().as_bytes() == line { Ok(read) } else { Err(EnvelopeError::Spelling) }
    }

    /// The envelope as one line of JSON, without a line feed.
    #[must_use]
    pub fn to_line(&self) -> String {
        let wire = Wire {
            payload_type: self.payload_type.clone(),
            payload: STANDARD.encode(&self.payload),
            signatures: [WireSignature {
                keyid: self.key_id,
                sig: STANDARD.encode(self.signature),
            }],
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// The payload, when it is a `payload_type` that one of `keys` signed.
    ///
    /// # Errors
    /// [`EnvelopeError`] `PayloadType`, `UnknownKey` or `Signature`.
    pub fn open(
        &self,
        payload_type: &'static str,
        keys: &[PublicKey],
    ) -> Result<&[u8], EnvelopeError> {
        if self.payload_type != payload_type {
            let found = crate::text::Text::lossy(&self.payload_type).to_string();
            return Err(EnvelopeError::PayloadType { found, wanted: payload_type });
        }
        let key = keys
            .iter()
            .find(|key| key.key_id() == self.key_id)
            .ok_or(EnvelopeError::UnknownKey { key_id: self.key_id })?;
        if !key.verifies(&pae(payload_type, &self.payload), &self.signature) {
            return Err(EnvelopeError::Signature);
        }
        Ok(&self.payload)
    }

    /// The payload without a look at its signature: for deciding what to copy, never what to
    /// believe.
    #[must_use]
    pub fn payload_unverified(&self) -> &[u8] {
        &self.payload
    }

    /// What it says that it holds; nobody has verified that.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The key that it says it is signed with; nobody has verified that.
    #[must_use]
    pub const fn key_id(&self) -> Sha256 {
        self.key_id
    }
}

/// The pre-authentication encoding: what is signed says its type and both lengths.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::key;

    const TYPE: &str = "application/example";

    fn line() -> String {
        Envelope::seal(TYPE, br#"{"a":1}"#.to_vec(), &key(1)).unwrap().to_line()
    }

    #[test]
    fn pae_is_the_protocol_s_example() {
        let encoded = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_sealed_line_opens_with_its_key_alone() {
        let read = Envelope::parse(line().as_bytes()).unwrap();
        let keys = [key(2).public_key(), key(1).public_key()];
        assert_eq!(read.open(TYPE, &keys).unwrap(), br#"{"a":1}"#);
        assert!(matches!(read.open(TYPE, &keys[..1]), Err(EnvelopeError::UnknownKey { .. })));
        assert!(matches!(read.open("other", &keys), Err(EnvelopeError::PayloadType { .. })));
    }

    #[test]
    fn a_line_has_one_spelling() {
        let line = line();
        for other in [
            format!(" {line}"),
            format!("{line}\r"),
            line.replace("application/", "application\\/"),
            line.replace("\":\"", "\": \""),
            line.replace("=\"", "\""),
            line.replace(r#""keyid""#, r#""extra":1,"keyid""#),
            line.replace("]}", r#",{"keyid":"","sig":""}]}"#),
            String::new(),
        ] {
            assert!(Envelope::parse(other.as_bytes()).is_err(), "{other}");
        }
        let long = vec![b' '; LINE_BYTES_MAX + 1];
        assert!(matches!(Envelope::parse(&long), Err(EnvelopeError::TooLong { .. })));
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let line = line().into_bytes();
        let keys = [key(1).public_key()];
        for at in 0..line.len() {
            for mask in 1..=255 {
                let mut changed = line.clone();
                changed[at] ^= mask;
                let opened = Envelope::parse(&changed)
                    .and_then(|envelope| envelope.open(TYPE, &keys).map(<[u8]>::to_vec));
                assert!(opened.is_err(), "byte {at} ^ {mask:#x}");
            }
        }
    }
}
