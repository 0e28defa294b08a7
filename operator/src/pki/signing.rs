//! The operator's own signing keys, in one Secret of its namespace: made once, read by each leader
//! at the start of its term, kept in memory from then on. Decides nothing. Invariant: a Secret that
//! exists is never overwritten, so that all replicas sign alike; and no key is ever shown.

use std::{collections::BTreeMap, fmt, time::Duration};

use aws_lc_rs::{
    rand::{SystemRandom, fill},
    signature::Ed25519KeyPair,
};
use hemicycle_proof::RoomHashKey;
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use media_api::ticket::Signer;

use crate::reconcile::workload::MANAGED_BY;

/// Name of the Secret.
pub const SECRET: &str = "hemicycle-signing-keys";
/// Signs tickets: Ed25519, PKCS #8 in DER.
const TICKET: &str = "ticket";
/// Signs proofs of where meetings ran: likewise.
const PROOF: &str = "proof";
/// Hashes the names of rooms in proofs: 32 random bytes.
const ROOMS: &str = "rooms";
/// Length of [`ROOMS`]: that of SHA-256, as RFC 2104 recommends for HMAC.
const ROOMS_BYTES: usize = 32;
/// Pause between two attempts to read or make the Secret.
const AGAIN: Duration = Duration::from_secs(1);

/// Why there are no signing keys.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The API server refused or did not answer.
    #[error("Secret {SECRET} could not be read or made")]
    Api(#[source] kube::Error),
    /// The Secret's content is not what we wrote.
    #[error(
        "Secret {SECRET} holds no usable key `{0}`: put it back from a backup, or delete the \
         Secret; new keys replace every media node, within its drain budget"
    )]
    Damaged(&'static str),
    /// No randomness.
    #[error("no key could be generated")]
    Generate(#[source] aws_lc_rs::error::Unspecified),
}

/// The keys. Debug shows none of them.
pub struct SigningKeys {
    ticket: Signer,
    proof: hemicycle_proof::SigningKey,
    rooms: RoomHashKey,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningKeys(‹redacted›)")
    }
}

impl SigningKeys {
    /// New keys, that are kept nowhere.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, SigningError> {
        Self::read(&drawn()?)
    }

    fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, SigningError> {
        let bytes = |name: &'static str| {
            data.get(name).map(|bytes| bytes.0.as_slice()).ok_or(SigningError::Damaged(name))
        };
        let ticket = Signer::from_pkcs8(bytes(TICKET)?);
        let ticket = ticket.map_err(|_| SigningError::Damaged(TICKET))?;
        let proof = hemicycle_proof::SigningKey::from_pkcs8_der(bytes(PROOF)?);
        let proof = proof.map_err(|_| SigningError::Damaged(PROOF))?;
        let rooms = RoomHashKey::from_bytes(bytes(ROOMS)?);
        let rooms = rooms.map_err(|_| SigningError::Damaged(ROOMS))?;
        Ok(Self { ticket, proof, rooms })
    }

    /// Signs tickets.
    #[must_use]
    pub fn ticket(&self) -> &Signer {
        &self.ticket
    }

    /// Signs proofs.
    #[must_use]
    pub fn proof(&self) -> &hemicycle_proof::SigningKey {
        &self.proof
    }

    /// Makes what stands for a room's name.
    #[must_use]
    pub fn rooms(&self) -> &RoomHashKey {
        &self.rooms
    }
}

fn drawn() -> Result<BTreeMap<String, ByteString>, SigningError> {
    let random = SystemRandom::new();
    let pair = || Ed25519KeyPair::generate_pkcs8(&random).map_err(SigningError::Generate);
    let mut rooms = [0; ROOMS_BYTES];
    fill(&mut rooms).map_err(SigningError::Generate)?;
    Ok(BTreeMap::from([
        (TICKET.to_owned(), ByteString(pair()?.as_ref().to_vec())),
        (PROOF.to_owned(), ByteString(pair()?.as_ref().to_vec())),
        (ROOMS.to_owned(), ByteString(rooms.to_vec())),
    ]))
}

/// Reads the keys, and makes them where there are none. Of two replicas that make them at once, one
/// does; the other reads what that one made.
///
/// # Errors
/// When the Secret cannot be read or made, or holds something else.
pub async fn ensure(client: &Client, namespace: &str) -> Result<SigningKeys, SigningError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Some(secret) = api.get_opt(SECRET).await.map_err(SigningError::Api)? {
        return SigningKeys::read(&secret.data.unwrap_or_default());
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(drawn()?),
        ..Secret::default()
    };
    let kept = match api.create(&PostParams::default(), &secret).await {
        Ok(made) => {
            tracing::info!(namespace, secret = SECRET, "made the signing keys");
            made
        }
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.get(SECRET).await.map_err(SigningError::Api)?
        }
        Err(error) => return Err(SigningError::Api(error)),
    };
    SigningKeys::read(&kept.data.unwrap_or_default())
}

/// [`ensure`], tried again until it succeeds. Without keys nothing may be started, since no media
/// node would let a room in.
pub async fn ensured(client: &Client, namespace: &str) -> SigningKeys {
    let mut told = String::new();
    loop {
        match ensure(client, namespace).await {
            Ok(keys) => return keys,
            Err(error) => {
                let reason = error.to_string();
                if reason != told {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, namespace, "no signing keys: no work begins without");
                    told = reason;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drawn_is_read_again_and_each_part_is_missed_by_name() {
        let data = drawn().expect("drawn");
        let keys = SigningKeys::read(&data).expect("whole");
        let again = SigningKeys::read(&data).expect("whole");
        assert_eq!(keys.ticket().public_key(), again.ticket().public_key());
        let hash = |keys: &SigningKeys| keys.rooms().hash("ministry/visio", "council");
        assert_eq!(hash(&keys), hash(&again));
        for part in [TICKET, PROOF, ROOMS] {
            let mut damaged = data.clone();
            damaged.insert(part.to_owned(), ByteString(b"short".to_vec()));
            for data in [damaged.clone(), {
                damaged.remove(part);
                damaged
            }] {
                let error = SigningKeys::read(&data).expect_err("damaged").to_string();
                assert!(error.contains(&format!("`{part}`")), "{error}");
            }
        }
    }

    #[test]
    fn keys_do_not_reach_a_log_line() {
        let keys = SigningKeys::generate().expect("generated");
        assert_eq!(format!("{keys:?}"), "SigningKeys(‹redacted›)");
    }
}
