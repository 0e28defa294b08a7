//! Judges the API keys in a Secret: there, readable, and not to be guessed. Pure. Never shows a
//! secret.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use operator_core::world::CredentialsSeen;

/// Key of the Secret that holds the keys.
const FILE: &str = "keys.yaml";
/// Shortest secret accepted, in bytes: what HMAC-SHA-256 is worth (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Names and secrets that stand in LiveKit's documentation and are tried first by anybody.
const WELL_KNOWN: &[&str] = &["secret", "devkey", "apisecret", "changeme", "password"];

/// What the Secret `name` is worth; `None` when it does not exist.
#[must_use]
pub fn judge(name: &str, secret: Option<&Secret>) -> CredentialsSeen {
    let missing = |what: String| CredentialsSeen::Missing { what };
    let Some(secret) = secret else {
        return missing(format!(
            "Secret {name} does not exist: create it with a key `{FILE}` that maps API keys to \
             secrets"
        ));
    };
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(FILE)) else {
        return missing(format!(
            "Secret {name} has no key `{FILE}`: add one that maps API keys to secrets"
        ));
    };
    let text = String::from_utf8_lossy(&bytes.0);
    // The parser's message would quote the text, and with it secrets.
    let Ok(keys) = serde_saphyr::from_str::<BTreeMap<String, String>>(&text) else {
        return missing(format!(
            "`{FILE}` of Secret {name} is not a YAML map of API key to secret: correct it"
        ));
    };
    if keys.is_empty() {
        return missing(format!("`{FILE}` of Secret {name} holds no key: add one"));
    }
    let weak = keys.iter().find_map(|(key, secret)| {
        let known = |text: &str| WELL_KNOWN.contains(&text.to_ascii_lowercase().as_str());
        if known(key) || known(secret) {
            Some(format!("key {key} of Secret {name} is one from the documentation: replace it"))
        } else if secret.len() < SECRET_BYTES_MIN {
            Some(format!(
                "the secret of key {key} in Secret {name} has {} bytes: use at least \
                 {SECRET_BYTES_MIN}",
                secret.len()
            ))
        } else {
            None
        }
    });
    weak.map_or(CredentialsSeen::Good, |what| CredentialsSeen::Weak { what })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(text: &str) -> Secret {
        let data = BTreeMap::from([(FILE.to_owned(), ByteString(text.as_bytes().to_vec()))]);
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn keys_are_judged_and_never_shown() {
        let good = "visio: 0123456789abcdef0123456789abcdef\n";
        assert_eq!(judge("k", Some(&secret(good))), CredentialsSeen::Good);
        let two = format!("{good}old: 0123456789abcdef0123456789abcdeX\n");
        assert_eq!(judge("k", Some(&secret(&two))), CredentialsSeen::Good);
        for bad in ["visio: short-and-sweet", "devkey: 0123456789abcdef0123456789abcdef"] {
            let judged = judge("k", Some(&secret(bad)));
            assert!(matches!(judged, CredentialsSeen::Weak { .. }), "{judged:?}");
            assert!(!format!("{judged:?}").contains("short-and-sweet"));
        }
        for bad in ["- not a map: hunter2hunter2", "", "visio: [hunter2hunter2]"] {
            let judged = judge("k", Some(&secret(bad)));
            assert!(matches!(judged, CredentialsSeen::Missing { .. }), "{bad}: {judged:?}");
            assert!(!format!("{judged:?}").contains("hunter2"));
        }
        assert!(matches!(judge("k", None), CredentialsSeen::Missing { .. }));
    }
}
