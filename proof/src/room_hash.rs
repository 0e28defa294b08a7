//! Rooms as keyed hashes: whoever holds the key finds a given meeting again, nobody else learns
//! its name.
//!
//! Invariant: no type of this crate holds the name of a room, and no formatting shows a
//! [`RoomHashKey`]. A plain hash would not do: names of rooms can be guessed.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hash::Sha256;
use crate::key::KeyError;

/// HMAC-SHA256 (RFC 2104) of a tenant and a room's name, as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoomHash(Sha256);

impl fmt::Display for RoomHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The owner's key, under which rooms are hashed.
pub struct RoomHashKey(hmac::Key);

/// A text is no [`RoomHashKey`].
#[derive(Debug, Error)]
#[error("a room key is {} to {} bytes in base64", RoomHashKey::BYTES_MIN, RoomHashKey::BYTES_MAX)]
pub struct NotARoomHashKey;

impl RoomHashKey {
    /// As long as the hash: a shorter key could be guessed sooner than a name.
    pub const BYTES_MIN: usize = 32;
    /// A block of SHA-256; HMAC hashes longer keys first.
    pub const BYTES_MAX: usize = 64;

    /// The text of a new key, with randomness of the operating system through aws-lc, for whoever
    /// writes the key file. Its result does not follow from its arguments.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the library gives none.
    pub fn generate_text() -> Result<String, KeyError> {
        let mut bytes = [0; Self::BYTES_MIN];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Generate)?;
        Ok(format!("{}\n", STANDARD.encode(bytes)))
    }

    /// A key from its raw bytes.
    ///
    /// # Errors
    /// [`NotARoomHashKey`] when there are too few or too many.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotARoomHashKey> {
        if !(Self::BYTES_MIN..=Self::BYTES_MAX).contains(&bytes.len()) {
            return Err(NotARoomHashKey);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Reads base64 with white space around it.
    ///
    /// # Errors
    /// [`NotARoomHashKey`].
    pub fn parse(text: &str) -> Result<Self, NotARoomHashKey> {
        Self::from_bytes(&STANDARD.decode(text.trim()).map_err(|_| NotARoomHashKey)?)
    }

    /// The hash of the room `name` of `tenant` (`namespace/name` of the meeting cluster).
    #[must_use]
    pub fn hash(&self, tenant: &str, name: &str) -> RoomHash {
        let mut context = hmac::Context::with_key(&self.0);
        // The length keeps `a` + `bc` and `ab` + `c` apart.
        context.update(&(tenant.len() as u64).to_be_bytes());
        context.update(tenant.as_bytes());
        context.update(name.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        RoomHash(Sha256::from_bytes(hash))
    }
}

impl fmt::Debug for RoomHashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomHashKey(‹redacted›)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_one_hash_under_one_key() {
        let key = RoomHashKey::from_bytes(&[7; 32]).unwrap();
        let again = RoomHashKey::parse(&format!("{}\n", STANDARD.encode([7; 32]))).unwrap();
        assert_eq!(key.hash("a/b", "room"), again.hash("a/b", "room"));
        assert_ne!(key.hash("a/b", "room"), key.hash("a/br", "oom"));
        let other = RoomHashKey::from_bytes(&[8; 32]).unwrap();
        assert_ne!(key.hash("a/b", "room"), other.hash("a/b", "room"));
        assert!(RoomHashKey::from_bytes(&[7; 31]).is_err());
        assert!(!format!("{key:?}").contains('7'));
    }
}
