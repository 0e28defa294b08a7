//! One room: its participants and tracks, and everything that happens between them.
//!
//! This file keeps state, transports and time; what is done with them is in the submodules. A room
//! knows no other room. Invariant: every transport is drained after each change to it.

mod admin;
mod connection;
mod data;
mod join;
mod media;
mod publish;
mod quality;
mod send;
mod signal;
mod subscribe;
mod updates;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use livekit_protocol as proto;
use slotmap::SlotMap;
use str0m::net::DatagramRecv;
use str0m::{Event as RtcEvent, IceConnectionState, Output as RtcOutput};

use crate::context::Context;
use crate::ids::{ParticipantSlot, RoomKey, RoomSlot, Side, TrackSlot, TransportRef};
use crate::io::{Event, RoomOptions};
use crate::participant::Participant;
use crate::shard::routes::Path;
use crate::shard::timers::{Alarm, Due};
use crate::speakers::SpeakerDetector;
use crate::stats::ShardStats;
use crate::track::Track;
use crate::transport::{DataKind, MEDIA_LOST_MAX};

pub(crate) use connection::Arrivals;
pub(crate) use data::Destinations;
pub(crate) use join::leave;

/// How often a room looks after itself: speakers, keyframes that were throttled, who is gone.
const TICK: Duration = Duration::from_millis(100);

/// See the module's description.
pub(crate) struct Room {
    slot: RoomSlot,
    key: RoomKey,
    sid: String,
    options: RoomOptions,
    created_unix_ms: u64,
    /// Boxed: each has two transports within, some 24 KiB, and the map keeps free places.
    participants: SlotMap<ParticipantSlot, Box<Participant>>,
    identities: HashMap<String, ParticipantSlot>,
    tracks: SlotMap<TrackSlot, Track>,
    speakers: SpeakerDetector,
    connections_told: Option<Instant>,
    /// When budgets were last shared among all.
    allocated: Option<Instant>,
    alarm: Alarm,
    /// Since when nobody is here.
    empty_since: Option<Instant>,
    had_participants: bool,
    ended: bool,
}

impl Room {
    pub(crate) fn new(
        slot: RoomSlot,
        key: RoomKey,
        sid: String,
        options: RoomOptions,
        now: Instant,
        created_unix_ms: u64,
    ) -> Self {
        Self {
            slot,
            key,
            sid,
            options,
            created_unix_ms,
            participants: SlotMap::with_key(),
            identities: HashMap::new(),
            tracks: SlotMap::with_key(),
            speakers: SpeakerDetector::default(),
            connections_told: None,
            allocated: None,
            alarm: Alarm::default(),
            empty_since: Some(now),
            had_participants: false,
            ended: false,
        }
    }

    pub(crate) fn opened(&mut self, ctx: &mut Context<'_>) {
        let info = Box::new(self.info());
        ctx.event(Event::RoomStarted { room: self.key.clone(), info });
        self.arm(ctx);
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn key(&self) -> &RoomKey {
        &self.key
    }

    /// Adds this room's gauges.
    pub(crate) fn count(&self, stats: &mut ShardStats) {
        stats.participants += self.participants.len() as u64;
        stats.tracks += self.tracks.len() as u64;
        stats.downlinks += self.tracks.values().map(|t| t.receivers.len() as u64).sum::<u64>();
        let publishing = self.participants.values().filter(|one| !one.tracks.is_empty());
        stats.publishers += publishing.count() as u64;
    }

    /// As RoomService and clients see it.
    pub(crate) fn info(&self) -> proto::Room {
        let visible = self.participants.values().filter(|one| !one.grant.hidden);
        let publishers = self.participants.values().filter(|one| !one.tracks.is_empty());
        proto::Room {
            sid: self.sid.clone(),
            name: self.key.name.clone(),
            empty_timeout: self.options.empty_timeout_seconds,
            departure_timeout: self.options.departure_timeout_seconds,
            max_participants: self.options.participants_max,
            creation_time: i64::try_from(self.created_unix_ms / 1_000).unwrap_or(0),
            creation_time_ms: i64::try_from(self.created_unix_ms).unwrap_or(0),
            enabled_codecs: join::codecs(),
            metadata: self.options.metadata.clone(),
            num_participants: u32::try_from(visible.count()).unwrap_or(u32::MAX),
            num_publishers: u32::try_from(publishers.count()).unwrap_or(u32::MAX),
            active_recording: self.participants.values().any(|one| one.grant.recorder),
            ..Default::default()
        }
    }

    /// The room's own time has come.
    pub(crate) fn due(&mut self, ctx: &mut Context<'_>) {
        if !self.alarm.fired(ctx.now) {
            ctx.timers.again(&mut self.alarm, Due::Room(self.slot));
            return;
        }
        self.tick_quality(ctx);
        self.ask_missing_keyframes(ctx);
        self.tell_speakers(ctx);
        self.tell_connections(ctx);
        self.remove_absent(ctx);
        self.refresh_tokens(ctx);
        self.end_when_empty(ctx);
        self.arm(ctx);
    }

    fn arm(&mut self, ctx: &mut Context<'_>) {
        // An empty room needs its time only to end.
        let next = match self.empty_since {
            Some(since) => since + self.patience(),
            None => ctx.now + TICK,
        };
        ctx.timers.arm(&mut self.alarm, Due::Room(self.slot), next.max(ctx.now + TICK));
    }

    /// How long the room stays without participants.
    fn patience(&self) -> Duration {
        let seconds = if self.had_participants {
            self.options.departure_timeout_seconds
        } else {
            self.options.empty_timeout_seconds
        };
        Duration::from_secs(u64::from(seconds))
    }

    fn end_when_empty(&mut self, ctx: &mut Context<'_>) {
        if self.empty_since.is_some_and(|since| ctx.now >= since + self.patience()) {
            self.end(ctx);
        }
    }

    /// Ends the room; the shard forgets it after this call.
    fn end(&mut self, ctx: &mut Context<'_>) {
        if !self.ended {
            self.ended = true;
            let info = Box::new(self.info());
            ctx.event(Event::RoomFinished { room: self.key.clone(), info });
        }
    }

    fn transport_ref(&self, participant: ParticipantSlot, side: Side) -> TransportRef {
        TransportRef { room: self.slot, participant, side }
    }

    pub(crate) fn accepts(
        &mut self,
        now: Instant,
        participant: ParticipantSlot,
        side: Side,
        path: &Path,
        datagram: DatagramRecv<'_>,
    ) -> bool {
        self.participants
            .get_mut(participant)
            .and_then(|one| one.transport(side))
            .is_some_and(|transport| transport.accepts(now, path, datagram))
    }

    pub(crate) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        participant: ParticipantSlot,
        side: Side,
        path: &Path,
        datagram: DatagramRecv<'_>,
    ) {
        let transport = self.participants.get_mut(participant).and_then(|one| one.transport(side));
        let Some(transport) = transport else {
            return;
        };
        // A packet that the library refuses (a bad DTLS record, say) is that packet's end only;
        // a transport that is beyond help says so when it is drained.
        if transport.take(ctx.now, path, datagram).is_err() {
            ctx.stats.drops.malformed += 1;
        }
        self.drain(ctx, participant, side);
    }

    pub(crate) fn transport_due(
        &mut self,
        ctx: &mut Context<'_>,
        participant: ParticipantSlot,
        side: Side,
    ) {
        let due = Due::Transport(self.transport_ref(participant, side));
        let transport = self.participants.get_mut(participant).and_then(|one| one.transport(side));
        let Some(transport) = transport else {
            return;
        };
        if !transport.alarm.fired(ctx.now) {
            ctx.timers.again(&mut transport.alarm, due);
            return;
        }
        if let Some(egress) = &mut transport.egress {
            egress.pass(ctx.now);
        }
        if transport.library_at.is_none_or(|at| at <= ctx.now) {
            self.pass(ctx, participant, side);
        } else {
            self.send(ctx, participant, side);
        }
    }

    /// Drains a transport that was written to.
    pub(crate) fn flush(
        &mut self,
        ctx: &mut Context<'_>,
        participant: ParticipantSlot,
        side: Side,
    ) {
        let transport = self.participants.get_mut(participant).and_then(|one| one.transport(side));
        let Some(transport) = transport else {
            return;
        };
        transport.dirty = false;
        if std::mem::take(&mut transport.touched) {
            self.pass(ctx, participant, side);
        } else {
            self.send(ctx, participant, side);
        }
    }

    fn pass(&mut self, ctx: &mut Context<'_>, participant: ParticipantSlot, side: Side) {
        let transport = self.participants.get_mut(participant).and_then(|one| one.transport(side));
        if let Some(transport) = transport {
            // An error shows again, and for good, when the transport is drained.
            let _ = transport.pass(ctx.now);
            self.drain(ctx, participant, side);
        }
    }

    /// Remembers that a transport has something to send which the library must be asked for.
    fn touch(&mut self, ctx: &mut Context<'_>, participant: ParticipantSlot, side: Side) {
        let at = self.transport_ref(participant, side);
        let transport = self.participants.get_mut(participant).and_then(|one| one.transport(side));
        if let Some(transport) = transport {
            transport.touched = true;
            transport.stir(ctx.dirty, at);
        }
    }

    /// Takes everything a transport has to say, until it names its next time.
    fn drain(&mut self, ctx: &mut Context<'_>, participant: ParticipantSlot, side: Side) {
        loop {
            let transport =
                self.participants.get_mut(participant).and_then(|one| one.transport(side));
            let Some(transport) = transport else {
                return;
            };
            match transport.poll() {
                Ok(RtcOutput::Transmit(packet)) => send::transmit(ctx, packet),
                Ok(RtcOutput::Event(event)) => self.happened(ctx, participant, side, event),
                Ok(RtcOutput::Timeout(at)) => {
                    transport.library_at = Some(at);
                    return self.send(ctx, participant, side);
                }
                Err(error) => {
                    tracing::debug!(%error, ?side, "transport failed");
                    self.media_failed(ctx, participant);
                    return;
                }
            }
        }
    }

    fn happened(
        &mut self,
        ctx: &mut Context<'_>,
        participant: ParticipantSlot,
        side: Side,
        event: RtcEvent,
    ) {
        match event {
            RtcEvent::RtpPacket(packet) => self.forward(ctx, participant, &packet),
            RtcEvent::SenderFeedback(feedback) => self.sender_reported(participant, &feedback),
            RtcEvent::Connected => self.connected(ctx, participant, side),
            RtcEvent::IceConnectionStateChange(state) => {
                self.ice_changed(ctx, participant, side, state);
            }
            RtcEvent::ChannelOpen(id, label) => {
                let one = self.participants.get_mut(participant);
                if let (Some(transport), Some(kind)) =
                    (one.and_then(|one| one.transport(side)), DataKind::from_label(&label))
                {
                    transport.channels.insert(kind, id);
                }
            }
            RtcEvent::ChannelClose(id) => {
                let one = self.participants.get_mut(participant);
                if let Some(transport) = one.and_then(|one| one.transport(side)) {
                    transport.channels.retain(|_, open| *open != id);
                }
            }
            RtcEvent::ChannelData(data) => {
                let one = self.participants.get_mut(participant);
                let kind = one.and_then(|one| one.transport(side)).and_then(|transport| {
                    let mut open = transport.channels.iter();
                    open.find(|(_, id)| **id == data.id).map(|(kind, _)| *kind)
                });
                if let Some(kind) = kind {
                    self.relay(ctx, participant, kind, &data.data);
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, ctx: &mut Context<'_>, participant: ParticipantSlot, side: Side) {
        let Some(one) = self.participants.get_mut(participant) else {
            return;
        };
        if let Some(transport) = one.transport(side) {
            transport.connected = true;
            transport.lost_at = None;
        }
        ctx.event(Event::TransportConnected { gcm: crate::suite::take_is_gcm() });
        self.activate(ctx, participant);
        if side == Side::Subscriber {
            self.tell_speakers_to(ctx, participant);
        }
    }

    fn ice_changed(
        &mut self,
        ctx: &mut Context<'_>,
        participant: ParticipantSlot,
        side: Side,
        state: IceConnectionState,
    ) {
        let one = self.participants.get_mut(participant);
        if let Some(transport) = one.and_then(|one| one.transport(side)) {
            transport.lost_at = match state {
                IceConnectionState::Disconnected => Some(ctx.now),
                _ => None,
            };
        }
    }

    /// A transport beyond help: the client is asked to join anew.
    fn media_failed(&mut self, ctx: &mut Context<'_>, participant: ParticipantSlot) {
        let message =
            leave(proto::DisconnectReason::MediaFailure, proto::leave_request::Action::Reconnect);
        self.remove(ctx, participant, proto::DisconnectReason::MediaFailure, Some(message));
    }

    /// Removes those whose WebSocket or media has been away for longer than they are waited for.
    fn remove_absent(&mut self, ctx: &mut Context<'_>) {
        let window = ctx.config.resume_window;
        let past = |since: Option<Instant>, patience: Duration| {
            since.is_some_and(|since| ctx.now.saturating_duration_since(since) >= patience)
        };
        let absent: Vec<_> =
            self.participants
                .iter_mut()
                .filter_map(|(slot, one)| {
                    let silent = past(one.last_ping_at, join::SIGNAL_SILENCE_MAX);
                    let signal = past(one.signal_lost_at, window) || silent;
                    let media = past(one.subscriber.transport.lost_at, MEDIA_LOST_MAX)
                        && one.publisher.as_ref().is_none_or(|publisher| {
                            past(publisher.transport.lost_at, MEDIA_LOST_MAX)
                        });
                    let never = one.state != proto::participant_info::State::Active
                        && past(Some(one.joined_at), join::CONNECT_MAX);
                    let reason = if signal {
                        proto::DisconnectReason::SignalClose
                    } else {
                        proto::DisconnectReason::ConnectionTimeout
                    };
                    (signal || media || never).then_some((slot, reason))
                })
                .collect();
        for (slot, reason) in absent {
            let message = leave(reason, proto::leave_request::Action::Reconnect);
            self.remove(ctx, slot, reason, Some(message));
        }
    }
}
