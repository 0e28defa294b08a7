//! What participants send: AddTrack, the publisher's offer, mute, unpublish.
//!
//! Decides which media section is which track. Invariant: a track is shown to others only after
//! its section was negotiated, and disappears when the section stops sending.

#![expect(deprecated, reason = "clients in the field still read and send these fields")]

use livekit_protocol as proto;
use proto::{TrackSource, TrackType, signal_response};
use str0m::Rtc;
use str0m::change::SdpOffer;
use str0m::media::Mid;

use super::Room;
use super::quality::speaker_id;
use crate::config::TRACKS_PER_PARTICIPANT_MAX;
use crate::context::Context;
use crate::forward::source_clock::PublisherClock;
use crate::ids::{ParticipantSlot, Side, TrackSlot};
use crate::io::Event;
use crate::layers::SPATIAL_LAYERS;
use crate::participant::{PendingTrack, Publisher};
use crate::sdp::{self, Section};
use crate::track::{Kind, Track};
use crate::transport::Transport;

/// Longest name of a stream; an msid has 64 characters (RFC 8830 §2), the participant's id in it.
const STREAM_BYTES_MAX: usize = 40;

impl Room {
    pub(super) fn add_track(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        request: proto::AddTrackRequest,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        let source = request.source();
        let full = one.pending.len() + one.tracks.len() >= TRACKS_PER_PARTICIPANT_MAX;
        if !one.grant.can_publish_source(source) || full {
            let reason = if full {
                proto::request_response::Reason::LimitExceeded
            } else {
                proto::request_response::Reason::NotAllowed
            };
            let response = proto::RequestResponse {
                reason: reason as i32,
                message: "does not have permission to publish this track".to_owned(),
                request: Some(proto::request_response::Request::AddTrack(request)),
                ..Default::default()
            };
            return self.tell(ctx, slot, signal_response::Message::RequestResponse(response));
        }
        let cid = request.cid.clone();
        let asked = one.pending.iter().find(|pending| pending.cid == cid);
        let info = match asked {
            Some(pending) => pending.info.clone(),
            None => {
                let info = track_info(ctx, request);
                one.pending.push(PendingTrack { cid: cid.clone(), info: info.clone() });
                info
            }
        };
        let published = proto::TrackPublishedResponse { cid, track: Some(info) };
        self.tell(ctx, slot, signal_response::Message::TrackPublished(published));
    }

    /// The client offers what it sends; it gets an answer or is sent away.
    pub(super) fn publisher_offer(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        offer: &proto::SessionDescription,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        let publisher = one.publisher.get_or_insert_with(|| {
            Box::new(Publisher {
                transport: Transport::new(ctx.config, Side::Publisher, true, ctx.now),
                clock: PublisherClock::default(),
                sources: Vec::new(),
            })
        });
        let Ok(parsed) = SdpOffer::from_sdp_string(&offer.sdp) else {
            return self.protocol_error(ctx, slot, "the offer is not SDP");
        };
        let accept = |rtc: &mut Rtc| rtc.sdp_api().accept_offer(parsed);
        let answer = match publisher.transport.negotiate(accept) {
            Ok(answer) => answer.to_sdp_string(),
            Err(error) => {
                tracing::debug!(%error, "offer refused");
                return self.protocol_error(ctx, slot, "the offer cannot be accepted");
            }
        };
        self.route(ctx, slot, Side::Publisher);
        self.touch(ctx, slot, Side::Publisher);
        let sections = sdp::sections(&offer.sdp);
        let plain = self.without_redundancy(slot, &sections);
        let answer = proto::SessionDescription {
            r#type: "answer".to_owned(),
            sdp: sdp::without_redundancy(&answer, &plain),
            id: offer.id,
            ..Default::default()
        };
        self.tell(ctx, slot, signal_response::Message::Answer(answer));
        self.match_sections(ctx, slot, &sections);
    }

    /// The sections whose track was announced without RED.
    fn without_redundancy(&self, slot: ParticipantSlot, sections: &[Section]) -> Vec<String> {
        let Some(one) = self.participants.get(slot) else {
            return Vec::new();
        };
        let refused = |section: &&Section| {
            let pending = |at| one.pending.get(at).map(|pending: &PendingTrack| &pending.info);
            let mut own = one.tracks.iter().filter_map(|track| self.tracks.get(*track));
            let published = own.find(|track| track.info.mid == section.mid);
            let info = announced_as(&one.pending, section)
                .and_then(pending)
                .or(published.map(|track| &track.info))
                .or_else(|| announced(&one.pending, section).and_then(pending));
            info.is_some_and(|info| info.disable_red)
        };
        let audio = sections.iter().filter(|section| section.redundant && !section.video);
        audio.filter(refused).map(|section| section.mid.clone()).collect()
    }

    /// Publishes what is new in an offer, unpublishes what is no longer sent.
    fn match_sections(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        sections: &[Section],
    ) {
        let Some(one) = self.participants.get(slot) else {
            return;
        };
        let cid_of = |track: &TrackSlot| -> Option<(TrackSlot, String, String)> {
            let known = self.tracks.get(*track)?;
            let cid = known.info.codecs.first().map(|codec| codec.cid.clone())?;
            Some((*track, known.info.mid.clone(), cid))
        };
        let known = one.tracks.iter().filter_map(cid_of);
        let announced = |id: &str| one.pending.iter().any(|pending| pending.cid == id);
        // A section that carries a newly announced track no longer carries its former one.
        let gone = known.filter(|(_, mid, cid)| {
            !sections.iter().any(|section| {
                let same = section.track_id.as_ref().is_none_or(|id| id == cid || !announced(id));
                section.mid == *mid && section.sends && same
            })
        });
        let gone: Vec<_> = gone.map(|(track, ..)| track).collect();
        for track in gone {
            {
                let sid = self.tracks.get(track).map(|track| track.info.sid.clone());
                self.unpublish(ctx, slot, track);
                if let Some(track_sid) = sid {
                    let gone = proto::TrackUnpublishedResponse { track_sid };
                    self.tell(ctx, slot, signal_response::Message::TrackUnpublished(gone));
                }
            }
        }
        for section in sections.iter().filter(|section| section.sends) {
            self.match_section(ctx, slot, section);
        }
    }

    fn match_section(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot, section: &Section) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        let taken = |track: &TrackSlot| {
            self.tracks.get(*track).is_some_and(|track| track.info.mid == section.mid)
        };
        if one.tracks.iter().any(taken) {
            return;
        }
        let Some(at) = announced(&one.pending, section) else {
            return;
        };
        let pending = one.pending.remove(at);
        self.publish(ctx, slot, pending, section);
    }

    fn publish(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        pending: PendingTrack,
        section: &Section,
    ) {
        let PendingTrack { cid, mut info } = pending;
        info.mid.clone_from(&section.mid);
        info.simulcast = section.rids.len() > 1;
        if let Some(codec) = info.codecs.first_mut() {
            codec.cid = cid;
            codec.mid.clone_from(&section.mid);
        }
        let kind = if section.video { Kind::Video } else { Kind::Audio };
        let mid = Mid::from(section.mid.as_str());
        let track = Track::new(slot, info.clone(), kind, mid, &section.rids);
        let track = self.tracks.insert(track);
        if let Some(one) = self.participants.get_mut(slot) {
            one.tracks.push(track);
        }
        self.changed(slot);
        self.tell_others(ctx, slot);
        if let Some(participant) = self.participant_info(ctx, slot) {
            ctx.event(Event::TrackPublished {
                room: self.key.clone(),
                participant: Box::new(participant),
                track: Box::new(info),
            });
        }
        self.offer_track(ctx, track);
    }

    /// Takes a track away from everyone.
    pub(super) fn unpublish(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        track: TrackSlot,
    ) {
        let Some(removed) = self.tracks.remove(track) else {
            return;
        };
        if let Some(one) = self.participants.get_mut(slot) {
            one.tracks.retain(|known| *known != track);
            if let Some(publisher) = &mut one.publisher {
                publisher.sources.retain(|source| source.track != track);
            }
        }
        if removed.kind == Kind::Audio {
            self.speakers.remove(speaker_id(slot));
        }
        self.changed(slot);
        self.tell_others(ctx, slot);
        for receiver in removed.receivers {
            if let Some(one) = self.participants.get_mut(receiver) {
                one.subscriber.release(ctx.now, track);
            }
            self.negotiate(ctx, receiver);
        }
        if let Some(participant) = self.participant_info(ctx, slot) {
            ctx.event(Event::TrackUnpublished {
                room: self.key.clone(),
                participant: Box::new(participant),
                track: Box::new(removed.info),
            });
        }
    }

    /// The client mutes or unmutes a track of its own, published or announced.
    pub(super) fn mute(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        sid: &str,
        muted: bool,
    ) {
        if let Some(one) = self.participants.get_mut(slot)
            && let Some(pending) = one.pending.iter_mut().find(|track| track.info.sid == sid)
        {
            pending.info.muted = muted;
        }
        let mut own = self.tracks.iter_mut().filter(|(_, track)| track.owner == slot);
        let Some((track_slot, track)) = own.find(|(_, track)| track.info.sid == sid) else {
            return;
        };
        if track.info.muted == muted {
            return;
        }
        track.mute(muted);
        if track.kind == Kind::Audio && muted {
            self.speakers.remove(speaker_id(slot));
        }
        let resumed = if muted { Vec::new() } else { track.receivers.clone() };
        for receiver in resumed {
            let one = self.participants.get_mut(receiver);
            if let Some(section) = one.and_then(|one| one.subscriber.section_of(track_slot)) {
                section.downlink.resume();
            }
        }
        self.changed(slot);
        self.tell_others(ctx, slot);
    }

    pub(super) fn update_own_track(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        sid: &str,
        change: impl FnOnce(&mut proto::TrackInfo),
    ) {
        let own = self.tracks.values_mut().find(|t| t.owner == slot && t.info.sid == sid);
        let Some(track) = own else {
            return;
        };
        let before = track.info.clone();
        change(&mut track.info);
        if track.info != before {
            self.changed(slot);
            self.tell_others(ctx, slot);
        }
    }

    pub(super) fn update_video(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        update: &proto::UpdateVideoLayers,
    ) {
        self.update_own_track(ctx, slot, &update.track_sid, |info| {
            info.layers = update.layers.iter().take(SPATIAL_LAYERS).cloned().collect();
        });
    }
}

fn kind_of(section: &Section) -> TrackType {
    if section.video { TrackType::Video } else { TrackType::Audio }
}

/// The track that was announced under the id a section names.
fn announced_as(pending: &[PendingTrack], section: &Section) -> Option<usize> {
    let kind = kind_of(section);
    pending.iter().position(|pending| {
        Some(&pending.cid) == section.track_id.as_ref() && pending.info.r#type() == kind
    })
}

/// Which of the announced tracks a section is. Some SDKs announce one id and offer another: then
/// the only kind is the only clue.
fn announced(pending: &[PendingTrack], section: &Section) -> Option<usize> {
    let same = |pending: &PendingTrack| pending.info.r#type() == kind_of(section);
    announced_as(pending, section).or_else(|| pending.iter().position(same))
}

/// What the track is captured together with. A name of the client's own goes into descriptions
/// for others, so it must be a token and not look like a track id.
fn stream(request: &proto::AddTrackRequest) -> String {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let own = &request.stream;
    let short = (1..=STREAM_BYTES_MAX).contains(&own.len());
    if short && own.bytes().all(token) && !own.starts_with("TR") {
        return own.clone();
    }
    let named = match request.source() {
        TrackSource::Camera | TrackSource::Microphone => "camera",
        TrackSource::ScreenShare | TrackSource::ScreenShareAudio => "screen",
        TrackSource::Unknown => "",
    };
    named.to_owned()
}

/// What a request announces, with an id of ours.
fn track_info(ctx: &mut Context<'_>, request: proto::AddTrackRequest) -> proto::TrackInfo {
    let prefix = match (request.source(), request.r#type()) {
        (TrackSource::Camera, _) => "TR_VC",
        (TrackSource::Microphone, _) => "TR_AM",
        (TrackSource::ScreenShare, _) => "TR_VS",
        (TrackSource::ScreenShareAudio, _) => "TR_AS",
        (_, TrackType::Video) => "TR_V",
        (_, _) => "TR_A",
    };
    let video = request.r#type() == TrackType::Video;
    let named = request.simulcast_codecs.first().map(|codec| codec.codec.to_ascii_lowercase());
    let mime_type = match (video, named.as_deref()) {
        (true, Some("h264" | "video/h264")) => "video/H264",
        (true, _) => "video/VP8",
        (false, _) => "audio/opus",
    };
    let layers: Vec<_> = request.layers.iter().take(SPATIAL_LAYERS).cloned().collect();
    let stream = stream(&request);
    proto::TrackInfo {
        sid: ctx.random.id(prefix),
        r#type: request.r#type,
        name: request.name,
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: layers.len() > 1,
        disable_dtx: request.disable_dtx,
        source: request.source,
        layers: layers.clone(),
        mime_type: mime_type.to_owned(),
        codecs: vec![proto::SimulcastCodecInfo {
            mime_type: mime_type.to_owned(),
            layers,
            ..Default::default()
        }],
        stereo: request.stereo,
        // An encrypted payload has no blocks that could be taken apart.
        disable_red: video || request.disable_red || request.encryption != 0,
        encryption: request.encryption,
        stream,
        audio_features: request.audio_features,
        ..Default::default()
    }
}
