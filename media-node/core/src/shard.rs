//! One shard: owns its rooms, finds whom a packet or command is for, keeps the time.
//!
//! Does not look into rooms. Invariant: a fault of a room ends that room and nothing else, and
//! spoofed packets make no state.

pub(crate) mod routes;
pub(crate) mod timers;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use livekit_contract::twirp::{Code, TwirpError};
use livekit_protocol as proto;
use slotmap::SlotMap;
use str0m::ice::StunMessage;
use str0m::net::DatagramRecv;

use crate::config::{ROOMS_MAX, ShardConfig};
use crate::context::Context;
use crate::ids::{ConnectionId, ParticipantSlot, RoomKey, RoomSlot, Side, TransportRef};
use crate::io::{
    AdminCall, AdminReply, CloseReason, Command, Event, Input, Join, Output, RoomOptions, RoomWish,
};
use crate::random::Random;
use crate::room::{Room, leave};
use crate::stats::ShardStats;
use crate::transport::is_media;
use routes::{Path, Routes};
use timers::{Due, Timers};

/// Longest sleep: nothing of ours is due later than that without being armed.
const IDLE: Duration = Duration::from_secs(3_600);

/// All rooms of one thread.
pub struct Shard {
    config: ShardConfig,
    rooms: SlotMap<RoomSlot, Room>,
    names: HashMap<RoomKey, RoomSlot>,
    random: Random,
    outputs: VecDeque<Output>,
    stats: ShardStats,
    routes: Routes,
    timers: Timers,
    dirty: Vec<TransportRef>,
    now: Instant,
}

impl Shard {
    /// An empty shard. `seed` determines every random choice that is ours.
    #[must_use]
    pub fn new(config: ShardConfig, seed: u64) -> Self {
        let now = config.anchor.0;
        Self {
            config,
            rooms: SlotMap::with_key(),
            names: HashMap::new(),
            random: Random::new(seed),
            outputs: VecDeque::new(),
            stats: ShardStats::default(),
            routes: Routes::default(),
            timers: Timers::default(),
            dirty: Vec::new(),
            now,
        }
    }

    /// One change. May be called several times before the outputs are drained: what is forwarded
    /// meanwhile leaves in one pass over each receiver.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = self.now.max(now);
        match input {
            Input::Timeout => self.wake(),
            Input::Datagram { transport, source, destination, contents } => {
                self.stats.packets_in += 1;
                self.stats.bytes_in += contents.len() as u64;
                self.receive(Path { carrier: transport, source, destination }, contents);
            }
            Input::TcpClosed { source, destination } => {
                let carrier = crate::io::Transport::Tcp;
                self.routes.remove_path(&Path { carrier, source, destination });
            }
            Input::Command(command) => self.command(command),
        }
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll(&mut self) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            let Some(transport) = self.dirty.pop() else {
                let next = self.timers.next().unwrap_or(self.now + IDLE);
                return Output::Timeout(next);
            };
            self.with_room(transport.room, |room, ctx| {
                room.flush(ctx, transport.participant, transport.side);
            });
        }
    }

    /// Gauges and counters.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        let mut stats = self.stats;
        stats.rooms = self.rooms.len() as u64;
        for room in self.rooms.values() {
            room.count(&mut stats);
        }
        stats
    }

    fn wake(&mut self) {
        while let Some(due) = self.timers.pop(self.now) {
            match due {
                Due::Room(slot) => {
                    self.with_room(slot, Room::due);
                }
                Due::Transport(at) => {
                    self.with_room(at.room, |room, ctx| {
                        room.transport_due(ctx, at.participant, at.side);
                    });
                }
            }
        }
    }

    fn receive(&mut self, path: Path, contents: &[u8]) {
        let known = self.routes.by_path(&path);
        let media = contents.first().is_some_and(|first| is_media(*first));
        if let (true, Some(at)) = (media, known)
            && at.side == Side::Subscriber
        {
            self.with_room(at.room, |room, ctx| room.reported(ctx, at.participant, contents));
            return;
        }
        let Ok(datagram) = DatagramRecv::try_from(contents) else {
            self.stats.drops.malformed += 1;
            return;
        };
        // RFC 7983: STUN begins with 0 or 1; all else is believed only from validated addresses.
        let stun = contents.first().is_some_and(|first| *first < 2);
        let at = match (stun, known) {
            (false, None) => {
                self.stats.drops.unvalidated += 1;
                return;
            }
            (false, Some(at)) => at,
            (true, _) => match self.by_stun(contents, &path) {
                Some(at) => at,
                None => {
                    self.stats.drops.unknown_ufrag += 1;
                    return;
                }
            },
        };
        self.with_room(at.room, |room, ctx| {
            room.receive(ctx, at.participant, at.side, &path, datagram);
        });
    }

    /// Whom a STUN request is for; enters the path when the request proves that it knows the
    /// transport's password. An answer (to what ICE-lite never asks) is for nobody.
    fn by_stun(&mut self, contents: &[u8], path: &Path) -> Option<TransportRef> {
        let message = StunMessage::parse(contents).ok()?;
        if !message.is_binding_request() {
            return None;
        }
        let (local, _) = message.split_username()?;
        let at = self.routes.by_ufrag(local)?;
        if self.routes.by_path(path) == Some(at) {
            return Some(at);
        }
        let datagram = DatagramRecv::try_from(contents).ok()?;
        let room = self.rooms.get_mut(at.room)?;
        if !room.accepts(self.now, at.participant, at.side, path, datagram) {
            return None;
        }
        self.routes.add_path(*path, at);
        Some(at)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::OpenRoom { room, options } => {
                self.open(&room, options);
            }
            Command::Join(join) => self.join(*join),
            Command::Resume { connection, room, participant_sid, claims } => {
                let slot = self.names.get(&room).copied();
                let resumed = slot.and_then(|slot| {
                    self.with_room(slot, |room, ctx| {
                        room.resume(ctx, connection, &participant_sid, &claims)
                    })
                });
                if resumed != Some(true) {
                    self.turn_away(connection, proto::DisconnectReason::StateMismatch);
                }
            }
            Command::Signal { connection, request } => match self.of_connection(connection) {
                Some((slot, participant)) => {
                    self.with_room(slot, |room, ctx| room.signal(ctx, participant, *request));
                }
                None => self.stats.drops.signals_unknown += 1,
            },
            Command::SignalClosed { connection } => {
                let Some((slot, participant)) = self.routes.connections.remove(&connection) else {
                    return;
                };
                self.with_room(slot, |room, ctx| room.signal_closed(ctx, participant, connection));
            }
            Command::Admin { request, room, call } => {
                let reply = self.admin(&room, call);
                self.outputs.push_back(Output::Admin { request, reply: Box::new(reply) });
            }
            Command::SendHome { room } => {
                if let Some(slot) = self.names.get(&room).copied() {
                    self.with_room(slot, Room::send_home);
                }
            }
        }
    }

    fn of_connection(&self, connection: ConnectionId) -> Option<(RoomSlot, ParticipantSlot)> {
        self.routes.connections.get(&connection).copied()
    }

    fn join(&mut self, join: Join) {
        let connection = join.connection;
        let options = RoomOptions::default();
        let Some(slot) = self.open(&join.room, options) else {
            return self.turn_away(connection, proto::DisconnectReason::JoinFailure);
        };
        let joined = self.with_room(slot, |room, ctx| room.join(ctx, join));
        if joined != Some(true) {
            self.turn_away(connection, proto::DisconnectReason::JoinFailure);
        }
    }

    fn turn_away(&mut self, connection: ConnectionId, reason: proto::DisconnectReason) {
        let message = leave(reason, leave_action(reason));
        self.outputs.push_back(Output::Signal { connection, response: Box::new(message) });
        self.outputs.push_back(Output::CloseSignal { connection, reason: CloseReason::Left });
    }

    fn open(&mut self, key: &RoomKey, options: RoomOptions) -> Option<RoomSlot> {
        if let Some(slot) = self.names.get(key) {
            return Some(*slot);
        }
        if self.rooms.len() >= ROOMS_MAX {
            return None;
        }
        let (id, unix_ms) = (self.random.id("RM_"), self.config.unix_ms(self.now));
        let slot = self
            .rooms
            .insert_with_key(|slot| Room::new(slot, key.clone(), id, options, self.now, unix_ms));
        self.names.insert(key.clone(), slot);
        self.with_room(slot, Room::opened);
        Some(slot)
    }

    fn admin(&mut self, key: &RoomKey, call: AdminCall) -> AdminReply {
        if let AdminCall::CreateRoom(request) = &call {
            let options = RoomOptions::default().wished(&RoomWish::from(request));
            if self.open(key, options).is_none() {
                let text = "this media node has no place for another room: try again later";
                return AdminReply::Refused(TwirpError::new(Code::ResourceExhausted, text));
            }
        }
        let missing = || {
            let text = "requested room does not exist";
            AdminReply::Refused(TwirpError::new(Code::NotFound, text))
        };
        let Some(slot) = self.names.get(key).copied() else {
            return missing();
        };
        self.with_room(slot, |room, ctx| room.admin(ctx, call)).unwrap_or_else(missing)
    }

    /// Lets a room work. This is the boundary at which its faults stop.
    fn with_room<T>(
        &mut self,
        slot: RoomSlot,
        work: impl FnOnce(&mut Room, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let Self { config, rooms, random, outputs, stats, routes, timers, dirty, now, .. } = self;
        let room = rooms.get_mut(slot)?;
        let mut ctx = Context { now: *now, config, random, outputs, stats, routes, timers, dirty };
        let result = catch_unwind(AssertUnwindSafe(|| work(room, &mut ctx)));
        match result {
            Ok(value) => {
                if room.ended() {
                    let key = room.key().clone();
                    self.forget(slot, &key);
                }
                Some(value)
            }
            Err(_) => {
                let key = room.key().clone();
                self.stats.rooms_panicked += 1;
                self.forget(slot, &key);
                self.outputs.push_back(Output::Event(Event::RoomPanicked { room: key }));
                None
            }
        }
    }

    fn forget(&mut self, slot: RoomSlot, key: &RoomKey) {
        for connection in self.routes.remove_room(slot) {
            self.turn_away(connection, proto::DisconnectReason::RoomClosed);
        }
        self.dirty.retain(|at| at.room != slot);
        self.names.remove(key);
        self.rooms.remove(slot);
    }
}

fn leave_action(reason: proto::DisconnectReason) -> proto::leave_request::Action {
    use proto::leave_request::Action;
    match reason {
        // The client has state of a room that is not here (any more): it joins anew at once.
        proto::DisconnectReason::StateMismatch | proto::DisconnectReason::RoomClosed => {
            Action::Reconnect
        }
        _ => Action::Disconnect,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use livekit_contract::grants::Claims;

    use super::*;
    use crate::config::{Certificate, RtxCache, TokenMinter};

    struct NoTokens;

    impl TokenMinter for NoTokens {
        fn mint(&self, _: &Claims, _: u64) -> Option<String> {
            None
        }
    }

    fn shard() -> Shard {
        let now = Instant::now();
        let config = ShardConfig {
            addresses: Vec::new(),
            anchor: (now, 0),
            node_id: String::new(),
            region: String::new(),
            certificate: Certificate::generate().unwrap(),
            tokens: Arc::new(NoTokens),
            rtx_cache: RtxCache::default(),
            resume_window: Duration::from_secs(30),
            bandwidth_estimation: false,
        };
        Shard::new(config, 1)
    }

    fn outputs(shard: &mut Shard) -> Vec<Output> {
        let mut all = Vec::new();
        loop {
            match shard.poll() {
                Output::Timeout(_) => return all,
                output => all.push(output),
            }
        }
    }

    #[test]
    fn a_panic_ends_its_room_and_no_other() {
        let mut shard = shard();
        let now = shard.now;
        let key = |name: &str| RoomKey { tenant: "dev/dev".to_owned(), name: name.to_owned() };
        for (number, name) in [(1, "one"), (2, "two")] {
            let join = Join {
                connection: ConnectionId(number),
                room: key(name),
                claims: Claims { identity: "ada".to_owned(), ..Claims::default() },
                client: crate::io::ClientParams::default(),
            };
            shard.handle(now, Input::Command(Command::Join(Box::new(join))));
        }
        outputs(&mut shard);
        let slot = shard.names[&key("one")];
        assert!(shard.with_room(slot, |_, _| -> () { panic!("a fault of this room") }).is_none());
        let said = outputs(&mut shard);
        assert!(said.iter().any(|output| {
            matches!(output, Output::Event(Event::RoomPanicked { room }) if *room == key("one"))
        }));
        let closed = |number| {
            said.iter().any(|output| {
                matches!(output, Output::CloseSignal { connection, .. }
                    if *connection == ConnectionId(number))
            })
        };
        assert!(closed(1) && !closed(2));
        let stats = shard.stats();
        assert_eq!((stats.rooms, stats.participants, stats.rooms_panicked), (1, 1, 1));
        assert!(shard.open(&key("one"), RoomOptions::default()).is_some(), "it may begin anew");
    }
}
