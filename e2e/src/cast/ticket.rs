//! The token that lets someone into a room, as an application's server would mint it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::privacy::Private;
use livekit_contract::token::{ApiKey, MintError, mint};

/// How long a token of ours is good: longer than any demo is looked at.
const LIFE: Duration = Duration::from_secs(6 * 3600);

/// An API key of a tenant on the bed, with its secret.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The key's name.
    pub id: String,
    /// What tokens are signed with.
    pub secret: Private<String>,
}

/// A token with which `identity` may join `room`, publish and subscribe.
///
/// # Errors
/// If the crypto library refuses.
pub fn join_token(
    credentials: &Credentials,
    room: &str,
    identity: &str,
) -> Result<String, MintError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = Claims {
        identity: identity.to_lowercase(),
        name: identity.to_owned(),
        not_before_unix_s: Some(now.as_secs()),
        expires_at_unix_s: (now + LIFE).as_secs(),
        video: Some(VideoGrant::join(room)),
        ..Claims::default()
    };
    mint(&ApiKey::new(&credentials.id, credentials.secret.expose()), &claims)
}
