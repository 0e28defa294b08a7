//! Coming and going: join, resume, leave, being removed, refresh of tokens.
//!
//! Decides who takes whose place. Invariant: a participant that is removed leaves no track, no
//! section and no route behind, and everybody hears of it.

use std::time::Duration;

use livekit_contract::grants::Claims;
use livekit_contract::privacy::Private;
use livekit_protocol as proto;
use proto::leave_request::Action;
use proto::participant_info::State;
use proto::{DisconnectReason, signal_response};

use super::Room;
use crate::bandwidth::Allocator;
use crate::client::Client;
use crate::config::{PARTICIPANTS_MAX, PROTOCOL_VERSION, SERVER_VERSION};
use crate::context::Context;
use crate::data_cache::ReliableCache;
use crate::ids::{ConnectionId, ParticipantSlot, Side};
use crate::io::{CloseReason, Event, Join};
use crate::negotiation::Subscriber;
use crate::participant::Participant;
use crate::transport::Transport;

/// Clients send a ping this often, in seconds. LiveKit says 5.
const PING_INTERVAL_S: i32 = 1;
/// And take their WebSocket for lost after this long without an answer, in seconds: only so they
/// notice a gateway that lost its power, for then nothing closes the connection. LiveKit says 15. A
/// false alarm costs a resume, which no media feels; less than this would take a page that was
/// busy for one.
const PING_TIMEOUT_S: i32 = 4;
/// A client that used to ping and ceased, though its WebSocket is open: a page in the background
/// may sleep for longer than its own patience.
pub(super) const SIGNAL_SILENCE_MAX: Duration = Duration::from_secs(45);
/// From join to the first connected transport; slow networks need ICE and DTLS retransmissions.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Tokens are renewed well before the ten minutes they live (LiveKit: every 5 min).
const TOKEN_REFRESH_EVERY: Duration = Duration::from_secs(300);
/// Lifetime of a renewed token, in seconds.
const TOKEN_LIFETIME_S: u64 = 600;

/// A LeaveRequest; `can_reconnect` says to old clients what `action` says to new ones.
pub(crate) fn leave(reason: DisconnectReason, action: Action) -> signal_response::Message {
    signal_response::Message::Leave(proto::LeaveRequest {
        can_reconnect: action != Action::Disconnect,
        reason: reason as i32,
        action: action as i32,
        regions: None,
    })
}

/// What may be published, video first: SDKs fall back to the first of a kind.
pub(super) fn codecs() -> Vec<proto::Codec> {
    ["video/VP8", "video/H264", "audio/opus", "audio/red"]
        .into_iter()
        .map(|mime| proto::Codec { mime: mime.to_owned(), fmtp_line: String::new() })
        .collect()
}

impl Room {
    /// Lets a participant in; false when the room is full.
    pub(crate) fn join(&mut self, ctx: &mut Context<'_>, join: Join) -> bool {
        let Join { connection, claims, client, .. } = join;
        if let Some(former) = self.identities.get(&claims.identity).copied() {
            let reason = DisconnectReason::DuplicateIdentity;
            self.remove(ctx, former, reason, Some(leave(reason, Action::Disconnect)));
        }
        let limit = match self.options.participants_max {
            0 => PARTICIPANTS_MAX,
            limit => (limit as usize).min(PARTICIPANTS_MAX),
        };
        if self.participants.len() >= limit {
            return false;
        }
        let client_is = Client(&client);
        let redundancy = client_is.takes_redundancy();
        let transport = Transport::new(ctx.config, Side::Subscriber, redundancy, ctx.now);
        let subscriber = Subscriber::new(transport, &client_is, self.options.sync_streams);
        let grant = claims.video.clone().unwrap_or_default();
        let mut attributes = claims.attributes.clone();
        attributes.extend(client.attributes.iter().cloned());
        let pause_allowed = client.subscriber_allow_pause.unwrap_or(false);
        let participant = Participant {
            sid: ctx.random.id("PA_"),
            identity: Private::new(claims.identity.clone()),
            name: Private::new(claims.name.clone()),
            metadata: Private::new(claims.metadata.clone()),
            attributes: Private::new(attributes),
            grant,
            client,
            state: State::Joining,
            version: 0,
            joined_unix_ms: ctx.unix_ms(),
            joined_at: ctx.now,
            token_refreshed_at: ctx.now,
            connection: Some(connection),
            signal_lost_at: None,
            last_ping_at: None,
            publisher: None,
            subscriber,
            pending: Vec::new(),
            tracks: Vec::new(),
            choices: std::collections::HashMap::new(),
            settings: std::collections::HashMap::new(),
            allocator: Allocator::new(pause_allowed),
            budget_bps: None,
            desired_bps: 0,
            sent: ReliableCache::default(),
            told_connection: None,
            audience: None,
            claims,
        };
        let identity = participant.identity.expose().clone();
        let slot = self.participants.insert(Box::new(participant));
        self.identities.insert(identity, slot);
        ctx.routes.connections.insert(connection, (self.slot, slot));
        let empty = self.empty_since.take();
        self.had_participants = true;
        if empty.is_some() {
            self.arm(ctx);
        }
        self.route(ctx, slot, Side::Subscriber);
        self.welcome(ctx, slot);
        true
    }

    fn welcome(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot) {
        let others = self
            .participants
            .iter()
            .filter(|(other, one)| *other != slot && !one.grant.hidden)
            .map(|(other, _)| other)
            .collect::<Vec<_>>();
        let others = others.into_iter().filter_map(|other| self.participant_info(ctx, other));
        let other_participants = others.collect();
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        one.state = State::Joined;
        let subscriber_primary = one.grant.can_subscribe();
        let response = proto::JoinResponse {
            room: Some(self.info()),
            participant: self.participant_info(ctx, slot),
            other_participants,
            server_version: SERVER_VERSION.to_owned(),
            // Empty on purpose: every media node is reachable itself, and no third party's STUN
            // server shall learn who meets.
            ice_servers: Vec::new(),
            subscriber_primary,
            client_configuration: None,
            server_region: ctx.config.region.clone(),
            ping_timeout: PING_TIMEOUT_S,
            ping_interval: PING_INTERVAL_S,
            server_info: Some(server_info(ctx)),
            enabled_publish_codecs: codecs(),
            // Whoever has no other transport offers this one at once. All SDKs conclude that from
            // the line above; the Rust SDK, which others are built on, only from this one.
            fast_publish: !subscriber_primary,
            ..Default::default()
        };
        self.tell(ctx, slot, signal_response::Message::Join(response));
        self.refresh_token(ctx, slot);
        self.tell_others(ctx, slot);
        self.reconcile(ctx, slot);
    }

    /// Enters a transport's ICE user name into the shard's index.
    pub(super) fn route(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot, side: Side) {
        let at = self.transport_ref(slot, side);
        if let Some(transport) = self.participants.get_mut(slot).and_then(|one| one.transport(side))
        {
            let ufrag = transport.ufrag();
            ctx.routes.add_ufrag(&ufrag, at);
        }
    }

    /// A participant is there for good once media can flow.
    pub(super) fn activate(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        if one.state == State::Active {
            return;
        }
        one.state = State::Active;
        one.version += 1;
        if let Some(info) = self.participant_info(ctx, slot) {
            ctx.event(Event::ParticipantJoined { room: self.key.clone(), info: Box::new(info) });
        }
        self.tell_everyone(ctx, slot);
    }

    /// A WebSocket comes back to its participant. False when there is no such participant.
    pub(crate) fn resume(
        &mut self,
        ctx: &mut Context<'_>,
        connection: ConnectionId,
        sid: &str,
        claims: &Claims,
    ) -> bool {
        let slot = self.identities.get(&claims.identity).copied();
        let Some(slot) =
            slot.filter(|slot| self.participants.get(*slot).is_some_and(|one| one.sid == sid))
        else {
            return false;
        };
        let Some(one) = self.participants.get_mut(slot) else {
            return false;
        };
        let former = one.connection.replace(connection);
        one.signal_lost_at = None;
        one.last_ping_at = None;
        if let Some(former) = former {
            ctx.close(former, CloseReason::Replaced);
        }
        ctx.routes.connections.insert(connection, (self.slot, slot));
        let reconnect = proto::ReconnectResponse {
            ice_servers: Vec::new(),
            client_configuration: None,
            server_info: Some(server_info(ctx)),
            last_message_seq: 0,
        };
        self.tell(ctx, slot, signal_response::Message::Reconnect(reconnect));
        self.tell_all_about(ctx, slot);
        let room =
            signal_response::Message::RoomUpdate(proto::RoomUpdate { room: Some(self.info()) });
        self.tell(ctx, slot, room);
        self.refresh_token(ctx, slot);
        if let Some(one) = self.participants.get_mut(slot) {
            one.subscriber.restart_ice();
        }
        self.negotiate(ctx, slot);
        true
    }

    /// The WebSocket is gone; the participant is waited for.
    pub(crate) fn signal_closed(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        connection: ConnectionId,
    ) {
        if let Some(one) = self.participants.get_mut(slot)
            && one.connection == Some(connection)
        {
            one.connection = None;
            one.signal_lost_at = Some(ctx.now);
        }
    }

    /// Takes a participant out of the room; `message` is its last word to the client.
    pub(super) fn remove(
        &mut self,
        ctx: &mut Context<'_>,
        slot: ParticipantSlot,
        reason: DisconnectReason,
        message: Option<signal_response::Message>,
    ) {
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        let tracks = one.tracks.clone();
        one.version += 1;
        if let Some(connection) = one.connection.take() {
            if let Some(message) = message {
                ctx.signal(connection, message);
            }
            ctx.close(connection, CloseReason::Left);
        }
        for track in tracks {
            self.unpublish(ctx, slot, track);
        }
        for track in self.tracks.values_mut() {
            track.receivers.retain(|receiver| *receiver != slot);
        }
        let info = self.participant_info(ctx, slot);
        let Some(mut one) = self.participants.remove(slot) else {
            return;
        };
        for side in [Side::Publisher, Side::Subscriber] {
            if let Some(transport) = one.transport(side) {
                hang_up(ctx, transport);
            }
            ctx.routes.remove_transport(self.transport_ref(slot, side));
        }
        if self.identities.get(one.identity.expose()) == Some(&slot) {
            self.identities.remove(one.identity.expose());
        }
        if let Some(mut info) = info {
            info.state = State::Disconnected as i32;
            info.disconnect_reason = reason as i32;
            if !one.grant.hidden {
                self.tell_all(
                    ctx,
                    &signal_response::Message::Update(proto::ParticipantUpdate {
                        participants: vec![info.clone()],
                    }),
                );
            }
            ctx.event(Event::ParticipantLeft { room: self.key.clone(), info: Box::new(info) });
        }
        if self.participants.is_empty() {
            self.empty_since = Some(ctx.now);
            self.arm(ctx);
        }
    }

    /// Sends everyone to the room's next home.
    pub(crate) fn send_home(&mut self, ctx: &mut Context<'_>) {
        let everyone: Vec<_> = self.participants.keys().collect();
        for slot in everyone {
            let reason = DisconnectReason::ServerShutdown;
            self.remove(ctx, slot, reason, Some(leave(reason, Action::Reconnect)));
        }
        self.end(ctx);
    }

    /// Renews tokens that are about to run out.
    pub(super) fn refresh_tokens(&mut self, ctx: &mut Context<'_>) {
        let due: Vec<_> = self
            .participants
            .iter()
            .filter(|(_, one)| {
                ctx.now.saturating_duration_since(one.token_refreshed_at) >= TOKEN_REFRESH_EVERY
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in due {
            self.refresh_token(ctx, slot);
        }
    }

    pub(super) fn refresh_token(&mut self, ctx: &mut Context<'_>, slot: ParticipantSlot) {
        let now_s = ctx.unix_ms() / 1_000;
        let Some(one) = self.participants.get_mut(slot) else {
            return;
        };
        one.token_refreshed_at = ctx.now;
        let mut claims = one.claims.clone();
        claims.name.clone_from(one.name.expose());
        claims.metadata.clone_from(one.metadata.expose());
        claims.attributes.clone_from(one.attributes.expose());
        claims.video = Some(one.grant.clone());
        claims.not_before_unix_s = Some(now_s);
        claims.expires_at_unix_s = claims.expires_at_unix_s.max(now_s + TOKEN_LIFETIME_S);
        if let Some(token) = ctx.config.tokens.mint(&claims, now_s) {
            self.tell(ctx, slot, signal_response::Message::RefreshToken(token));
        }
    }
}

fn server_info(ctx: &Context<'_>) -> proto::ServerInfo {
    proto::ServerInfo {
        edition: proto::server_info::Edition::Standard as i32,
        version: SERVER_VERSION.to_owned(),
        protocol: PROTOCOL_VERSION,
        region: ctx.config.region.clone(),
        node_id: ctx.config.node_id.clone(),
        debug_info: String::new(),
        agent_protocol: 0,
    }
}

/// Says goodbye on a transport (DTLS close_notify), so that the client does not wait for ICE.
fn hang_up(ctx: &mut Context<'_>, transport: &mut Transport) {
    if !transport.close(ctx.now) {
        return;
    }
    loop {
        match transport.poll() {
            Ok(str0m::Output::Transmit(packet)) => super::send::transmit(ctx, packet),
            Ok(str0m::Output::Event(_)) => {}
            Ok(str0m::Output::Timeout(_)) | Err(_) => return,
        }
    }
}
