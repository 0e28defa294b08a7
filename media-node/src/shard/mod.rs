//! A shard as the control side sees it: a thread behind a bounded queue, and what it reports.
//!
//! Decides nothing about rooms. Invariant: nobody outside the thread touches its rooms, and nobody
//! waits for it: a full queue is an answer, not a pause.

mod connections;
mod load;
mod run;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use livekit_protocol::{signal_request, signal_response};
use media_core::ids::{ConnectionId, RoomKey};
use media_core::io::{AdminCall, AdminReply, CloseReason, Command, Event};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::net::Waker;

pub use load::{DelayHistogram, ShardReport};
pub use run::{ShardSettings, start};

/// Commands and TCP frames waiting for a shard: a second of 4,000 small ones; a shard that is
/// further behind must refuse rather than collect.
pub const COMMANDS_MAX: usize = 4_096;
/// Messages waiting for one WebSocket. A join into a room of 1,000 sends a few large messages, a
/// busy room tens of small ones a second; who is 512 behind does not read any more.
pub const SIGNALS_MAX: usize = 512;
/// Frames waiting for one media TCP connection: about 0.3 s of a 10 Mbit/s downlink.
pub const TCP_FRAMES_MAX: usize = 512;
/// Requests of one WebSocket that its shard has not taken yet. A client that sends more waits, so
/// that nobody fills the shard's queue alone or holds more than 16 frames of 2 MiB in it.
pub const REQUESTS_WAITING_MAX: usize = 16;
/// Frames of one media TCP connection that its shard has not taken yet; more are dropped, as
/// datagrams would be. 256 are 0.1 s of a 25 Mbit/s uplink.
pub const TCP_FRAMES_WAITING_MAX: usize = 256;
/// Events waiting for the control side; one that is lost is made good by the next report.
pub const EVENTS_MAX: usize = 16_384;
/// How long a command that must not get lost waits for room in the queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(5);

/// What a WebSocket task receives from its shard.
#[derive(Debug)]
pub enum ToClient {
    Message(Box<signal_response::Message>),
    Close(CloseReason),
}

/// What the control side asks of a shard.
#[derive(Debug)]
pub enum ShardCommand {
    /// A command that needs no answer.
    Core(Box<Command>),
    /// A join or a resume, with the way back to its WebSocket.
    Attach { connection: ConnectionId, outgoing: mpsc::Sender<ToClient>, command: Box<Command> },
    /// One signalling request. `place` comes free when the shard has taken it.
    Signal {
        connection: ConnectionId,
        request: Box<signal_request::Message>,
        place: OwnedSemaphorePermit,
    },
    /// A RoomService call.
    Admin { room: RoomKey, call: Box<AdminCall>, reply: oneshot::Sender<AdminReply> },
    /// A media TCP connection is there; its frames are written from `outgoing`.
    TcpOpened { source: SocketAddr, destination: SocketAddr, outgoing: mpsc::Sender<Vec<u8>> },
    /// One frame of it. `place` comes free when the shard has taken it.
    TcpFrame {
        source: SocketAddr,
        destination: SocketAddr,
        contents: Vec<u8>,
        place: OwnedSemaphorePermit,
    },
    /// It is gone.
    TcpClosed { source: SocketAddr, destination: SocketAddr },
    /// The process ends.
    Stop,
}

/// What a shard tells the control side.
#[derive(Debug)]
pub enum ShardEvent {
    Core(Event),
    /// The thread's own code panicked and began anew; all its rooms are gone.
    Restarted,
}

/// The shard's queue is full: it is overloaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("shard {0} is overloaded, try again")]
pub struct ShardFull(pub usize);

/// The control side's end of one shard.
#[derive(Clone)]
pub struct ShardHandle {
    pub index: usize,
    commands: SyncSender<ShardCommand>,
    waker: Waker,
    refused: Arc<AtomicU64>,
    reports: watch::Receiver<Arc<ShardReport>>,
}

impl From<Command> for ShardCommand {
    fn from(command: Command) -> Self {
        Self::Core(Box::new(command))
    }
}

impl ShardHandle {
    /// Queues a command, or says that the shard is overloaded.
    pub fn send(&self, command: ShardCommand) -> Result<(), ShardFull> {
        self.offer(command).map_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            ShardFull(self.index)
        })
    }

    fn offer(&self, command: ShardCommand) -> Result<(), ShardCommand> {
        let queued = self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => command,
        });
        self.waker.wake();
        queued
    }

    /// Queues a command that must not get lost, waiting for room within a bound.
    pub async fn send_patiently(&self, command: ShardCommand) -> Result<(), ShardFull> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut command = command;
        loop {
            match self.offer(command) {
                Ok(()) => return Ok(()),
                Err(_) if tokio::time::Instant::now() >= deadline => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(ShardFull(self.index));
                }
                Err(back) => command = back,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Asks a RoomService question and waits for the answer.
    pub async fn ask(&self, room: RoomKey, call: AdminCall) -> Result<AdminReply, ShardFull> {
        let (reply, answer) = oneshot::channel();
        self.send(ShardCommand::Admin { room, call: Box::new(call), reply })?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            _ => Err(ShardFull(self.index)),
        }
    }

    /// What the shard said about its last second.
    pub fn report(&self) -> Arc<ShardReport> {
        Arc::clone(&self.reports.borrow())
    }

    /// Commands refused because the queue was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
