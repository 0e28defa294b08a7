//! One track on its way to one participant, in one media section: its numbers and its layer.
//!
//! Puts the rewriters of `forward` and the library's streams together. Does not choose layers.
//! Invariant: that of the rewriters, also across the tracks that use the section one after
//! another.

use std::sync::Arc;
use std::time::Instant;

use str0m::Rtc;
use str0m::media::{Mid, Pt};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite, SeqNo, Ssrc, Vp8Descriptor};

use crate::forward::audio::AudioForwarder;
use crate::forward::rtp_munger::{Numbers, SourceStamp};
use crate::forward::video::{PacketView, VideoForwarder};
use crate::forward::vp8::Rewrite;
use crate::layers::Layer;
use crate::track::Kind;

/// Payload types of a publisher that are remembered per downlink.
const PAYLOAD_TYPES_MAX: usize = 16;
/// The first sequence number: low, so that the SRTP rollover counter begins at zero (RFC 3711).
const FIRST_SEQUENCE: u16 = 1;

/// What receivers need to know of one packet; read once for all of them.
pub(crate) struct Arrival<'a> {
    pub(crate) packet: &'a RtpPacket,
    /// What is sent; the packet's own payload, or silence in its place.
    pub(crate) payload: Arc<[u8]>,
    pub(crate) stamp: SourceStamp,
    /// The publisher's time of capture on our clock, or the time of arrival.
    pub(crate) wallclock: Instant,
    /// Nothing for audio.
    pub(crate) view: Option<PacketView>,
    pub(crate) vp8: Option<Vp8Descriptor>,
}

enum Forwarder {
    Audio(Box<AudioForwarder>),
    Video(Box<VideoForwarder>),
}

/// See the module's description.
pub(crate) struct Downlink {
    forwarder: Forwarder,
    /// The publisher's payload types and ours.
    payload_types: Vec<(Pt, Option<Pt>)>,
    /// Under which the library finds the section's stream without looking through all of them.
    ssrc: Option<Ssrc>,
    /// Audio only: the client shows nothing of it.
    pub(crate) disabled: bool,
    /// The client was told that it is paused for want of bandwidth.
    pub(crate) paused: bool,
}

impl Downlink {
    pub(crate) fn new(kind: Kind) -> Self {
        let forwarder = match kind {
            Kind::Audio => Forwarder::Audio(Box::new(AudioForwarder::new(FIRST_SEQUENCE, 0))),
            Kind::Video => {
                Forwarder::Video(Box::new(VideoForwarder::new(FIRST_SEQUENCE, 0, FIRST_SEQUENCE)))
            }
        };
        let payload_types = Vec::new();
        Self { forwarder, payload_types, ssrc: None, disabled: false, paused: false }
    }

    /// A track begins to use the section, or ceases to.
    pub(crate) fn restart(&mut self) {
        self.payload_types.clear();
        self.disabled = false;
        self.paused = false;
        match &mut self.forwarder {
            Forwarder::Audio(audio) => audio.restart(),
            Forwarder::Video(video) => {
                video.set_target(None);
                video.restart();
            }
        }
    }

    /// Which video layer to go for; nothing stops it.
    pub(crate) fn set_target(&mut self, target: Option<Layer>) {
        if let Forwarder::Video(video) = &mut self.forwarder {
            video.set_target(target);
        }
    }

    pub(crate) fn layer_down(&mut self, spatial: u8) {
        if let Forwarder::Video(video) = &mut self.forwarder {
            video.layer_down(spatial);
        }
    }

    /// The layer whose keyframe is awaited.
    pub(crate) fn keyframe_wanted(&self) -> Option<u8> {
        match &self.forwarder {
            Forwarder::Audio(_) => None,
            Forwarder::Video(video) => video.keyframe_wanted(),
        }
    }

    /// The receiver cannot decode: the layer that must send a keyframe.
    pub(crate) fn keyframe_requested(&self) -> Option<u8> {
        match &self.forwarder {
            Forwarder::Audio(_) => None,
            Forwarder::Video(video) => video.on_keyframe_request(),
        }
    }

    /// Our payload type for the publisher's, found once.
    pub(crate) fn payload_type(
        &mut self,
        theirs: Pt,
        find: impl FnOnce() -> Option<Pt>,
    ) -> Option<Pt> {
        if let Some((_, ours)) = self.payload_types.iter().find(|(known, _)| *known == theirs) {
            return *ours;
        }
        let ours = find();
        if self.payload_types.len() < PAYLOAD_TYPES_MAX {
            self.payload_types.push((theirs, ours));
        }
        ours
    }

    /// Queues a packet on the section's stream; false when it has none.
    pub(crate) fn write(&mut self, rtc: &mut Rtc, mid: Mid, packet: RtpWrite) -> bool {
        let mut api = rtc.direct_api();
        let stream = match self.ssrc {
            Some(ssrc) => api.stream_tx(&ssrc),
            None => api.stream_tx_by_mid(mid, None),
        };
        // A stream that went away comes back, if at all, under another number.
        self.ssrc = stream.as_ref().map(|stream| stream.ssrc());
        let Some(stream) = stream else { return false };
        stream.write_rtp(packet);
        true
    }

    /// What goes out for a packet that came in, if anything does.
    pub(crate) fn take(&mut self, arrival: &Arrival<'_>, pt: Pt) -> Option<RtpWrite> {
        match (&mut self.forwarder, &arrival.view) {
            (Forwarder::Audio(audio), None) => {
                if self.disabled || arrival.packet.payload.is_empty() {
                    audio.skip(arrival.stamp.sequence);
                    return None;
                }
                let numbers = audio.forward(&arrival.stamp).ok()?;
                Some(write(arrival, pt, numbers))
            }
            (Forwarder::Video(video), Some(view)) => {
                let forward = video.on_packet(view)?;
                let mut out = write(arrival, pt, forward.numbers).nackable(true);
                if let (Some(rewrite), Some(descriptor)) = (forward.vp8, &arrival.vp8)
                    && let Some(patch) = patch(descriptor, rewrite)
                {
                    out = out.vp8_patch(patch);
                }
                Some(out)
            }
            _ => None,
        }
    }
}

fn write(arrival: &Arrival<'_>, pt: Pt, numbers: Numbers) -> RtpWrite {
    let header = &arrival.packet.header;
    let values = ExtensionValues {
        video_orientation: header.ext_vals.video_orientation,
        ..ExtensionValues::default()
    };
    let sequence = SeqNo::from(numbers.sequence);
    let payload = arrival.payload.clone();
    RtpWrite::new(pt, sequence, numbers.timestamp, arrival.wallclock, payload)
        .marker(header.marker)
        .ext_vals(values)
}

fn patch(descriptor: &Vp8Descriptor, rewrite: Rewrite) -> Option<str0m::rtp::Vp8Patch> {
    let mut patch = descriptor.patch();
    if let Some(id) = rewrite.picture_id {
        patch = patch.picture_id(id);
    }
    if let Some(index) = rewrite.tl0_index {
        patch = patch.tl0_pic_idx(index);
    }
    if let Some(index) = rewrite.key_index {
        patch = patch.key_idx(index);
    }
    patch.build().ok()
}
