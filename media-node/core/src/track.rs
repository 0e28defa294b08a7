//! A published track: what it is, its layers, who receives it, when its keyframes were asked for.
//!
//! Holds state; decisions are the room's. Invariant: at most [`SPATIAL_LAYERS`] encodings.

#![expect(deprecated, reason = "clients in the field still read and send these fields")]

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

use livekit_protocol as proto;
use slotmap::SecondaryMap;
use str0m::media::{Mid, Pt, Rid};
use str0m::rtp::RtpPacket;

use crate::forward::red::{self, RedPacket};
use crate::forward::source_clock::SourceClock;
use crate::forward::video::KeyframeThrottle;
use crate::ids::ParticipantSlot;
use crate::layers::tracker::LayerTracker;
use crate::layers::wish::Dimensions;
use crate::layers::{SPATIAL_LAYERS, spatial_of_rid};

/// Clock of Opus (RFC 7587 §4.1) and of every video codec (RFC 3551 §5).
const CLOCK_AUDIO_HZ: u32 = 48_000;
const CLOCK_VIDEO_HZ: u32 = 90_000;

/// One Opus packet of silence (RFC 6716: CELT, 20 ms, with nothing coded).
const OPUS_SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];
/// Silence sent after a mute: half a second, longer than receivers buffer.
const SILENCE_PACKETS: u32 = 25;

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Audio,
    Video,
}

impl Kind {
    pub(crate) fn clock_rate_hz(self) -> u32 {
        match self {
            Self::Audio => CLOCK_AUDIO_HZ,
            Self::Video => CLOCK_VIDEO_HZ,
        }
    }
}

/// One encoding of a track: a simulcast restriction id, or the only one.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) rid: Option<Rid>,
    pub(crate) spatial: u8,
    pub(crate) clock: SourceClock,
    /// A keyframe was wanted while the throttle held.
    pub(crate) keyframe_wanted: bool,
}

/// A packet as it may be sent on.
pub(crate) struct Audible<'a> {
    pub(crate) payload: Arc<[u8]>,
    /// What the payload repeats, when it is RED.
    pub(crate) red: Option<Redundancy<'a>>,
}

/// A RED payload's blocks; the primary one is copied once for all receivers that want it alone.
pub(crate) struct Redundancy<'a> {
    pub(crate) packet: RedPacket<'a>,
    primary: OnceCell<Arc<[u8]>>,
}

impl<'a> Redundancy<'a> {
    fn new(packet: RedPacket<'a>) -> Self {
        Self { packet, primary: OnceCell::new() }
    }

    /// What a sender without RED would have sent.
    pub(crate) fn primary(&self) -> Arc<[u8]> {
        self.primary.get_or_init(|| Arc::from(self.packet.primary.contents)).clone()
    }
}

/// A packet under RED's payload type that is not RED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedRed;

/// See the module's description.
pub(crate) struct Track {
    pub(crate) owner: ParticipantSlot,
    pub(crate) info: proto::TrackInfo,
    pub(crate) kind: Kind,
    pub(crate) mid: Mid,
    pub(crate) encodings: Vec<Encoding>,
    pub(crate) layers: LayerTracker,
    pub(crate) keyframes: KeyframeThrottle,
    /// Participants that have a section for it.
    pub(crate) receivers: Vec<ParticipantSlot>,
    /// At which of a receiver's sections the track was last found; only where to look first.
    pub(crate) places: SecondaryMap<ParticipantSlot, u32>,
    /// Packets of silence still to be sent after a mute.
    silence_left: u32,
    /// Packets after an unmute whose redundancy may hold what was said before it.
    unrepeated_left: usize,
    /// RTP timestamp of the audio packet before, for its duration.
    pub(crate) audio_timestamp: Option<u32>,
    /// Highest layer anyone wants, as last told to the publisher; nothing told yet.
    pub(crate) told_quality: Option<Option<u8>>,
    /// Since when less is wanted than was told.
    pub(crate) less_since: Option<Instant>,
}

impl Track {
    pub(crate) fn new(
        owner: ParticipantSlot,
        info: proto::TrackInfo,
        kind: Kind,
        mid: Mid,
        rids: &[String],
    ) -> Self {
        let encoding = |rid: Option<&String>, spatial| Encoding {
            rid: rid.map(|rid| rid.as_str().into()),
            spatial,
            clock: SourceClock::new(kind.clock_rate_hz()),
            keyframe_wanted: false,
        };
        let encodings = if rids.is_empty() {
            vec![encoding(None, 0)]
        } else {
            let known = rids.iter().take(SPATIAL_LAYERS).zip(0_u8..);
            let spatial = |rid: &String, at| spatial_of_rid(rid).unwrap_or(at);
            known.map(|(rid, at)| encoding(Some(rid), spatial(rid, at))).collect()
        };
        let screen = info.source() == proto::TrackSource::ScreenShare;
        Self {
            owner,
            info,
            kind,
            mid,
            encodings,
            layers: LayerTracker::new(screen),
            keyframes: KeyframeThrottle::default(),
            receivers: Vec::new(),
            places: SecondaryMap::new(),
            silence_left: 0,
            unrepeated_left: 0,
            audio_timestamp: None,
            told_quality: None,
            less_since: None,
        }
    }

    /// The publisher muted or unmuted.
    pub(crate) fn mute(&mut self, muted: bool) {
        self.info.muted = muted;
        self.silence_left = SILENCE_PACKETS;
        self.unrepeated_left = if muted { 0 } else { red::BLOCKS_MAX };
    }

    /// What may be heard of a packet: while muted a little silence, so that receivers fade out
    /// instead of making up sound for what is missing, and then nothing. `primary` is the codec
    /// that a packet with redundancy (RED, RFC 2198) is about.
    pub(crate) fn audible<'a>(
        &mut self,
        packet: &'a RtpPacket,
        primary: Option<Pt>,
    ) -> Result<Option<Audible<'a>>, MalformedRed> {
        if self.kind == Kind::Video || !self.info.muted {
            return match primary.filter(|_| !packet.payload.is_empty()) {
                Some(primary) => self.repeating(packet, primary).map(Some),
                None => Ok(Some(Audible { payload: packet.payload.clone(), red: None })),
            };
        }
        // Silence between encrypted frames would be noise to a receiver that decrypts.
        if self.silence_left == 0 || self.info.encryption != 0 {
            return Ok(None);
        }
        self.silence_left -= 1;
        Ok(Some(Audible { payload: Arc::from(OPUS_SILENCE), red: None }))
    }

    fn repeating<'a>(
        &mut self,
        packet: &'a RtpPacket,
        primary: Pt,
    ) -> Result<Audible<'a>, MalformedRed> {
        let red = RedPacket::parse(&packet.payload)
            .filter(|red| red.primary.payload_type == *primary)
            .ok_or(MalformedRed)?;
        if self.unrepeated_left > 0 {
            self.unrepeated_left -= 1;
            return Ok(Audible { payload: Arc::from(red.primary.contents), red: None });
        }
        Ok(Audible { payload: packet.payload.clone(), red: Some(Redundancy::new(red)) })
    }

    /// The encoding of a restriction id.
    pub(crate) fn encoding_of(&self, rid: Option<Rid>) -> Option<usize> {
        self.encodings.iter().position(|encoding| encoding.rid == rid)
    }

    /// Size of each spatial layer where the publisher told it.
    pub(crate) fn dimensions(&self) -> [Option<Dimensions>; SPATIAL_LAYERS] {
        let mut sizes = [None; SPATIAL_LAYERS];
        for layer in &self.info.layers {
            let at = usize::try_from(layer.quality).unwrap_or(usize::MAX);
            if let (Some(size), true) = (sizes.get_mut(at), layer.width > 0) {
                *size = Some((layer.width, layer.height));
            }
        }
        sizes
    }

    /// The allocator's name for the track.
    pub(crate) fn is_screen(&self) -> bool {
        self.info.source() == proto::TrackSource::ScreenShare
    }
}
