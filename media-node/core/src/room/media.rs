//! Media: from the publisher's transport to every receiver's.
//!
//! The packet path: no lock, log line or text here. Invariant: a packet's payload is shared, not
//! copied, and a receiver's transport is only marked; it is drained once per wake-up.

use std::time::{Duration, UNIX_EPOCH};

use slotmap::SecondaryMap;
use str0m::Rtc;
use str0m::format::{Codec, PayloadParams};
use str0m::media::{KeyframeRequestKind, Mid, SenderFeedback};
use str0m::rtp::RtpPacket;

use super::Room;
use super::connection::Arrivals;
use crate::context::Context;
use crate::downlink::{Arrival, Format};
use crate::forward::rtp_munger::SourceStamp;
use crate::forward::video::{PacketView, VideoCodec};
use crate::ids::{ParticipantSlot, Side, TrackSlot, TransportRef};
use crate::negotiation::Section;
use crate::participant::{SOURCES_MAX, Source};
use crate::track::{Audible, Kind, MalformedRed, Track};
use crate::transport::Transport;

/// Longest audio packet that Opus makes (RFC 7587 §3.3).
const AUDIO_PACKET_MAX: Duration = Duration::from_millis(120);
/// Opus frames of 20 ms, when the timestamps do not tell.
const AUDIO_PACKET_USUAL: Duration = Duration::from_millis(20);

impl Room {
    /// One packet of a publisher.
    pub(super) fn forward(
        &mut self,
        ctx: &mut Context<'_>,
        from: ParticipantSlot,
        packet: &RtpPacket,
    ) {
        ctx.stats.media_in += 1;
        let Some((slot, encoding)) = self.source_of(from, packet) else {
            return;
        };
        let publisher = self.participants.get(from).and_then(|one| one.publisher.as_ref());
        let (Some(publisher), Some(track)) = (publisher, self.tracks.get_mut(slot)) else {
            return;
        };
        let pt = packet.header.payload_type;
        let carries = |params: &&PayloadParams| params.pt() == pt || params.red() == Some(pt);
        let mut all = publisher.transport.rtc.codec_config().params().iter();
        let Some(params) = all.find(carries).copied() else {
            return;
        };
        let primary = (params.pt() != pt).then(|| params.pt());
        // What is said while muted is not for others, however late the client stops sending.
        let Audible { payload: sent, red } = match track.audible(packet, primary) {
            Ok(Some(audible)) => audible,
            Ok(None) => return,
            Err(MalformedRed) => {
                ctx.stats.drops.red_malformed += 1;
                return;
            }
        };
        let Some(encoding) = track.encodings.get(encoding) else {
            return;
        };
        let captured = encoding.clock.captured(packet.header.timestamp);
        let local = captured.and_then(|wall| publisher.clock.local(wall));
        let stamp = SourceStamp {
            sequence: packet.header.sequence_number,
            timestamp: packet.header.timestamp,
            arrival: packet.timestamp,
            captured,
        };
        let (spatial, payload) = (encoding.spatial, sent.as_ref());
        let codec = params.spec().codec;
        let view = match (track.kind, codec) {
            (Kind::Audio, _) => None,
            (Kind::Video, Codec::Vp8) => {
                Some(PacketView::new(VideoCodec::Vp8, spatial, stamp, payload))
            }
            (Kind::Video, _) => Some(PacketView::new(VideoCodec::H264, spatial, stamp, payload)),
        };
        // A capture time in the future would confuse the receiver's clock.
        let wallclock = local.unwrap_or(packet.timestamp).min(ctx.now);
        let bytes = payload.len();
        let arrival = Arrival { packet, payload: sent, stamp, wallclock, view, red };
        let temporal = view.and_then(|view| view.vp8).and_then(|vp8| vp8.temporal);
        let appeared = track.layers.on_packet(ctx.now, spatial, temporal, bytes);
        if appeared.is_some() {
            self.layers_changed(ctx, slot, codec);
        }
        if view.is_none() {
            self.heard(ctx, slot, packet);
        }
        self.deliver(ctx, slot, &arrival, params);
    }

    /// Writes a packet to everyone who receives its track.
    fn deliver(
        &mut self,
        ctx: &mut Context<'_>,
        slot: TrackSlot,
        arrival: &Arrival<'_>,
        params: PayloadParams,
    ) {
        let Some(Track { receivers, places, .. }) = self.tracks.get_mut(slot) else {
            return;
        };
        // Silence in place of a RED packet is not RED.
        let sent = if arrival.red.is_some() { params.red() } else { None };
        let pt = sent.unwrap_or(params.pt());
        for receiver in receivers.iter().copied() {
            let Some(one) = self.participants.get_mut(receiver) else {
                continue;
            };
            let (transport, sections) = one.subscriber.parts();
            let Some(section) = section_at(places, receiver, sections, slot) else {
                continue;
            };
            let Transport { rtc, egress: Some(egress), connected: true, .. } = &mut *transport
            else {
                continue;
            };
            let (true, Some(stream)) = (section.ready(), section.stream) else {
                continue;
            };
            let redundant = section.redundant && pt != params.pt();
            let find = || format(rtc, section.mid, params, redundant);
            let Some(ours) = section.downlink.format(pt, find) else {
                continue;
            };
            let recovered = section.downlink.recover(arrival, ours);
            ctx.stats.red_recovered += recovered.len() as u64;
            let taken = section.downlink.take(arrival, ours);
            let mut written = 0;
            for packet in recovered.into_iter().chain(taken) {
                if egress.push(ctx.now, stream, packet, arrival.wallclock) {
                    written += 1;
                } else {
                    ctx.stats.drops.downlink_full += 1;
                }
            }
            ctx.stats.media_out += written;
            if written > 0 {
                let (room, side) = (self.slot, Side::Subscriber);
                transport.stir(ctx.dirty, TransportRef { room, participant: receiver, side });
            }
        }
    }

    /// Which track and encoding a packet belongs to; found once per SSRC.
    fn source_of(
        &mut self,
        from: ParticipantSlot,
        packet: &RtpPacket,
    ) -> Option<(TrackSlot, usize)> {
        let one = self.participants.get_mut(from)?;
        let publisher = one.publisher.as_mut()?;
        let ssrc = packet.header.ssrc;
        let number = *packet.seq_no;
        if let Some(source) = publisher.sources.iter_mut().find(|source| source.ssrc == ssrc) {
            source.arrivals.received += 1;
            source.arrivals.expected += number.saturating_sub(source.highest);
            source.highest = source.highest.max(number);
            return Some((source.track, source.encoding));
        }
        let mut api = publisher.transport.rtc.direct_api();
        let stream = api.stream_rx(&ssrc)?;
        let (mid, rid) = (stream.mid(), stream.rid());
        let tracks = &self.tracks;
        let own = one.tracks.iter().filter_map(|slot| Some((*slot, tracks.get(*slot)?)));
        let (track, encoding) = own
            .filter(|(_, track)| track.mid == mid)
            .find_map(|(slot, track)| Some((slot, track.encoding_of(rid)?)))?;
        if publisher.sources.len() >= SOURCES_MAX {
            publisher.sources.remove(0);
        }
        let arrivals = Arrivals { expected: 1, received: 1 };
        publisher.sources.push(Source { ssrc, track, encoding, highest: number, arrivals });
        Some((track, encoding))
    }

    /// The level of an audio packet.
    fn heard(&mut self, ctx: &mut Context<'_>, slot: TrackSlot, packet: &RtpPacket) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let timestamp = packet.header.timestamp;
        let before = track.audio_timestamp.replace(timestamp);
        let Some(level) = packet.header.ext_vals.audio_level else {
            return;
        };
        let ticks = before.map_or(0, |before| timestamp.wrapping_sub(before));
        let measured = Duration::from_micros(u64::from(ticks) * 1_000 / 48);
        let usable = ticks > 0 && measured <= AUDIO_PACKET_MAX;
        let duration = if usable { measured } else { AUDIO_PACKET_USUAL };
        let speaker = super::quality::speaker_id(track.owner);
        if !track.info.muted {
            self.speakers.on_level(ctx.now, speaker, level.unsigned_abs(), duration);
        }
    }

    /// A sender report: what the publisher's clock shows.
    pub(super) fn sender_reported(&mut self, from: ParticipantSlot, feedback: &SenderFeedback) {
        let Ok(wall) = feedback.sender_info.ntp_time.duration_since(UNIX_EPOCH) else {
            return;
        };
        let Some(one) = self.participants.get_mut(from) else {
            return;
        };
        if let Some(publisher) = one.publisher.as_mut() {
            publisher.clock.on_sender_report(feedback.received_at, wall);
        }
        // The low 32 bits are the timestamp on the wire.
        let timestamp = (feedback.sender_info.rtp_time.numer() & 0xffff_ffff) as u32;
        for slot in &one.tracks {
            let Some(track) = self.tracks.get_mut(*slot).filter(|t| t.mid == feedback.mid) else {
                continue;
            };
            let at = track.encoding_of(feedback.rid);
            if let Some(encoding) = at.and_then(|at| track.encodings.get_mut(at)) {
                encoding.clock.on_sender_report(wall, timestamp);
            }
        }
    }

    /// A receiver's decoder lost its way.
    pub(super) fn keyframe_requested(
        &mut self,
        ctx: &mut Context<'_>,
        receiver: ParticipantSlot,
        mid: Mid,
    ) {
        let one = self.participants.get(receiver);
        let section = one.and_then(|one| one.subscriber.sections().find(|s| s.mid == mid));
        let wanted = section.and_then(|s| Some((s.track()?, s.downlink.keyframe_requested()?)));
        if let Some((track, spatial)) = wanted {
            self.ask_keyframe(ctx, track, spatial);
        }
    }

    /// Asks the publisher for a keyframe of a layer, now or when the throttle lets go.
    pub(super) fn ask_keyframe(&mut self, ctx: &mut Context<'_>, slot: TrackSlot, spatial: u8) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let Track { encodings, keyframes, owner, mid, .. } = track;
        // A layer that is not published: the nearest below, else the lowest there is.
        let below = encodings.iter_mut().rev().find(|encoding| encoding.spatial <= spatial);
        let Some(encoding) = below else {
            return;
        };
        let admitted = keyframes.admit(ctx.now, encoding.spatial);
        encoding.keyframe_wanted = !admitted;
        if !admitted {
            return;
        }
        let (owner, mid, rid) = (*owner, *mid, encoding.rid);
        let publisher = self.participants.get_mut(owner).and_then(|one| one.publisher.as_mut());
        let Some(publisher) = publisher else {
            return;
        };
        if let Some(stream) = publisher.transport.rtc.direct_api().stream_rx_by_mid(mid, rid) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
            self.touch(ctx, owner, Side::Publisher);
        }
    }

    /// Keyframes that were asked for while the throttle held, and those still waited for.
    pub(super) fn ask_missing_keyframes(&mut self, ctx: &mut Context<'_>) {
        let mut wanted = Vec::new();
        for (slot, track) in &self.tracks {
            let held = track.encodings.iter().filter(|encoding| encoding.keyframe_wanted);
            wanted.extend(held.map(|encoding| (slot, encoding.spatial)));
        }
        for one in self.participants.values() {
            for section in one.subscriber.sections().filter(|section| section.ready()) {
                wanted.extend(section.track().zip(section.downlink.keyframe_wanted()));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        for (track, spatial) in wanted {
            self.ask_keyframe(ctx, track, spatial);
        }
    }
}

/// The receiver's section that carries the track: where it was last time, or wherever it is.
fn section_at<'a>(
    places: &mut SecondaryMap<ParticipantSlot, u32>,
    receiver: ParticipantSlot,
    sections: &'a mut [Section],
    track: TrackSlot,
) -> Option<&'a mut Section> {
    let carries = |section: &Section| section.track() == Some(track);
    let known = places.get(receiver).map(|place| *place as usize);
    let known = known.filter(|at| sections.get(*at).is_some_and(carries));
    let at = match known {
        Some(at) => at,
        None => {
            let at = sections.iter().position(carries)?;
            places.insert(receiver, u32::try_from(at).ok()?);
            at
        }
    };
    sections.get_mut(at)
}

/// How a receiver takes what a publisher sends: the same format, or at least the same codec, among
/// those that the receiver has accepted. RED goes out whole where it was accepted and names its
/// blocks by the same number.
fn format(rtc: &Rtc, mid: Mid, params: PayloadParams, redundant: bool) -> Option<Format> {
    let accepted = rtc.media(mid)?.remote_pts();
    let all = || rtc.codec_config().params().iter();
    let same = rtc.codec_config().match_params(params);
    let own = same.filter(|own| accepted.contains(&own.pt())).or_else(|| {
        all().find(|own| own.spec().codec == params.spec().codec && accepted.contains(&own.pt()))
    })?;
    let red = own.red().filter(|_| redundant && own.pt() == params.pt());
    Some(Format { pt: red.unwrap_or(own.pt()), redundant: red.is_some() })
}
