//! What a forwarded packet cannot cost less than: one AES-128-GCM seal and one `sendto`.
//!
//! Sends at the rate and in the bursts of the load it stands beside, from the server's namespace
//! and CPU, to as many sockets that read. Measures nothing else. Invariant: it does what every
//! forwarder without segmentation offload must do, and no more.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::namespaces::{self, GENERATOR, SERVER};
use crate::load::Usage;

/// First port of the sockets that receive.
const PORT_FIRST: u16 = 20_000;
/// What GCM adds (RFC 7714 §13.2).
const TAG_BYTES: usize = 16;
/// The RTP header, which is authenticated but not encrypted, with its extensions.
const HEADER_BYTES: usize = 24;
/// Kernel buffer of the sending socket, in bytes, as the media node asks for.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// How packets leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Receivers; each has a socket.
    pub receivers: u16,
    /// Packets that one receiver gets in one burst.
    pub run: u16,
    pub bursts_per_second: f64,
    /// Bytes of a sealed packet.
    pub bytes: usize,
    pub seconds: u64,
}

impl Shape {
    /// As one argument of the program that sends.
    fn to_argument(self) -> String {
        let Self { receivers, run, bursts_per_second, bytes, seconds } = self;
        format!("{receivers},{run},{bursts_per_second},{bytes},{seconds}")
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Which field is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = text.split(',');
        let mut field = |name: &'static str| fields.next().ok_or(name);
        let number = |name: &'static str| move |_| format!("`{name}` is not a number in `{text}`");
        let wanted = |name: &'static str| format!("`{name}` is missing in `{text}`");
        let receivers = field("receivers").map_err(wanted)?.parse().map_err(number("receivers"))?;
        let run = field("run").map_err(wanted)?.parse().map_err(number("run"))?;
        let rate = field("rate").map_err(wanted)?;
        let bursts_per_second =
            rate.parse().map_err(|_| format!("`rate` is not a number in `{text}`"))?;
        let bytes = field("bytes").map_err(wanted)?.parse().map_err(number("bytes"))?;
        let seconds = field("seconds").map_err(wanted)?.parse().map_err(number("seconds"))?;
        Ok(Self { receivers, run, bursts_per_second, bytes, seconds })
    }
}

/// CPU time of one packet, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    pub user: f64,
    pub system: f64,
}

impl Cost {
    /// Of `usage` shared by `packets`.
    pub(super) fn of(usage: &Usage, packets: u64) -> Self {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / packets.max(1) as f64;
        Self { user: each(usage.user), system: each(usage.system) }
    }

    #[must_use]
    pub fn total(&self) -> f64 {
        self.user + self.system
    }
}

/// Runs the floor in the server's place and returns what a packet cost there.
///
/// # Errors
/// If the sending program fails.
pub(super) async fn measure(cpu: usize, shape: Shape) -> anyhow::Result<Cost> {
    let receivers: Vec<_> = (0..shape.receivers).map(reader).collect::<anyhow::Result<_>>()?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = namespaces::in_server(cpu, Path::new(&program));
    command.args(["--bench", "--floor", &shape.to_argument()]).stdin(Stdio::null());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    receivers.iter().for_each(tokio::task::JoinHandle::abort);
    let output = output.context("cannot run the floor")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut numbers = said.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(Cost { user, system }),
        _ => anyhow::bail!("the floor failed: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A socket that is read for ever.
fn reader(at: u16) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let socket = UdpSocket::bind((GENERATOR, PORT_FIRST + at)).context("cannot bind a receiver")?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    Ok(tokio::spawn(async move {
        let mut buffer = vec![0; 2048];
        while socket.recv(&mut buffer).await.is_ok() {}
    }))
}

/// The sending program: bursts at their times until the end, then user and system microseconds of
/// a packet.
///
/// # Errors
/// If there is no socket, or the kernel does not tell what was used.
pub(super) fn send(shape: Shape) -> anyhow::Result<Cost> {
    let socket = UdpSocket::bind((SERVER, 0)).context("cannot bind in the server's namespace")?;
    let _best_effort = socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES);
    let sender = Sender::new(socket, shape)?;
    let before = Usage::of(std::process::id())?;
    let packets = sender.run();
    let after = Usage::of(std::process::id())?;
    Ok(Cost::of(&after.since(&before), packets))
}

struct Sender {
    socket: UdpSocket,
    key: LessSafeKey,
    shape: Shape,
}

impl Sender {
    fn new(socket: UdpSocket, shape: Shape) -> anyhow::Result<Self> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).context("no AES-GCM here")?;
        Ok(Self { socket, key: LessSafeKey::new(key), shape })
    }

    /// Returns the packets sent.
    fn run(&self) -> u64 {
        let Shape { receivers, run, bursts_per_second, bytes, seconds } = self.shape;
        let clear = vec![0x5a; bytes.saturating_sub(TAG_BYTES)];
        let mut packet = Vec::with_capacity(bytes);
        let (start, mut bursts, mut packets) = (Instant::now(), 0_u32, 0_u64);
        while start.elapsed() < Duration::from_secs(seconds) {
            for at in 0..receivers {
                let destination = SocketAddr::from((GENERATOR, PORT_FIRST + at));
                for _ in 0..run {
                    packets += 1;
                    packet.clear();
                    packet.extend_from_slice(&clear);
                    self.seal(packets, &mut packet);
                    let _dropped = self.socket.send_to(&packet, destination);
                }
            }
            bursts += 1;
            let due = Duration::from_secs_f64(f64::from(bursts) / bursts_per_second);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        packets
    }

    fn seal(&self, number: u64, packet: &mut Vec<u8>) {
        let mut nonce = [0; 12];
        if let Some(low) = nonce.last_chunk_mut::<8>() {
            *low = number.to_be_bytes();
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let split = HEADER_BYTES.min(packet.len());
        let (header, payload) = packet.split_at_mut(split);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), payload);
        if let Ok(tag) = sealed {
            packet.extend_from_slice(tag.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    #[test]
    fn a_shape_survives_the_command_line() {
        let shape =
            Shape { receivers: 100, run: 7, bursts_per_second: 29.97, bytes: 1_120, seconds: 5 };
        assert_eq!(Shape::parse(&shape.to_argument()), Ok(shape));
        assert!(Shape::parse("100,7,x,1,1").unwrap_err().contains("rate"));
        assert!(Shape::parse("100").unwrap_err().contains("run"));
    }
}
