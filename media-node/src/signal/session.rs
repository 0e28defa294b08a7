//! One WebSocket: frames to commands, messages to frames, pings, time limits.
//!
//! Decides when a client has gone or misbehaves; knows nothing of what messages mean beyond pings.
//! Invariant: when it ends, however it ends, its shard learns so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use livekit_contract::frame::{self, Encoding};
use livekit_protocol::{Pong, SignalResponse, signal_request, signal_response};
use media_core::ids::ConnectionId;
use media_core::io::{CloseReason, Command};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::keys::unix_millis;
use crate::node::{Node, count};
use crate::shard::{REQUESTS_WAITING_MAX, ShardCommand, ShardHandle, ToClient};

/// WebSocket pings of the server (LiveKit: 10 s); they keep middleboxes from forgetting us.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A client that answers neither pings nor anything else for three pings is gone.
const IDLE_MAX: Duration = Duration::from_secs(35);
/// A frame that the client does not take for this long ends the connection.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long a client may take to answer a close frame.
const LINGER: Duration = Duration::from_secs(2);

/// Requests per second one client may send for long; a join with its candidates takes about 50,
/// a busy grid with adaptive stream tens a second.
const REQUESTS_PER_SECOND: f64 = 100.0;
/// Requests it may send at once.
const REQUESTS_BURST: f64 = 1_000.0;

/// Why a connection ends, as close code and text for the client.
struct Ending {
    code: u16,
    reason: &'static str,
}

const GOING: Ending = Ending { code: close_code::NORMAL, reason: "" };
const SLOW: Ending = Ending { code: close_code::AGAIN, reason: "signalling is not read" };
const SILENT: Ending = Ending { code: close_code::AWAY, reason: "no sign of life" };
const OVERLOADED: Ending = Ending { code: close_code::AGAIN, reason: "media node overloaded" };
const NOT_A_REQUEST: Ending =
    Ending { code: close_code::PROTOCOL, reason: "frame is not a SignalRequest" };
const TOO_BIG: Ending = Ending { code: close_code::SIZE, reason: "frame is not readable" };

/// A bucket of requests: who empties it waits and is not cut off.
struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { left: REQUESTS_BURST, at: now }
    }

    /// How long the next request has to wait.
    fn wait(&mut self, now: Instant) -> Duration {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * REQUESTS_PER_SECOND;
        self.left = (self.left + refill).min(REQUESTS_BURST) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.left).max(0.0) / REQUESTS_PER_SECOND)
    }
}

/// What one frame of a client asks for.
enum Asked {
    Nothing,
    Pong(Message),
    Request(Box<signal_request::Message>),
}

/// One client's signalling connection.
pub(super) struct Session {
    node: Arc<Node>,
    shard: ShardHandle,
    connection: ConnectionId,
    outgoing: mpsc::Receiver<ToClient>,
    encoding: Encoding,
    pace: Pace,
    places: Arc<Semaphore>,
}

impl Session {
    pub(super) fn new(
        node: Arc<Node>,
        shard: ShardHandle,
        connection: ConnectionId,
        outgoing: mpsc::Receiver<ToClient>,
    ) -> Self {
        Self {
            node,
            shard,
            connection,
            outgoing,
            encoding: Encoding::Binary,
            pace: Pace::new(Instant::now()),
            places: Arc::new(Semaphore::new(REQUESTS_WAITING_MAX)),
        }
    }

    /// Tells the shard who is here, serves the socket until it ends, and tells the shard that.
    pub(super) async fn run(mut self, mut socket: WebSocket, attach: ShardCommand) {
        let open = &self.node.counters.websockets_open;
        open.fetch_add(1, Ordering::Relaxed);
        let ending = match self.shard.send_patiently(attach).await {
            Ok(()) => self.serve(&mut socket).await,
            Err(_) => OVERLOADED,
        };
        let connection = self.connection;
        let closed = ShardCommand::from(Command::SignalClosed { connection });
        if self.shard.send_patiently(closed).await.is_err() {
            tracing::warn!(shard = self.shard.index, "shard did not take a closed connection");
        }
        let frame = CloseFrame { code: ending.code, reason: ending.reason.into() };
        let _ = timeout(WRITE_MAX, socket.send(Message::Close(Some(frame)))).await;
        // Closing over unread frames would reset the line and take the last Leave with it.
        let rest = async { while let Some(Ok(_)) = socket.recv().await {} };
        let _ = timeout(LINGER, rest).await;
        self.node.counters.websockets_open.fetch_sub(1, Ordering::Relaxed);
    }

    async fn serve(&mut self, socket: &mut WebSocket) -> Ending {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let ending = tokio::select! {
                message = self.outgoing.recv() => match message {
                    Some(message) => self.forward(socket, message).await,
                    None => Err(SLOW),
                },
                received = socket.recv() => {
                    heard = Instant::now();
                    match received {
                        Some(Ok(message)) => self.receive(socket, message).await,
                        Some(Err(error)) if over_limit(&error) => Err(self.refused(TOO_BIG)),
                        Some(Err(_)) => Err(GOING),
                        None => Err(GOING),
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > IDLE_MAX {
                        Err(SILENT)
                    } else {
                        write(socket, Message::Ping(Vec::new().into())).await
                    }
                }
            };
            if let Err(ending) = ending {
                return ending;
            }
        }
    }

    fn refused(&self, ending: Ending) -> Ending {
        count(&self.node.counters.frames_refused);
        ending
    }

    async fn forward(&self, socket: &mut WebSocket, message: ToClient) -> Result<(), Ending> {
        match message {
            ToClient::Message(message) => {
                self.learn_ufrag(&message);
                write(socket, self.frame(*message)?).await
            }
            ToClient::Close(reason) => Err(ending_of(reason)),
        }
    }

    /// Media over TCP finds its shard by the ufrags that the shard's descriptions name.
    fn learn_ufrag(&self, message: &signal_response::Message) {
        let (signal_response::Message::Offer(description)
        | signal_response::Message::Answer(description)) = message
        else {
            return;
        };
        self.node.ufrags().learn(&description.sdp, self.shard.index);
    }

    async fn receive(&mut self, socket: &mut WebSocket, message: Message) -> Result<(), Ending> {
        match self.read(&message)? {
            Asked::Nothing => Ok(()),
            Asked::Pong(frame) => write(socket, frame).await,
            Asked::Request(request) => self.pass_on(request).await,
        }
    }

    /// What a frame asks for. A decoded message is large; kept over a wait, it would be part of
    /// every connection.
    fn read(&mut self, message: &Message) -> Result<Asked, Ending> {
        let (encoding, bytes) = match message {
            Message::Binary(bytes) => (Encoding::Binary, bytes.as_ref()),
            Message::Text(text) => (Encoding::Json, text.as_bytes()),
            Message::Close(_) => return Err(GOING),
            Message::Ping(_) | Message::Pong(_) => return Ok(Asked::Nothing),
        };
        self.encoding = encoding;
        let Ok(request) = frame::decode_request(encoding, bytes) else {
            return Err(self.refused(NOT_A_REQUEST));
        };
        let now = unix_millis() as i64;
        let pong = match request.message {
            Some(signal_request::Message::Ping(_)) => signal_response::Message::Pong(now),
            Some(signal_request::Message::PingReq(ping)) => {
                let pong = Pong { last_ping_timestamp: ping.timestamp, timestamp: now };
                signal_response::Message::PongResp(pong)
            }
            Some(request) => return Ok(Asked::Request(Box::new(request))),
            // A field of a newer protocol: nothing we know was asked.
            None => return Ok(Asked::Nothing),
        };
        Ok(Asked::Pong(self.frame(pong)?))
    }

    /// Hands a request to the shard, at the pace that one client is allowed.
    async fn pass_on(&mut self, request: Box<signal_request::Message>) -> Result<(), Ending> {
        tokio::time::sleep(self.pace.wait(Instant::now())).await;
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| OVERLOADED)?;
        let connection = self.connection;
        let command = ShardCommand::Signal { connection, request, place };
        self.shard.send_patiently(command).await.map_err(|_| OVERLOADED)
    }

    fn frame(&self, message: signal_response::Message) -> Result<Message, Ending> {
        let response = SignalResponse { message: Some(message) };
        let Ok(bytes) = frame::encode_response(self.encoding, &response) else {
            return Err(self.refused(TOO_BIG));
        };
        match self.encoding {
            Encoding::Binary => Ok(Message::Binary(bytes.into())),
            Encoding::Json => match String::from_utf8(bytes) {
                Ok(text) => Ok(Message::Text(text.into())),
                Err(_) => Err(self.refused(TOO_BIG)),
            },
        }
    }
}

/// Whether a frame was cut off for its size, and not the line by its user. The library keeps its
/// error type to itself; its text is all there is.
fn over_limit(error: &axum::Error) -> bool {
    error.to_string().starts_with("Space limit exceeded")
}

async fn write(socket: &mut WebSocket, message: Message) -> Result<(), Ending> {
    match timeout(WRITE_MAX, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(GOING),
        Err(_) => Err(SLOW),
    }
}

fn ending_of(reason: CloseReason) -> Ending {
    match reason {
        CloseReason::Left => GOING,
        CloseReason::Replaced => {
            Ending { code: close_code::NORMAL, reason: "replaced by a newer connection" }
        }
        CloseReason::RoomClosed => Ending { code: close_code::NORMAL, reason: "room closed" },
        CloseReason::ProtocolError(reason) => Ending { code: close_code::POLICY, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_a_flood_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..1_000 {
            assert_eq!(pace.wait(start), Duration::ZERO);
        }
        assert_eq!(pace.wait(start), Duration::from_millis(10));
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.wait(later), Duration::ZERO);
    }
}
