//! One track on its way to one participant, in one media section: its numbers and its layer.
//!
//! Puts the rewriters of `forward` to work for the egress. Does not choose layers.
//! Invariant: that of the rewriters, also across the tracks that use the section one after
//! another.

use std::sync::Arc;
use std::time::Instant;

use str0m::media::Pt;
use str0m::rtp::RtpPacket;

use crate::egress::stream::Packet;
use crate::forward::audio::AudioForwarder;
use crate::forward::rtp_munger::{Numbers, SourceStamp};
use crate::forward::video::{PacketView, VideoForwarder};
use crate::layers::Layer;
use crate::track::{Kind, Redundancy};

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
    /// What the payload repeats, when it is RED.
    pub(crate) red: Option<Redundancy<'a>>,
}

/// How a receiver takes one of a publisher's formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) pt: Pt,
    /// RED goes out as it came; else its primary block does.
    pub(crate) redundant: bool,
}

enum Forwarder {
    Audio(Box<AudioForwarder>),
    Video(Box<VideoForwarder>),
}

/// See the module's description.
pub(crate) struct Downlink {
    forwarder: Forwarder,
    /// The publisher's payload types, and how they go out.
    formats: Vec<(Pt, Option<Format>)>,
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
        let formats = Vec::new();
        Self { forwarder, formats, disabled: false, paused: false }
    }

    /// A track begins to use the section, or ceases to.
    pub(crate) fn restart(&mut self) {
        self.formats.clear();
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

    /// The track goes on after packets that were kept back: they leave no gap.
    pub(crate) fn resume(&mut self) {
        if let Forwarder::Audio(audio) = &mut self.forwarder {
            audio.restart();
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

    /// How the publisher's payload type goes out, found once.
    pub(crate) fn format(
        &mut self,
        theirs: Pt,
        find: impl FnOnce() -> Option<Format>,
    ) -> Option<Format> {
        if let Some((_, ours)) = self.formats.iter().find(|(known, _)| *known == theirs) {
            return *ours;
        }
        let ours = find();
        if self.formats.len() < PAYLOAD_TYPES_MAX {
            self.formats.push((theirs, ours));
        }
        ours
    }

    /// What a RED packet repeats and this receiver, which takes its primary block alone, lacks.
    pub(crate) fn recover(&mut self, arrival: &Arrival<'_>, ours: Format) -> Vec<Packet> {
        let Forwarder::Audio(audio) = &mut self.forwarder else {
            return Vec::new();
        };
        let Some(red) = arrival.red.as_ref().filter(|_| !ours.redundant && !self.disabled) else {
            return Vec::new();
        };
        let recovered = red.packet.redundant().filter_map(|block| {
            let stamp = arrival.stamp.before(block.packets_before, u32::from(block.ticks_before));
            let numbers = audio.recover(&stamp)?;
            Some(packet(ours, numbers, Arc::from(block.contents)))
        });
        recovered.collect()
    }

    /// What goes out for a packet that came in, if anything does.
    pub(crate) fn take(&mut self, arrival: &Arrival<'_>, ours: Format) -> Option<Packet> {
        match (&mut self.forwarder, &arrival.view) {
            (Forwarder::Audio(audio), None) => {
                if self.disabled || arrival.packet.payload.is_empty() {
                    audio.skip(arrival.stamp.sequence);
                    return None;
                }
                let numbers = audio.forward(&arrival.stamp).ok()?;
                Some(sent(arrival, ours, numbers))
            }
            (Forwarder::Video(video), Some(view)) => {
                let forward = video.on_packet(view)?;
                let orientation = arrival.packet.header.ext_vals.video_orientation;
                Some(Packet {
                    orientation: orientation.map(|turned| turned as u8),
                    rewrite: forward.vp8,
                    ..sent(arrival, ours, forward.numbers)
                })
            }
            _ => None,
        }
    }
}

fn sent(arrival: &Arrival<'_>, ours: Format, numbers: Numbers) -> Packet {
    let payload = match &arrival.red {
        Some(red) if !ours.redundant => red.primary(),
        _ => arrival.payload.clone(),
    };
    Packet { marker: arrival.packet.header.marker, ..packet(ours, numbers, payload) }
}

fn packet(ours: Format, numbers: Numbers, payload: Arc<[u8]>) -> Packet {
    Packet {
        payload,
        sequence: numbers.sequence,
        timestamp: numbers.timestamp,
        payload_type: *ours.pt,
        marker: false,
        orientation: None,
        rewrite: None,
    }
}
