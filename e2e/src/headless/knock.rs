//! Joins a room by signalling alone, reads who carries it, and leaves before any media.
//!
//! For crowds that a machine of two cores could not bear as participants. Invariant: nothing it
//! starts is left when it returns.

use std::time::{Duration, Instant};

use livekit_contract::proto::{self, signal_request, signal_response::Message};

use super::HeadlessError;
use super::link::{ANSWER_MAX, Link, LinkEvent, Trust};

/// Who let us in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Welcome {
    /// The server's id of the room, made anew wherever a room begins.
    pub room_sid: String,
    /// The media node that says it is there (`JoinResponse.server_info.node_id`).
    pub media_node: String,
}

/// Joins the room that `token` opens at `url` and leaves it again. Also says how long the first
/// answer took, from the first byte to the Join message.
///
/// # Errors
/// When the server cannot be reached, refuses, or does not answer in time.
pub async fn knock(url: &str, token: &str) -> Result<(Welcome, Duration), HeadlessError> {
    let began = Instant::now();
    let mut link = Link::open(url, token, "", Trust::default());
    let welcome = tokio::time::timeout(ANSWER_MAX, welcome(&mut link)).await;
    let welcome = welcome.map_err(|_| HeadlessError::Timeout("join", ANSWER_MAX))??;
    let joined = began.elapsed();
    link.send(signal_request::Message::Leave(proto::LeaveRequest::default()));
    // The server closes after a goodbye; one that does not is cut.
    let _cut = tokio::time::timeout(ANSWER_MAX, closed(&mut link)).await;
    Ok((welcome, joined))
}

async fn welcome(link: &mut Link) -> Result<Welcome, HeadlessError> {
    loop {
        match link.next().await {
            LinkEvent::Message(message) => {
                if let Message::Join(join) = *message {
                    return Ok(Welcome {
                        room_sid: join.room.unwrap_or_default().sid,
                        media_node: join.server_info.unwrap_or_default().node_id,
                    });
                }
            }
            LinkEvent::Open => {}
            LinkEvent::Closed(reason) => return Err(HeadlessError::Signal(reason)),
            LinkEvent::Refused { status, text } => {
                return Err(HeadlessError::Refused { status, text });
            }
        }
    }
}

async fn closed(link: &mut Link) {
    while !matches!(link.next().await, LinkEvent::Closed(_) | LinkEvent::Refused { .. }) {}
}
