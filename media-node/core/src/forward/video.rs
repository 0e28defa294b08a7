//! Forwarding of one video track, with all its layers, to one subscriber.
//!
//! Puts layer selection and the rewriters together: packets of all layers go in, one continuous
//! stream comes out. It does not choose the target layer ([`crate::bandwidth`] does) and does not
//! send keyframe requests, it only says which layer needs one. Invariant: that of the rewriters;
//! a layer starts with a keyframe.

use std::time::{Duration, Instant};

use super::SourceId;
use super::h264;
use super::rtp_munger::{Numbers, RtpMunger, SourceStamp};
use super::vp8::{Descriptor, Rewrite, Vp8Munger};
use crate::layers::Layer;
use crate::layers::selector::{Choice, LayerSelector, PacketFacts};

/// RTP clock of every video codec.
pub const VIDEO_CLOCK_RATE_HZ: u32 = 90_000;

/// Codecs whose payload is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    Vp8,
    H264,
}

/// One packet, read once for all subscribers.
#[derive(Debug, Clone, Copy)]
pub struct PacketView {
    /// Spatial layer, lowest is 0.
    pub spatial: u8,
    pub stamp: SourceStamp,
    /// Carries no media, only padding.
    pub empty: bool,
    pub keyframe_start: bool,
    pub vp8: Option<Descriptor>,
}

impl PacketView {
    /// Reads what forwarding needs out of a payload. Anything that does not parse is treated as
    /// a packet without layers.
    #[must_use]
    pub fn new(codec: VideoCodec, spatial: u8, stamp: SourceStamp, payload: &[u8]) -> Self {
        let (vp8, keyframe_start) = match codec {
            VideoCodec::Vp8 => {
                let descriptor = Descriptor::parse(payload);
                (descriptor, descriptor.is_some_and(|read| read.keyframe_start))
            }
            VideoCodec::H264 => (None, h264::is_keyframe_start(payload)),
        };
        Self { spatial, stamp, empty: payload.is_empty(), keyframe_start, vp8 }
    }

    fn facts(&self) -> PacketFacts {
        PacketFacts {
            spatial: self.spatial,
            timestamp: self.stamp.timestamp,
            keyframe_start: self.keyframe_start,
            temporal: self.vp8.and_then(|descriptor| descriptor.temporal),
            layer_sync: self.vp8.is_some_and(|descriptor| descriptor.layer_sync),
        }
    }
}

/// How to send one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub numbers: Numbers,
    /// New counters for the VP8 descriptor, for VP8 only.
    pub vp8: Option<Rewrite>,
}

/// Downlink state of one video track.
#[derive(Debug, Clone)]
pub struct VideoForwarder {
    selector: LayerSelector,
    munger: RtpMunger,
    vp8: Vp8Munger,
    /// Counts publisher restarts and pauses, so that a source id is never used again.
    run: u64,
}

impl VideoForwarder {
    /// The three starting points are random and tell nothing.
    #[must_use]
    pub fn new(first_sequence: u16, first_timestamp: u32, first_picture: u16) -> Self {
        Self {
            selector: LayerSelector::default(),
            munger: RtpMunger::new(VIDEO_CLOCK_RATE_HZ, first_sequence, first_timestamp),
            vp8: Vp8Munger::new(first_picture),
            run: 0,
        }
    }

    /// Sets the layer to go for; `None` pauses the track.
    pub fn set_target(&mut self, target: Option<Layer>) {
        self.selector.set_target(target);
    }

    #[must_use]
    pub fn target(&self) -> Option<Layer> {
        self.selector.target()
    }

    /// What is being forwarded.
    #[must_use]
    pub fn current(&self) -> Option<Layer> {
        self.selector.current()
    }

    /// The spatial layer whose keyframe is awaited.
    #[must_use]
    pub fn keyframe_wanted(&self) -> Option<u8> {
        self.selector.keyframe_wanted()
    }

    /// A layer has died; when it was being forwarded, any lower one may take its place.
    pub fn layer_down(&mut self, spatial: u8) {
        self.selector.layer_down(spatial);
    }

    /// The publisher starts anew (other SSRCs): wait for a keyframe.
    pub fn restart(&mut self) {
        self.selector.restart();
    }

    /// The subscriber reported that it cannot decode (PLI): which layer must send a keyframe.
    #[must_use]
    pub fn on_keyframe_request(&self) -> Option<u8> {
        self.selector.current().map(|layer| layer.spatial).or(self.selector.keyframe_wanted())
    }

    /// Decides about one packet of one layer: how to send it, or not at all.
    pub fn on_packet(&mut self, packet: &PacketView) -> Option<Forward> {
        match self.selector.choose(&packet.facts()) {
            Choice::Ignore => None,
            Choice::Skip => {
                self.skip(packet);
                None
            }
            Choice::Switch => {
                self.run += 1;
                self.send(packet)
            }
            Choice::Forward if packet.empty => {
                self.skip(packet);
                None
            }
            Choice::Forward => self.send(packet),
        }
    }

    fn skip(&mut self, packet: &PacketView) {
        let id = SourceId(self.run);
        self.munger.skip(id, packet.stamp.sequence);
        if let Some(descriptor) = &packet.vp8 {
            self.vp8.skip(id, descriptor);
        }
    }

    fn send(&mut self, packet: &PacketView) -> Option<Forward> {
        let id = SourceId(self.run);
        let vp8 = match &packet.vp8 {
            Some(descriptor) => Some(self.vp8.forward(id, descriptor)),
            None => None,
        };
        if vp8 == Some(None) {
            // The rest of its frame was left out; sending a part would only cost a decoder.
            self.munger.skip(id, packet.stamp.sequence);
            return None;
        }
        let numbers = self.munger.forward(id, &packet.stamp).ok()?;
        Some(Forward { numbers, vp8: vp8.flatten() })
    }
}

/// Tells when a keyframe may be asked of a layer: once per interval, and again after it when the
/// keyframe has not come.
#[derive(Debug, Clone, Default)]
pub struct KeyframeThrottle {
    asked: [Option<Instant>; crate::layers::SPATIAL_LAYERS],
}

/// LiveKit's PLI throttle for the lowest layer (`pkg/config/config.go`, `PLIThrottleConfig`).
pub const KEYFRAME_INTERVAL_LOW: Duration = Duration::from_millis(500);
/// The same for the middle and the highest layer.
pub const KEYFRAME_INTERVAL_HIGH: Duration = Duration::from_secs(1);

impl KeyframeThrottle {
    /// True when a request may go to the publisher now; the interval then starts anew.
    pub fn admit(&mut self, now: Instant, spatial: u8) -> bool {
        let interval = if spatial == 0 { KEYFRAME_INTERVAL_LOW } else { KEYFRAME_INTERVAL_HIGH };
        let Some(asked) = self.asked.get_mut(usize::from(spatial)) else { return false };
        if asked.is_some_and(|at| now.saturating_duration_since(at) < interval) {
            return false;
        }
        *asked = Some(now);
        true
    }
}
