//! Packets of one stream that may be asked for again.
//!
//! An entry is what differs between receivers; the payload stays everybody's. Memory comes with
//! the first packet and goes when all are too old. Invariant: at most as many packets as configured
//! are kept, in the order of their numbers, and one is not handed out twice within a round trip.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stream::Packet;
use crate::config::RtxCache;
use crate::forward::unwrap_number;

/// How often a packet may be repeated; who asks more often has lost its way or is hostile.
const REPEATS_MAX: u8 = 10;

#[derive(Debug)]
struct Entry {
    packet: Packet,
    sent: Instant,
    /// Milliseconds from `sent` to the last time it was repeated.
    repeated_ms: u32,
    repeats: u8,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    cache: RtxCache,
}

impl History {
    pub(super) fn new(cache: RtxCache) -> Self {
        Self { entries: VecDeque::new(), cache }
    }

    /// The packet has left.
    pub(super) fn keep(&mut self, now: Instant, packet: Packet) {
        self.forget_old(now);
        if self.entries.len() >= self.cache.packets {
            self.entries.pop_front();
        }
        if self.cache.packets == 0 {
            return;
        }
        let number = packet.sequence;
        let entry = Entry { packet, sent: now, repeated_ms: 0, repeats: 0 };
        let before = |entry: &Entry| entry.packet.sequence < number;
        if self.entries.back().is_none_or(before) {
            self.entries.push_back(entry);
        } else {
            let at = self.entries.partition_point(before);
            self.entries.insert(at, entry);
        }
    }

    /// Drops what is too old to be of use.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let age = self.cache.age;
        let old = |entry: &Entry| now.saturating_duration_since(entry.sent) > age;
        while self.entries.front().is_some_and(old) {
            self.entries.pop_front();
        }
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn clear(&mut self) {
        self.entries = VecDeque::new();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The full number of a packet that is asked for, when it is here and may be repeated now.
    pub(super) fn asked(&mut self, now: Instant, sequence: u16, trip: Duration) -> Option<u64> {
        self.forget_old(now);
        let newest = self.entries.back()?.packet.sequence;
        let number = unwrap_number(newest, u64::from(sequence), 16);
        let entry = self.entry(number)?;
        let since = now.saturating_duration_since(entry.sent);
        let last = Duration::from_millis(u64::from(entry.repeated_ms));
        let soon = entry.repeats > 0 && since < last + trip;
        if soon || entry.repeats >= REPEATS_MAX {
            return None;
        }
        entry.repeats += 1;
        entry.repeated_ms = u32::try_from(since.as_millis()).unwrap_or(u32::MAX);
        Some(number)
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by_key(&number, |entry| entry.packet.sequence).ok()?;
        self.entries.get_mut(at)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Packet> {
        let at = self.entries.binary_search_by_key(&number, |entry| entry.packet.sequence).ok()?;
        self.entries.get(at).map(|entry| &entry.packet)
    }

    /// A packet that a probe may repeat: the newest that is not larger than wanted.
    pub(super) fn newest(&self, bytes_max: usize) -> Option<&Packet> {
        let mut newest = self.entries.iter().rev().take(PROBE_LOOK_BACK);
        newest.find(|entry| entry.packet.payload.len() <= bytes_max).map(|entry| &entry.packet)
    }
}

/// Packets looked at for a probe: more would cost more than padding does.
const PROBE_LOOK_BACK: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn packet(sequence: u64) -> Packet {
        Packet {
            payload: Arc::from([0; 9]),
            sequence,
            timestamp: 0,
            payload_type: 96,
            marker: false,
            orientation: None,
            rewrite: None,
        }
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    }

    #[test]
    fn packets_are_found_across_the_edge_and_out_of_order_until_they_are_old() {
        let now = Instant::now();
        let trip = Duration::from_millis(50);
        let cache = RtxCache { packets: 8, age: Duration::from_secs(1) };
        let mut history = History::new(cache);
        for number in [65_533_u64, 65_535, 65_534, 65_536, 65_538, 65_537] {
            history.keep(now, packet(number));
        }
        assert_eq!(history.asked(now, 65_534, trip), Some(65_534));
        assert_eq!(history.asked(now, 1, trip), Some(65_537));
        assert_eq!(history.asked(now, 1, trip), None, "within one round trip");
        assert_eq!(history.asked(now + trip, 1, trip), Some(65_537));
        assert_eq!(history.asked(now, 9, trip), None, "never sent");
        for number in 65_539..65_545 {
            history.keep(now, packet(number));
        }
        assert_eq!(history.entries.len(), 8);
        assert_eq!(history.asked(now, 65_534, trip), None, "too many since");
        assert_eq!(history.asked(now + Duration::from_secs(2), 8, trip), None, "too old");
        assert!(history.is_empty());
    }
}
