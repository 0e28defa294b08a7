//! The pipe between a client's WebSocket and its media node.
//!
//! Passes bytes on as they are, so that compression and messages are the ends' own business.
//! Decides only when to stop. Invariant: memory per pipe is [`BUFFER_BYTES`] each way; a side that
//! does not read, or a client that is silent for too long, ends its own pipe and nothing else.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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
    let (client_read, mut client_write) = tokio::io::split(client);
    let (media_read, media_write) = tokio::io::split(media_node);
    let mut boundary = FrameBoundary::default();
    // Set while a write to the client is under way: cut short, it may have ended within a frame.
    let writing = AtomicBool::new(false);
    let ended = {
        let up = metrics.bytes.with_label_values(&["to_media_node"]);
        let down = metrics.bytes.with_label_values(&["to_client"]);
        let up = copy(client_read, media_write, Some(times.idle), times.write, |bytes, done| {
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
                if end == End::Closed {
                    // The answer to a client's Close is on its way.
                    let _ = timeout(FINISH_WITHIN, &mut down).await;
                }
                end.of(Ended::Client)
            }
            end = &mut down => {
                if end == End::Closed {
                    let _ = timeout(FINISH_WITHIN, &mut up).await;
                }
                end.of(Ended::MediaNode)
            }
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
    ended
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Idle,
    Write,
}

impl End {
    const fn of(self, closed_by: Ended) -> Ended {
        match self {
            Self::Closed => closed_by,
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
            Ok(Err(_)) => return End::Closed,
            Err(_) => return End::Write,
        }
    }
}
