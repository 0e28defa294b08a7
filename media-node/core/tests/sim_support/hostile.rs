//! A client that holds the keys and misuses them: what it sends is authentic, and noise inside.
//!
//! Stands between str0m and its crypto and writes over plaintext before it is sealed, while the
//! client that is being driven on this thread is said to be hostile.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};
use str0m::crypto::{
    AeadAes256GcmCipher, CryptoError, SrtpProvider, SupportedAeadAes128Gcm, SupportedAeadAes256Gcm,
    SupportedAes128CmSha1_80,
};

/// What is noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// The payload of every RTP packet.
    Rtp,
    /// What follows the first header of every RTCP packet.
    Rtcp,
    /// The chunks of every SCTP packet, under a good checksum.
    Sctp,
}

thread_local! {
    static NOISE: Cell<Option<Noise>> = const { Cell::new(None) };
    static PACKETS: Cell<u64> = const { Cell::new(0) };
}

/// Whoever is driven from now on sends this.
pub fn set(noise: Option<Noise>) {
    NOISE.set(noise);
}

/// Packets of noise that were sealed on this thread.
pub fn packets() -> u64 {
    PACKETS.get()
}

fn noisy(noise: Noise, bytes: &[u8]) -> Option<Vec<u8>> {
    (NOISE.get() == Some(noise) && !bytes.is_empty()).then(|| {
        PACKETS.set(PACKETS.get() + 1);
        // Half of the time only a few bytes differ, which gets further than pure noise.
        let rate = if fastrand::bool() { 1 } else { 8 };
        let spoil = |byte: &u8| if fastrand::u8(..rate) == 0 { fastrand::u8(..) } else { *byte };
        bytes.iter().map(spoil).collect()
    })
}

/// The crypto of the workspace with the noise before it.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = str0m::crypto::from_feature_flags();
    provider.dtls_provider = &Sealed;
    provider.srtp_provider = &Sealed;
    Arc::new(provider)
}

#[derive(Debug)]
struct Sealed;

fn real() -> CryptoProvider {
    str0m::crypto::from_feature_flags()
}

impl SrtpProvider for Sealed {
    fn aes_128_cm_sha1_80(&self) -> &'static dyn SupportedAes128CmSha1_80 {
        real().srtp_provider.aes_128_cm_sha1_80()
    }

    fn aead_aes_128_gcm(&self) -> &'static dyn SupportedAeadAes128Gcm {
        real().srtp_provider.aead_aes_128_gcm()
    }

    fn aead_aes_256_gcm(&self) -> &'static dyn SupportedAeadAes256Gcm {
        &Sealed
    }

    fn srtp_aes_128_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        real().srtp_provider.srtp_aes_128_ecb_round(key, input, output);
    }

    fn srtp_aes_256_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        real().srtp_provider.srtp_aes_256_ecb_round(key, input, output);
    }
}

impl SupportedAeadAes256Gcm for Sealed {
    fn create_cipher(&self, key: [u8; 32], encrypt: bool) -> Box<dyn AeadAes256GcmCipher> {
        let real = real().srtp_provider.aead_aes_256_gcm();
        Box::new(Cipher(real.create_cipher(key, encrypt)))
    }
}

#[derive(Debug)]
struct Cipher(Box<dyn AeadAes256GcmCipher>);

impl AeadAes256GcmCipher for Cipher {
    fn encrypt(
        &mut self,
        iv: &[u8; 12],
        aad: &[u8],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        // RFC 5761: RTCP's packet type lies where RTP has its payload type.
        let kind = if (192..224).contains(&aad[1]) { Noise::Rtcp } else { Noise::Rtp };
        let spoilt = noisy(kind, input);
        self.0.encrypt(iv, aad, spoilt.as_deref().unwrap_or(input), output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 12],
        aads: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        self.0.decrypt(iv, aads, input, output)
    }
}

impl DtlsProvider for Sealed {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        real().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        Ok(Box::new(Records(real().dtls_provider.new_dtls(cert, now, version, mtu)?)))
    }
}

#[derive(Debug)]
struct Records(Box<dyn DtlsInstance>);

/// Source and destination port, verification tag, checksum (RFC 9260 §3.1).
const SCTP_HEADER_BYTES: usize = 12;

impl DtlsInstance for Records {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buf)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        let (header, chunks) = data.split_at(SCTP_HEADER_BYTES.min(data.len()));
        let Some(chunks) = noisy(Noise::Sctp, chunks) else {
            return self.0.send_application_data(data);
        };
        let mut packet = [header, &chunks].concat();
        packet[8..12].fill(0);
        let checksum = crc32c(&packet);
        packet[8..12].copy_from_slice(&checksum.to_le_bytes());
        self.0.send_application_data(&packet)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}

/// SCTP's checksum (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ ((sum & 1) * 0x82f6_3b78))
    };
    !bytes.iter().fold(u32::MAX, step)
}
