//! A participant: two str0m transports that behave as livekit-client does, and what it saw.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use livekit_protocol as proto;
use media_core::ids::ConnectionId;
use proto::{signal_request, signal_response};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::media::{Direction, MediaKind, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, ExtensionMap, ExtensionValues, RtpWrite};
use str0m::{Candidate, Event, Input, Output, Rtc};

use super::hostile::{self, Noise};
use super::media::{Redundancy, VideoCodec, VideoSource};
use super::network::Packet;

/// One packet as a receiver saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub sequence: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub payload_type: u8,
    pub payload: Vec<u8>,
}

/// What a client's WebRTC can do beyond Opus and VP8.
#[derive(Debug, Clone, Copy, Default)]
pub struct Abilities {
    /// RED for Opus.
    pub redundancy: bool,
    pub video: VideoCodec,
    /// It gives no transport-wide feedback for voices, as Firefox and some SDKs.
    pub voices_unreported: bool,
    /// Its crypto can be told to seal noise.
    pub hostile: bool,
}

/// A track being published.
pub struct Outgoing {
    pub cid: String,
    pub kind: MediaKind,
    pub rids: Vec<&'static str>,
    pub sid: Option<String>,
    pub mid: Option<Mid>,
    pub sources: Vec<VideoSource>,
    pub redundancy: Redundancy,
    pub audio_sequence: u64,
    pub audio_timestamp: u32,
    pub level: i8,
    pub sending: bool,
    pub offered: bool,
}

/// See the module's description.
pub struct Client {
    pub identity: String,
    pub connection: ConnectionId,
    pub sid: String,
    publisher: Rtc,
    subscriber: Rtc,
    publisher_at: SocketAddr,
    subscriber_at: SocketAddr,
    pending: Option<SdpPendingOffer>,
    offer_again: bool,
    pub outgoing: Vec<Outgoing>,
    requests: VecDeque<signal_request::Message>,
    pub signals: Vec<signal_response::Message>,
    pub closed: bool,
    /// Packets by track sid.
    pub seen: BTreeMap<String, Vec<Seen>>,
    track_by_mid: BTreeMap<String, String>,
    channels: HashMap<ChannelId, String>,
    subscriber_channels: HashMap<ChannelId, String>,
    pub data: Vec<(String, Vec<u8>)>,
    pub connected: bool,
    sends: bool,
    pub keyframe_requests: u64,
    pub answers: bool,
    last_now: Instant,
    abilities: Abilities,
    /// Goes out as the next audio packet in its place, as RED where that was agreed.
    pub garbage: Option<Vec<u8>>,
    /// What it seals instead of what it should.
    pub noise: Option<Noise>,
}

/// Payload types, as browsers offer them.
const OPUS: u8 = 111;
const RED: u8 = 63;
const VP8: u8 = 96;
const H264: u8 = 108;

fn rtc(now: Instant, at: SocketAddr, abilities: Abilities) -> Rtc {
    let mut map = ExtensionMap::standard();
    map.set(3, Extension::TransportSequenceNumber);
    let mut builder = Rtc::builder()
        .set_rtp_mode(true)
        .clear_codecs()
        .enable_opus(true, abilities.redundancy)
        .set_extension_map(map);
    match abilities.video {
        VideoCodec::Vp8 => builder = builder.enable_vp8(true),
        VideoCodec::H264 => {
            builder.codec_config().add_h264(H264.into(), Some(109.into()), true, 0x42_e01f);
        }
    }
    if abilities.hostile {
        builder = builder.set_crypto_provider(hostile::provider());
    }
    let mut rtc = builder.build(now);
    rtc.add_local_candidate(Candidate::host(at, Protocol::Udp).unwrap());
    rtc
}

/// Takes transport-wide sequence numbers out of the audio sections.
fn without_audio_feedback(sdp: &str) -> String {
    let mut audio = false;
    let mut kept = |line: &&str| {
        if let Some(kind) = line.strip_prefix("m=") {
            audio = kind.starts_with("audio");
        }
        !(audio && line.starts_with("a=extmap:") && line.contains("transport-wide-cc"))
    };
    sdp.split_inclusive('\n').filter(|line| kept(line)).collect()
}

impl Client {
    pub fn new(now: Instant, identity: &str, number: u8, abilities: Abilities) -> Self {
        let publisher_at = SocketAddr::from(([198, 18, 1, number], 5_000));
        let subscriber_at = SocketAddr::from(([198, 18, 1, number], 5_001));
        Self {
            identity: identity.to_owned(),
            connection: ConnectionId(u64::from(number)),
            sid: String::new(),
            publisher: rtc(now, publisher_at, abilities),
            subscriber: rtc(now, subscriber_at, abilities),
            publisher_at,
            subscriber_at,
            pending: None,
            offer_again: false,
            outgoing: Vec::new(),
            requests: VecDeque::new(),
            signals: Vec::new(),
            closed: false,
            seen: BTreeMap::new(),
            track_by_mid: BTreeMap::new(),
            channels: HashMap::new(),
            subscriber_channels: HashMap::new(),
            data: Vec::new(),
            connected: false,
            sends: false,
            keyframe_requests: 0,
            answers: true,
            last_now: now,
            abilities,
            garbage: None,
            noise: None,
        }
    }

    pub fn request(&mut self, message: signal_request::Message) {
        self.requests.push_back(message);
    }

    pub fn take_request(&mut self) -> Option<signal_request::Message> {
        self.requests.pop_front()
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.publisher_at, self.subscriber_at]
    }

    /// Announces a camera or a microphone; it is offered when the server has published it.
    pub fn publish(&mut self, cid: &str, kind: MediaKind, rids: &[&'static str]) {
        let source = match kind {
            MediaKind::Video => proto::TrackSource::Camera,
            MediaKind::Audio => proto::TrackSource::Microphone,
        };
        self.publish_with(cid, kind, rids, |request| request.source = source as i32);
    }

    /// The same with whatever else the announcement shall say.
    pub fn publish_with(
        &mut self,
        cid: &str,
        kind: MediaKind,
        rids: &[&'static str],
        change: impl FnOnce(&mut proto::AddTrackRequest),
    ) {
        let video = kind == MediaKind::Video;
        let sizes = [(320, 180), (640, 360), (1_280, 720)];
        let layers = rids.iter().enumerate().map(|(at, rid)| proto::VideoLayer {
            quality: at as i32,
            width: sizes[at].0,
            height: sizes[at].1,
            rid: (*rid).to_owned(),
            ..Default::default()
        });
        let mut request = proto::AddTrackRequest {
            cid: cid.to_owned(),
            r#type: if video { proto::TrackType::Video } else { proto::TrackType::Audio } as i32,
            layers: layers.collect(),
            ..Default::default()
        };
        change(&mut request);
        self.request(signal_request::Message::AddTrack(request));
        let count = rids.len().max(1) as u8;
        self.outgoing.push(Outgoing {
            cid: cid.to_owned(),
            kind,
            rids: rids.to_vec(),
            sid: None,
            mid: None,
            sources: (0..if video { count } else { 0 })
                .map(|layer| VideoSource::new(self.abilities.video, layer))
                .collect(),
            redundancy: Redundancy::default(),
            audio_sequence: 60_000,
            audio_timestamp: 1_000,
            level: -20,
            sending: true,
            offered: false,
        });
    }

    /// Stops sending a track's section, as `unpublishTrack` does.
    pub fn unpublish(&mut self, cid: &str) {
        let Some(at) = self.outgoing.iter().position(|track| track.cid == cid) else {
            return;
        };
        let track = self.outgoing.remove(at);
        let mut api = self.publisher.sdp_api();
        api.set_direction(track.mid.unwrap(), Direction::Inactive);
        let (offer, pending) = api.apply().unwrap();
        self.pending = Some(pending);
        self.send_offer(&offer);
    }

    fn send_offer(&mut self, offer: &SdpOffer) {
        self.request(signal_request::Message::Offer(proto::SessionDescription {
            r#type: "offer".to_owned(),
            sdp: offer.to_sdp_string(),
            id: 1,
            ..Default::default()
        }));
    }

    fn negotiate(&mut self, restart: bool) {
        if self.pending.is_some() {
            self.offer_again = true;
            return;
        }
        let mut api = self.publisher.sdp_api();
        if self.channels.is_empty() {
            let lossy = Reliability::MaxRetransmits { retransmits: 0 };
            let configs = [("_reliable", true, Reliability::Reliable), ("_lossy", false, lossy)];
            for (label, ordered, reliability) in configs {
                let label = label.to_owned();
                api.add_channel_with_config(ChannelConfig {
                    label,
                    ordered,
                    reliability,
                    ..Default::default()
                });
            }
        }
        for track in &mut self.outgoing {
            if track.sid.is_none() || track.offered {
                continue;
            }
            track.offered = true;
            let simulcast = (!track.rids.is_empty()).then(|| {
                let mut simulcast = Simulcast::new();
                for rid in &track.rids {
                    simulcast.add_send_layer(SimulcastLayer::new(rid));
                }
                simulcast
            });
            let ids = (Some("stream".to_owned()), Some(track.cid.clone()));
            track.mid =
                Some(api.add_media(track.kind, Direction::SendOnly, ids.0, ids.1, simulcast));
        }
        if restart {
            api.ice_restart(true);
        }
        let Some((offer, pending)) = api.apply() else {
            return;
        };
        self.pending = Some(pending);
        self.send_offer(&offer);
    }

    /// Offers nothing but the data channels, as livekit-client does before it sends data.
    pub fn open_data(&mut self) {
        self.negotiate(false);
    }

    /// As after a resume.
    pub fn restart_ice(&mut self) {
        self.pending = None;
        self.negotiate(true);
    }

    pub fn take_signal(&mut self, message: signal_response::Message) {
        use signal_response::Message as Response;
        match &message {
            Response::Join(join) => {
                self.sid = join.participant.as_ref().unwrap().sid.clone();
            }
            Response::Offer(offer) if self.answers => {
                self.read_identities(&offer.sdp);
                let parsed = SdpOffer::from_sdp_string(&offer.sdp).unwrap();
                let answer = self.subscriber.sdp_api().accept_offer(parsed).unwrap();
                let mut sdp = answer.to_sdp_string();
                if self.abilities.voices_unreported {
                    sdp = without_audio_feedback(&sdp);
                }
                self.request(signal_request::Message::Answer(proto::SessionDescription {
                    r#type: "answer".to_owned(),
                    sdp,
                    id: offer.id,
                    ..Default::default()
                }));
            }
            Response::TrackPublished(published) if self.answers => {
                let track = self.outgoing.iter_mut().find(|track| track.cid == published.cid);
                if let Some(track) = track {
                    track.sid = published.track.as_ref().map(|info| info.sid.clone());
                }
                self.negotiate(false);
            }
            Response::Answer(answer) if self.answers => {
                if let Some(pending) = self.pending.take() {
                    let answer = SdpAnswer::from_sdp_string(&answer.sdp).unwrap();
                    self.publisher.sdp_api().accept_answer(pending, answer).unwrap();
                }
                if std::mem::take(&mut self.offer_again) {
                    self.negotiate(false);
                }
            }
            _ => {}
        }
        self.signals.push(message);
    }

    fn read_identities(&mut self, sdp: &str) {
        let mut mid = String::new();
        let mut identity = String::new();
        let mut flush = |mid: &mut String, identity: &mut String| {
            if !mid.is_empty() && !identity.is_empty() {
                self.track_by_mid.insert(std::mem::take(mid), std::mem::take(identity));
            }
        };
        for line in sdp.lines() {
            if line.starts_with("m=") {
                flush(&mut mid, &mut identity);
                mid.clear();
                identity.clear();
            } else if let Some(value) = line.strip_prefix("a=mid:") {
                mid = value.to_owned();
            } else if let Some(value) = line.strip_prefix("a=msid:") {
                let (stream, track) = value.split_once(' ').unwrap();
                let named = stream.split('|').nth(1).filter(|name| name.starts_with("TR"));
                identity = named.unwrap_or(track).to_owned();
            }
        }
        flush(&mut mid, &mut identity);
    }

    pub fn send_data(&mut self, label: &str, packet: &proto::DataPacket) -> bool {
        use prost::Message as _;
        let Some((id, _)) = self.channels.iter().find(|(_, known)| *known == label) else {
            return false;
        };
        let id = *id;
        self.publisher
            .channel(id)
            .is_some_and(|mut channel| channel.write(true, &packet.encode_to_vec()).unwrap())
    }

    pub fn send_raw_data(&mut self, label: &str, bytes: &[u8]) -> bool {
        let id = self.channels.iter().find(|(_, known)| *known == label).map(|(id, _)| *id);
        id.and_then(|id| self.publisher.channel(id))
            .is_some_and(|mut channel| channel.write(true, bytes).unwrap())
    }

    /// Sends 20 ms of audio.
    pub fn speak(&mut self, now: Instant) {
        if !self.sends {
            return;
        }
        for track in &mut self.outgoing {
            let (MediaKind::Audio, Some(mid), true) = (track.kind, track.mid, track.sending) else {
                continue;
            };
            let mut api = self.publisher.direct_api();
            let Some(stream) = api.stream_tx_by_mid(mid, None) else {
                continue;
            };
            let mut payload = vec![0x78; 60];
            payload[..8].copy_from_slice(&track.audio_sequence.to_be_bytes());
            let mut payload_type = OPUS;
            if self.abilities.redundancy {
                payload_type = RED;
                payload = track.redundancy.pack(OPUS, track.audio_timestamp, &payload);
            }
            payload = self.garbage.take().unwrap_or(payload);
            let ext = ExtensionValues {
                audio_level: Some(track.level),
                voice_activity: Some(true),
                ..Default::default()
            };
            let write = RtpWrite::new(
                payload_type.into(),
                track.audio_sequence.into(),
                track.audio_timestamp,
                now,
                payload,
            );
            stream.write_rtp(write.ext_vals(ext));
            track.audio_sequence += 1;
            track.audio_timestamp = track.audio_timestamp.wrapping_add(960);
        }
    }

    /// Sends one frame of every video layer.
    pub fn film(&mut self, now: Instant) {
        (0..3).for_each(|layer| self.film_layer(now, layer));
    }

    /// Sends one frame of one video layer; an encoder makes them one after another.
    pub fn film_layer(&mut self, now: Instant, layer: usize) {
        if !self.sends {
            return;
        }
        for track in &mut self.outgoing {
            let (MediaKind::Video, Some(mid), true) = (track.kind, track.mid, track.sending) else {
                continue;
            };
            for (at, source) in track.sources.iter_mut().enumerate().filter(|(at, _)| *at == layer)
            {
                let rid: Option<Rid> = track.rids.get(at).map(|rid| (*rid).into());
                let mut api = self.publisher.direct_api();
                let Some(stream) = api.stream_tx_by_mid(mid, rid) else {
                    continue;
                };
                if source.frames == 0 {
                    stream.set_rtx_cache(1_024, Duration::from_secs(3), None);
                }
                for (sequence, timestamp, marker, payload) in source.frame() {
                    let payload_type = match source.codec {
                        VideoCodec::Vp8 => VP8,
                        VideoCodec::H264 => H264,
                    };
                    let sequence = sequence.into();
                    let write =
                        RtpWrite::new(payload_type.into(), sequence, timestamp, now, payload);
                    stream.write_rtp(write.marker(marker).nackable(true));
                }
            }
        }
    }

    pub fn receive(&mut self, now: Instant, packet: &Packet) {
        let rtc = if packet.destination == self.publisher_at {
            &mut self.publisher
        } else {
            &mut self.subscriber
        };
        let contents = packet.contents.as_slice().try_into().unwrap();
        let (source, destination) = (packet.source, packet.destination);
        let receive = Receive { proto: Protocol::Udp, source, destination, contents };
        rtc.handle_input(Input::Receive(now, receive)).unwrap();
    }

    /// Lets time pass, collects what is to be sent, and returns the next deadline.
    pub fn drive(&mut self, now: Instant, out: &mut Vec<Packet>) -> Instant {
        self.last_now = now;
        hostile::set(self.noise);
        let mut next = now + Duration::from_secs(60);
        for publishing in [true, false] {
            let rtc = if publishing { &mut self.publisher } else { &mut self.subscriber };
            let _ = rtc.handle_input(Input::Timeout(now));
            loop {
                let rtc = if publishing { &mut self.publisher } else { &mut self.subscriber };
                match rtc.poll_output() {
                    Ok(Output::Timeout(at)) => {
                        next = next.min(at);
                        break;
                    }
                    Ok(Output::Transmit(t)) => out.push(Packet {
                        source: t.source,
                        destination: t.destination,
                        contents: t.contents.into(),
                    }),
                    Ok(Output::Event(event)) => self.happened(now, publishing, event),
                    Err(_) => break,
                }
            }
        }
        hostile::set(None);
        next
    }

    fn happened(&mut self, now: Instant, publishing: bool, event: Event) {
        match event {
            Event::Connected if !publishing => self.connected = true,
            Event::Connected => self.sends = true,
            Event::ChannelOpen(id, label) => {
                let channels =
                    if publishing { &mut self.channels } else { &mut self.subscriber_channels };
                channels.insert(id, label);
            }
            Event::ChannelData(data) if !publishing => {
                let label = self.subscriber_channels.get(&data.id).cloned().unwrap_or_default();
                self.data.push((label, data.data));
            }
            Event::KeyframeRequest(request) if publishing => {
                self.keyframe_requests += 1;
                for track in self.outgoing.iter_mut().filter(|t| t.mid == Some(request.mid)) {
                    for (at, source) in track.sources.iter_mut().enumerate() {
                        let rid: Option<Rid> = track.rids.get(at).map(|rid| (*rid).into());
                        if rid == request.rid {
                            source.keyframe_due = true;
                        }
                    }
                }
            }
            Event::RtpPacket(packet) if !publishing => {
                let ssrc = packet.header.ssrc;
                let Some(mid) =
                    self.subscriber.direct_api().stream_rx(&ssrc).map(|stream| stream.mid())
                else {
                    return;
                };
                let track = self.track_by_mid.get(&mid.to_string()).cloned().unwrap_or_default();
                self.seen.entry(track).or_default().push(Seen {
                    at: now,
                    sequence: *packet.seq_no,
                    timestamp: packet.header.timestamp,
                    marker: packet.header.marker,
                    payload_type: *packet.header.payload_type,
                    payload: packet.payload.to_vec(),
                });
            }
            _ => {}
        }
    }

    /// Asks the server for a keyframe on a received track.
    pub fn ask_keyframe(&mut self, track: &str) {
        let mid = self.track_by_mid.iter().find(|(_, sid)| *sid == track).map(|(mid, _)| mid);
        let mid = Mid::from(mid.unwrap().as_str());
        let mut api = self.subscriber.direct_api();
        let stream = api.stream_rx_by_mid(mid, None).unwrap();
        stream.request_keyframe(str0m::media::KeyframeRequestKind::Pli);
    }

    /// The newest description the server sent: an offer or an answer.
    pub fn described(&self, offer: bool) -> String {
        let newest = self.signals.iter().rev().find_map(|signal| match signal {
            signal_response::Message::Offer(one) if offer => Some(one.sdp.clone()),
            signal_response::Message::Answer(one) if !offer => Some(one.sdp.clone()),
            _ => None,
        });
        newest.unwrap()
    }

    pub fn sections(&self) -> usize {
        self.track_by_mid.len()
    }
}
