//! One WebRTC transport of one participant: ICE-lite, DTLS 1.2 server, SRTP, SCTP.
//!
//! Wraps str0m in RTP mode; decides codecs, header extensions and candidates. Does not know what
//! is sent over it. What a participant receives is sealed by [`Egress`] under keys that str0m never
//! sees; what str0m seals there is dropped. Invariant: after a failure nothing more is asked of the
//! library.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use str0m::channel::ChannelId;
use str0m::config::DtlsVersion;
use str0m::net::{DatagramRecv, Protocol, Receive, TcpType};
use str0m::rtp::{Extension, ExtensionMap};
use str0m::{Candidate, Input, Output, Rtc, RtcError};

use crate::config::ShardConfig;
use crate::egress::Egress;
use crate::egress::srtp::SrtpError;
use crate::ids::{Side, TransportRef};
use crate::io::Transport as Carrier;
use crate::shard::routes::Path;
use crate::shard::timers::Alarm;
use crate::suite::Holder;

/// Packets that the library may keep of what it sends, which is nothing.
const LIBRARY_KEEPS: usize = 1;
/// How often the library makes reports about streams that it does not send: hardly ever.
const LIBRARY_REPORTS_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of data messages waiting in SCTP per transport; beyond it a reader is slow and messages
/// to it are dropped. LiveKit's own bound on lossy data is of this order.
const DATA_BUFFERED_MAX: usize = 1024 * 1024;
/// The SSRC of a report that goes nowhere.
const NOBODY: u32 = 1;
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
    #[error(transparent)]
    Keys(#[from] SrtpError),
    #[error("the description contradicts itself in a way that the library does not survive")]
    Contradiction,
}

/// See the module's description.
pub(crate) struct Transport {
    pub(crate) rtc: Rtc,
    pub(crate) alarm: Alarm,
    /// It was written to since it was last drained.
    pub(crate) dirty: bool,
    /// The library was written to as well, not the egress alone.
    pub(crate) touched: bool,
    /// When the library wants to be asked again.
    pub(crate) library_at: Option<Instant>,
    /// What the participant receives; nothing where it sends.
    pub(crate) egress: Option<Box<Egress>>,
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
            .set_crypto_provider(crate::suite::provider(match side {
                Side::Publisher => Holder::Library,
                Side::Subscriber => Holder::Egress,
            }))
            .set_dtls_cert(config.certificate.0.clone())
            .set_dtls_version(DtlsVersion::Dtls12)
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .set_stats_interval(None)
            .set_send_buffer_audio(LIBRARY_KEEPS)
            .set_send_buffer_video(LIBRARY_KEEPS)
            .set_sctp_max_buffered_amount(DATA_BUFFERED_MAX)
            .set_sctp_max_message_size(DATA_MESSAGE_MAX)
            .set_extension_map(extensions(side))
            .clear_codecs()
            .enable_opus(true, redundancy)
            .enable_vp8(true);
        for (pt, rtx, mode, profile) in H264 {
            builder.codec_config().add_h264(pt.into(), Some(rtx.into()), mode, profile);
        }
        let egress = (side == Side::Subscriber).then(|| Box::new(Egress::new(config)));
        if egress.is_some() {
            builder = builder
                .set_rtcp_report_interval_audio(LIBRARY_REPORTS_EVERY)
                .set_rtcp_report_interval_video(LIBRARY_REPORTS_EVERY);
        }
        let mut rtc = builder.build(now);
        for candidate in candidates(config) {
            rtc.add_local_candidate(candidate);
        }
        Self {
            rtc,
            alarm: Alarm::default(),
            dirty: false,
            touched: false,
            library_at: None,
            egress,
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

    /// It has something to send: the shard comes by before it sleeps.
    pub(crate) fn stir(&mut self, dirty: &mut Vec<TransportRef>, own: TransportRef) {
        if !std::mem::replace(&mut self.dirty, true) {
            dirty.push(own);
        }
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
        self.ask_path(path);
        Ok(self.rtc.handle_input(Input::Receive(now, receive(path, contents)))?)
    }

    /// Has the library send something that is then dropped, when a packet came by another way than
    /// the egress sends: where it goes tells which pair of addresses ICE has nominated by now.
    fn ask_path(&mut self, path: &Path) {
        let Some(egress) = self.egress.as_ref().filter(|egress| egress.has_keys()) else {
            return;
        };
        if egress.path() != Some(*path) {
            self.rtc.direct_api().send_pli_feedback(NOBODY.into(), NOBODY.into());
        }
    }

    /// Lets time pass. The transport must be drained afterwards.
    pub(crate) fn pass(&mut self, now: Instant) -> Result<(), TransportError> {
        Ok(self.rtc.handle_input(Input::Timeout(now))?)
    }

    /// The next that the library has to say and may.
    pub(crate) fn poll(&mut self) -> Result<Output, TransportError> {
        loop {
            let output = self.poll_library()?;
            match &output {
                Output::Transmit(packet) if !self.admits(packet) => {}
                _ => return Ok(output),
            }
        }
    }

    fn poll_library(&mut self) -> Result<Output, TransportError> {
        let Some(egress) = self.egress.as_mut().filter(|egress| !egress.has_keys()) else {
            return Ok(self.rtc.poll_output()?);
        };
        // Left by a transport whose poll did not come to its end.
        drop(crate::suite::take_keys());
        let output = self.rtc.poll_output();
        if let Some(keys) = crate::suite::take_keys() {
            egress.set_keys(&keys)?;
        }
        Ok(output?)
    }

    /// The library sends this: whether it may. Media and its reports are the egress' where there is
    /// one; what goes to the nominated pair of addresses shows the egress where to send.
    fn admits(&mut self, packet: &str0m::net::Transmit) -> bool {
        let Some(egress) = &mut self.egress else {
            return true;
        };
        // RFC 7983: 20 to 63 is DTLS, 128 to 191 RTP and RTCP. STUN answers go wherever the
        // question came from.
        let first = packet.contents.first().copied().unwrap_or_default();
        if matches!(first, 20..=63 | 128..=191) {
            let (source, destination) = (packet.destination, packet.source);
            egress.set_path(Path { carrier: carrier(packet.proto), source, destination });
        }
        !is_media(first)
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

/// Whether a datagram that begins so is RTP or RTCP (RFC 7983).
pub(crate) fn is_media(first: u8) -> bool {
    matches!(first, 128..=191)
}

/// By what a datagram of the library's leaves.
pub(crate) fn carrier(proto: Protocol) -> Carrier {
    match proto {
        Protocol::Udp => Carrier::Udp,
        _ => Carrier::Tcp,
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
