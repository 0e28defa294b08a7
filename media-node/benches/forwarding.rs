//! What a forwarded packet costs, beside what it cannot cost less than: `cargo bench -p
//! media-node`.
//!
//! The floor is one AES-128-GCM seal and one UDP send on the media node's own sockets, with and
//! without segmentation offload. The path is the real shard with real participants: decrypted,
//! chosen, rewritten, sealed per subscriber, and sent. Prints all of it in one run and asserts
//! nothing: figures of one machine are to be compared with each other only. Invariant: what
//! participants themselves cost is not counted.

#[path = "../core/tests/sim_support/mod.rs"]
mod sim_support;

use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket as SystemSocket};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use media_core::io::{Input, Output, Transmit, Transport};
use media_node::net::{Runs, SendBatch, UdpSocket};
use sim_support::network::Packet;
use sim_support::world::{SERVER, World};
use str0m::media::MediaKind;

/// Bytes of a video packet and of an audio packet, as sealed.
const SIZES: [usize; 2] = [1_100, 120];
/// Receivers of one sender.
const SUBSCRIBERS: [usize; 3] = [2, 10, 40];
/// Each figure is the least of this many trials: the rest is the neighbours' noise.
const TRIALS: usize = 7;
/// How long one trial of the floor runs.
const TRIAL: Duration = Duration::from_millis(60);
/// Time simulated per measurement of the path.
const MEETING: Duration = Duration::from_secs(4);

fn main() {
    println!("ns per packet; the least of {TRIALS} trials; loopback, so with the receive half");
    for bytes in SIZES {
        floor(bytes);
    }
    println!();
    println!("forwarding path of one shard, 1 publisher, AES-GCM, no socket | with sockets");
    for subscribers in SUBSCRIBERS {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            path(kind, subscribers);
        }
    }
}

/// The least time per operation over the trials.
fn least(mut operation: impl FnMut() -> usize) -> f64 {
    let trial = |_| {
        let start = Instant::now();
        let mut done = 0;
        while start.elapsed() < TRIAL {
            done += operation();
        }
        start.elapsed().as_nanos() as f64 / done.max(1) as f64
    };
    (0..TRIALS).map(trial).fold(f64::INFINITY, f64::min)
}

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key of the right length"))
}

fn seal(key: &LessSafeKey, number: u64, packet: &mut Vec<u8>, bytes: usize) {
    packet.clear();
    packet.resize(bytes - 16, 0x5a);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let (header, payload) = packet.split_at_mut(12);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), payload);
    packet.extend_from_slice(tag.expect("a packet is never too long").as_ref());
}

/// Sockets that receive and never read: the kernel drops what does not fit.
fn sinks(count: usize) -> (Vec<SystemSocket>, Vec<SocketAddr>) {
    let sockets: Vec<_> =
        (0..count).map(|_| SystemSocket::bind("127.0.0.1:0").expect("loopback is there")).collect();
    let addresses = sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect();
    (sockets, addresses)
}

fn media_socket() -> UdpSocket {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    UdpSocket::bind(any, any).expect("loopback is there")
}

fn floor(bytes: usize) {
    let key = key();
    let mut number = 0;
    let mut packet = Vec::with_capacity(2_048);
    let sealing = least(|| {
        number += 1;
        seal(&key, number, &mut packet, bytes);
        black_box(&packet);
        1
    });
    let (_sockets, addresses) = sinks(100);
    let plain = SystemSocket::bind("127.0.0.1:0").expect("loopback is there");
    let sending = least(|| {
        for address in &addresses {
            let _dropped = plain.send_to(&packet, address);
        }
        addresses.len()
    });
    print!(
        "{bytes:>5} bytes: seal {sealing:>5.0} | sendto {sending:>5.0} | seal + send in runs of"
    );
    let mut sockets = [media_socket()];
    let mut batch = SendBatch::default();
    let mut runs = Runs::default();
    for run in [1, 2, 4, 8] {
        let cost = least(|| {
            for address in &addresses {
                for _ in 0..run {
                    let mut sealed = Vec::with_capacity(bytes);
                    number += 1;
                    seal(&key, number, &mut sealed, bytes);
                    runs.push(0, *address, sealed);
                }
            }
            batch.flush(&mut sockets, &mut runs);
            addresses.len() * run
        });
        print!(" {run}: {cost:.0}");
    }
    println!();
}

/// A meeting whose participants are simulated and whose shard is real.
struct Meeting {
    world: World,
    deadline: Instant,
    transmits: Vec<Transmit>,
    /// What participants have sent and the shard has not seen.
    incoming: Vec<Packet>,
    sockets: [UdpSocket; 1],
    batch: SendBatch,
    runs: Runs,
    sinks: Vec<SocketAddr>,
    /// Time in the shard, and in sending.
    shard: Duration,
    sending: Duration,
    forwarded: usize,
}

impl Meeting {
    /// Everyone is in the room and receives what the first one publishes.
    fn new(kind: MediaKind, subscribers: usize, sinks: Vec<SocketAddr>) -> Self {
        let mut world = World::new(1);
        let publisher = world.join("publisher");
        for subscriber in 0..subscribers {
            world.join(&format!("subscriber {subscriber}"));
        }
        let connected = |world: &World| world.clients.iter().all(|client| client.connected);
        world.until(Duration::from_secs(20), "everyone is connected", connected);
        let rids: &[&str] = if kind == MediaKind::Video { &["q", "h", "f"] } else { &[] };
        world.clients[publisher].publish("track", kind, rids);
        let receives = |world: &World| world.clients.iter().skip(1).all(|c| !c.seen.is_empty());
        world.until(Duration::from_secs(20), "everyone receives", receives);
        world.run(Duration::from_secs(8));
        let deadline = world.now;
        Self {
            world,
            deadline,
            transmits: Vec::new(),
            incoming: Vec::new(),
            sockets: [media_socket()],
            batch: SendBatch::default(),
            runs: Runs::default(),
            sinks,
            shard: Duration::ZERO,
            sending: Duration::ZERO,
            forwarded: 0,
        }
    }

    /// Goes on for a while, in steps of a millisecond.
    fn run(&mut self, kind: MediaKind, duration: Duration) {
        let interval = if kind == MediaKind::Video { 33 } else { 20 };
        for millisecond in 0..duration.as_millis() {
            self.world.now += Duration::from_millis(1);
            let now = self.world.now;
            if millisecond % interval == 0 {
                let publisher = &mut self.world.clients[0];
                publisher.speak(now);
                publisher.film(now);
                publisher.drive(now, &mut self.incoming);
            }
            if millisecond % 50 == 0 {
                for client in &mut self.world.clients {
                    client.drive(now, &mut self.incoming);
                }
            }
            if !self.incoming.is_empty() || self.deadline <= now {
                self.wake();
            }
        }
    }

    /// One wake-up of the shard: what has come in is handled, what comes out is sent.
    fn wake(&mut self) {
        let now = self.world.now;
        let incoming = std::mem::take(&mut self.incoming);
        let shard = &mut self.world.shard;
        let start = Instant::now();
        for packet in &incoming {
            let (source, contents) = (packet.source, packet.contents.as_slice());
            let (transport, destination) = (Transport::Udp, SocketAddr::from(SERVER));
            shard.handle(now, Input::Datagram { transport, source, destination, contents });
        }
        if self.deadline <= now {
            shard.handle(now, Input::Timeout);
        }
        loop {
            match shard.poll() {
                Output::Transmit(transmit) => self.transmits.push(transmit),
                Output::Timeout(at) => {
                    self.deadline = at;
                    break;
                }
                other => drop(other),
            }
        }
        self.shard += start.elapsed();
        self.deliver();
        self.send();
    }

    /// To the participants, whose time is not counted.
    fn deliver(&mut self) {
        let now = self.world.now;
        for transmit in &self.transmits {
            // RTP, not RTCP, STUN or DTLS (RFC 7983, RFC 5761).
            let is_media = matches!(transmit.contents[..], [128..=191, kind, ..]
                if !(192..=223).contains(&kind));
            self.forwarded += usize::from(is_media);
            let (source, destination) = (transmit.source, transmit.destination);
            let packet = Packet { source, destination, contents: transmit.contents.clone() };
            let mut clients = self.world.clients.iter_mut();
            if let Some(client) = clients.find(|c| c.addresses().contains(&destination)) {
                client.receive(now, &packet);
                client.drive(now, &mut self.incoming);
            }
        }
    }

    /// Through the media node's own sockets, to sinks: one for each subscriber.
    fn send(&mut self) {
        let start = Instant::now();
        for transmit in self.transmits.drain(..) {
            let SocketAddr::V4(destination) = transmit.destination else { continue };
            let subscriber = usize::from(destination.ip().octets()[3]);
            let sink = self.sinks[subscriber % self.sinks.len()];
            self.runs.push(0, sink, transmit.contents);
        }
        self.batch.flush(&mut self.sockets, &mut self.runs);
        self.sending += start.elapsed();
    }
}

fn path(kind: MediaKind, subscribers: usize) {
    let (_sockets, sinks) = sinks(subscribers + 1);
    let mut meeting = Meeting::new(kind, subscribers, sinks);
    let mut best = (f64::INFINITY, f64::INFINITY);
    let counted = meeting.batch.counters();
    let mut rate = 0.0;
    for _ in 0..TRIALS {
        (meeting.shard, meeting.sending, meeting.forwarded) = Default::default();
        meeting.run(kind, MEETING / TRIALS as u32);
        let per_packet = |time: Duration| time.as_nanos() as f64 / meeting.forwarded.max(1) as f64;
        let (shard, sending) = (per_packet(meeting.shard), per_packet(meeting.sending));
        if shard + sending < best.0 + best.1 {
            best = (shard, sending);
        }
        let seconds = (MEETING / TRIALS as u32).as_secs_f64();
        rate = meeting.forwarded as f64 / seconds;
    }
    let sent = meeting.batch.counters();
    let run =
        (sent.packets - counted.packets) as f64 / (sent.messages - counted.messages).max(1) as f64;
    println!(
        "{kind:?} × {subscribers:>2} subscribers: {:>6.0} | {:>6.0}   ({rate:.0} packets/s, \
         {run:.2} per message, sending {:.0})",
        best.0,
        best.0 + best.1,
        best.1
    );
}
