//! What a shard says about its last second. Pure counting.

use std::time::Duration;

use crate::net::SendCounters;

/// Buckets of the delay histogram: each is 2^(1/4) wider than the one before, from 1 µs to 65 s.
const BUCKETS: usize = 105;

/// Delays between a packet's arrival in the process and its departure, weighted by packets sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayHistogram {
    counts: [u64; BUCKETS],
}

impl Default for DelayHistogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

impl DelayHistogram {
    /// Counts `packets` that took `delay`.
    pub fn record(&mut self, delay: Duration, packets: u64) {
        let micros = delay.as_secs_f64() * 1e6;
        let bucket = if micros <= 1.0 { 0 } else { (micros.log2() * 4.0).ceil() as usize };
        if let Some(count) = self.counts.get_mut(bucket.min(BUCKETS - 1)) {
            *count += packets;
        }
    }

    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// The delay that `quantile` (0..1) of the packets did not exceed, in seconds; 0 without any.
    pub fn quantile_seconds(&self, quantile: f64) -> f64 {
        let total: u64 = self.counts.iter().sum();
        let rank = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if total > 0 && seen >= rank {
                return (bucket as f64 / 4.0).exp2() / 1e6;
            }
        }
        0.0
    }
}

/// One second of a shard; totals count from the start of the process.
#[derive(Debug, Clone, Default)]
pub struct ShardReport {
    /// Share of the second in which the thread ran, 0..1.
    pub busy_ratio: f64,
    pub packets_in_per_second: f64,
    pub packets_out_per_second: f64,
    pub bytes_in_per_second: f64,
    pub bytes_out_per_second: f64,
    pub delay: DelayHistogram,
    pub totals: ShardTotals,
    pub core: media_core::ShardStats,
}

/// Counters since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardTotals {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub sent: SendCounters,
    /// Times the kernel refused to hand out packets.
    pub receive_errors: u64,
    /// WebSockets cut off because they did not read.
    pub signal_overflows: u64,
    /// Media frames dropped because a TCP connection did not take them.
    pub tcp_frames_dropped: u64,
    /// Events lost because the control side was behind.
    pub events_dropped: u64,
    /// Times the thread's own code panicked.
    pub panics: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut delays = DelayHistogram::default();
        assert_eq!(delays.quantile_seconds(0.99), 0.0);
        delays.record(Duration::from_micros(100), 980);
        delays.record(Duration::from_millis(5), 20);
        let (p50, p99) = (delays.quantile_seconds(0.5), delays.quantile_seconds(0.99));
        assert!((1.0e-4..1.2e-4).contains(&p50), "{p50}");
        assert!((5.0e-3..6.0e-3).contains(&p99), "{p99}");
        delays.record(Duration::from_secs(1_000), 1);
        delays.record(Duration::ZERO, 1);
    }
}
