//! Reliable data packets of one publisher, kept for participants that come back after a gap.
//!
//! Keeps by sequence number, age, count and bytes. It does not know who may read a packet.
//! Invariant: what it returns is in order, was put in, and is younger than [`AGE_MAX`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a packet may be asked for (LiveKit `pkg/rtc/room.go`): longer than a resume takes.
pub const AGE_MAX: Duration = Duration::from_secs(2);
/// Packets kept per publisher: 2 s at 2,000 packets a second, more than any client sends.
pub const PACKETS_MAX: usize = 4096;
/// Bytes kept per publisher, so that a hundred publishers cannot take the node's memory.
pub const BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone)]
struct Entry<T> {
    sequence: u32,
    at: Instant,
    bytes: usize,
    packet: T,
}

/// The cache of one publisher. `T` is a cheap handle, such as `Arc<[u8]>`.
#[derive(Debug, Clone)]
pub struct ReliableCache<T> {
    entries: VecDeque<Entry<T>>,
    bytes: usize,
    dropped: u64,
}

impl<T> Default for ReliableCache<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, dropped: 0 }
    }
}

impl<T> ReliableCache<T> {
    /// Keeps a packet. A sequence number that is not above the last is not kept: the publisher
    /// numbers from one upwards, so it is a repeat. Returns whether the packet is new.
    pub fn push(&mut self, now: Instant, sequence: u32, bytes: usize, packet: T) -> bool {
        self.expire(now);
        if self.entries.back().is_some_and(|last| sequence <= last.sequence) {
            return false;
        }
        self.entries.push_back(Entry { sequence, at: now, bytes, packet });
        self.bytes += bytes;
        while self.entries.len() > PACKETS_MAX || self.bytes > BYTES_MAX {
            self.pop();
            self.dropped += 1;
        }
        true
    }

    /// The packets after `sequence`, oldest first.
    pub fn after(&mut self, now: Instant, sequence: u32) -> impl Iterator<Item = (u32, &T)> {
        self.expire(now);
        self.entries
            .iter()
            .filter(move |entry| entry.sequence > sequence)
            .map(|entry| (entry.sequence, &entry.packet))
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Instant) {
        let old = |entry: &Entry<T>| now.saturating_duration_since(entry.at) >= AGE_MAX;
        while self.entries.front().is_some_and(old) {
            self.pop();
        }
    }

    /// Packets that left early because a bound was reached.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_missed_within_two_seconds() {
        let start = Instant::now();
        let mut cache = ReliableCache::default();
        for n in 1..=5 {
            assert!(cache.push(start + Duration::from_millis(500 * u64::from(n)), n, 1, n * 10));
        }
        assert!(!cache.push(start + Duration::from_secs(2), 5, 1, 0), "a repeat");
        let now = start + Duration::from_millis(3000);
        assert_eq!(cache.after(now, 3).collect::<Vec<_>>(), [(4, &40), (5, &50)]);
        assert_eq!(cache.after(now, 0).count(), 3, "two are too old");
    }

    #[test]
    fn bounds_hold() {
        let now = Instant::now();
        let mut cache = ReliableCache::default();
        for n in 1..=10 {
            cache.push(now, n, BYTES_MAX / 4, ());
        }
        assert_eq!((cache.after(now, 0).count(), cache.dropped()), (4, 6));
    }
}
