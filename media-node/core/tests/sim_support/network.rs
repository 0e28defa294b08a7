//! The network: packets in flight, with delay, jitter, loss and a bottleneck, from one seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What happens to packets in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    pub delay: Duration,
    pub jitter: Duration,
    /// 0..1
    pub loss: f64,
    /// 0 is unlimited.
    pub bits_per_second: u64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            bits_per_second: 0,
        }
    }
}

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub contents: Vec<u8>,
}

/// See the module's description.
pub struct Network {
    flight: BinaryHeap<Reverse<(Instant, u64, Packet)>>,
    number: u64,
    random: u64,
    /// Applied to media once set; ICE and DTLS at the start are let through undisturbed.
    pub conditions: Conditions,
    busy_until: std::collections::BTreeMap<SocketAddr, Instant>,
    pub lost: u64,
    pub cut: Vec<SocketAddr>,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            flight: BinaryHeap::new(),
            number: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            conditions: Conditions::default(),
            busy_until: std::collections::BTreeMap::new(),
            lost: 0,
            cut: Vec::new(),
        }
    }

    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn send(&mut self, now: Instant, packet: Packet) {
        let draw = self.uniform();
        let jitter = self.conditions.jitter.mul_f64(self.uniform());
        let cut = self.cut.contains(&packet.source) || self.cut.contains(&packet.destination);
        if cut || draw < self.conditions.loss {
            self.lost += 1;
            return;
        }
        let mut leaves = now;
        if self.conditions.bits_per_second > 0 {
            let bits = packet.contents.len() as f64 * 8.0;
            let takes = Duration::from_secs_f64(bits / self.conditions.bits_per_second as f64);
            let busy = self.busy_until.entry(packet.destination).or_insert(now);
            leaves = (*busy).max(now) + takes;
            if leaves > now + Duration::from_millis(300) {
                self.lost += 1;
                return;
            }
            *busy = leaves;
        }
        self.number += 1;
        let at = leaves + self.conditions.delay + jitter;
        self.flight.push(Reverse((at, self.number, packet)));
    }

    pub fn next(&self) -> Option<Instant> {
        self.flight.peek().map(|Reverse((at, ..))| *at)
    }

    pub fn arrived(&mut self, now: Instant) -> Option<Packet> {
        if self.next()? > now {
            return None;
        }
        self.flight.pop().map(|Reverse((_, _, packet))| packet)
    }
}
