//! What one subscriber's transport sends: media, repairs, reports – sealed here, not by the
//! library.
//!
//! Decides what leaves when: voices at once, pictures and repairs as the estimate of the downlink
//! lets them. Does not know tracks, layers or rooms. Invariant: the real keys of a transport are
//! here or in the library, never in both; what leaves, leaves in the order of its transport-wide
//! numbers.

mod history;
mod line;
mod replay;
pub mod rtcp;
pub(crate) mod srtp;
pub(crate) mod stream;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use str0m::media::Mid;

use crate::config::ShardConfig;
use crate::estimate::Congestion;
use crate::io::Transmit;
use crate::shard::routes::Path;
use crate::track::Kind;
use line::Line;
use rtcp::{Block, Compound, Feedback, Missing};
use srtp::{Keys, Srtp, SrtpError};
use stream::{Packet, Repair, Stream};

/// First guess of a downlink's capacity, in bits per second: enough for one 720p layer and audio.
const START_BPS: u64 = 1_500_000;
/// Packets of pictures that wait. A keyframe of a shared screen has about 200; at the lowest rates
/// these are many seconds, and what is older than [`WAIT_MAX`] does not wait any longer.
const QUEUE_MAX: usize = 2_048;
/// A picture waits no longer, whatever the estimate says (libwebrtc, `kMaxExpectedQueueLength`).
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Repairs that wait; a receiver asks again for what is still missing.
const REPAIRS_MAX: usize = 1_024;
/// Of 5 bytes sent, 2 may be repairs: at a tenth of all packets lost, requests and repairs
/// themselves included, a fifth is needed. So each byte of media pays for two thirds of one.
const REPAIR_SHARE: (usize, usize) = (2, 3);
/// Unused share that is kept, in bytes: half a second of a 720p layer.
const REPAIR_BYTES_MAX: usize = 128 * 1024;
/// A packet is not repeated sooner than this, however short the round trip.
const TRIP_MIN: Duration = Duration::from_millis(10);
/// Packets of one probe in a row; the estimate asks again.
const PADDING_PACKETS_MAX: usize = 64;
/// What a repeated packet has beside its payload: headers, its former number and the seal.
const OVERHEAD_BYTES: usize = 48;
/// Sender reports due this soon leave with those that are due.
const REPORTS_TOGETHER: Duration = Duration::from_millis(200);
/// Bytes of a compound packet, with its seal well below any MTU.
const COMPOUND_BYTES_MAX: usize = 1_100;
/// Keyframe requests of one compound packet that are looked at.
const KEYFRAMES_MAX: usize = 64;
/// Seconds from 1900, where NTP begins, to 1970.
const NTP_UNIX_S: u64 = 2_208_988_800;

/// One stream of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId(u32);

struct Queued {
    packet: Packet,
    stream: StreamId,
    at: Instant,
}

/// See the module's description.
pub(crate) struct Egress {
    srtp: Option<Box<Srtp>>,
    line: Line,
    streams: Vec<Stream>,
    voices: VecDeque<Queued>,
    pictures: VecDeque<Queued>,
    repairs: VecDeque<(StreamId, u64)>,
    /// Bytes that repairs may take.
    repair_bytes: usize,
    trip: Option<Duration>,
    report_at: Option<Instant>,
    /// The stream whose picture left last: a probe repeats that.
    latest: Option<StreamId>,
    /// Sections that want a keyframe.
    keyframes: Vec<Mid>,
    anchor: (Instant, u64),
    estimates: bool,
    /// In bits per second; also before there is an estimate that wants to know.
    desired_bps: u64,
}

impl Egress {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        let line = Line::default();
        Self {
            srtp: None,
            line,
            streams: Vec::new(),
            voices: VecDeque::new(),
            pictures: VecDeque::new(),
            repairs: VecDeque::new(),
            repair_bytes: REPAIR_BYTES_MAX,
            trip: None,
            report_at: None,
            latest: None,
            keyframes: Vec::new(),
            anchor: config.anchor,
            estimates: config.bandwidth_estimation,
            desired_bps: 0,
        }
    }

    pub(crate) fn has_keys(&self) -> bool {
        self.srtp.is_some()
    }

    /// The handshake is over. Keys come once: another set would begin the indexes anew.
    pub(crate) fn set_keys(&mut self, keys: &Keys) -> Result<(), SrtpError> {
        if self.srtp.is_none() {
            self.srtp = Some(Box::new(Srtp::new(keys)?));
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> Option<Path> {
        self.line.path
    }

    /// Which way ICE has nominated now.
    pub(crate) fn set_path(&mut self, path: Path) {
        self.line.path = Some(path);
    }

    /// A section was agreed upon and carries a track from now on.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        known: Option<StreamId>,
        agreed: Stream,
    ) -> StreamId {
        let at = match known {
            Some(id) if (id.0 as usize) < self.streams.len() => {
                if let Some(stream) = self.streams.get_mut(id.0 as usize) {
                    stream.resume(agreed);
                }
                id
            }
            _ => {
                self.streams.push(agreed);
                StreamId(self.streams.len() as u32 - 1)
            }
        };
        self.watch(now);
        at
    }

    /// The section's track is gone; what waits of it does not leave any more.
    pub(crate) fn end(&mut self, now: Instant, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id.0 as usize) {
            stream.carrying = false;
            stream.history.clear();
        }
        self.voices.retain(|queued| queued.stream != id);
        self.pictures.retain(|queued| queued.stream != id);
        self.repairs.retain(|(stream, _)| *stream != id);
        self.watch(now);
    }

    fn watch(&mut self, now: Instant) {
        let mut streams = self.streams.iter();
        let pictures = streams.any(|stream| stream.kind() == Kind::Video && stream.carrying);
        self.line.watched = self.estimates && pictures;
        if self.line.watched && self.line.congestion.is_none() {
            let mut congestion = Box::new(Congestion::new(now, START_BPS));
            congestion.set_desired(now, self.desired_bps);
            self.line.congestion = Some(congestion);
        }
    }

    /// What all wishes together would cost, in bits per second.
    pub(crate) fn set_desired(&mut self, now: Instant, bps: u64) {
        self.desired_bps = bps;
        if let Some(congestion) = &mut self.line.congestion {
            congestion.set_desired(now, bps);
            congestion.pass(now);
        }
    }

    /// The estimate in bits per second, once after it changed.
    pub(crate) fn take_estimate(&mut self) -> Option<u64> {
        self.line.congestion.as_mut()?.take_estimate()
    }

    /// Sections whose receiver asked for a keyframe since the last call.
    pub(crate) fn take_keyframes(&mut self) -> Vec<Mid> {
        std::mem::take(&mut self.keyframes)
    }

    /// Queues a packet that was captured at `captured`; false when too many wait.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        id: StreamId,
        packet: Packet,
        captured: Instant,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(id.0 as usize) else {
            return false;
        };
        stream.set_clock(packet.timestamp, captured);
        let queue = match stream.kind() {
            Kind::Audio => &mut self.voices,
            Kind::Video => &mut self.pictures,
        };
        let fits = queue.len() < QUEUE_MAX;
        if fits {
            queue.push_back(Queued { packet, stream: id, at: now });
        }
        fits
    }

    /// Lets everything leave that may.
    pub(crate) fn flush(&mut self, now: Instant, send: &mut impl FnMut(Transmit)) {
        if self.srtp.is_none() || self.line.path.is_none() {
            return;
        }
        while let Some(queued) = self.voices.pop_front() {
            self.send_media(now, queued, send);
        }
        while !(self.repairs.is_empty() && self.pictures.is_empty()) {
            let waited = |queued: &Queued| now.saturating_duration_since(queued.at) >= WAIT_MAX;
            if !(self.line.may_send(now) || self.pictures.front().is_some_and(waited)) {
                break;
            }
            match self.repairs.pop_front() {
                Some((id, number)) => self.send_repair(now, id, number, send),
                None => {
                    if let Some(queued) = self.pictures.pop_front() {
                        self.send_media(now, queued, send);
                    }
                }
            }
        }
        if self.line.congestion.is_some() {
            self.pad(now, send);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report(now, send);
        }
    }

    fn send_media(&mut self, now: Instant, queued: Queued, send: &mut impl FnMut(Transmit)) {
        let Queued { packet, stream: id, .. } = queued;
        let (Some(srtp), Some(stream)) = (&self.srtp, self.streams.get_mut(id.0 as usize)) else {
            return;
        };
        let number = self.line.number(stream);
        let Some(contents) = stream.media(srtp, &packet, number) else {
            return;
        };
        if self.report_at.is_none_or(|at| stream.report_due().is_some_and(|due| due < at)) {
            self.report_at = stream.report_due();
        }
        let paced = stream.kind() == Kind::Video;
        if paced {
            let earned = contents.len() * REPAIR_SHARE.0 / REPAIR_SHARE.1;
            self.repair_bytes = (self.repair_bytes + earned).min(REPAIR_BYTES_MAX);
            self.latest = Some(id);
            if stream.repair_type(Some(packet.payload_type)).is_some() {
                stream.history.keep(now, packet);
            }
        }
        self.line.left(now, number, paced, contents, send);
    }

    fn send_repair(
        &mut self,
        now: Instant,
        id: StreamId,
        number: u64,
        send: &mut impl FnMut(Transmit),
    ) {
        let (Some(srtp), Some(stream)) = (&self.srtp, self.streams.get_mut(id.0 as usize)) else {
            return;
        };
        let Some(packet) = stream.history.get(number).cloned() else {
            return;
        };
        let Some(left) = self.repair_bytes.checked_sub(packet.payload.len()) else {
            return;
        };
        self.repair_bytes = left;
        let transport = self.line.number(stream);
        if let Some(contents) = stream.repair(srtp, Repair::Again(&packet), transport) {
            self.line.left(now, transport, true, contents, send);
        }
    }

    /// Fills a probe: repeats what left lately, for that may be of use, or sends padding.
    fn pad(&mut self, now: Instant, send: &mut impl FnMut(Transmit)) {
        for _ in 0..PADDING_PACKETS_MAX {
            let due = self.line.congestion.as_mut().and_then(|one| one.padding_due(now));
            let (Some(bytes), Some(id)) = (due, self.padding_stream()) else {
                return;
            };
            let Some(stream) = self.streams.get_mut(id.0 as usize) else {
                return;
            };
            let again = stream.history.newest(bytes.saturating_sub(OVERHEAD_BYTES)).cloned();
            let repair = match &again {
                Some(packet) => Repair::Again(packet),
                None => Repair::Padding { bytes },
            };
            let number = self.line.number(stream);
            let Some(srtp) = &self.srtp else {
                return;
            };
            let Some(contents) = stream.repair(srtp, repair, number) else {
                return;
            };
            self.line.left(now, number, true, contents, send);
        }
    }

    /// The stream that a probe goes out on: its receiver must tell of it.
    fn padding_stream(&self) -> Option<StreamId> {
        let fits = |stream: &Stream| {
            stream.carrying && stream.is_told_of() && stream.repair_type(None).is_some()
        };
        let latest = self.latest.filter(|id| self.streams.get(id.0 as usize).is_some_and(fits));
        let any = || self.streams.iter().position(fits).map(|at| StreamId(at as u32));
        latest.or_else(any)
    }

    /// Sender reports that are due, and those that will be soon.
    fn report(&mut self, now: Instant, send: &mut impl FnMut(Transmit)) {
        let ntp = self.ntp(now);
        let mut compound = Compound::default();
        let mut packets = Vec::new();
        let mut next = None;
        for stream in &mut self.streams {
            if stream.report_due().is_some_and(|at| at <= now + REPORTS_TOGETHER)
                && let Some((report, cname)) = stream.report(now, ntp)
            {
                compound.push(&report, cname);
                if compound.is_full() || compound.bytes() >= COMPOUND_BYTES_MAX {
                    packets.push(std::mem::take(&mut compound));
                }
            }
            stream.history.forget_old(now);
            if stream.history.is_empty() {
                stream.history.clear();
            }
            let kept = (!stream.history.is_empty()).then(|| now + WAIT_MAX);
            next = [next, stream.report_due(), kept].into_iter().flatten().min();
        }
        if !compound.is_empty() {
            packets.push(compound);
        }
        self.report_at = next;
        for packet in packets {
            let mut contents = packet.finish(SEAL_BYTES);
            let sealed =
                self.srtp.as_mut().is_some_and(|srtp| srtp.seal_rtcp(&mut contents).is_ok());
            if sealed {
                self.line.left(now, None, false, contents, send);
            }
        }
    }

    /// The time as NTP has it.
    fn ntp(&self, now: Instant) -> u64 {
        let (anchor, unix_ms) = self.anchor;
        let since = now.saturating_duration_since(anchor) + Duration::from_millis(unix_ms);
        let seconds = since.as_secs().wrapping_add(NTP_UNIX_S);
        let part = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        seconds << 32 | part
    }

    /// Takes what a receiver says; what follows from it comes from the other methods, and leaves
    /// with the next [`Self::flush`].
    pub(crate) fn receive(&mut self, now: Instant, packet: &[u8]) -> Result<(), ReceiveError> {
        let Some(srtp) = &mut self.srtp else {
            return Err(ReceiveError::NoKeys);
        };
        let compound = srtp.open_rtcp(packet)?;
        rtcp::read(&compound, |feedback| match feedback {
            Feedback::Received(block) => self.received(now, block),
            Feedback::Missing(missing) => self.missing(now, missing),
            Feedback::Keyframe { ssrc } => self.keyframe(ssrc),
            Feedback::Transport { contents } => {
                if let Some(congestion) = &mut self.line.congestion {
                    // One that does not parse tells nothing; the estimate waits for the next.
                    let _ = congestion.feedback(now, contents);
                    congestion.pass(now);
                }
            }
        })?;
        Ok(())
    }

    fn received(&mut self, now: Instant, block: Block) {
        let middle = (self.ntp(now) >> 16 & 0xffff_ffff) as u32;
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.is_about(block.ssrc))
        else {
            return;
        };
        stream.heard_of(block.ssrc);
        if let Some(trip) = block.round_trip(middle) {
            let trip = Duration::from_micros((u64::from(trip) * 1_000_000) >> 16);
            self.trip = Some(trip);
            if let Some(congestion) = &mut self.line.congestion {
                congestion.round_trip(trip);
            }
        }
    }

    fn missing(&mut self, now: Instant, missing: Missing<'_>) {
        let trip = self.trip.unwrap_or(TRIP_MIN).max(TRIP_MIN);
        let Some(at) = self.streams.iter().position(|stream| stream.ssrc() == missing.ssrc) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(at) else {
            return;
        };
        for sequence in missing.sequences() {
            if self.repairs.len() >= REPAIRS_MAX {
                return;
            }
            if let Some(number) = stream.history.asked(now, sequence, trip) {
                self.repairs.push_back((StreamId(at as u32), number));
            }
        }
    }

    fn keyframe(&mut self, ssrc: u32) {
        let Some(stream) = self.streams.iter().find(|stream| stream.ssrc() == ssrc) else {
            return;
        };
        let mid = stream.mid();
        if self.keyframes.len() < KEYFRAMES_MAX && !self.keyframes.contains(&mid) {
            self.keyframes.push(mid);
        }
    }

    /// Lets time pass for the estimate.
    pub(crate) fn pass(&mut self, now: Instant) {
        if let Some(congestion) = &mut self.line.congestion {
            congestion.pass(now);
        }
    }

    /// When to come back.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        if self.srtp.is_none() || self.line.path.is_none() {
            return None;
        }
        let queued = !(self.pictures.is_empty() && self.repairs.is_empty());
        let congestion = self.line.congestion.as_ref();
        let wake = congestion.and_then(|congestion| congestion.wake_at(now, queued));
        [wake, self.report_at].into_iter().flatten().min()
    }
}

/// What SRTCP adds: the tag of AES-GCM and the index.
const SEAL_BYTES: usize = srtp::TAG_BYTES_MAX + 4;

/// Why a packet from a receiver was dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("it came before the handshake was over: drop it")]
    NoKeys,
    #[error(transparent)]
    Srtp(#[from] SrtpError),
    #[error(transparent)]
    Rtcp(#[from] rtcp::Malformed),
}
