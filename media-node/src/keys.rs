//! The API keys now valid, read again when their file changes.
//!
//! Decides nothing about tokens. Invariant: a file that turned bad leaves the last good keys in
//! force, and says so in the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use livekit_contract::grants::Claims;
use livekit_contract::keys_file::{self, KeysFileError};
use livekit_contract::token::{self, ApiKey, KeyRing, Strength, TokenError};

/// How often a mounted file is looked at; kubelet itself updates mounts within a minute.
pub const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Validity of a refreshed token, seconds (LiveKit: 10 min, renewed every 5).
const REFRESHED_SECONDS: u64 = 600;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("keys_file: cannot read `{path}`: {reason}")]
    Read { path: String, reason: String },
    #[error("keys_file: `{path}`: {reason}")]
    Content { path: String, reason: KeysFileError },
}

/// The keys of this process.
#[derive(Clone)]
pub struct Keys {
    ring: Arc<ArcSwap<KeyRing>>,
}

impl Keys {
    /// Fixed keys, as with `--dev`.
    pub fn fixed(ring: KeyRing) -> Self {
        Self { ring: Arc::new(ArcSwap::from_pointee(ring)) }
    }

    /// Reads the file; [`Keys::watch`] keeps up with it.
    pub fn from_file(path: &Path) -> Result<Self, KeysError> {
        let (_, ring) = read(path)?;
        Ok(Self::fixed(ring))
    }

    /// Looks at the file for ever.
    pub async fn watch(self, path: PathBuf) {
        let mut seen = std::fs::read_to_string(&path).unwrap_or_default();
        let mut complained = false;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            match read(&path) {
                Ok((text, ring)) => {
                    complained = false;
                    if text != seen {
                        seen = text;
                        self.ring.store(Arc::new(ring));
                        tracing::info!("API keys changed");
                    }
                }
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "the keys read before stay in force");
                }
                Err(_) => {}
            }
        }
    }

    /// The claims of a valid token.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        token::verify(&self.ring.load(), token, unix_seconds())
    }

    /// Signs claims with the first key (dev tokens).
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let ring = self.ring.load();
        token::mint(ring.first()?, claims).ok()
    }
}

impl media_core::TokenMinter for Keys {
    /// Signs claims again with the key that signed them before, if it is still valid, so that who
    /// verified the old token can verify the new one.
    fn mint(&self, claims: &Claims, now_unix_s: u64) -> Option<String> {
        let ring = self.ring.load();
        let key = ring.get(&claims.issuer)?;
        let fresh = Claims {
            not_before_unix_s: Some(now_unix_s),
            issued_at_unix_s: Some(now_unix_s),
            expires_at_unix_s: now_unix_s + REFRESHED_SECONDS,
            ..claims.clone()
        };
        token::mint(key, &fresh).ok()
    }
}

/// Keys of the dev server.
pub fn dev_keys(id: &str, secret: &str) -> Option<Keys> {
    KeyRing::new([ApiKey::new(id, secret)], Strength::Strict).ok().map(Keys::fixed)
}

fn read(path: &Path) -> Result<(String, KeyRing), KeysError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| KeysError::Read { path: shown(), reason: error.to_string() })?;
    let ring = keys_file::parse(&text, Strength::Strict)
        .map_err(|reason| KeysError::Content { path: shown(), reason })?;
    Ok((text, ring))
}

/// Seconds since 1970 by the wall clock.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970 by the wall clock.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
