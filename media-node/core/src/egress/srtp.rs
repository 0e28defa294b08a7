//! SRTP and SRTCP of one transport that only sends media: seals RTP and RTCP, opens RTCP.
//!
//! Knows the three suites that DTLS may agree on (RFC 5764 §4.1.2, RFC 7714 §14.2) and nothing of
//! what is inside. Every key is scheduled once, when the keys come. Invariant: an SRTCP index is
//! never used twice, neither by us nor, as far as we believe it, by the peer; that RTP numbers are
//! not is the caller's part.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use str0m::crypto::dtls::SrtpProfile;

use super::replay::Replay;

/// Bytes that sealing adds to RTP at most: the tag of AES-GCM.
pub(super) const TAG_BYTES_MAX: usize = 16;
/// The tag of HMAC-SHA1-80.
const MAC_BYTES: usize = 10;
/// The index word of SRTCP.
const INDEX_BYTES: usize = 4;
/// The part of an RTCP packet that is never encrypted.
const RTCP_CLEAR_BYTES: usize = 8;
/// The E bit of the index word.
const ENCRYPTED: u32 = 1 << 31;

/// Labels of RFC 3711 §4.3.1 and §4.3.2.
const RTP_KEY: u8 = 0;
const RTP_MAC: u8 = 1;
const RTP_SALT: u8 = 2;
const RTCP_KEY: u8 = 3;
const RTCP_MAC: u8 = 4;
const RTCP_SALT: u8 = 5;

/// Why a packet was neither sealed nor opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SrtpError {
    #[error("the DTLS handshake ended on an SRTP suite that is not offered: refuse the transport")]
    UnknownSuite,
    #[error("the keying material is too short for its suite: refuse the transport")]
    KeysTooShort,
    #[error("the crypto library refused a key or packet: drop the packet")]
    Refused,
    #[error("every SRTCP index was used: the transport needs new keys")]
    IndexesUsedUp,
    #[error("too short for SRTCP or not encrypted: drop the packet")]
    Malformed,
    #[error("the SRTCP packet came before: drop it")]
    Replayed,
}

/// What a DTLS handshake agreed on for SRTP.
pub(crate) struct Keys {
    profile: SrtpProfile,
    material: Vec<u8>,
    client: bool,
}

impl Keys {
    /// `material`: the exporter's output (RFC 5764 §4.2). `client`: we are the DTLS client.
    pub(crate) fn new(profile: SrtpProfile, material: &[u8], client: bool) -> Self {
        Self { profile, material: material.to_vec(), client }
    }

    /// Master key and salt, ours and the peer's. The exporter has the client's key, the server's,
    /// then the salts in this order.
    fn masters(&self) -> Result<(Master<'_>, Master<'_>), SrtpError> {
        let (key_bytes, salt_bytes) = match self.profile {
            SrtpProfile::AES128_CM_SHA1_80 => (16, 14),
            SrtpProfile::AEAD_AES_128_GCM => (16, 12),
            SrtpProfile::AEAD_AES_256_GCM => (32, 12),
            _ => return Err(SrtpError::UnknownSuite),
        };
        let mut rest = self.material.as_slice();
        let mut next = |bytes| {
            let (taken, left) = rest.split_at_checked(bytes).ok_or(SrtpError::KeysTooShort)?;
            rest = left;
            Ok(taken)
        };
        let (client_key, server_key) = (next(key_bytes)?, next(key_bytes)?);
        let (client_salt, server_salt) = (next(salt_bytes)?, next(salt_bytes)?);
        let profile = self.profile;
        let client = Master { profile, key: client_key, salt: client_salt };
        let server = Master { profile, key: server_key, salt: server_salt };
        Ok(if self.client { (client, server) } else { (server, client) })
    }
}

struct Master<'a> {
    profile: SrtpProfile,
    key: &'a [u8],
    salt: &'a [u8],
}

impl Master<'_> {
    /// The key stream of the pseudo-random function (RFC 3711 §4.3.3) for one label.
    fn derive<const N: usize>(&self, label: u8) -> Result<[u8; N], SrtpError> {
        let algorithm = if self.key.len() == 32 { &AES_256 } else { &AES_128 };
        let key = UnboundCipherKey::new(algorithm, self.key).and_then(EncryptingKey::ctr);
        let mut counter = [0; 16];
        counter.iter_mut().zip(self.salt).for_each(|(at, byte)| *at = *byte);
        if let Some(at) = counter.get_mut(7) {
            *at ^= label;
        }
        let mut derived = [0; N];
        let context = EncryptionContext::Iv128(FixedLength::from(counter));
        let done = key.and_then(|key| key.less_safe_encrypt(&mut derived, context));
        done.map(|_| derived).map_err(|_| SrtpError::Refused)
    }

    fn cipher(&self, labels: [u8; 3]) -> Result<Cipher, SrtpError> {
        let [key, mac, salt] = labels;
        let gcm = |key: Result<UnboundKey, _>| {
            let key = LessSafeKey::new(
                key.map_err(|_: aws_lc_rs::error::Unspecified| SrtpError::Refused)?,
            );
            Ok(Cipher::Gcm { key, salt: self.derive(salt)? })
        };
        match self.profile {
            SrtpProfile::AEAD_AES_128_GCM => {
                gcm(UnboundKey::new(&AES_128_GCM, &self.derive::<16>(key)?))
            }
            SrtpProfile::AEAD_AES_256_GCM => {
                gcm(UnboundKey::new(&AES_256_GCM, &self.derive::<32>(key)?))
            }
            _ => {
                let key = UnboundCipherKey::new(&AES_128, &self.derive::<16>(key)?);
                let key = key.and_then(EncryptingKey::ctr).map_err(|_| SrtpError::Refused)?;
                let mac = self.derive::<20>(mac)?;
                let mac = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &mac);
                Ok(Cipher::Counter { key: Box::new((key, mac)), salt: self.derive(salt)? })
            }
        }
    }
}

/// The keys of SHA1-80 are large and rare, so they are apart.
enum Cipher {
    Gcm { key: LessSafeKey, salt: [u8; 12] },
    Counter { key: Box<(EncryptingKey, hmac::Key)>, salt: [u8; 14] },
}

/// See the module's description.
pub(crate) struct Srtp {
    rtp: Cipher,
    rtcp: Cipher,
    /// The next packet's.
    rtcp_index: u32,
    peer: Cipher,
    replay: Replay,
}

impl Srtp {
    pub(crate) fn new(keys: &Keys) -> Result<Self, SrtpError> {
        let (own, peer) = keys.masters()?;
        Ok(Self {
            rtp: own.cipher([RTP_KEY, RTP_MAC, RTP_SALT])?,
            rtcp: own.cipher([RTCP_KEY, RTCP_MAC, RTCP_SALT])?,
            rtcp_index: 0,
            peer: peer.cipher([RTCP_KEY, RTCP_MAC, RTCP_SALT])?,
            replay: Replay::default(),
        })
    }

    /// Seals an RTP packet in place: `header` bytes of it stay readable. `index` is the sequence
    /// number with its rollover counter, 48 bits of it.
    pub(super) fn seal_rtp(
        &self,
        packet: &mut Vec<u8>,
        header: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<(), SrtpError> {
        let (clear, body) = packet.split_at_mut_checked(header).ok_or(SrtpError::Malformed)?;
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(gcm_nonce(*salt, ssrc, index));
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&*clear), body);
                packet.extend_from_slice(tag.map_err(|_| SrtpError::Refused)?.as_ref());
            }
            Cipher::Counter { key, salt } => {
                let (key, mac) = key.as_ref();
                count(key, counter(*salt, ssrc, index), body)?;
                let rollover = ((index >> 16) as u32).to_be_bytes();
                let tag = tag(mac, &[packet.as_slice(), &rollover]);
                packet.extend(tag.as_ref().iter().take(MAC_BYTES));
            }
        }
        Ok(())
    }

    /// Seals a compound RTCP packet in place.
    pub(super) fn seal_rtcp(&mut self, packet: &mut Vec<u8>) -> Result<(), SrtpError> {
        if self.rtcp_index >= ENCRYPTED {
            return Err(SrtpError::IndexesUsedUp);
        }
        let index = self.rtcp_index;
        self.rtcp_index += 1;
        let word = (index | ENCRYPTED).to_be_bytes();
        let ssrc = ssrc_of(packet).ok_or(SrtpError::Malformed)?;
        let parts = packet.split_at_mut_checked(RTCP_CLEAR_BYTES);
        let (clear, body) = parts.ok_or(SrtpError::Malformed)?;
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(gcm_nonce(*salt, ssrc, index.into()));
                let aad = rtcp_aad(clear, word);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body);
                packet.extend_from_slice(tag.map_err(|_| SrtpError::Refused)?.as_ref());
                packet.extend_from_slice(&word);
            }
            Cipher::Counter { key, salt } => {
                let (key, mac) = key.as_ref();
                count(key, counter(*salt, ssrc, index.into()), body)?;
                packet.extend_from_slice(&word);
                let tag = tag(mac, &[packet.as_slice()]);
                packet.extend(tag.as_ref().iter().take(MAC_BYTES));
            }
        }
        Ok(())
    }

    /// The peer's compound RTCP packet, when it is the peer's and has not come before.
    pub(super) fn open_rtcp(&mut self, packet: &[u8]) -> Result<Vec<u8>, SrtpError> {
        let ssrc = ssrc_of(packet).ok_or(SrtpError::Malformed)?;
        let (sealed, word) = match &self.peer {
            Cipher::Gcm { .. } => split_end::<INDEX_BYTES>(packet),
            Cipher::Counter { .. } => split_end::<MAC_BYTES>(packet)
                .and_then(|(authentic, _)| split_end::<INDEX_BYTES>(authentic)),
        }
        .ok_or(SrtpError::Malformed)?;
        let index = u32::from_be_bytes(word) & !ENCRYPTED;
        if sealed.len() < RTCP_CLEAR_BYTES || u32::from_be_bytes(word) == index {
            return Err(SrtpError::Malformed);
        }
        if self.replay.came(ssrc, index) {
            return Err(SrtpError::Replayed);
        }
        let mut opened = sealed.to_vec();
        let (clear, body) = opened.split_at_mut(RTCP_CLEAR_BYTES);
        let bytes = match &self.peer {
            Cipher::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(gcm_nonce(*salt, ssrc, index.into()));
                let aad = Aad::from(rtcp_aad(clear, word));
                let plain = key.open_in_place(nonce, aad, body);
                plain.map_err(|_| SrtpError::Refused)?.len()
            }
            Cipher::Counter { key, salt } => {
                let (key, mac) = key.as_ref();
                let (authentic, claimed) =
                    split_end::<MAC_BYTES>(packet).ok_or(SrtpError::Malformed)?;
                verify(mac, authentic, claimed)?;
                count(key, counter(*salt, ssrc, index.into()), body)?;
                body.len()
            }
        };
        self.replay.mark(ssrc, index);
        opened.truncate(RTCP_CLEAR_BYTES + bytes);
        Ok(opened)
    }
}

/// RFC 7714 §8.1 and §9.1: for RTCP the index has 31 bits, and 16 zero bits go before it.
fn gcm_nonce(salt: [u8; 12], ssrc: u32, index: u64) -> [u8; 12] {
    let number = u128::from(ssrc) << 48 | u128::from(index & 0xffff_ffff_ffff);
    let mut nonce = salt;
    let bytes = number.to_be_bytes();
    nonce.iter_mut().zip(bytes.iter().skip(4)).for_each(|(at, byte)| *at ^= byte);
    nonce
}

/// RFC 3711 §4.1.1: (salt · 2^16) XOR (SSRC · 2^64) XOR (index · 2^16).
fn counter(salt: [u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let number = u128::from(ssrc) << 64 | u128::from(index & 0xffff_ffff_ffff) << 16;
    let mut counter = number.to_be_bytes();
    counter.iter_mut().zip(salt).for_each(|(at, byte)| *at ^= byte);
    counter
}

fn count(key: &EncryptingKey, counter: [u8; 16], body: &mut [u8]) -> Result<(), SrtpError> {
    let context = EncryptionContext::Iv128(FixedLength::from(counter));
    key.less_safe_encrypt(body, context).map(|_| ()).map_err(|_| SrtpError::Refused)
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

/// Compares in constant time, so that a forger learns nothing from how long it takes.
fn verify(key: &hmac::Key, authentic: &[u8], claimed: [u8; MAC_BYTES]) -> Result<(), SrtpError> {
    let due = tag(key, &[authentic]);
    let due = due.as_ref().get(..MAC_BYTES).ok_or(SrtpError::Refused)?;
    aws_lc_rs::constant_time::verify_slices_are_equal(due, &claimed).map_err(|_| SrtpError::Refused)
}

fn rtcp_aad(clear: &[u8], word: [u8; INDEX_BYTES]) -> [u8; RTCP_CLEAR_BYTES + INDEX_BYTES] {
    let mut aad = [0; RTCP_CLEAR_BYTES + INDEX_BYTES];
    aad.iter_mut().zip(clear.iter().chain(&word)).for_each(|(at, byte)| *at = *byte);
    aad
}

fn ssrc_of(packet: &[u8]) -> Option<u32> {
    packet.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

fn split_end<const N: usize>(bytes: &[u8]) -> Option<(&[u8], [u8; N])> {
    let (before, end) = bytes.split_last_chunk::<N>()?;
    Some((before, *end))
}

#[cfg(test)]
mod tests;
