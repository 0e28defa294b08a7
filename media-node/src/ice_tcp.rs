//! Media over TCP (ICE-TCP passive, RFC 6544) in frames of RFC 4571.
//!
//! Decides which shard a connection belongs to, by the first STUN message's user name; it then
//! belongs there for good. Invariant: before that message a connection costs one task and
//! [`FIRST_FRAME_MAX`], and everything about it is bounded in size and time.

mod framing;

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use places::Places;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use self::framing::{framed, local_ufrag, read_frame};
use crate::node::{Node, count};
use crate::shard::{ShardCommand, ShardHandle, TCP_FRAMES_MAX, TCP_FRAMES_WAITING_MAX};

/// Connections at once; a participant has one or two.
const CONNECTIONS_MAX: usize = 4_096;
/// Of these, those of one address, so that none takes all.
const CONNECTIONS_PER_ADDRESS_MAX: usize = CONNECTIONS_MAX / 2;
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
    let places = Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX);
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.take(source.ip()) else {
            count(&node.counters.tcp_refused);
            continue;
        };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            carry(stream, source, advertised, &node).await;
            drop(place);
        });
    }
}

async fn carry(stream: TcpStream, source: SocketAddr, destination: SocketAddr, node: &Node) {
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let first = timeout(FIRST_FRAME_WITHIN, read_frame(&mut reader, FIRST_FRAME_MAX)).await;
    let first = match first {
        Ok(Ok(frame)) => Some(frame),
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => None,
        // Browsers open every candidate and use one.
        Ok(Err(_)) | Err(_) => return,
    };
    let ufrag = first.as_deref().and_then(local_ufrag);
    let shard = ufrag.and_then(|ufrag| shard_of(node, ufrag));
    let (Some(shard), Some(frame)) = (shard, first) else {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
