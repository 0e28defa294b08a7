//! What a room may touch outside itself while it handles something: the time, the outputs, the
//! indexes and timers of its shard.
//!
//! Decides nothing. Invariant: a room reaches other rooms through nothing in here.

use std::collections::VecDeque;
use std::time::Instant;

use livekit_protocol::signal_response;

use crate::config::ShardConfig;
use crate::ids::{ConnectionId, TransportRef};
use crate::io::{CloseReason, Event, Output};
use crate::random::Random;
use crate::shard::routes::Routes;
use crate::shard::timers::Timers;
use crate::stats::ShardStats;

/// Lent to a room for one call.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a ShardConfig,
    pub(crate) random: &'a mut Random,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) stats: &'a mut ShardStats,
    pub(crate) routes: &'a mut Routes,
    pub(crate) timers: &'a mut Timers,
    /// Transports that were written to and must be drained before the shard sleeps.
    pub(crate) dirty: &'a mut Vec<TransportRef>,
}

impl Context<'_> {
    pub(crate) fn unix_ms(&self) -> u64 {
        self.config.unix_ms(self.now)
    }

    pub(crate) fn signal(&mut self, connection: ConnectionId, message: signal_response::Message) {
        self.outputs.push_back(Output::Signal { connection, response: Box::new(message) });
    }

    pub(crate) fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.routes.connections.remove(&connection);
        self.outputs.push_back(Output::CloseSignal { connection, reason });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
