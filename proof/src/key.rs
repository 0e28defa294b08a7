//! Ed25519 keys (RFC 8032) and their text forms: PKCS#8 and SPKI in PEM (RFC 7468, RFC 8410), raw
//! bytes in base64.
//!
//! Draws no randomness save in [`SigningKey::generate`]. Invariant: no formatting shows a private
//! key; only [`SigningKey::to_pem`] does, for whoever writes the key file.

use std::fmt;

use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::Sha256;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of a raw public key.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Longest key file that is looked at: ten times what a PEM of either kind has.
pub const KEY_FILE_BYTES_MAX: usize = 2_048;

/// DER before the raw key in a `SubjectPublicKeyInfo` of Ed25519 (RFC 8410, section 4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];
/// Characters on a line of a PEM (RFC 7468, section 2).
const PEM_COLUMNS: usize = 64;
const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// Why a key was refused.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The bytes are no PKCS#8 document with an Ed25519 key.
    #[error("this is no PKCS#8 Ed25519 private key: make one with `hemicycle-proof keygen`")]
    Private,
    /// The text is neither a PEM of an Ed25519 public key nor 32 bytes in base64.
    #[error("this is no Ed25519 public key: a PEM `PUBLIC KEY`, or 32 bytes in base64")]
    Public,
    /// The cryptographic library gave no key.
    #[error("the cryptographic library made no key")]
    Generate,
    /// The cryptographic library gave no signature.
    #[error("the cryptographic library made no signature")]
    Sign,
}

/// What names a public key: the SHA-256 of its 32 raw bytes.
pub type KeyId = Sha256;

/// A private key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new key, with randomness of the operating system through aws-lc. Its
    /// result does not follow from its arguments.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the library gives none.
    pub fn generate() -> Result<Self, KeyError> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| KeyError::Generate)
    }

    /// Reads PKCS#8 DER (RFC 5958), version 1 or 2.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8(der).map(Self).map_err(|_| KeyError::Private)
    }

    /// Reads PKCS#8 in PEM, as `openssl genpkey -algorithm ED25519` writes it.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = pem_decode(PRIVATE, pem).ok_or(KeyError::Private)?;
        Self::from_pkcs8_der(&der)
    }

    /// PKCS#8 in PEM. Whoever calls this keeps it from everyone else.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the library does not write it.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(pem_encode(PRIVATE, der.as_ref()))
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the library gives no signature.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], KeyError> {
        let made = self.0.try_sign(message).map_err(|_| KeyError::Sign)?;
        made.as_ref().try_into().map_err(|_| KeyError::Sign)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public_key().key_id())
    }
}

/// A public key that verifies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// A key from its raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; PUBLIC_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// Reads either text form, with white space around it.
    ///
    /// # Errors
    /// [`KeyError::Public`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyError::Public);
        }
        let raw = if text.contains("-----BEGIN") {
            let der = pem_decode(PUBLIC, text).ok_or(KeyError::Public)?;
            der.strip_prefix(&SPKI_HEAD).ok_or(KeyError::Public)?.to_vec()
        } else {
            STANDARD.decode(text.trim()).map_err(|_| KeyError::Public)?
        };
        raw.try_into().map(Self).map_err(|_| KeyError::Public)
    }

    /// The raw bytes in base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// `SubjectPublicKeyInfo` in PEM, as `openssl pkey -pubin` reads it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem_encode(PUBLIC, &[&SPKI_HEAD[..], &self.0].concat())
    }

    /// The key's name in signatures.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        Sha256::of(&self.0)
    }

    /// Whether `signature` is this key's on `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_base64())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_base64()
    }
}

fn pem_encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (at, character) in body.chars().enumerate() {
        if at > 0 && at % PEM_COLUMNS == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + &format!("\n-----END {label}-----\n")
}

/// The bytes of the one PEM block in `text`.
fn pem_decode(label: &str, text: &str) -> Option<Vec<u8>> {
    if text.len() > KEY_FILE_BYTES_MAX {
        return None;
    }
    let body = text
        .trim()
        .strip_prefix(&format!("-----BEGIN {label}-----"))?
        .strip_suffix(&format!("-----END {label}-----"))?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key that is the same in every test.
    pub(crate) fn key(seed: u8) -> SigningKey {
        SigningKey(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    #[test]
    fn keys_read_as_written() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        let public = key.public_key();
        assert_eq!(again.public_key(), public);
        assert_eq!(PublicKey::parse(&public.to_pem()).unwrap(), public);
        assert_eq!(PublicKey::parse(&public.to_base64()).unwrap(), public);
        assert!(public.verifies(b"m", &again.sign(b"m").unwrap()));
        assert!(!public.verifies(b"n", &again.sign(b"m").unwrap()));
    }

    #[test]
    fn other_keys_are_refused() {
        let public = key(1).public_key();
        assert!(SigningKey::from_pem(&public.to_pem()).is_err());
        for text in ["", "AAAA", &format!("A{}", public.to_base64()), &"A".repeat(5_000)] {
            assert!(PublicKey::parse(text).is_err(), "{text}");
        }
        let private = key(1).to_pem().unwrap();
        assert!(PublicKey::parse(&private).is_err());
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let key = key(1);
        let pem = key.to_pem().unwrap();
        let body = pem.lines().nth(1).unwrap();
        assert!(!format!("{key:?}").contains(&body[20..]));
    }
}
