//! One track that a headless participant publishes: its announcement and its packets.
//!
//! Keeps the sources running in time and writes what is due into the transport. Does not
//! negotiate. Invariant: a publication outlives the transport it is on; on a new one it starts
//! its numbering again and its video with a keyframe.

use std::time::Instant;

use livekit_contract::proto;
use str0m::Rtc;
use str0m::change::SdpApi;
use str0m::format::PayloadParams;
use str0m::media::{
    Direction, KeyframeRequest, MediaKind, Mid, Pt, Rid, Simulcast, SimulcastLayer,
};
use str0m::rtp::{ExtensionValues, RtpWrite};

use super::media::{AUDIO_INTERVAL, AudioSource, DIMENSIONS, Packet, VIDEO_INTERVAL, VideoLayer};

/// Names of simulcast layers, lowest first.
const RIDS: [&str; 3] = ["q", "h", "f"];
/// Level of a speaking voice, in dBov.
const VOICE_DBOV: i8 = -20;
/// A source that falls further behind than this many intervals skips ahead; catching up would
/// only burst.
const BEHIND_MAX: u32 = 10;

enum Source {
    Audio(AudioSource),
    Video(Vec<VideoLayer>),
}

/// One published track.
pub(super) struct Publication {
    /// Our id of the track, which names it in the offer.
    pub(super) cid: String,
    pub(super) name: String,
    /// The server's id, once it has accepted the announcement.
    pub(super) sid: Option<String>,
    pub(super) mid: Option<Mid>,
    pub(super) muted: bool,
    payload_type: Option<Pt>,
    source: Source,
    due: Option<Instant>,
    /// Packets written.
    pub(super) packets: u64,
}

impl Publication {
    pub(super) fn audio(name: &str) -> Self {
        Self::new(name, Source::Audio(AudioSource::default()))
    }

    /// With `simulcast` three layers, otherwise the middle one alone.
    pub(super) fn video(name: &str, simulcast: bool) -> Self {
        let layers = if simulcast { 0..3 } else { 1..2 };
        Self::new(name, Source::Video(layers.map(VideoLayer::new).collect()))
    }

    fn new(name: &str, source: Source) -> Self {
        Self {
            cid: format!("cid-{:016x}", rand::random::<u64>()),
            name: name.to_owned(),
            sid: None,
            mid: None,
            muted: false,
            payload_type: None,
            source,
            due: None,
            packets: 0,
        }
    }

    /// The announcement that comes before the offer.
    pub(super) fn announcement(&self) -> proto::AddTrackRequest {
        let mut request = proto::AddTrackRequest {
            cid: self.cid.clone(),
            name: self.name.clone(),
            muted: self.muted,
            disable_red: true,
            ..Default::default()
        };
        match &self.source {
            Source::Audio(_) => {
                request.set_type(proto::TrackType::Audio);
                request.set_source(proto::TrackSource::Microphone);
            }
            Source::Video(layers) => {
                request.set_type(proto::TrackType::Video);
                request.set_source(proto::TrackSource::Camera);
                let sizes = DIMENSIONS.iter().skip(if layers.len() == 1 { 1 } else { 0 });
                request.layers = (0..)
                    .zip(sizes.take(layers.len()))
                    .map(|(quality, (width, height))| proto::VideoLayer {
                        quality,
                        width: u32::from(*width),
                        height: u32::from(*height),
                        ..Default::default()
                    })
                    .collect();
                let top = request.layers.last().map(|layer| (layer.width, layer.height));
                (request.width, request.height) = top.unwrap_or_default();
            }
        }
        request
    }

    /// Adds the track to an offer.
    pub(super) fn add_to(&mut self, api: &mut SdpApi<'_>) {
        let (kind, simulcast) = match &self.source {
            Source::Audio(_) => (MediaKind::Audio, None),
            Source::Video(layers) if layers.len() == 1 => (MediaKind::Video, None),
            Source::Video(_) => {
                let mut simulcast = Simulcast::new();
                for rid in RIDS {
                    simulcast.add_send_layer(SimulcastLayer::new(rid));
                }
                (MediaKind::Video, Some(simulcast))
            }
        };
        let stream = Some("hemicycle".to_owned());
        let cid = Some(self.cid.clone());
        self.mid = Some(api.add_media(kind, Direction::SendOnly, stream, cid, simulcast));
    }

    /// The transport is gone; everything has to be announced anew.
    pub(super) fn detach(&mut self) {
        self.sid = None;
        self.mid = None;
        self.payload_type = None;
        self.due = None;
        match &mut self.source {
            Source::Audio(source) => source.rebase(),
            Source::Video(layers) => layers.iter_mut().for_each(VideoLayer::rebase),
        }
    }

    /// The server asks for a keyframe of one layer.
    pub(super) fn on_keyframe_request(&mut self, request: &KeyframeRequest) {
        if let Source::Video(layers) = &mut self.source {
            let single = layers.len() == 1;
            for (layer, rid) in layers.iter_mut().zip(RIDS) {
                let meant = request.rid.is_none_or(|asked| asked == Rid::from(rid));
                layer.keyframe_due |= single || meant;
            }
        }
    }

    /// When the next packet is due; nothing while the track cannot be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts to send once the server has answered.
    pub(super) fn start(&mut self, rtc: &mut Rtc, now: Instant) {
        let Some(mid) = self.mid else { return };
        if self.due.is_some() {
            return;
        }
        self.payload_type = rtc.media(mid).and_then(|media| {
            let accepted = media.remote_pts();
            let ours = rtc.codec_config().params().iter().map(PayloadParams::pt);
            ours.into_iter().find(|pt| accepted.contains(pt))
        });
        self.due = self.payload_type.map(|_| now);
    }

    /// Writes what is due. Returns how late the oldest of it is.
    pub(super) fn send(&mut self, rtc: &mut Rtc, now: Instant) -> Option<std::time::Duration> {
        let due = self.due.filter(|due| *due <= now)?;
        let (mid, pt) = (self.mid?, self.payload_type?);
        let interval = match self.source {
            Source::Audio(_) => AUDIO_INTERVAL,
            Source::Video(_) => VIDEO_INTERVAL,
        };
        let behind = now.saturating_duration_since(due);
        let next = due + interval;
        self.due = Some(if behind > interval * BEHIND_MAX { now + interval } else { next });
        if self.muted {
            return None;
        }
        match &mut self.source {
            Source::Audio(source) => {
                let packet = source.next(now);
                self.packets += u64::from(write(rtc, mid, None, pt, packet, now));
            }
            Source::Video(layers) => {
                let single = layers.len() == 1;
                for (layer, rid) in layers.iter_mut().zip(RIDS) {
                    let rid = (!single).then(|| Rid::from(rid));
                    for packet in layer.next(now) {
                        self.packets += u64::from(write(rtc, mid, rid, pt, packet, now));
                    }
                }
            }
        }
        Some(behind)
    }
}

fn write(rtc: &mut Rtc, mid: Mid, rid: Option<Rid>, pt: Pt, packet: Packet, now: Instant) -> bool {
    let mut api = rtc.direct_api();
    let Some(stream) = api.stream_tx_by_mid(mid, rid) else { return false };
    let audio = rid.is_none() && packet.payload.first() == Some(&0xf8);
    let values = ExtensionValues {
        audio_level: audio.then_some(VOICE_DBOV),
        voice_activity: audio.then_some(true),
        ..ExtensionValues::default()
    };
    let write = RtpWrite::new(pt, packet.sequence.into(), packet.timestamp, now, packet.payload)
        .marker(packet.marker)
        .nackable(!audio)
        .ext_vals(values);
    stream.write_rtp(write);
    true
}
