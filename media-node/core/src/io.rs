//! The border of the core: everything that goes in and comes out, as plain data.
//!
//! The shell turns sockets, WebSockets and control calls into [`Input`], and [`Output`] back.
//! Nothing here does I/O. Invariant: after every `handle` the shell drains `poll` until it
//! returns [`Output::Timeout`]; time and addresses are always arguments.

use std::net::SocketAddr;
use std::time::Instant;

use livekit_contract::grants::Claims;
use livekit_protocol as proto;

use crate::ids::{ConnectionId, RequestId, RoomKey};

/// How a datagram travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One UDP datagram.
    Udp,
    /// One frame of RFC 4571 on a TCP connection; the shell adds and removes the length.
    Tcp,
}

/// What the shell tells a shard.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call; a box would cost more"
)]
pub enum Input<'a> {
    /// The time asked for by [`Output::Timeout`] has come.
    Timeout,
    /// A packet from the network. `destination` is the *advertised* address of the receiving
    /// socket, as it stands in the candidates, not the one it is bound to.
    Datagram {
        transport: Transport,
        source: SocketAddr,
        destination: SocketAddr,
        contents: &'a [u8],
    },
    /// A TCP connection that carried media is gone.
    TcpClosed { source: SocketAddr, destination: SocketAddr },
    /// Anything that is not a packet.
    Command(Command),
}

/// Signalling and administration. Commands of one connection arrive in order.
#[expect(clippy::large_enum_variant, reason = "rare next to packets")]
#[derive(Debug)]
pub enum Command {
    /// Gives a room its home here; a no-op when it exists.
    OpenRoom { room: RoomKey, options: RoomOptions },
    /// A verified token wants in. Answered by `Signal(join)` or by `Signal(leave)` + close.
    Join(Box<Join>),
    /// A WebSocket of a participant that is here comes back (`reconnect=1&sid`).
    Resume {
        connection: ConnectionId,
        room: RoomKey,
        /// The `sid` of the query.
        participant_sid: String,
        claims: Box<Claims>,
    },
    /// One SignalRequest of a connection.
    Signal { connection: ConnectionId, request: Box<proto::signal_request::Message> },
    /// The WebSocket is gone. Media goes on; the participant leaves when it does not come back
    /// within the resume window.
    SignalClosed { connection: ConnectionId },
    /// A RoomService call; exactly one [`Output::Admin`] with the same id answers it.
    Admin { request: RequestId, room: RoomKey, call: AdminCall },
    /// Sends everyone of the room home with Leave{RECONNECT} and closes it.
    SendHome { room: RoomKey },
}

/// What a join brings with it.
#[derive(Debug)]
pub struct Join {
    pub connection: ConnectionId,
    pub room: RoomKey,
    pub claims: Claims,
    /// Query parameters of `/rtc` (reference: livekit-protocol.md §1).
    pub client: ClientParams,
}

/// The query parameters of `/rtc` that shape a participant.
#[derive(Debug, Clone, Default)]
pub struct ClientParams {
    pub protocol: u32,
    pub client_protocol: i32,
    pub sdk: String,
    pub version: String,
    pub os: String,
    pub device_model: String,
    pub browser: String,
    pub browser_version: String,
    pub network: String,
    pub auto_subscribe: bool,
    pub adaptive_stream: bool,
    pub subscriber_allow_pause: Option<bool>,
    pub disable_ice_lite: bool,
    /// Participant attributes from the `attributes` parameter, already decoded.
    pub attributes: Vec<(String, String)>,
}

/// Room settings at creation.
#[derive(Debug, Clone)]
pub struct RoomOptions {
    pub empty_timeout_seconds: u32,
    pub departure_timeout_seconds: u32,
    pub participants_max: u32,
    pub metadata: String,
    pub enable_remote_unmute: bool,
    /// What one participant captures together reaches clients that can take it so in one media
    /// stream, which browsers play in time with itself (LiveKit's `sync_streams`).
    pub sync_streams: bool,
}

impl Default for RoomOptions {
    /// LiveKit's defaults (`pkg/config/config.go`): 5 min before the first join, 20 s after the
    /// last. Streams are in time, though, unless somebody does not want it.
    fn default() -> Self {
        Self {
            empty_timeout_seconds: 300,
            departure_timeout_seconds: 20,
            participants_max: 0,
            metadata: String::new(),
            enable_remote_unmute: false,
            sync_streams: true,
        }
    }
}

/// What a CreateRoom or a token wants of a room; 0 and empty mean unset.
#[derive(Debug, Clone, Copy)]
pub struct RoomWish<'a> {
    pub empty_timeout_seconds: u32,
    pub departure_timeout_seconds: u32,
    pub participants_max: u32,
    pub metadata: &'a str,
    pub sync_streams: bool,
}

impl RoomOptions {
    /// These settings with what is wished laid over them.
    #[must_use]
    pub fn wished(&self, wish: &RoomWish<'_>) -> Self {
        let or = |wished: u32, own: u32| if wished == 0 { own } else { wished };
        let metadata = if wish.metadata.is_empty() { &self.metadata } else { wish.metadata };
        Self {
            empty_timeout_seconds: or(wish.empty_timeout_seconds, self.empty_timeout_seconds),
            departure_timeout_seconds: or(
                wish.departure_timeout_seconds,
                self.departure_timeout_seconds,
            ),
            participants_max: or(wish.participants_max, self.participants_max),
            metadata: metadata.to_owned(),
            sync_streams: self.sync_streams || wish.sync_streams,
            ..*self
        }
    }
}

impl<'a> From<&'a proto::CreateRoomRequest> for RoomWish<'a> {
    fn from(request: &'a proto::CreateRoomRequest) -> Self {
        Self {
            empty_timeout_seconds: request.empty_timeout,
            departure_timeout_seconds: request.departure_timeout,
            participants_max: request.max_participants,
            metadata: &request.metadata,
            sync_streams: request.sync_streams,
        }
    }
}

impl<'a> From<&'a proto::RoomConfiguration> for RoomWish<'a> {
    fn from(wanted: &'a proto::RoomConfiguration) -> Self {
        Self {
            empty_timeout_seconds: wanted.empty_timeout,
            departure_timeout_seconds: wanted.departure_timeout,
            participants_max: wanted.max_participants,
            metadata: &wanted.metadata,
            sync_streams: wanted.sync_streams,
        }
    }
}

/// RoomService calls that concern one room (`livekit_room.proto`).
#[expect(clippy::large_enum_variant, reason = "rare next to packets")]
#[derive(Debug)]
pub enum AdminCall {
    CreateRoom(proto::CreateRoomRequest),
    GetRoom,
    DeleteRoom,
    ListParticipants,
    GetParticipant { identity: String },
    RemoveParticipant { identity: String },
    MutePublishedTrack(proto::MuteRoomTrackRequest),
    UpdateParticipant(proto::UpdateParticipantRequest),
    UpdateSubscriptions(proto::UpdateSubscriptionsRequest),
    SendData(proto::SendDataRequest),
    UpdateRoomMetadata { metadata: String },
}

/// The answer to an [`AdminCall`].
#[derive(Debug)]
pub enum AdminReply {
    Room(proto::Room),
    Participants(Vec<proto::ParticipantInfo>),
    Participant(proto::ParticipantInfo),
    Track(proto::TrackInfo),
    Done,
    /// `livekit_contract::twirp` maps these to codes and statuses.
    Refused(livekit_contract::twirp::TwirpError),
}

/// Why the core asks the shell to close a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The participant left or was removed; a Leave was sent before.
    Left,
    /// A newer connection took this participant over.
    Replaced,
    /// The client broke the protocol; the message says how.
    ProtocolError(&'static str),
    /// The room ended or was sent home.
    RoomClosed,
}

/// What a shard asks of the shell.
#[derive(Debug)]
pub enum Output {
    /// Send this packet. `source` is an advertised address.
    Transmit(Transmit),
    /// Send this SignalResponse on the connection.
    Signal { connection: ConnectionId, response: Box<proto::signal_response::Message> },
    /// Close the connection after what was sent before.
    CloseSignal { connection: ConnectionId, reason: CloseReason },
    /// Answer of [`Command::Admin`].
    Admin { request: RequestId, reply: Box<AdminReply> },
    /// Something happened that load reports, webhooks or metrics tell.
    Event(Event),
    /// Nothing more to do before this time.
    Timeout(Instant),
}

/// One packet to send.
#[derive(Debug)]
pub struct Transmit {
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub contents: Vec<u8>,
}

/// Facts for the outside.
#[derive(Debug)]
pub enum Event {
    RoomStarted {
        room: RoomKey,
        info: Box<proto::Room>,
    },
    RoomFinished {
        room: RoomKey,
        info: Box<proto::Room>,
    },
    ParticipantJoined {
        room: RoomKey,
        info: Box<proto::ParticipantInfo>,
    },
    ParticipantLeft {
        room: RoomKey,
        info: Box<proto::ParticipantInfo>,
    },
    TrackPublished {
        room: RoomKey,
        participant: Box<proto::ParticipantInfo>,
        track: Box<proto::TrackInfo>,
    },
    TrackUnpublished {
        room: RoomKey,
        participant: Box<proto::ParticipantInfo>,
        track: Box<proto::TrackInfo>,
    },
    /// The SRTP suite a transport ended on: `true` for AES-GCM.
    TransportConnected {
        gcm: bool,
    },
    /// A room's own code panicked; the room was ended, the others go on.
    RoomPanicked {
        room: RoomKey,
    },
}
