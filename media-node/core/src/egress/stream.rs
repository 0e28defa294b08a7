//! One media section's outgoing stream: what its packets look like on the wire.
//!
//! Writes headers and extensions under the numbers it is given, counts for sender reports, and
//! keeps what may be asked for again. Does not choose when anything leaves. Invariant: under one
//! SSRC no number leaves twice, for the key stream of SRTP must not repeat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::Rtc;
use str0m::media::Mid;
use str0m::rtp::{Extension, ExtensionMap};

use super::history::History;
use super::rtcp::Report;
use super::srtp::{Srtp, TAG_BYTES_MAX};
use crate::config::RtxCache;
use crate::forward::vp8::Rewrite;
use crate::track::Kind;

/// Header, extension block and the number of the packet that is repeated: 12 + 4 + 24 + 2.
const HEADER_BYTES_MAX: usize = 44;
/// Highest id of a one-byte header extension (RFC 8285 §4.2).
const ONE_BYTE_ID_MAX: u8 = 14;
/// Padding of a packet that has nothing else: what one byte can count, in whole words.
const PADDING_BYTES_MAX: usize = 252;

/// One packet on its way to one receiver; the payload is everybody's.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) payload: Arc<[u8]>,
    /// With the rollover counter.
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    /// As on the wire (3GPP TS 26.114 §7.4.5).
    pub(crate) orientation: Option<u8>,
    /// New counters of a VP8 payload.
    pub(crate) rewrite: Option<Rewrite>,
}

/// Ids of header extensions that the receiver agreed to.
#[derive(Debug, Clone, Copy, Default)]
struct Extensions {
    mid: Option<u8>,
    transport: Option<u8>,
    orientation: Option<u8>,
}

impl Extensions {
    fn of(map: &ExtensionMap) -> Self {
        let id = |extension| map.id_of(extension).filter(|id| *id <= ONE_BYTE_ID_MAX);
        Self {
            mid: id(Extension::RtpMid),
            transport: id(Extension::TransportSequenceNumber),
            orientation: id(Extension::VideoOrientation),
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Stream {
    mid: Mid,
    kind: Kind,
    cname: Box<str>,
    ssrc: u32,
    repair_ssrc: Option<u32>,
    /// Payload types that may be repeated, and under which.
    repair_types: Box<[(u8, u8)]>,
    extensions: Extensions,
    /// The receiver has told that it knows these SSRCs; until then packets name their section.
    known: bool,
    repair_known: bool,
    /// The section carries a track.
    pub(super) carrying: bool,
    repair_sequence: u64,
    packets: u32,
    octets: u32,
    /// A timestamp and the time of capture that belongs to it.
    clock: Option<(u32, Instant)>,
    /// When the last sender report left, and whether anything left since.
    reported: Option<Instant>,
    sent_since: bool,
    pub(super) history: History,
}

/// What leaves besides media under its own number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Repair<'a> {
    /// A packet that was sent before (RFC 4588 §4).
    Again(&'a Packet),
    /// Nothing but so many bytes of padding, after a packet of this timestamp.
    Padding { bytes: usize },
}

struct Header {
    ssrc: u32,
    payload_type: u8,
    marker: bool,
    padded: bool,
    sequence: u16,
    timestamp: u32,
    names_section: bool,
    orientation: Option<u8>,
}

impl Stream {
    /// Of a section that was agreed upon; nothing when the library has no stream for it.
    pub(crate) fn agreed(rtc: &mut Rtc, mid: Mid, kind: Kind, cache: RtxCache) -> Option<Self> {
        let media = rtc.media(mid)?;
        let extensions = Extensions::of(media.remote_extmap());
        let cname = media.cname().into();
        let accepted = rtc.codec_config().params().iter();
        let accepted = accepted.filter(|params| media.remote_pts().contains(&params.pt()));
        let repair_types = accepted
            .filter_map(|params| Some((*params.pt(), *params.resend()?)))
            .filter(|_| kind == Kind::Video)
            .collect();
        let mut api = rtc.direct_api();
        let stream = api.stream_tx_by_mid(mid, None)?;
        Some(Self {
            mid,
            kind,
            cname,
            ssrc: *stream.ssrc(),
            repair_ssrc: stream.rtx().map(|ssrc| *ssrc),
            repair_types,
            extensions,
            known: false,
            repair_known: false,
            carrying: true,
            repair_sequence: 1,
            packets: 0,
            octets: 0,
            clock: None,
            reported: None,
            sent_since: false,
            history: History::new(cache),
        })
    }

    /// The section carries another track, or was agreed upon anew: numbers go on.
    pub(super) fn resume(&mut self, agreed: Self) {
        if self.ssrc == agreed.ssrc && self.repair_ssrc == agreed.repair_ssrc {
            self.extensions = agreed.extensions;
            self.carrying = true;
        } else {
            *self = agreed;
        }
    }

    pub(super) fn mid(&self) -> Mid {
        self.mid
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Under which payload type packets of this one are repeated; any, when it is nothing.
    pub(super) fn repair_type(&self, of: Option<u8>) -> Option<u8> {
        self.repair_ssrc?;
        let mut types = self.repair_types.iter();
        types.find(|(media, _)| of.is_none_or(|of| of == *media)).map(|(_, repair)| *repair)
    }

    /// Whether the receiver tells when packets of this stream arrive.
    pub(super) fn is_told_of(&self) -> bool {
        self.extensions.transport.is_some()
    }

    /// A receiver report names this SSRC: whoever sent it knows where it belongs.
    pub(super) fn heard_of(&mut self, ssrc: u32) {
        self.known |= ssrc == self.ssrc;
        self.repair_known |= Some(ssrc) == self.repair_ssrc;
    }

    pub(super) fn is_about(&self, ssrc: u32) -> bool {
        ssrc == self.ssrc || Some(ssrc) == self.repair_ssrc
    }

    /// `captured` belongs to `timestamp`.
    pub(super) fn set_clock(&mut self, timestamp: u32, captured: Instant) {
        self.clock = Some((timestamp, captured));
    }

    /// The packet as it leaves; `transport`: its transport-wide number.
    pub(super) fn media(
        &mut self,
        srtp: &Srtp,
        packet: &Packet,
        transport: Option<u16>,
    ) -> Option<Vec<u8>> {
        let header = Header {
            ssrc: self.ssrc,
            payload_type: packet.payload_type,
            marker: packet.marker,
            padded: false,
            sequence: (packet.sequence & 0xffff) as u16,
            timestamp: packet.timestamp,
            names_section: !self.known,
            orientation: packet.orientation,
        };
        let mut out = room_for(packet.payload.len());
        let clear = self.write_header(&mut out, &header, transport);
        write_payload(&mut out, packet);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload.len() as u32);
        self.sent_since = true;
        srtp.seal_rtp(&mut out, clear, self.ssrc, packet.sequence).ok()?;
        Some(out)
    }

    /// What leaves under the repair stream's next number.
    pub(super) fn repair(
        &mut self,
        srtp: &Srtp,
        repair: Repair<'_>,
        transport: Option<u16>,
    ) -> Option<Vec<u8>> {
        let ssrc = self.repair_ssrc?;
        let of = match repair {
            Repair::Again(packet) => Some(packet.payload_type),
            Repair::Padding { .. } => None,
        };
        let payload_type = self.repair_type(of)?;
        let sequence = self.repair_sequence;
        self.repair_sequence += 1;
        let (packet, padding) = match repair {
            Repair::Again(packet) => (Some(packet), 0),
            Repair::Padding { bytes } => (None, bytes.clamp(4, PADDING_BYTES_MAX)),
        };
        let latest = self.clock.map_or(0, |(timestamp, _)| timestamp);
        let header = Header {
            ssrc,
            payload_type,
            marker: packet.is_some_and(|packet| packet.marker),
            padded: packet.is_none(),
            sequence: (sequence & 0xffff) as u16,
            timestamp: packet.map_or(latest, |packet| packet.timestamp),
            names_section: !self.repair_known,
            orientation: packet.and_then(|packet| packet.orientation),
        };
        let mut out = room_for(packet.map_or(padding, |packet| packet.payload.len()));
        let clear = self.write_header(&mut out, &header, transport);
        match packet {
            Some(packet) => {
                out.extend_from_slice(&((packet.sequence & 0xffff) as u16).to_be_bytes());
                write_payload(&mut out, packet);
            }
            None => {
                out.resize(clear + padding - 1, 0);
                out.push(padding as u8);
            }
        }
        srtp.seal_rtp(&mut out, clear, ssrc, sequence).ok()?;
        Some(out)
    }

    /// Returns the header's length.
    fn write_header(&self, out: &mut Vec<u8>, header: &Header, transport: Option<u16>) -> usize {
        let mid = self.extensions.mid.filter(|_| header.names_section);
        let mid = mid.map(|id| (id, self.mid.as_bytes())).filter(|(_, name)| !name.is_empty());
        let transport = self.extensions.transport.zip(transport);
        let orientation = self.extensions.orientation.zip(header.orientation);
        let bytes = transport.map_or(0, |_| 3)
            + mid.map_or(0, |(_, name)| 1 + name.len())
            + orientation.map_or(0, |_| 2);
        let flags = 0x80 | u8::from(header.padded) << 5 | u8::from(bytes > 0) << 4;
        let [s0, s1] = header.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = header.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = header.ssrc.to_be_bytes();
        let second = u8::from(header.marker) << 7 | header.payload_type & 0x7f;
        out.extend_from_slice(&[flags, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]);
        if bytes == 0 {
            return out.len();
        }
        // RFC 8285 §4.2: id and length − 1 in one byte, then the value.
        out.extend_from_slice(&[0xbe, 0xde, 0, bytes.div_ceil(4) as u8]);
        if let Some((id, number)) = transport {
            let [high, low] = number.to_be_bytes();
            out.extend_from_slice(&[id << 4 | 1, high, low]);
        }
        if let Some((id, name)) = mid {
            out.push(id << 4 | (name.len() - 1) as u8);
            out.extend_from_slice(name);
        }
        if let Some((id, turned)) = orientation {
            out.extend_from_slice(&[id << 4, turned]);
        }
        out.resize(out.len().next_multiple_of(4), 0);
        out.len()
    }

    /// When the next sender report is due; nothing while nothing leaves.
    pub(super) fn report_due(&self) -> Option<Instant> {
        if !self.sent_since {
            return None;
        }
        self.reported.map(|at| at + self.report_every()).or(self.clock.map(|(_, at)| at))
    }

    /// How often: LiveKit's and the library's intervals alike.
    fn report_every(&self) -> Duration {
        match self.kind {
            Kind::Audio => Duration::from_secs(5),
            Kind::Video => Duration::from_secs(1),
        }
    }

    /// The sender report at `now`, whose time is `ntp`, and the canonical name.
    pub(super) fn report(&mut self, now: Instant, ntp: u64) -> Option<(Report, &str)> {
        let (timestamp, captured) = self.clock?;
        self.reported = Some(now);
        self.sent_since = false;
        let since = now.saturating_duration_since(captured).as_micros();
        let ticks = since * u128::from(self.kind.clock_rate_hz()) / 1_000_000;
        let report = Report {
            ssrc: self.ssrc,
            ntp,
            timestamp: timestamp.wrapping_add((ticks & 0xffff_ffff) as u32),
            packets: self.packets,
            octets: self.octets,
        };
        Some((report, &self.cname))
    }
}

fn room_for(payload: usize) -> Vec<u8> {
    Vec::with_capacity(HEADER_BYTES_MAX + payload + TAG_BYTES_MAX)
}

fn write_payload(out: &mut Vec<u8>, packet: &Packet) {
    let at = out.len();
    out.extend_from_slice(&packet.payload);
    if let (Some(rewrite), Some(copy)) = (packet.rewrite, out.get_mut(at..)) {
        rewrite.apply(copy);
    }
}
