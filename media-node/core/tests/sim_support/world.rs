//! One shard, its clients and the network between them, moved forward in virtual time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_contract::grants::{Claims, VideoGrant};
use livekit_protocol as proto;
use media_core::ids::{RequestId, RoomKey};
use media_core::io::{
    AdminCall, AdminReply, ClientParams, CloseReason, Command, Event, Input, Join, Output,
    Transport,
};
use media_core::{Certificate, MediaAddress, RtxCache, Shard, ShardConfig, TokenMinter};
use proto::signal_response::Message as Response;

use super::client::{Abilities, Client};
use super::network::{Network, Packet};

/// Where the shard is.
pub const SERVER: ([u8; 4], u16) = ([198, 18, 0, 1], 50_000);

struct Minter;

impl TokenMinter for Minter {
    fn mint(&self, claims: &Claims, _now_unix_s: u64) -> Option<String> {
        Some(format!("token-{}", claims.expires_at_unix_s))
    }
}

/// See the module's description.
pub struct World {
    pub now: Instant,
    pub start: Instant,
    pub shard: Shard,
    pub network: Network,
    pub clients: Vec<Client>,
    pub events: Vec<Event>,
    pub closes: Vec<(u64, CloseReason)>,
    pub replies: Vec<AdminReply>,
    shard_deadline: Instant,
    client_deadlines: Vec<Instant>,
    next_audio: Instant,
    /// By layer.
    next_video: [Instant; 3],
    next_ping: Instant,
}

pub fn room() -> RoomKey {
    RoomKey { tenant: "dev/dev".to_owned(), name: "room".to_owned() }
}

pub fn claims(identity: &str) -> Claims {
    Claims {
        identity: identity.to_owned(),
        name: format!("name of {identity}"),
        video: Some(VideoGrant::join("room")),
        ..Claims::default()
    }
}

pub fn client_params() -> ClientParams {
    ClientParams { protocol: 16, auto_subscribe: true, ..ClientParams::default() }
}

impl World {
    /// The seed is also str0m's, which draws ids and probing from `fastrand`; a world must
    /// therefore stay on the thread that made it.
    pub fn new(seed: u64) -> Self {
        fastrand::seed(seed);
        let now = Instant::now();
        let address = SocketAddr::from(SERVER);
        let config = ShardConfig {
            addresses: vec![MediaAddress { transport: Transport::Udp, address }],
            anchor: (now, 1_700_000_000_000),
            node_id: "ND_test".to_owned(),
            region: String::new(),
            certificate: Certificate::generate().unwrap(),
            tokens: Arc::new(Minter),
            rtx_cache: RtxCache::default(),
            resume_window: Duration::from_secs(30),
            bandwidth_estimation: true,
        };
        Self {
            now,
            start: now,
            shard: Shard::new(config, seed),
            network: Network::new(seed, now),
            clients: Vec::new(),
            events: Vec::new(),
            closes: Vec::new(),
            replies: Vec::new(),
            shard_deadline: now,
            client_deadlines: Vec::new(),
            next_audio: now,
            // Never with audio, so that nothing depends on which of them is sent first.
            next_video: [5, 6, 7].map(|at| now + Duration::from_millis(at)),
            next_ping: now,
        }
    }

    /// A client joins; returns its index.
    pub fn join(&mut self, identity: &str) -> usize {
        self.join_as(claims(identity), client_params())
    }

    pub fn join_as(&mut self, claims: Claims, client: ClientParams) -> usize {
        self.join_able(claims, client, Abilities::default())
    }

    pub fn join_able(
        &mut self,
        claims: Claims,
        client: ClientParams,
        abilities: Abilities,
    ) -> usize {
        let number = self.clients.len() as u8 + 1;
        let joining = Client::new(self.now, &claims.identity, number, abilities);
        let connection = joining.connection;
        self.clients.push(joining);
        self.client_deadlines.push(self.now);
        let join = Join { connection, room: room(), claims, client };
        self.command(Command::Join(Box::new(join)));
        self.clients.len() - 1
    }

    pub fn command(&mut self, command: Command) {
        self.shard.handle(self.now, Input::Command(command));
        self.drain();
    }

    pub fn admin(&mut self, call: AdminCall) -> AdminReply {
        self.command(Command::Admin { request: RequestId(1), room: room(), call });
        self.replies.pop().expect("every call is answered")
    }

    fn drain(&mut self) {
        let mut packets = Vec::new();
        loop {
            match self.shard.poll() {
                Output::Transmit(packet) => {
                    let (source, destination) = (packet.source, packet.destination);
                    let contents = packet.contents;
                    packets.push(Packet { source, destination, contents });
                }
                Output::Signal { connection, response } => {
                    let to = self.clients.iter_mut().find(|c| c.connection == connection);
                    if let Some(client) = to {
                        client.take_signal(*response);
                    }
                }
                Output::CloseSignal { connection, reason } => {
                    self.closes.push((connection.0, reason));
                    let to = self.clients.iter_mut().find(|c| c.connection == connection);
                    if let Some(client) = to {
                        client.closed = true;
                    }
                }
                Output::Admin { reply, .. } => self.replies.push(*reply),
                Output::Event(event) => self.events.push(event),
                Output::Timeout(at) => {
                    self.shard_deadline = at;
                    self.network.send_all(self.now, &mut packets);
                    return;
                }
            }
        }
    }

    /// Moves time forward.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step(end);
        }
    }

    /// Until the condition holds; fails after `limit`.
    pub fn until(&mut self, limit: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !condition(self) {
            assert!(self.now < end, "not within {limit:?}: {what}");
            self.step(end);
        }
    }

    fn step(&mut self, end: Instant) {
        self.exchange();
        let mut due = vec![end, self.shard_deadline, self.next_audio];
        due.extend(self.network.next());
        due.extend(self.client_deadlines.iter().chain(&self.next_video));
        // Whoever is due and stays so is asked again a little later, but never beyond the next
        // event: timers of the libraries draw on chance that has no seed.
        let (late, ahead): (Vec<_>, Vec<_>) = due.into_iter().partition(|at| *at <= self.now);
        let again = (!late.is_empty()).then(|| self.now + Duration::from_micros(100));
        self.now = ahead.into_iter().chain(again).min().unwrap_or(end);
        if self.now >= self.next_audio {
            self.next_audio += Duration::from_millis(20);
            self.clients.iter_mut().for_each(|client| client.speak(self.now));
        }
        for (layer, due) in self.next_video.iter_mut().enumerate() {
            if self.now >= *due {
                *due += Duration::from_micros(33_333);
                self.clients.iter_mut().for_each(|client| client.film_layer(self.now, layer));
            }
        }
        if self.now >= self.next_ping {
            self.next_ping = self.now + Duration::from_secs(5);
            for client in &mut self.clients {
                let ping = proto::Ping { timestamp: 1, rtt: 0 };
                client.request(proto::signal_request::Message::PingReq(ping));
            }
        }
        while let Some(packet) = self.network.arrived(self.now) {
            if packet.destination == SocketAddr::from(SERVER) {
                let (transport, source) = (Transport::Udp, packet.source);
                let destination = packet.destination;
                let contents = packet.contents.as_slice();
                let datagram = Input::Datagram { transport, source, destination, contents };
                self.shard.handle(self.now, datagram);
                if self.network.trace.is_some() {
                    // What waits together leaves in an order that no seed determines.
                    self.drain();
                }
                continue;
            }
            let to = self.clients.iter_mut().find(|c| c.addresses().contains(&packet.destination));
            if let Some(client) = to {
                client.receive(self.now, &packet);
                // str0m wants to be drained after each packet.
                let mut out = Vec::new();
                client.drive(self.now, &mut out);
                self.network.send_all(self.now, &mut out);
            }
        }
        if self.now >= self.shard_deadline {
            self.shard.handle(self.now, Input::Timeout);
        }
        self.drain();
    }

    /// Signals and client outputs.
    fn exchange(&mut self) {
        for index in 0..self.clients.len() {
            while let Some(request) = self.clients[index].take_request() {
                if self.clients[index].closed {
                    continue;
                }
                let connection = self.clients[index].connection;
                let request = Box::new(request);
                self.shard
                    .handle(self.now, Input::Command(Command::Signal { connection, request }));
                self.drain();
            }
            let mut out = Vec::new();
            let client = &mut self.clients[index];
            self.client_deadlines[index] = client.drive(self.now, &mut out);
            self.network.send_all(self.now, &mut out);
        }
    }

    /// The newest a client heard of a participant.
    pub fn info(&self, client: usize, identity: &str) -> Option<proto::ParticipantInfo> {
        let signals = self.clients[client].signals.iter().rev();
        let mut infos = signals.flat_map(|signal| match signal {
            Response::Update(update) => update.participants.clone(),
            Response::Join(join) => join.other_participants.clone(),
            _ => Vec::new(),
        });
        infos.find(|info| info.identity == identity)
    }

    pub fn sid_of(&self, publisher: usize, cid: &str) -> String {
        let track = self.clients[publisher].outgoing.iter().find(|t| t.cid == cid).unwrap();
        track.sid.clone().unwrap_or_default()
    }

    pub fn seen(&self, client: usize, track: &str) -> usize {
        self.clients[client].seen.get(track).map_or(0, Vec::len)
    }
}
