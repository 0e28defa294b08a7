//! A whole shard with two who have joined: signals, administration, datagrams and time in any
//! order.
//!
//! Nothing here completes ICE or DTLS; [`crate::call`] does. A room that panics is a finding even
//! though its shard survives it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use livekit_contract::connect::ConnectQuery;
use livekit_contract::frame::{Encoding, decode_request};
use livekit_contract::grants::{Claims, VideoGrant};
use livekit_protocol as proto;
use media_core::ids::{ConnectionId, RequestId, RoomKey};
use media_core::io::{
    AdminCall, ClientParams, Command, Event, Input, Join, Output, RoomOptions, Transport,
};
use media_core::{Certificate, MediaAddress, RtxCache, Shard, ShardConfig, TokenMinter};
use prost::Message;

use crate::records::{Record, byte, records, word};

/// What happens in one input at most.
const STEPS_MAX: usize = 48;
/// Connections that inputs speak of; the first two have joined.
const CONNECTIONS: u64 = 4;

struct Minter;

impl TokenMinter for Minter {
    fn mint(&self, _: &Claims, _: u64) -> Option<String> {
        Some("token".to_owned())
    }
}

fn certificate() -> Certificate {
    static ONCE: OnceLock<Certificate> = OnceLock::new();
    ONCE.get_or_init(|| Certificate::generate().expect("a certificate")).clone()
}

fn config(now: Instant) -> ShardConfig {
    let address = |transport| {
        let address = SocketAddr::from(([198, 18, 0, 1], 50_000));
        MediaAddress { transport, address }
    };
    ShardConfig {
        addresses: vec![address(Transport::Udp), address(Transport::Tcp)],
        anchor: (now, 1_700_000_000_000),
        node_id: "ND_fuzz".to_owned(),
        region: String::new(),
        certificate: certificate(),
        tokens: Arc::new(Minter),
        rtx_cache: RtxCache::default(),
        resume_window: Duration::from_secs(30),
        bandwidth_estimation: true,
    }
}

fn room() -> RoomKey {
    RoomKey { tenant: "dev/dev".to_owned(), name: "room".to_owned() }
}

fn claims(identity: &str) -> Claims {
    let video = Some(VideoGrant::join("room"));
    Claims { identity: identity.to_owned(), video, ..Claims::default() }
}

/// See the module's description.
pub fn shard(data: &[u8]) {
    let now = Instant::now();
    let mut stage = Stage { now, shard: Shard::new(config(now), 7), sids: Vec::new() };
    for (number, identity) in [(0, "ada"), (1, "bob")] {
        stage.join(number, claims(identity), ClientParams::default());
    }
    for record in records(data, STEPS_MAX) {
        stage.step(&record);
        stage.drain();
    }
    stage.now += Duration::from_secs(60);
    stage.shard.handle(stage.now, Input::Timeout);
    stage.drain();
}

struct Stage {
    now: Instant,
    shard: Shard,
    sids: Vec<String>,
}

impl Stage {
    fn command(&mut self, command: Command) {
        self.shard.handle(self.now, Input::Command(command));
    }

    fn join(&mut self, number: u64, claims: Claims, client: ClientParams) {
        let client = ClientParams { protocol: 16, auto_subscribe: true, ..client };
        let join = Join { connection: ConnectionId(number), room: room(), claims, client };
        self.command(Command::Join(Box::new(join)));
        self.drain();
    }

    fn step(&mut self, record: &Record<'_>) {
        let mut body = record.body;
        let connection = ConnectionId(u64::from(record.kind >> 4) % CONNECTIONS);
        match record.kind & 0x0f {
            0..=4 => {
                let request = decode_request(Encoding::Binary, body).ok();
                if let Some(message) = request.and_then(|request| request.message) {
                    let request = Box::new(message);
                    self.command(Command::Signal { connection, request });
                }
            }
            5 | 6 => self.datagram(Transport::Udp, body),
            7 => self.datagram(Transport::Tcp, body),
            8 => {
                self.now += Duration::from_millis(u64::from(word(&mut body)));
                self.shard.handle(self.now, Input::Timeout);
            }
            9 | 10 => self.administer(&mut body),
            11 => self.command(Command::SignalClosed { connection }),
            12 => self.resume(connection, &mut body),
            13 => self.newcomer(connection.0, body),
            14 => {
                let options = RoomOptions { participants_max: 2, ..RoomOptions::default() };
                self.command(Command::OpenRoom { room: room(), options });
            }
            _ => self.command(Command::SendHome { room: room() }),
        }
    }

    fn datagram(&mut self, transport: Transport, contents: &[u8]) {
        let source = SocketAddr::from(([198, 18, 1, 1], 4_000));
        let destination = SocketAddr::from(([198, 18, 0, 1], 50_000));
        let datagram = Input::Datagram { transport, source, destination, contents };
        self.shard.handle(self.now, datagram);
        if transport == Transport::Tcp && contents.is_empty() {
            self.shard.handle(self.now, Input::TcpClosed { source, destination });
        }
    }

    fn resume(&mut self, connection: ConnectionId, body: &mut &[u8]) {
        let chosen = usize::from(byte(body));
        let known = self.sids.get(chosen % self.sids.len().max(1)).cloned();
        let participant_sid = known.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        let claims = Box::new(claims(if chosen & 1 == 0 { "ada" } else { "bob" }));
        self.command(Command::Resume { connection, room: room(), participant_sid, claims });
    }

    /// A query with claims behind it, in JSON, after a zero byte.
    fn newcomer(&mut self, number: u64, body: &[u8]) {
        let mut parts = body.splitn(2, |byte| *byte == 0);
        let query = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let parsed = parts.next().and_then(|json| serde_json::from_slice::<Claims>(json).ok());
        let query = ConnectQuery::parse(&query).unwrap_or_default();
        let client = ClientParams {
            sdk: query.client.browser.clone(),
            adaptive_stream: query.adaptive_stream,
            attributes: query.attributes.into_iter().collect(),
            ..ClientParams::default()
        };
        self.join(number, parsed.unwrap_or_else(|| claims("eve")), client);
    }

    fn administer(&mut self, body: &mut &[u8]) {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let kind = byte(body);
        let read = *body;
        let call = match kind % 11 {
            0 => proto::CreateRoomRequest::decode(read).ok().map(AdminCall::CreateRoom),
            1 => Some(AdminCall::GetRoom),
            2 => Some(AdminCall::DeleteRoom),
            3 => Some(AdminCall::ListParticipants),
            4 => Some(AdminCall::GetParticipant { identity: text(read) }),
            5 => Some(AdminCall::RemoveParticipant { identity: text(read) }),
            6 => proto::MuteRoomTrackRequest::decode(read).ok().map(AdminCall::MutePublishedTrack),
            7 => {
                proto::UpdateParticipantRequest::decode(read).ok().map(AdminCall::UpdateParticipant)
            }
            8 => proto::UpdateSubscriptionsRequest::decode(read)
                .ok()
                .map(AdminCall::UpdateSubscriptions),
            9 => proto::SendDataRequest::decode(read).ok().map(AdminCall::SendData),
            _ => Some(AdminCall::UpdateRoomMetadata { metadata: text(read) }),
        };
        if let Some(call) = call {
            self.command(Command::Admin { request: RequestId(1), room: room(), call });
        }
    }

    fn drain(&mut self) {
        loop {
            match self.shard.poll() {
                Output::Timeout(_) => return,
                Output::Event(Event::RoomPanicked { .. }) => panic!("a room panicked"),
                Output::Event(Event::ParticipantJoined { info, .. }) => self.sids.push(info.sid),
                _ => {}
            }
        }
    }
}
