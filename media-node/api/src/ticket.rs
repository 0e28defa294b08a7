//! Signs tickets and opens them again: Ed25519 (RFC 8032) over the bytes of a [`Ticket`].
//!
//! Says whether a ticket is genuine; whether it fits a media node and holds now is the media node's
//! to judge. Invariant: what is signed is named by its purpose and every part by its length, so
//! that no signature of another kind and no other cut of the same bytes passes for a ticket; and
//! bytes that differ anywhere from what was signed are refused.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use crate::v1::{SignedTicket, Ticket};

/// Longest signed ticket that is looked at, in bytes: five names of Kubernetes objects, each of at
/// most 253 bytes, with numbers and signature stay below it.
pub const TICKET_BYTES_MAX: usize = 2_048;

/// Length of an Ed25519 public key, in bytes.
const KEY_BYTES: usize = 32;

/// What a signature under a ticket key is for; another use gets another word.
const PURPOSE: &[u8] = b"hemicycle-ticket-v1";

/// Why bytes are no genuine ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is longer than any ticket.
    #[error("the ticket has {0} bytes; at most {TICKET_BYTES_MAX} are read")]
    TooLong(usize),
    /// It is not the canonical encoding of a signed ticket.
    #[error("the bytes are not a ticket")]
    Malformed,
    /// None of the keys that were given made it.
    #[error("the ticket is signed with a key that was not given")]
    UnknownKey,
    /// The signature does not fit the content.
    #[error("the signature of the ticket does not hold")]
    Signature,
}

/// The text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: {KEY_BYTES} bytes in base64 are expected")]
pub struct PublicKeyError;

/// The text is no private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key in PKCS #8")]
pub struct SignerError;

/// A key that tells genuine tickets; written in standard base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Names the key in tickets: the first 8 bytes of its SHA-256, in hex.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.0);
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| PublicKeyError)?;
        bytes.try_into().map(Self).map_err(|_| PublicKeyError)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

/// Signs tickets. Debug shows the public half alone.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
    id: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer out of a private key, PKCS #8 in DER (RFC 8410).
    ///
    /// # Errors
    /// When the bytes are no such key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignerError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| SignerError)?;
        let public = pair.public_key().as_ref().try_into().map(PublicKey);
        let public = public.map_err(|_| SignerError)?;
        Ok(Self { pair, public, id: public.id() })
    }

    /// What tells that a ticket is this signer's.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// The bytes for [`crate::v1::GrantRequest::ticket`].
    #[must_use]
    pub fn sign(&self, ticket: &Ticket) -> Vec<u8> {
        let payload = ticket.encode_to_vec();
        let signature = self.pair.sign(&to_be_signed(&self.id, &payload)).as_ref().to_vec();
        SignedTicket { payload, key_id: self.id.clone(), signature }.encode_to_vec()
    }
}

/// The ticket in `bytes`, if one of `keys` made it.
///
/// # Errors
/// When it is too long, not the canonical encoding of a ticket, or not signed with one of them.
pub fn open(bytes: &[u8], keys: &[PublicKey]) -> Result<Ticket, TicketError> {
    if bytes.len() > TICKET_BYTES_MAX {
        return Err(TicketError::TooLong(bytes.len()));
    }
    let signed: SignedTicket = canonical(bytes)?;
    let key = keys.iter().find(|key| key.id() == signed.key_id).ok_or(TicketError::UnknownKey)?;
    UnparsedPublicKey::new(&signature::ED25519, key.0)
        .verify(&to_be_signed(&signed.key_id, &signed.payload), &signed.signature)
        .map_err(|_| TicketError::Signature)?;
    canonical(&signed.payload)
}

/// Decodes what encodes to the same bytes again, so that there is one way to write a ticket.
fn canonical<M: Message + Default>(bytes: &[u8]) -> Result<M, TicketError> {
    let message = M::decode(bytes).map_err(|_| TicketError::Malformed)?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(TicketError::Malformed) }
}

/// Purpose, key and payload, each behind its length in 8 bytes, most significant first.
fn to_be_signed(key_id: &str, payload: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    for part in [PURPOSE, key_id.as_bytes(), payload] {
        whole.extend((part.len() as u64).to_be_bytes());
        whole.extend(part);
    }
    whole
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::rand::SystemRandom;
    use proptest::prelude::*;

    use super::*;

    fn signer() -> Signer {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::from_pkcs8(key.as_ref()).unwrap()
    }

    fn ticket() -> Ticket {
        Ticket {
            tenant: "ministry/visio".into(),
            media_node: "visio-1".into(),
            pod_uid: "0b54eb0a-9e8c-4f0e-93a5-7b1a6e0a4a11".into(),
            kubernetes_node: "paris-1".into(),
            scope: "gold".into(),
            evidence_level: "label".into(),
            not_before_unix_ms: 1_795_424_400_000,
            expires_unix_ms: 1_795_425_000_000,
            issued_epoch: 7,
            serial: 3,
        }
    }

    static SIGNED: LazyLock<(Vec<u8>, PublicKey)> = LazyLock::new(|| {
        let signer = signer();
        (signer.sign(&ticket()), signer.public_key())
    });

    #[test]
    fn what_was_signed_is_opened_with_its_key_and_with_no_other() {
        let (ours, other) = (signer(), signer());
        let bytes = ours.sign(&ticket());
        let keys = [other.public_key(), ours.public_key()];
        assert_eq!(open(&bytes, &keys), Ok(ticket()));
        assert_eq!(open(&bytes, &keys[..1]), Err(TicketError::UnknownKey));
        assert_eq!(open(&bytes, &[]), Err(TicketError::UnknownKey));
    }

    #[test]
    fn another_content_behind_a_genuine_signature_is_refused() {
        let signer = signer();
        let mut signed = SignedTicket::decode(&*signer.sign(&ticket())).unwrap();
        for change in [
            |t: &mut Ticket| t.tenant = "ministry/other".into(),
            |t: &mut Ticket| t.media_node = "visio-2".into(),
            |t: &mut Ticket| t.pod_uid = "another".into(),
            |t: &mut Ticket| t.kubernetes_node = "abroad-1".into(),
            |t: &mut Ticket| t.scope = "silver".into(),
            |t: &mut Ticket| t.evidence_level = "attested".into(),
            |t: &mut Ticket| t.not_before_unix_ms += 1,
            |t: &mut Ticket| t.expires_unix_ms += 1,
            |t: &mut Ticket| t.issued_epoch += 1,
            |t: &mut Ticket| t.serial += 1,
        ] {
            let mut other = ticket();
            change(&mut other);
            signed.payload = other.encode_to_vec();
            let opened = open(&signed.encode_to_vec(), &[signer.public_key()]);
            assert_eq!(opened, Err(TicketError::Signature), "{other:?}");
        }
    }

    #[test]
    fn a_signature_for_another_purpose_is_no_ticket() {
        let signer = signer();
        let payload = ticket().encode_to_vec();
        let signature = signer.pair.sign(&payload).as_ref().to_vec();
        let bytes = SignedTicket { payload, key_id: signer.id.clone(), signature }.encode_to_vec();
        assert_eq!(open(&bytes, &[signer.public_key()]), Err(TicketError::Signature));
    }

    #[test]
    fn what_is_too_long_is_not_even_read() {
        let bytes = vec![0; TICKET_BYTES_MAX + 1];
        assert_eq!(open(&bytes, &[]), Err(TicketError::TooLong(bytes.len())));
    }

    #[test]
    fn a_public_key_is_written_and_read_in_base64_and_the_private_one_is_not_shown() {
        let signer = signer();
        let text = signer.public_key().to_string();
        assert_eq!(text.parse(), Ok(signer.public_key()));
        for bad in ["", "AAAA", "not base64", &format!("{text}AAAA")] {
            assert_eq!(bad.parse::<PublicKey>(), Err(PublicKeyError), "{bad}");
        }
        let shown = format!("{signer:?}");
        assert!(shown.contains(&signer.id) && !shown.contains("pair"), "{shown}");
        assert!(Signer::from_pkcs8(b"not a key").is_err());
    }

    proptest! {
        #[test]
        fn a_ticket_with_one_bit_changed_is_refused(at in 0_usize..4_096, bit in 0_u8..8) {
            let (mut bytes, key) = SIGNED.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(open(&bytes, &[key]).is_err());
        }

        #[test]
        fn a_ticket_that_was_cut_or_prolonged_is_refused(
            at in 0_usize..4_096,
            more in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let (bytes, key) = &*SIGNED;
            prop_assert!(open(&bytes[..at % bytes.len()], &[*key]).is_err());
            prop_assert!(open(&[&bytes[..], &more].concat(), &[*key]).is_err());
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(open(&bytes, &[SIGNED.1]).is_err());
        }
    }
}
