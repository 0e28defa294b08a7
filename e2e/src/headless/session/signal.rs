//! Signalling of a headless session: what each message of the server causes.
//!
//! Speaks LiveKit's protocol v0 with two transports. Moves no packets. Invariant: an offer goes
//! out only when none is pending; a track is offered only after the server has accepted it.

use std::time::{Duration, Instant};

use livekit_contract::proto::leave_request::Action;
use livekit_contract::proto::{self, signal_request, signal_response::Message};
use str0m::change::SdpApi;
use str0m::channel::{ChannelConfig, Reliability};

use super::super::HeadlessError;
use super::super::ledger::{TrackKey, TrackKind};
use super::super::participant::{ParticipantEvent, lock, since};
use super::super::publication::Publication;
use super::super::transport::Transport;
use super::{Channels, Phase, Session, Transports};

fn description(kind: &str, sdp: String) -> proto::SessionDescription {
    proto::SessionDescription { r#type: kind.to_owned(), sdp, ..Default::default() }
}

impl Session {
    pub(super) fn on_message(&mut self, message: Message) -> Result<(), HeadlessError> {
        match message {
            Message::Join(join) => self.on_join(join)?,
            Message::Reconnect(_) => self.on_resumed(),
            Message::Answer(answer) => {
                if let Some(both) = &mut self.transports {
                    both.publisher.accept_answer(&answer.sdp)?;
                }
                self.offer_if_due();
            }
            Message::Offer(offer) => self.on_offer(offer)?,
            Message::Trickle(trickle) => {
                if let Some(both) = &mut self.transports {
                    let transport = match trickle.target() {
                        proto::SignalTarget::Publisher => &mut both.publisher,
                        proto::SignalTarget::Subscriber => &mut both.subscriber,
                    };
                    transport.add_candidate(&trickle.candidate_init);
                }
            }
            Message::Update(update) => self.on_participants(&update.participants),
            Message::TrackPublished(published) => self.on_published(published),
            Message::Mute(mute) => {
                let (sid, muted) = (mute.sid, mute.muted);
                self.tell(ParticipantEvent::Muted { sid, muted });
            }
            Message::SpeakersChanged(changed) => {
                let speakers = changed.speakers.iter().filter_map(|speaker| {
                    Some((self.identities.get(&speaker.sid)?.clone(), speaker.level))
                });
                self.tell(ParticipantEvent::Speakers(speakers.collect()));
            }
            Message::StreamStateUpdate(update) => {
                let states = update.stream_states.iter();
                let paused = |state: &proto::StreamStateInfo| {
                    (state.track_sid.clone(), state.state() == proto::StreamState::Paused)
                };
                self.tell(ParticipantEvent::Paused(states.map(paused).collect()));
            }
            Message::RefreshToken(token) => self.token = token,
            Message::PongResp(_) => self.pong_at = Instant::now(),
            Message::Leave(leave) => self.on_leave(&leave),
            _ => {}
        }
        Ok(())
    }

    fn on_join(&mut self, join: proto::JoinResponse) -> Result<(), HeadlessError> {
        let now = Instant::now();
        self.phase = Phase::Up;
        self.tries = 0;
        self.joined_at = Some(now);
        if join.ping_timeout > 0 {
            self.ping_timeout = Duration::from_secs(join.ping_timeout.unsigned_abs().into());
        }
        if join.ping_interval > 0 {
            self.ping_interval = Duration::from_secs(join.ping_interval.unsigned_abs().into());
        }
        self.heard(now);
        let (subscribes, publishes) = (join.subscriber_primary, join.fast_publish);
        let urls = join.ice_servers.into_iter().flat_map(|server| server.urls);
        lock(&self.shared.totals).ice_urls.extend(urls);
        self.participant_sid = join.participant.map(|me| me.sid).unwrap_or_default();
        if self.joined.is_some() {
            lock(&self.shared.totals).join = since(self.started);
        }
        self.known.clear();
        self.on_participants(&join.other_participants);
        self.open_transports(now, subscribes, publishes)?;
        let announcements: Vec<_> =
            self.publications.iter().map(Publication::announcement).collect();
        for announcement in announcements {
            self.send(signal_request::Message::AddTrack(announcement));
        }
        Ok(())
    }

    /// A WebSocket is open: pings and their patience begin anew.
    fn heard(&mut self, now: Instant) {
        self.pong_at = now;
        self.ping_at = now + self.ping_interval;
    }

    /// Opens both transports; the server offers the subscriber's by itself. Ours is offered at once
    /// where there is no other, or where the server asks for it.
    fn open_transports(
        &mut self,
        now: Instant,
        subscribes: bool,
        publishes: bool,
    ) -> Result<(), HeadlessError> {
        self.transports = Some(Transports {
            publisher: Transport::new(self.media_ip, now)?,
            subscriber: Transport::new(self.media_ip, now)?,
            subscribes,
            channels: None,
            unsent: Vec::new(),
            publisher_up: false,
            subscriber_up: false,
            connected: false,
            offer_due: publishes || !subscribes,
            sections: Default::default(),
            last_offer: String::new(),
            last_answer: String::new(),
        });
        self.offer_if_due();
        Ok(())
    }

    fn on_resumed(&mut self) {
        self.phase = Phase::Up;
        self.heard(Instant::now());
        self.tries = 0;
        if let Some(away) = self.away.take() {
            lock(&self.shared.totals).resumes += 1;
            self.tell(ParticipantEvent::Resumed { after: since(away) });
        }
        let Some(both) = &mut self.transports else { return };
        let state = proto::SyncState {
            answer: Some(description("answer", both.last_answer.clone())),
            offer: Some(description("offer", both.last_offer.clone())),
            subscription: Some(proto::UpdateSubscription {
                subscribe: !self.options.auto_subscribe,
                ..Default::default()
            }),
            publish_tracks: self
                .publications
                .iter()
                .filter_map(|publication| {
                    let sid = publication.sid.clone()?;
                    let track = proto::TrackInfo { sid, ..Default::default() };
                    let cid = publication.cid.clone();
                    Some(proto::TrackPublishedResponse { cid, track: Some(track) })
                })
                .collect(),
            ..Default::default()
        };
        let restart = |api: &mut SdpApi<'_>| {
            api.ice_restart(true);
        };
        let offer = both.channels.and_then(|_| both.publisher.offer(restart));
        self.send(signal_request::Message::SyncState(state));
        if let Some(offer) = offer {
            self.send(signal_request::Message::Offer(description("offer", offer)));
        }
        self.offer_if_due();
    }

    fn on_offer(&mut self, offer: proto::SessionDescription) -> Result<(), HeadlessError> {
        let Some(both) = &mut self.transports else { return Ok(()) };
        let answer = both.subscriber.accept_offer(&offer.sdp)?;
        both.sections = sections(&offer.sdp);
        both.last_offer = offer.sdp;
        both.last_answer.clone_from(&answer);
        self.keys.clear();
        let answer = proto::SessionDescription { id: offer.id, ..description("answer", answer) };
        self.send(signal_request::Message::Answer(answer));
        self.ask_for_size();
        Ok(())
    }

    /// Asks for the wished size of every video track that is on its way to us.
    fn ask_for_size(&mut self) {
        let (Some((width, height)), Some(both)) = (self.options.video_size, &self.transports)
        else {
            return;
        };
        let is_video =
            |sid: &&String| self.known.get(*sid).is_some_and(|key| key.kind == TrackKind::Video);
        let track_sids: Vec<_> = both.sections.values().filter(is_video).cloned().collect();
        if !track_sids.is_empty() {
            let settings =
                proto::UpdateTrackSettings { track_sids, width, height, ..Default::default() };
            self.send(signal_request::Message::TrackSetting(settings));
        }
    }

    fn on_participants(&mut self, participants: &[proto::ParticipantInfo]) {
        for participant in participants {
            self.identities.insert(participant.sid.clone(), participant.identity.clone());
            if participant.sid == self.participant_sid {
                continue;
            }
            for track in &participant.tracks {
                let kind = match track.r#type() {
                    proto::TrackType::Audio => TrackKind::Audio,
                    proto::TrackType::Video => TrackKind::Video,
                    proto::TrackType::Data => continue,
                };
                let key = TrackKey {
                    identity: participant.identity.clone(),
                    kind,
                    name: track.name.clone(),
                };
                if self.known.insert(track.sid.clone(), key.clone()).is_none() {
                    self.tell(ParticipantEvent::TrackAnnounced(key));
                }
            }
        }
        self.keys.clear();
    }

    fn on_published(&mut self, published: proto::TrackPublishedResponse) {
        let sid = published.track.map(|track| track.sid).unwrap_or_default();
        if let Some(reply) = self.replies.remove(&published.cid) {
            let _gone = reply.send(sid.clone());
        }
        for publication in &mut self.publications {
            if publication.cid == published.cid {
                publication.sid = Some(sid.clone());
            }
        }
        if let Some(both) = &mut self.transports {
            both.offer_due = true;
        }
        self.offer_if_due();
    }

    /// Offers the tracks that were accepted since the last offer, and the channels first of all.
    pub(super) fn offer_if_due(&mut self) {
        let Some(both) = &mut self.transports else { return };
        if !both.offer_due || both.publisher.is_negotiating() {
            return;
        }
        both.offer_due = false;
        let (publications, channels) = (&mut self.publications, &mut both.channels);
        let offer = both.publisher.offer(|api| {
            channels.get_or_insert_with(|| open_channels(api));
            let accepted =
                publications.iter_mut().filter(|each| each.sid.is_some() && each.mid.is_none());
            for publication in accepted {
                publication.add_to(api);
            }
        });
        if let Some(offer) = offer {
            self.send(signal_request::Message::Offer(description("offer", offer)));
        }
    }

    fn on_leave(&mut self, leave: &proto::LeaveRequest) {
        let reason = format!("leave: {:?}, {:?}", leave.reason(), leave.action());
        match leave.action() {
            Action::Reconnect => {
                self.rejoin(&reason);
            }
            Action::Resume => self.on_link_lost(HeadlessError::SentAway(reason)),
            Action::Disconnect if leave.can_reconnect => self.rejoin(&reason),
            Action::Disconnect => self.end(&reason),
        }
    }
}

/// Both channels, as SDKs name and shape them.
fn open_channels(api: &mut SdpApi<'_>) -> Channels {
    let lossy = ChannelConfig {
        label: "_lossy".to_owned(),
        ordered: false,
        reliability: Reliability::MaxRetransmits { retransmits: 0 },
        ..Default::default()
    };
    Channels {
        reliable: api.add_channel("_reliable".to_owned()),
        lossy: api.add_channel_with_config(lossy),
        offered_at: Instant::now(),
    }
}

/// Which track each section of an offer carries: `a=msid:PA_…|TR_… TR_…`, by mid.
fn sections(sdp: &str) -> std::collections::BTreeMap<String, String> {
    let mut sections = std::collections::BTreeMap::new();
    for section in sdp.split("\nm=").skip(1) {
        let value =
            |name: &str| section.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let track = value("a=msid:").and_then(|msid| msid.split_whitespace().last());
        if let (Some(mid), Some(track)) = (value("a=mid:"), track) {
            sections.insert(mid.to_owned(), track.to_owned());
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::sections;

    #[test]
    fn tracks_are_found_by_section() {
        let sdp = "v=0\r\nm=audio 9\r\na=mid:0\r\na=msid:PA_1|x TR_a\r\nm=video 9\r\na=mid:v1\r\n\
                   a=msid:PA_1 TR_b\r\nm=application 9\r\na=mid:2\r\n";
        let found = sections(sdp);
        assert_eq!(found.get("0").map(String::as_str), Some("TR_a"));
        assert_eq!(found.get("v1").map(String::as_str), Some("TR_b"));
        assert_eq!(found.len(), 2);
    }
}
