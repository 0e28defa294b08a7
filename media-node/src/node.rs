//! The media node's shared state: keys, shards, rooms, and the numbers that tell connections apart.
//!
//! Decides which shard a new room goes to. Invariant: the lock on the rooms is never held across
//! an await or a send.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use media_core::ids::{ConnectionId, RoomKey};
use media_core::io::{AdminCall, AdminReply, Command, Event, RoomOptions};
use rand::Rng;
use tokio::sync::{Notify, mpsc};

use crate::config::Config;
use crate::cpu::CpuMeter;
use crate::epochs::Epochs;
use crate::ice_tcp::Ufrags;
use crate::keys::{Keys, unix_millis};
use crate::net::process_cpu_time;
use crate::rooms::{Admission, Happened, Refusal, Rooms};
use crate::shard::{ShardCommand, ShardEvent, ShardFull, ShardHandle};
use crate::ticket::{Bearer, Tickets};

/// Everything the listeners share.
pub struct Node {
    pub config: Config,
    pub keys: Keys,
    pub shards: Vec<ShardHandle>,
    /// Random per process start.
    pub incarnation: String,
    /// When the process started.
    pub started: Instant,
    /// The highest epoch, as a restart will find it.
    pub epochs: Epochs,
    /// Woken when rooms or the state changed, for reports that do not wait for the next second.
    pub changed: Notify,
    pub counters: Counters,
    rooms: Mutex<Rooms>,
    ufrags: Mutex<Ufrags>,
    cpu: Mutex<CpuMeter>,
    next_connection: AtomicU64,
}

/// What the control side counts.
#[derive(Default)]
pub struct Counters {
    pub tokens_refused: AtomicU64,
    pub joins: AtomicU64,
    pub resumes: AtomicU64,
    pub websockets_open: AtomicU64,
    pub frames_refused: AtomicU64,
    pub rooms_refused: AtomicU64,
    pub rooms_panicked: AtomicU64,
    pub transports_gcm: AtomicU64,
    pub transports_sha1: AtomicU64,
    pub twirp_calls: AtomicU64,
    pub tcp_refused: AtomicU64,
    pub connections_refused: AtomicU64,
}

/// How often lost events are looked for.
const REPAIR_EVERY: Duration = Duration::from_secs(2);

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why somebody cannot be let into a room.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntryError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Overloaded(#[from] ShardFull),
}

impl Node {
    /// A node over shards that run already, which obeys no leader below the epoch it comes with.
    pub fn new(
        config: Config,
        keys: Keys,
        shards: Vec<ShardHandle>,
        (epochs, epoch): (Epochs, u64),
    ) -> Self {
        let admission = match (config.control_address.is_some(), config.auto_create) {
            (true, _) => Admission::Claimed,
            (false, true) => Admission::OnJoin,
            (false, false) => Admission::OnCreate,
        };
        let tickets = Tickets::new(Bearer {
            tenant: config.tenant.clone(),
            media_node: config.media_node_name.clone(),
            pod_uid: config.pod_uid.clone(),
            kubernetes_node: config.kubernetes_node.clone(),
            scopes: config.scopes.clone(),
            keys: config.ticket_keys.clone(),
        });
        let rooms = Mutex::new(Rooms::new(admission, config.rooms_max, epoch, tickets));
        let cpu = CpuMeter::new(config.cpu_millicores, Instant::now(), process_cpu_time());
        let incarnation = format!("{:032x}", rand::rng().random::<u128>());
        Self {
            config,
            keys,
            shards,
            incarnation,
            started: Instant::now(),
            epochs,
            changed: Notify::new(),
            counters: Counters::default(),
            rooms,
            ufrags: Mutex::default(),
            cpu: Mutex::new(cpu),
            next_connection: AtomicU64::new(1),
        }
    }

    /// The directory, locked. A panic while it was held left it whole: its functions do not panic.
    pub fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who gave out which ufrag, locked.
    pub fn ufrags(&self) -> MutexGuard<'_, Ufrags> {
        self.ufrags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Share of the CPU time it may use that this process used over the last seconds, 0 to 1.
    pub fn cpu_ratio(&self) -> f64 {
        let mut meter = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        meter.ratio(Instant::now(), process_cpu_time())
    }

    /// A number no other connection of this process has.
    pub fn connection_id(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// The key of one of this tenant's rooms.
    pub fn room_key(&self, name: &str) -> RoomKey {
        RoomKey { tenant: self.config.tenant.clone(), name: name.to_owned() }
    }

    /// The shard a room would go to: where it is, or the one with the least to do, by rooms where
    /// all are idle.
    fn shard_for(&self, room: &RoomKey) -> usize {
        let rooms = self.rooms();
        if let Some(home) = rooms.home(room) {
            return home.shard;
        }
        let mut here = vec![0; self.shards.len()];
        for (_, home) in rooms.all() {
            if let Some(count) = here.get_mut(home.shard) {
                *count += 1;
            }
        }
        // A tenth of a per cent of CPU weighs as much as a room that may still grow.
        let load = |shard: &&ShardHandle| {
            let rooms = here.get(shard.index).copied().unwrap_or(0);
            (shard.report().busy_ratio * 1_000.0) as usize + rooms
        };
        self.shards.iter().min_by_key(load).map_or(0, |shard| shard.index)
    }

    /// The shard of a room somebody joins, opened if it is new.
    pub fn enter(&self, room: &RoomKey, options: RoomOptions) -> Result<&ShardHandle, EntryError> {
        let least = self.shard_for(room);
        let shard = self.rooms().join(unix_millis(), room, least);
        self.opened(room, shard, options)
    }

    /// The shard that somebody who comes back finds, or that tells them to join anew. With claims
    /// an absent room is the gateway's to find.
    pub fn enter_again(&self, room: &RoomKey) -> Result<&ShardHandle, EntryError> {
        match self.find(room) {
            Some(shard) => Ok(shard),
            None if self.rooms().claimed() => Err(Refusal::NotHere.into()),
            None => self.shards.first().ok_or_else(|| ShardFull(0).into()),
        }
    }

    /// The shard of a room RoomService creates, opened if it is new.
    pub fn create(&self, room: &RoomKey, options: RoomOptions) -> Result<&ShardHandle, EntryError> {
        let least = self.shard_for(room);
        let shard = self.rooms().create(unix_millis(), room, least);
        self.opened(room, shard, options)
    }

    /// The shard of a room the operator claims; true when it was here before.
    pub fn claim(&self, epoch: u64, room: &RoomKey) -> Result<bool, EntryError> {
        let least = self.shard_for(room);
        let claimed = self.rooms().claim(Instant::now(), unix_millis(), epoch, room, least);
        let (shard, existed) = claimed.inspect_err(|_| count(&self.counters.rooms_refused))?;
        self.opened(room, Ok(shard), self.config.room.clone())?;
        Ok(existed)
    }

    /// Tells the shard to open the room; a no-op there when it has it.
    fn opened(
        &self,
        room: &RoomKey,
        shard: Result<usize, Refusal>,
        options: RoomOptions,
    ) -> Result<&ShardHandle, EntryError> {
        let shard = shard.inspect_err(|_| count(&self.counters.rooms_refused))?;
        let handle = self.shards.get(shard).ok_or(ShardFull(shard))?;
        handle.send(ShardCommand::from(Command::OpenRoom { room: room.clone(), options }))?;
        self.changed.notify_waiters();
        Ok(handle)
    }

    /// The shard of a room that is here.
    pub fn find(&self, room: &RoomKey) -> Option<&ShardHandle> {
        let shard = self.rooms().home(room).map(|home| home.shard)?;
        self.shards.get(shard)
    }

    /// Follows what the shards tell.
    pub async fn follow(self: Arc<Self>, mut events: mpsc::Receiver<(usize, ShardEvent)>) {
        while let Some((shard, event)) = events.recv().await {
            match event {
                ShardEvent::Restarted => {
                    tracing::error!(shard, "shard panicked and began anew; its rooms are gone");
                    self.rooms().shard_restarted(shard);
                    self.changed.notify_waiters();
                }
                ShardEvent::Core(event) => self.take_event(shard, event),
            }
        }
    }

    fn take_event(&self, shard: usize, event: Event) {
        let (room, what) = match event {
            Event::RoomStarted { room, info } => (room, Happened::Started { sid: info.sid }),
            Event::RoomFinished { room, .. } => (room, Happened::Finished),
            Event::RoomPanicked { room } => {
                count(&self.counters.rooms_panicked);
                tracing::error!(shard, "a room panicked and was ended; the others go on");
                (room, Happened::Finished)
            }
            Event::ParticipantJoined { room, .. } => (room, Happened::Joined),
            Event::ParticipantLeft { room, info } => {
                (room, Happened::Left { participant: info.sid })
            }
            Event::TrackPublished { room, participant, .. } => {
                (room, Happened::Published { participant: participant.sid })
            }
            Event::TrackUnpublished { room, participant, .. } => {
                (room, Happened::Unpublished { participant: participant.sid })
            }
            Event::TransportConnected { gcm } => {
                let counters = &self.counters;
                let suite = if gcm { &counters.transports_gcm } else { &counters.transports_sha1 };
                return count(suite);
            }
        };
        self.rooms().happened(shard, &room, what);
        self.changed.notify_waiters();
    }

    /// Gives up rooms whose end was told while nobody had room to hear it: asks for each once,
    /// whenever events were lost.
    pub async fn make_good_lost_events(self: Arc<Self>) {
        let mut lost = 0;
        loop {
            tokio::time::sleep(REPAIR_EVERY).await;
            let now: u64 = self.shards.iter().map(|s| s.report().totals.events_dropped).sum();
            if now == lost {
                continue;
            }
            lost = now;
            let here: Vec<(RoomKey, usize)> = {
                let rooms = self.rooms();
                rooms.all().map(|(room, home)| (room.clone(), home.shard)).collect()
            };
            for (room, shard) in here {
                let Some(handle) = self.shards.get(shard) else {
                    continue;
                };
                let reply = handle.ask(room.clone(), AdminCall::GetRoom).await;
                if matches!(reply, Ok(AdminReply::Refused(_))) {
                    self.rooms().happened(shard, &room, Happened::Finished);
                }
            }
        }
    }
}
