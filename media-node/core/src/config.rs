//! What a shard is told at its construction: addresses, identity of the server, limits.
//!
//! Plain data. Invariant: nothing here changes while the shard lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_contract::grants::Claims;
use str0m::config::DtlsCert;

use crate::io::Transport;
use crate::suite::Holder;

/// The version that SDKs gate features on (livekit-client refuses none and wants > 1.8.2).
pub const SERVER_VERSION: &str = "1.9.11";
/// Highest protocol version spoken (`pkg/rtc/types/protocol_version.go`).
pub(crate) const PROTOCOL_VERSION: i32 = 16;
/// Participants of one room when the room does not say less; one shard carries the room.
pub(crate) const PARTICIPANTS_MAX: usize = 2_000;
/// Published tracks per participant: four sources, doubled for codecs and screens, and slack.
pub(crate) const TRACKS_PER_PARTICIPANT_MAX: usize = 32;
/// Rooms per shard; beyond it new ones are refused.
pub(crate) const ROOMS_MAX: usize = 10_000;

/// Mints refresh tokens: signs the claims again with a later expiry, by the key of `issuer`.
pub trait TokenMinter: Send + Sync {
    /// The token, or nothing when the key is gone.
    fn mint(&self, claims: &Claims, now_unix_s: u64) -> Option<String>;
}

/// An address that clients are told to send media to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MediaAddress {
    pub transport: Transport,
    pub address: SocketAddr,
}

/// The DTLS certificate of the process, shared by every transport.
#[derive(Clone)]
pub struct Certificate(pub(crate) DtlsCert);

impl Certificate {
    /// A fresh self-signed certificate. One per process: its key never leaves memory.
    pub fn generate() -> Option<Self> {
        crate::suite::provider(Holder::Library).dtls_provider.generate_certificate().map(Self)
    }
}

/// Where unacknowledged media is kept for retransmission, per outgoing video stream.
#[derive(Debug, Clone, Copy)]
pub struct RtxCache {
    pub packets: usize,
    pub age: Duration,
}

impl Default for RtxCache {
    /// 512 packets or 1 s: 64 B each, so 32 KiB per video stream at most beside the payloads, which
    /// all receivers share, and longer than any round trip over which a repair is still in time.
    fn default() -> Self {
        Self { packets: 512, age: Duration::from_secs(1) }
    }
}

/// Everything a shard needs to know.
#[derive(Clone)]
pub struct ShardConfig {
    /// Advertised addresses, in order of preference within a transport.
    pub addresses: Vec<MediaAddress>,
    /// One moment on both clocks: every wall-clock stamp is computed from it.
    pub anchor: (Instant, u64),
    /// `ServerInfo.node_id`.
    pub node_id: String,
    /// `ServerInfo.region`; empty when unknown.
    pub region: String,
    pub certificate: Certificate,
    pub tokens: Arc<dyn TokenMinter>,
    pub rtx_cache: RtxCache,
    /// How long a participant without WebSocket or media is waited for.
    pub resume_window: Duration,
    /// Whether downlinks are paced by a bandwidth estimate.
    pub bandwidth_estimation: bool,
}

impl ShardConfig {
    /// Unix milliseconds at `now`.
    pub(crate) fn unix_ms(&self, now: Instant) -> u64 {
        let (anchor, unix_ms) = self.anchor;
        let since = now.saturating_duration_since(anchor).as_millis();
        unix_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}
