//! One WebRTC transport of one participant: ICE-lite, DTLS 1.2 server, SRTP, SCTP.
//!
//! Wraps str0m in RTP mode; decides codecs, header extensions and candidates. Does not know what
//! is sent over it. Invariant: after a failure nothing more is asked of the library.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use str0m::bwe::Bitrate;
use str0m::channel::ChannelId;
use str0m::config::DtlsVersion;
use str0m::net::{DatagramRecv, Protocol, Receive, TcpType};
use str0m::rtp::{Extension, ExtensionMap};
use str0m::{Candidate, Input, Output, Rtc, RtcError};

use crate::config::ShardConfig;
use crate::ids::Side;
use crate::io::Transport as Carrier;
use crate::shard::routes::Path;
use crate::shard::timers::Alarm;
use crate::turns::{Next, Turns};

/// First guess of a downlink's capacity: enough for one 720p layer and audio.
const BITRATE_START: Bitrate = Bitrate::kbps(1_500);
/// Audio packets are never retransmitted (Opus conceals), so nearly none are kept.
const RTX_PACKETS_AUDIO: usize = 8;
/// Bytes of data messages waiting in SCTP per transport; beyond it a reader is slow and messages
/// to it are dropped. LiveKit's own bound on lossy data is of this order.
const DATA_BUFFERED_MAX: usize = 1024 * 1024;
/// Largest data message: the 64,000 bytes that SDKs keep to, and their envelope.
const DATA_MESSAGE_MAX: u32 = 65_536;
/// H.264 as browsers offer it: payload type, its RTX, packetization mode 1, profile-level-id.
const H264: [(u8, u8, bool, u32); 4] = [
    (108, 109, true, 0x42_e01f),
    (127, 121, true, 0x42_001f),
    (123, 119, true, 0x4d_001f),
    (114, 115, true, 0x64_001f),
];

/// What kind of data channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataKind {
    Reliable,
    Lossy,
}

impl DataKind {
    /// From the channel's label (client-sdk-js `RTCEngine.ts`).
    pub(crate) fn from_label(label: &str) -> Option<Self> {
        match label {
            "_reliable" => Some(Self::Reliable),
            "_lossy" => Some(Self::Lossy),
            _ => None,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Reliable => "_reliable",
            Self::Lossy => "_lossy",
        }
    }
}

/// The library refused; the text goes to a debug log, never to a client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("the transport failed: {0}")]
    Refused(#[from] RtcError),
    #[error("the description contradicts itself in a way that the library does not survive")]
    Contradiction,
}

/// See the module's description.
pub(crate) struct Transport {
    pub(crate) rtc: Rtc,
    pub(crate) alarm: Alarm,
    /// It was written to since it was last drained.
    pub(crate) dirty: bool,
    pub(crate) turns: Turns,
    pub(crate) connected: bool,
    /// ICE lost the client at this time.
    pub(crate) lost_at: Option<Instant>,
    /// Open data channels by kind.
    pub(crate) channels: BTreeMap<DataKind, ChannelId>,
    /// A description left the library in a state that is not to be trusted.
    broken: bool,
}

impl Transport {
    /// `redundancy`: RED (RFC 2198) is offered, or accepted, for Opus.
    pub(crate) fn new(config: &ShardConfig, side: Side, redundancy: bool, now: Instant) -> Self {
        let mut builder = Rtc::builder()
            .set_crypto_provider(crate::suite::provider())
            .set_dtls_cert(config.certificate.0.clone())
            .set_dtls_version(DtlsVersion::Dtls12)
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .set_stats_interval(None)
            .set_send_buffer_audio(RTX_PACKETS_AUDIO)
            .set_send_buffer_video(config.rtx_cache.packets)
            .set_sctp_max_buffered_amount(DATA_BUFFERED_MAX)
            .set_sctp_max_message_size(DATA_MESSAGE_MAX)
            .set_extension_map(extensions(side))
            .clear_codecs()
            .enable_opus(true, redundancy)
            .enable_vp8(true);
        for (pt, rtx, mode, profile) in H264 {
            builder.codec_config().add_h264(pt.into(), Some(rtx.into()), mode, profile);
        }
        let paced = side == Side::Subscriber && config.bandwidth_estimation;
        if paced {
            builder = builder.enable_bwe(Some(BITRATE_START));
        }
        let mut rtc = builder.build(now);
        let turns = Turns::new(paced, rtc.codec_config().params());
        for candidate in candidates(config) {
            rtc.add_local_candidate(candidate);
        }
        Self {
            rtc,
            alarm: Alarm::default(),
            dirty: false,
            turns,
            connected: false,
            lost_at: None,
            channels: BTreeMap::new(),
            broken: false,
        }
    }

    /// Lets the library take a client's description. Some that contradict themselves make it
    /// panic, which shall cost their sender the transport and nobody the room.
    pub(crate) fn negotiate<T>(
        &mut self,
        work: impl FnOnce(&mut Rtc) -> Result<T, RtcError>,
    ) -> Result<T, TransportError> {
        let taken = catch_unwind(AssertUnwindSafe(|| work(&mut self.rtc)));
        self.broken = taken.is_err();
        Ok(taken.map_err(|_| TransportError::Contradiction)??)
    }

    /// Says goodbye (DTLS close_notify); what there is to send comes from [`Self::poll`].
    pub(crate) fn close(&mut self, now: Instant) -> bool {
        !self.broken && self.rtc.close().is_ok() && self.pass(now).is_ok()
    }

    /// The current local ICE user name.
    pub(crate) fn ufrag(&mut self) -> String {
        self.rtc.direct_api().local_ice_credentials().ufrag
    }

    /// Whether ICE knows this packet's sender; only STUN is asked about.
    pub(crate) fn accepts(&self, now: Instant, path: &Path, contents: DatagramRecv<'_>) -> bool {
        self.rtc.accepts(&Input::Receive(now, receive(path, contents)))
    }

    /// Takes one packet. The transport must be drained afterwards.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        path: &Path,
        contents: DatagramRecv<'_>,
    ) -> Result<(), TransportError> {
        Ok(self.rtc.handle_input(Input::Receive(now, receive(path, contents)))?)
    }

    /// Lets time pass. The transport must be drained afterwards.
    pub(crate) fn pass(&mut self, now: Instant) -> Result<(), TransportError> {
        Ok(self.rtc.handle_input(Input::Timeout(now))?)
    }

    pub(crate) fn poll(&mut self) -> Result<Output, TransportError> {
        Ok(self.rtc.poll_output()?)
    }

    /// What follows a datagram of its.
    pub(crate) fn left(&mut self, now: Instant, datagram: &[u8]) -> Next {
        match self.turns.left(datagram) {
            Next::Turn => {
                // An error shows again, and for good, when the transport is polled.
                let _ = self.pass(now);
                Next::Poll
            }
            // It is woken by the time it named before, which nothing that it said has moved.
            Next::Said if self.alarm.is_ahead(now) => {
                self.turns.rest();
                Next::Said
            }
            _ => Next::Poll,
        }
    }

    /// When to come back to it, now that it has named its next time.
    pub(crate) fn next(&mut self, now: Instant, at: Instant) -> Instant {
        self.turns.next(now, at, self.rtc.last_timeout_reason())
    }

    /// Queues a data message; false when the reader is too slow or there is no channel.
    pub(crate) fn write_data(&mut self, kind: DataKind, bytes: &[u8]) -> bool {
        let Some(id) = self.channels.get(&kind).copied() else {
            return false;
        };
        let Some(mut channel) = self.rtc.channel(id) else {
            return false;
        };
        matches!(channel.write(true, bytes), Ok(true))
    }
}

fn receive<'a>(path: &Path, contents: DatagramRecv<'a>) -> Receive<'a> {
    let proto = match path.carrier {
        Carrier::Udp => Protocol::Udp,
        Carrier::Tcp => Protocol::Tcp,
    };
    Receive { proto, source: path.source, destination: path.destination, contents }
}

/// What comes in carries levels, layers and orientation; what goes out needs less per packet.
fn extensions(side: Side) -> ExtensionMap {
    let mut map = ExtensionMap::empty();
    map.set(3, Extension::TransportSequenceNumber);
    map.set(4, Extension::RtpMid);
    map.set(13, Extension::VideoOrientation);
    if side == Side::Publisher {
        map.set(1, Extension::AudioLevel);
        map.set(10, Extension::RtpStreamId);
        map.set(11, Extension::RepairedRtpStreamId);
    }
    map
}

fn candidates(config: &ShardConfig) -> Vec<Candidate> {
    let candidate = |media: &crate::config::MediaAddress| match media.transport {
        Carrier::Udp => Candidate::host(media.address, Protocol::Udp).ok(),
        Carrier::Tcp => {
            Candidate::builder().tcp().host(media.address).tcptype(TcpType::Passive).build().ok()
        }
    };
    config.addresses.iter().filter_map(candidate).collect()
}

/// How long a transport may be without its client before its participant counts as gone.
pub(crate) const MEDIA_LOST_MAX: Duration = Duration::from_secs(20);
