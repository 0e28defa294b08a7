//! One shard: owns its rooms, finds whom a packet or command is for, keeps the time.
//!
//! Invariant: a room's fault stays in the room.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::ShardConfig;
use crate::io::{Input, Output};
use crate::stats::ShardStats;

/// All rooms of one thread.
pub struct Shard {
    #[expect(dead_code, reason = "read by the rooms that follow")]
    config: ShardConfig,
    outputs: VecDeque<Output>,
    stats: ShardStats,
    now: Instant,
}

impl Shard {
    /// An empty shard. `seed` determines every random choice that is ours.
    #[must_use]
    pub fn new(config: ShardConfig, _seed: u64) -> Self {
        let now = config.anchor.0;
        Self { config, outputs: VecDeque::new(), stats: ShardStats::default(), now }
    }

    /// One change. May be called several times before the outputs are drained.
    pub fn handle(&mut self, now: Instant, _input: Input<'_>) {
        self.now = self.now.max(now);
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll(&mut self) -> Output {
        let idle = Output::Timeout(self.now + Duration::from_secs(1));
        self.outputs.pop_front().unwrap_or(idle)
    }

    /// Gauges and counters.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        self.stats
    }
}
