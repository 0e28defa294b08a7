//! Headless participants: LiveKit clients without a browser, on str0m and a WebSocket.
//!
//! They join a real server over real sockets, publish generated audio and video, and weigh what
//! they receive. They decode no media and judge nothing; tests and the load generator do. What
//! they publish carries its time of sending, so that delay, order and gaps can be measured when
//! both ends run in one process. Invariant: a participant comes back by itself, as SDKs do, from a
//! lost WebSocket and from `Leave{RECONNECT}`, and everything it starts ends when it is dropped.

mod inbox;
mod knock;
mod ledger;
mod link;
mod media;
mod participant;
mod publication;
mod session;
mod transport;

pub use knock::{Welcome, knock};
pub use ledger::{Gap, Histogram, Received, TrackKey, TrackKind};
pub use link::Trust;
pub use participant::{Data, Options, Participant, ParticipantEvent, Totals, token};

/// Why a headless participant could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HeadlessError {
    /// The URL is not of the form `ws://host:port/…` or `wss://…`.
    #[error("`{0}` is not a WebSocket URL")]
    Url(String),
    /// No socket, no address, no route.
    #[error("network: {0}")]
    Network(#[from] std::io::Error),
    /// The server answered the upgrade with an HTTP status.
    #[error("server refused the connection with {status}: {text}")]
    Refused { status: u16, text: String },
    /// The WebSocket ended before the server let us in.
    #[error("signalling ended: {0}")]
    Signal(String),
    /// The server sent a Leave.
    #[error("server sent us away: {0}")]
    SentAway(String),
    /// The library refused a description or a packet.
    #[error("media: {0}")]
    Media(String),
    /// Nothing came in time.
    #[error("no {0} within {1:?}")]
    Timeout(&'static str, std::time::Duration),
    /// The participant's task has ended.
    #[error("participant has ended")]
    Ended,
}
