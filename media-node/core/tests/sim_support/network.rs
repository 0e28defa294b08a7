//! The network: packets in flight, with delay, jitter, loss and a bottleneck, from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
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

/// What one packet looked like from outside, and what became of it. Left out are the contents and
/// the length of DTLS records, because keys, signatures and what they encrypt differ from run to
/// run, and which report is the first in an RTCP packet, because hash maps have no seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    pub sent: Duration,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The first two bytes: STUN's type, or SRTP's flags and payload type; less of the others.
    pub kind: (u8, u8),
    pub bytes: usize,
    /// Nothing when it was lost.
    pub arrives: Option<Duration>,
}

impl Packet {
    /// Addresses, and the first bytes of SRTP: flags, payload type, SSRC, sequence number.
    fn readable(&self) -> (SocketAddr, SocketAddr, u8, u8, &[u8], &[u8]) {
        let bytes = &self.contents;
        let rtp = (128..192).contains(&bytes[0]) && !(192..224).contains(&bytes[1]);
        let of = |from: usize, to| if rtp { &bytes[from..to] } else { &[][..] };
        (self.source, self.destination, bytes[0], bytes[1], of(8, 12), of(2, 4))
    }
}

/// See the module's description.
pub struct Network {
    flight: BinaryHeap<Reverse<(Instant, u64, Packet)>>,
    number: u64,
    random: u64,
    /// Applied to media once set; ICE and DTLS at the start are let through undisturbed.
    pub conditions: Conditions,
    /// Bits per second of what goes to one address, before those of the conditions.
    pub downlinks: BTreeMap<SocketAddr, u64>,
    /// Loss of what comes from one address, before that of the conditions.
    pub losses_from: BTreeMap<SocketAddr, f64>,
    busy_until: BTreeMap<SocketAddr, Instant>,
    pub lost: u64,
    /// Clients behind a NAT that has forgotten them: their own address, and the one they have now.
    pub rebound: BTreeMap<SocketAddr, SocketAddr>,
    pub cut: Vec<SocketAddr>,
    /// Whatever comes from these addresses is kept in `captured`.
    pub capture_from: Vec<SocketAddr>,
    pub captured: Vec<Packet>,
    /// Every packet since it was asked for.
    pub trace: Option<Vec<Traced>>,
    start: Instant,
}

impl Network {
    pub fn new(seed: u64, start: Instant) -> Self {
        Self {
            flight: BinaryHeap::new(),
            number: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            conditions: Conditions::default(),
            downlinks: BTreeMap::new(),
            losses_from: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            lost: 0,
            rebound: BTreeMap::new(),
            cut: Vec::new(),
            capture_from: Vec::new(),
            captured: Vec::new(),
            trace: None,
            start,
        }
    }

    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Sends what one moment brought. str0m keeps streams in hash maps and asks them in an order
    /// that no seed determines, so packets of a moment go by what is readable of them: kind, source
    /// of RTP and its number.
    pub fn send_all(&mut self, now: Instant, packets: &mut Vec<Packet>) {
        packets.sort_by(|one, other| one.readable().cmp(&other.readable()));
        for packet in packets.drain(..) {
            self.send(now, packet);
        }
    }

    pub fn send(&mut self, now: Instant, mut packet: Packet) {
        if !self.translate(&mut packet) {
            self.lost += 1;
            return;
        }
        if self.capture_from.contains(&packet.source) {
            self.captured.push(packet.clone());
        }
        let arrives = self.fate(now, &packet);
        if let Some(trace) = &mut self.trace {
            let since = |at: Instant| at - self.start;
            let (first, second) = (packet.contents[0], packet.contents[1]);
            let dtls = (20..64).contains(&first);
            let rtcp = (128..192).contains(&first) && (192..224).contains(&second);
            let kind = match (dtls, rtcp) {
                (true, _) => (first, 0),
                (_, true) => (128, 192),
                _ => (first, second),
            };
            let bytes = if dtls { 0 } else { packet.contents.len() };
            let (source, destination) = (packet.source, packet.destination);
            let (sent, arrives) = (since(now), arrives.map(since));
            trace.push(Traced { sent, source, destination, kind, bytes, arrives });
        }
        match arrives {
            Some(at) => {
                self.number += 1;
                self.flight.push(Reverse((at, self.number, packet)));
            }
            None => self.lost += 1,
        }
    }

    /// What the NAT makes of it; false when nobody has its destination any more.
    fn translate(&self, packet: &mut Packet) -> bool {
        if let Some(now) = self.rebound.get(&packet.source) {
            packet.source = *now;
        } else if self.rebound.contains_key(&packet.destination) {
            return false;
        }
        let mut all = self.rebound.iter();
        if let Some((own, _)) = all.find(|(_, now)| **now == packet.destination) {
            packet.destination = *own;
        }
        true
    }

    /// When the packet arrives, if it does.
    fn fate(&mut self, now: Instant, packet: &Packet) -> Option<Instant> {
        let draw = self.uniform();
        let jitter = self.conditions.jitter.mul_f64(self.uniform());
        let cut = self.cut.contains(&packet.source) || self.cut.contains(&packet.destination);
        let own = self.losses_from.get(&packet.source).copied();
        if cut || draw < own.unwrap_or(self.conditions.loss) {
            return None;
        }
        let mut leaves = now;
        let own = self.downlinks.get(&packet.destination).copied();
        let bits_per_second = own.unwrap_or(self.conditions.bits_per_second);
        if bits_per_second > 0 {
            let bits = packet.contents.len() as f64 * 8.0;
            let takes = Duration::from_secs_f64(bits / bits_per_second as f64);
            let busy = self.busy_until.entry(packet.destination).or_insert(now);
            leaves = (*busy).max(now) + takes;
            if leaves > now + Duration::from_millis(300) {
                return None;
            }
            *busy = leaves;
        }
        Some(leaves + self.conditions.delay + jitter)
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
