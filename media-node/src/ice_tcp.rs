//! Media over TCP (ICE-TCP passive, RFC 6544) in frames of RFC 4571.
//!
//! Decides which shard a connection belongs to, by the first STUN message's user name; it then
//! belongs there for good. Invariant: before that message a connection costs one task and
//! [`FIRST_FRAME_MAX`], and everything about it is bounded in size and time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::node::{Node, count};
use crate::shard::{ShardCommand, ShardHandle, TCP_FRAMES_MAX, TCP_FRAMES_WAITING_MAX};

/// Connections at once; a participant has one or two.
const CONNECTIONS_MAX: usize = 4_096;
/// Ufrags remembered: two connections of each participant, several times as many as fit a node.
const UFRAGS_MAX: usize = 65_536;
/// A first frame is a STUN binding request; 1,500 bytes hold any.
const FIRST_FRAME_MAX: usize = 1_500;
/// The first frame must come within this time.
const FIRST_FRAME_WITHIN: Duration = Duration::from_secs(5);
/// Without any frame for this long the other end is gone: ICE checks consent every 5 s.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A frame that cannot be written for this long ends the connection.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Accepts for ever.
pub async fn serve(listener: TcpListener, advertised: SocketAddr, node: Arc<Node>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            count(&node.counters.tcp_refused);
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (open, node) = (Arc::clone(&open), Arc::clone(&node));
        tokio::spawn(async move {
            carry(stream, source, advertised, &node).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn carry(stream: TcpStream, source: SocketAddr, destination: SocketAddr, node: &Node) {
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let first = timeout(FIRST_FRAME_WITHIN, read_frame(&mut reader, FIRST_FRAME_MAX)).await;
    if !matches!(&first, Ok(Ok(_))) {
        // Browsers open every candidate and use one.
        return;
    }
    let shard = match &first {
        Ok(Ok(frame)) => local_ufrag(frame).and_then(|ufrag| shard_of(node, ufrag)),
        _ => None,
    };
    let (Some(shard), Ok(Ok(frame))) = (shard, first) else {
        tracing::debug!("media TCP connection did not begin with a STUN binding request for us");
        return count(&node.counters.tcp_refused);
    };
    let (outgoing, frames) = mpsc::channel(TCP_FRAMES_MAX);
    if shard.send(ShardCommand::TcpOpened { source, destination, outgoing }).is_err() {
        return count(&node.counters.tcp_refused);
    }
    let writing = tokio::spawn(write_frames(writer, frames));
    let mut contents = frame;
    let places = Arc::new(Semaphore::new(TCP_FRAMES_WAITING_MAX));
    loop {
        // A shard that is behind loses the frame, as it would lose a datagram.
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let _ = shard.send(ShardCommand::TcpFrame { source, destination, contents, place });
        }
        match timeout(IDLE_MAX, read_frame(&mut reader, usize::from(u16::MAX))).await {
            Ok(Ok(frame)) => contents = frame,
            _ => break,
        }
        if writing.is_finished() {
            break;
        }
    }
    writing.abort();
    let _ = shard.send_patiently(ShardCommand::TcpClosed { source, destination }).await;
}

/// Which shard gave out which ufrag, learnt from the descriptions it sends. A user name that is
/// not here belongs to nobody.
#[derive(Default)]
pub struct Ufrags {
    shards: BTreeMap<String, usize>,
    order: VecDeque<String>,
}

impl Ufrags {
    /// Learns from an offer or answer of `shard`; forgets the oldest beyond [`UFRAGS_MAX`].
    pub fn learn(&mut self, sdp: &str, shard: usize) {
        let Some(ufrag) = sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")) else {
            return;
        };
        let ufrag = ufrag.trim_end().to_owned();
        if self.shards.insert(ufrag.clone(), shard).is_none() {
            self.order.push_back(ufrag);
        }
        if self.order.len() > UFRAGS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.shards.remove(&oldest);
        }
    }

    /// The shard that gave it out.
    pub fn shard(&self, ufrag: &str) -> Option<usize> {
        self.shards.get(ufrag).copied()
    }
}

fn shard_of<'a>(node: &'a Node, ufrag: &str) -> Option<&'a ShardHandle> {
    let shard = node.ufrags().shard(ufrag)?;
    node.shards.get(shard)
}

/// One frame: a length of two bytes, then that many (RFC 4571 §2).
async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> std::io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16().await?);
    if length > bytes_max {
        return Err(std::io::Error::other("frame too long"));
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await?;
    Ok(frame)
}

/// A frame with its length before it; nothing when it has no RFC 4571 form.
fn framed(contents: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(contents.len()).ok()?;
    let mut bytes = Vec::with_capacity(contents.len() + 2);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(contents);
    Some(bytes)
}

async fn write_frames(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(contents) = frames.recv().await {
        let Some(bytes) = framed(&contents) else {
            continue;
        };
        match timeout(WRITE_WITHIN, writer.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// Our ufrag in a STUN binding request: USERNAME is `ours:theirs` (RFC 8445 §7.2.2).
fn local_ufrag(message: &[u8]) -> Option<&str> {
    const HEADER: usize = 20;
    const USERNAME: u16 = 0x0006;
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    if message.get(..2)? != [0, 1] || message.get(4..8)? != COOKIE {
        return None;
    }
    let mut rest = message.get(HEADER..)?;
    loop {
        let kind = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let value = rest.get(4..4 + length)?;
        if kind == USERNAME {
            let (ours, _) = std::str::from_utf8(value).ok()?.split_once(':')?;
            return Some(ours);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(username: &str) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        message.extend_from_slice(&[7; 12]);
        message.extend_from_slice(&[0x80, 0x22, 0, 3, b'x', b'y', b'z', 0]);
        message.extend_from_slice(&[0, 6, 0, username.len() as u8]);
        message.extend_from_slice(username.as_bytes());
        message
    }

    #[test]
    fn the_ufrag_is_found_behind_other_attributes() {
        assert_eq!(local_ufrag(&binding("03abcd:theirs")), Some("03abcd"));
        assert_eq!(local_ufrag(&binding("no colon")), None);
    }

    #[test]
    fn ufrags_are_learnt_from_descriptions_and_bounded() {
        let mut ufrags = Ufrags::default();
        ufrags.learn("v=0\r\nm=audio\r\na=ice-ufrag:first\r\na=ice-ufrag:first\r\n", 3);
        ufrags.learn("v=0\r\n", 1);
        assert_eq!((ufrags.shard("first"), ufrags.shard("other")), (Some(3), None));
        for number in 0..=UFRAGS_MAX {
            ufrags.learn(&format!("a=ice-ufrag:{number}\r\n"), 0);
        }
        assert_eq!(ufrags.shard("first"), None);
        assert_eq!(ufrags.order.len(), ufrags.shards.len());
    }

    #[test]
    fn every_cut_of_a_message_is_harmless() {
        let whole = binding("03abcd:theirs");
        for length in 0..whole.len() {
            assert_eq!(local_ufrag(&whole[..length]), None, "cut at {length}");
        }
        assert_eq!(local_ufrag(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), None);
    }

    #[test]
    fn no_noise_makes_the_parser_fail() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for _ in 0..50_000 {
            let mut message = binding("03abcd:theirs");
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..message.len());
                message[at] = random.random();
            }
            message.truncate(random.random_range(0..=message.len()));
            let _ = local_ufrag(&message);
        }
    }

    #[tokio::test]
    async fn frames_survive_any_split_and_long_ones_are_refused() {
        let mut bytes = framed(b"first").unwrap();
        bytes.extend(framed(b"").unwrap());
        bytes.extend(framed(&[9; 3_000]).unwrap());
        let mut reader = bytes.as_slice();
        assert_eq!(read_frame(&mut reader, 1_500).await.unwrap(), b"first");
        assert_eq!(read_frame(&mut reader, 1_500).await.unwrap(), b"");
        assert!(read_frame(&mut reader, 1_500).await.is_err());
        assert!(read_frame(&mut b"\0\x05ab".as_slice(), 1_500).await.is_err(), "broken off");
        assert_eq!(framed(&vec![0; 70_000]), None);
    }
}
