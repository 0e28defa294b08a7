//! The pipe between a client's WebSocket and its media node.
//!
//! Passes bytes on as they are, so that compression and messages are the ends' own business.
//! Decides only when to stop. Invariant: memory per pipe is [`BUFFER_BYTES`] each way; a side that
//! does not read, or a client that is silent for too long, ends its own pipe and nothing else.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, sink};
use tokio::time::timeout;

use crate::frames::{FrameBoundary, close_frame};
use crate::metrics::Metrics;

/// Read at once in each direction. Signalling messages are mostly below it; longer ones take
/// several turns.
const BUFFER_BYTES: usize = 8 * 1024;
/// How long the other side may take to finish after one side has ended.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
/// RFC 6455's registry: service restart. SDKs come back on any code but 1000.
const SERVICE_RESTART: u16 = 1012;

/// Why a pipe is to be stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The media node is gone; the room has, or will have, a new home.
    MediaNodeGone,
    /// This gateway is being replaced.
    GatewayStops,
}

/// What ended a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed or vanished.
    Client,
    /// The media node closed or vanished.
    MediaNode,
    /// The client was silent for too long.
    Idle,
    /// A side did not take bytes in time.
    Write,
    /// Stopped from outside.
    Stopped(Stop),
}

impl Ended {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::MediaNode => "media_node",
            Self::Idle => "idle",
            Self::Write => "write_timeout",
            Self::Stopped(Stop::MediaNodeGone) => "media_node_gone",
            Self::Stopped(Stop::GatewayStops) => "gateway_stops",
        }
    }
}

/// Times of a pipe.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Longest silence of a client: SDKs ping every 5 to 10 s.
    pub idle: Duration,
    /// Longest time that one write may take.
    pub write: Duration,
}

/// Passes bytes both ways until a side ends or `stop` says so.
pub async fn run<C, M>(
    client: C,
    media_node: M,
    stop: impl Future<Output = Stop>,
    times: Times,
    metrics: &Metrics,
) -> Ended
where
    C: AsyncRead + AsyncWrite,
    M: AsyncRead + AsyncWrite,
{
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (media_read, media_write) = tokio::io::split(media_node);
    let mut boundary = FrameBoundary::default();
    // Set while a write to the client is under way: cut short, it may have ended within a frame.
    let writing = AtomicBool::new(false);
    let ended = {
        let up = metrics.bytes.with_label_values(&["to_media_node"]);
        let down = metrics.bytes.with_label_values(&["to_client"]);
        let up =
            copy(&mut client_read, media_write, Some(times.idle), times.write, |bytes, done| {
                if done {
                    up.inc_by(bytes.len() as u64);
                }
            });
        let down = copy(media_read, &mut client_write, None, times.write, |bytes, done| {
            writing.store(!done, Ordering::Relaxed);
            if done {
                down.inc_by(bytes.len() as u64);
                boundary.pass(bytes);
            }
        });
        tokio::pin!(up, down);
        tokio::select! {
            stop = stop => Ended::Stopped(stop),
            end = &mut up => {
                if end != End::Idle {
                    // The answer to a client's Close is on its way, or a media node's last word.
                    let _ = timeout(FINISH_WITHIN, &mut down).await;
                }
                end.between(Ended::Client, Ended::MediaNode)
            }
            // Not waited for: a client whose line has been closed waits for its end (RFC 6455
            // §7.1.1), and one whose media node died shall know it at once.
            end = &mut down => end.between(Ended::MediaNode, Ended::Client),
        }
    };
    let may_close = !writing.into_inner() && boundary.is_between_frames() && !boundary.saw_close();
    if may_close && !matches!(ended, Ended::Client | Ended::Write) {
        let reason = match ended {
            Ended::Stopped(Stop::GatewayStops) => "gateway restarts",
            Ended::Idle => "no message for too long",
            _ => "media node is gone",
        };
        let frame = close_frame(SERVICE_RESTART, reason);
        let _ = timeout(FINISH_WITHIN, client_write.write_all(&frame)).await;
    }
    let _ = timeout(FINISH_WITHIN, client_write.shutdown()).await;
    if !matches!(ended, Ended::Client | Ended::Write) {
        // Dropped over unread bytes the line would be reset, and its last words lost.
        let _ = timeout(FINISH_WITHIN, tokio::io::copy(&mut client_read, &mut sink())).await;
    }
    ended
}

/// Why bytes go from one side to the other no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The side that is read closed or vanished.
    Closed,
    /// The side that is written to takes no more.
    Refused,
    /// The side that is read was silent for too long.
    Idle,
    /// A write took too long.
    Write,
}

impl End {
    /// What it says of a pipe that reads from `from` and writes to `to`.
    const fn between(self, from: Ended, to: Ended) -> Ended {
        match self {
            Self::Closed => from,
            Self::Refused => to,
            Self::Idle => Ended::Idle,
            Self::Write => Ended::Write,
        }
    }
}

/// Passes bytes on until a side ends; `note` is told of each piece before and after it is written.
async fn copy<R, W>(
    mut from: R,
    mut to: W,
    idle: Option<Duration>,
    write: Duration,
    mut note: impl FnMut(&[u8], bool),
) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer);
        let read: io::Result<usize> = match idle {
            Some(idle) => match timeout(idle, read).await {
                Ok(read) => read,
                Err(_) => return End::Idle,
            },
            None => read.await,
        };
        let bytes = match read {
            Ok(count) if count > 0 => buffer.get(..count).unwrap_or_default(),
            _ => return End::Closed,
        };
        note(bytes, false);
        let written = timeout(write, async {
            to.write_all(bytes).await?;
            to.flush().await
        });
        match written.await {
            Ok(Ok(())) => note(bytes, true),
            Ok(Err(_)) => return End::Refused,
            Err(_) => return End::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, poll};
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const TIMES: Times = Times { idle: Duration::from_secs(30), write: Duration::from_secs(5) };
    /// Turns in which a pipe does all that it can do without waiting for time to pass.
    const TURNS: usize = 64;

    /// The far ends of a pipe, the client's and the media node's, and the pipe.
    fn pipe() -> (DuplexStream, DuplexStream, impl Future<Output = Ended>) {
        let ((client, ours), (media_node, theirs)) = (duplex(1 << 16), duplex(1 << 16));
        let pipe = async move {
            let metrics = Metrics::new().unwrap();
            run(ours, theirs, std::future::pending(), TIMES, &metrics).await
        };
        (client, media_node, pipe)
    }

    /// Lets the pipe do what it can do at once.
    async fn at_once(mut pipe: std::pin::Pin<&mut impl Future<Output = Ended>>) -> Option<Ended> {
        for _ in 0..TURNS {
            if let std::task::Poll::Ready(ended) = poll!(pipe.as_mut()) {
                return Some(ended);
            }
        }
        None
    }

    /// All that came, if the line is closed behind it by now.
    fn closed_after(end: &mut DuplexStream) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        end.read_to_end(&mut all).now_or_never()?.unwrap();
        Some(all)
    }

    /// A client that has answered a Close waits until the server closes the line.
    #[tokio::test]
    async fn a_line_that_the_media_node_closed_is_closed_at_once() {
        let (mut client, mut media_node, pipe) = pipe();
        let mut pipe = pin!(pipe);
        let goodbye = close_frame(1000, "bye");
        media_node.write_all(&goodbye).await.unwrap();
        drop(media_node);
        assert_eq!(at_once(pipe.as_mut()).await, None, "the client has not closed yet");
        assert_eq!(closed_after(&mut client).unwrap(), goodbye, "nothing is added to it");
        drop(client);
        assert_eq!(at_once(pipe).await, Some(Ended::MediaNode));
    }

    #[tokio::test]
    async fn whoever_loses_a_media_node_is_told_at_once_and_not_waited_for_long() {
        let (mut client, media_node, pipe) = pipe();
        let mut pipe = pin!(pipe);
        drop(media_node);
        assert_eq!(at_once(pipe.as_mut()).await, None);
        let told = closed_after(&mut client).unwrap();
        assert_eq!(told, close_frame(SERVICE_RESTART, "media node is gone"));
        assert_eq!(pipe.await, Ended::MediaNode, "the client stays, the pipe does not");
    }

    /// Whichever of the two directions notices it first.
    #[tokio::test]
    async fn a_media_node_that_takes_no_more_is_the_side_that_ended() {
        let (mut client, media_node, pipe) = pipe();
        client.write_all(b"ping").await.unwrap();
        drop(media_node);
        let mut pipe = pin!(pipe);
        assert_eq!(at_once(pipe.as_mut()).await, None);
        let told = closed_after(&mut client).unwrap();
        assert_eq!(told, close_frame(SERVICE_RESTART, "media node is gone"));
        drop(client);
        assert_eq!(at_once(pipe).await, Some(Ended::MediaNode));
    }

    #[tokio::test]
    async fn the_answer_to_a_clients_close_still_comes() {
        let (mut client, mut media_node, pipe) = pipe();
        let mut pipe = pin!(pipe);
        client.write_all(b"close").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(at_once(pipe.as_mut()).await, None, "the answer is waited for");
        let mut asked = [0; 5];
        media_node.read_exact(&mut asked).await.unwrap();
        media_node.write_all(b"answer").await.unwrap();
        drop(media_node);
        assert_eq!(at_once(pipe).await, Some(Ended::Client));
        assert_eq!(closed_after(&mut client).unwrap(), b"answer");
    }
}
