//! Access tokens: verification against a ring of keys, and minting.
//!
//! Decides whether a token is genuine and in its time; what its bearer may do is `grants`.
//! HS256 only. Invariant: no claim is used before the signature over it has been checked, and a
//! token without `exp` is never accepted.

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Deserialize;

use crate::grants::Claims;
use crate::privacy::Private;

/// Longest token that is looked at, in bytes. Tokens travel in headers and queries; LiveKit's
/// with room configuration and metadata stay under 8 KiB, and parsing cost grows with length.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Clocks of those who mint and of us may differ by this much, in seconds (LiveKit's own
/// tolerance, `protocol/auth/verifier.go`, so that a token good there is good here).
pub const LEEWAY_S: u64 = 60;
/// Shortest secret accepted outside dev, in bytes: HS256 is as strong as its key (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Most keys in a ring: a few per tenant and those being rotated out.
pub const KEYS_MAX: usize = 64;
/// Secrets printed in documentation and examples of LiveKit and Visio.
const SECRETS_KNOWN: &[&str] = &["secret", "devkey", "devsecret", "password", "changeme"];

/// One API key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: String,
    secret: Private<String>,
}

impl ApiKey {
    /// A key by its id (the tokens' `iss`) and its secret.
    #[must_use]
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { id: id.into(), secret: Private::new(secret.into()) }
    }

    /// The id, which is not secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether weak secrets are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Known or short secrets are refused.
    Strict,
    /// A developer's machine: any secret that is not empty.
    Dev,
}

/// The keys that are valid now; several, so that keys can be rotated without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<ApiKey>,
}

/// Why a set of keys is refused. The texts name the key's id and never the secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No token could ever be verified.
    #[error("there is no API key: give at least one `key: secret` pair")]
    None,
    /// More than [`KEYS_MAX`].
    #[error("there are {0} API keys; at most {KEYS_MAX} are allowed")]
    TooMany(usize),
    /// A key without an id.
    #[error("an API key has an empty id")]
    EmptyId,
    /// Two secrets for one id.
    #[error("API key `{0}` is given twice")]
    Duplicate(String),
    /// A secret that is short or printed in documentation.
    #[error("the secret of API key `{0}` is weak: use at least {SECRET_BYTES_MIN} random bytes")]
    Weak(String),
}

impl KeyRing {
    /// Takes the keys that pass.
    ///
    /// # Errors
    /// When there are none or too many, an id is empty or doubled, or a secret is weak.
    pub fn new(
        keys: impl IntoIterator<Item = ApiKey>,
        strength: Strength,
    ) -> Result<Self, KeyError> {
        let mut ring: Vec<ApiKey> = Vec::new();
        let mut count = 0;
        for key in keys {
            count += 1;
            if count > KEYS_MAX {
                continue;
            }
            if key.id.is_empty() {
                return Err(KeyError::EmptyId);
            }
            if ring.iter().any(|known| known.id == key.id) {
                return Err(KeyError::Duplicate(key.id));
            }
            if is_weak(&key, strength) {
                return Err(KeyError::Weak(key.id));
            }
            ring.push(key);
        }
        match count {
            0 => Err(KeyError::None),
            count if count > KEYS_MAX => Err(KeyError::TooMany(count)),
            _ => Ok(Self { keys: ring }),
        }
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ApiKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The first key; with it a server signs what it issues itself.
    #[must_use]
    pub fn first(&self) -> Option<&ApiKey> {
        self.keys.first()
    }

    /// Every key, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &ApiKey> {
        self.keys.iter()
    }
}

fn is_weak(key: &ApiKey, strength: Strength) -> bool {
    let secret = key.secret.expose();
    match strength {
        Strength::Dev => secret.is_empty(),
        Strength::Strict => {
            let first = secret.as_bytes().first();
            let one_byte_only = secret.as_bytes().iter().all(|byte| Some(byte) == first);
            secret.len() < SECRET_BYTES_MIN
                || one_byte_only
                || *secret == key.id
                || SECRETS_KNOWN.contains(&secret.as_str())
        }
    }
}

/// Why a token is refused. The texts begin as LiveKit's do (`pkg/service/auth.go`): SDKs show them
/// to users. None of them repeats a claim or the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Neither header nor query carried a token, or its grants do not suffice.
    #[error("permissions denied")]
    PermissionDenied,
    /// The `Authorization` header is not of the form that is read.
    #[error("invalid authorization header. Must start with Bearer ")]
    NotBearer,
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("invalid authorization token: longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not three base64url parts of JSON.
    #[error("invalid authorization token")]
    Malformed,
    /// Signed, or claiming to be, by something other than HS256.
    #[error("invalid authorization token: signing method is not HS256")]
    Algorithm,
    /// Its `iss` is no key of ours.
    #[error("invalid API key")]
    UnknownKey,
    /// The signature is not that key's.
    #[error("invalid authorization token: signature is invalid")]
    Signature,
    /// A claim has a wrong type.
    #[error("invalid authorization token: claims are not of the expected form")]
    Claims,
    /// No `exp`: it would be valid for ever.
    #[error("invalid authorization token: exp claim is required")]
    NoExpiry,
    /// `exp` has passed.
    #[error("invalid authorization token: token is expired")]
    Expired,
    /// `nbf` is yet to come.
    #[error("invalid authorization token: token is not valid yet")]
    NotYetValid,
}

impl TokenError {
    /// The HTTP status that SDKs expect with it: LiveKit answers 401 to all of them.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        401
    }
}

/// The token of a request: from `Authorization: Bearer …` or else from the query.
///
/// # Errors
/// When the header is there and is not a bearer token, or when there is no token at all.
pub fn from_request<'a>(
    authorization: Option<&'a str>,
    access_token: Option<&'a str>,
) -> Result<&'a str, TokenError> {
    if let Some(header) = authorization.filter(|header| !header.is_empty()) {
        let token = header.strip_prefix("Bearer ").ok_or(TokenError::NotBearer)?;
        return if token.is_empty() { Err(TokenError::PermissionDenied) } else { Ok(token) };
    }
    access_token.filter(|token| !token.is_empty()).ok_or(TokenError::PermissionDenied)
}

/// Checks a token against the ring at the given time and returns its claims.
///
/// # Errors
/// One [`TokenError`] for whatever is wrong with it.
pub fn verify(ring: &KeyRing, token: &str, now_unix_s: u64) -> Result<Claims, TokenError> {
    #[derive(Deserialize)]
    struct Issuer {
        #[serde(default)]
        iss: String,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| header_error(error.kind()))?;
    if header.alg != Algorithm::HS256 {
        return Err(TokenError::Algorithm);
    }
    // Only to choose the key: nothing else is read from a body that is not verified yet.
    let issuer: Issuer = jsonwebtoken::dangerous::insecure_decode_claims(token)
        .map_err(|error| body_error(error.kind()))?;
    let key = ring.get(&issuer.iss).ok_or(TokenError::UnknownKey)?;
    let secret = DecodingKey::from_secret(key.secret.expose().as_bytes());
    let mut validation = Validation::new(Algorithm::HS256);
    // Times are checked below against the time that was handed in, not against the clock.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let mut claims = jsonwebtoken::decode::<Claims>(token, &secret, &validation)
        .map_err(|error| body_error(error.kind()))?
        .claims;
    check_times(&claims, now_unix_s)?;
    if claims.identity.is_empty() {
        claims.identity.clone_from(&claims.token_id);
    }
    Ok(claims)
}

fn check_times(claims: &Claims, now_unix_s: u64) -> Result<(), TokenError> {
    if claims.expires_at_unix_s == 0 {
        return Err(TokenError::NoExpiry);
    }
    if now_unix_s >= claims.expires_at_unix_s.saturating_add(LEEWAY_S) {
        return Err(TokenError::Expired);
    }
    let latest = now_unix_s.saturating_add(LEEWAY_S);
    if claims.not_before_unix_s.is_some_and(|start| start > latest) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

fn header_error(kind: &ErrorKind) -> TokenError {
    match kind {
        // The library does not know the name (`none` among them), or it is no text at all.
        ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm | ErrorKind::Json(_) => {
            TokenError::Algorithm
        }
        _ => TokenError::Malformed,
    }
}

fn body_error(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) => TokenError::Claims,
        _ => TokenError::Malformed,
    }
}

/// The claims could not be written as a token; only a broken crypto library does this.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot sign a token with API key `{0}`")]
pub struct MintError(String);

/// Signs `claims` with `key`; `iss` becomes the key's id.
///
/// # Errors
/// When the crypto library refuses.
pub fn mint(key: &ApiKey, claims: &Claims) -> Result<String, MintError> {
    let claims = Claims { issuer: key.id.clone(), ..claims.clone() };
    let secret = EncodingKey::from_secret(key.secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret)
        .map_err(|_| MintError(key.id.clone()))
}
