//! Signalling frames: one `SignalRequest` or `SignalResponse` per WebSocket message, in protobuf
//! or, once a client has sent a text message, in JSON (LiveKit `pkg/service/wsprotocol.go`).
//!
//! Decides how bytes become messages. Does not know what the messages mean.
//! Invariant: nothing longer than [`FRAME_BYTES_MAX`] is parsed.

use livekit_protocol::{SignalRequest, SignalResponse};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest signalling message, in bytes (LiveKit's read limit).
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How messages are written on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Protobuf in binary WebSocket messages.
    #[default]
    Binary,
    /// Proto3 JSON in text WebSocket messages; field names in camelCase, proto names are read too.
    Json,
}

/// Why a frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("signalling message of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// Not protobuf of the expected message.
    #[error("signalling message is not valid protobuf")]
    Protobuf,
    /// Not JSON of the expected message.
    #[error("signalling message is not valid JSON")]
    Json,
}

/// Reads what a client sends.
///
/// # Errors
/// When the frame is too long or is not a `SignalRequest`.
pub fn decode_request(encoding: Encoding, bytes: &[u8]) -> Result<SignalRequest, FrameError> {
    decode(encoding, bytes)
}

/// Reads what a server sends (tests, headless participants).
///
/// # Errors
/// When the frame is too long or is not a `SignalResponse`.
pub fn decode_response(encoding: Encoding, bytes: &[u8]) -> Result<SignalResponse, FrameError> {
    decode(encoding, bytes)
}

/// Writes what a server sends. In JSON the bytes are UTF-8.
///
/// # Errors
/// When the message is longer than a client would accept.
pub fn encode_response(
    encoding: Encoding,
    message: &SignalResponse,
) -> Result<Vec<u8>, FrameError> {
    encode(encoding, message)
}

/// Writes what a client sends (tests, headless participants).
///
/// # Errors
/// When the message is longer than a server accepts.
pub fn encode_request(encoding: Encoding, message: &SignalRequest) -> Result<Vec<u8>, FrameError> {
    encode(encoding, message)
}

fn decode<M>(encoding: Encoding, bytes: &[u8]) -> Result<M, FrameError>
where
    M: Message + Default + DeserializeOwned,
{
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(bytes.len()));
    }
    match encoding {
        Encoding::Binary => M::decode(bytes).map_err(|_| FrameError::Protobuf),
        Encoding::Json => serde_json::from_slice(bytes).map_err(|_| FrameError::Json),
    }
}

fn encode<M: Message + Serialize>(encoding: Encoding, message: &M) -> Result<Vec<u8>, FrameError> {
    let bytes = match encoding {
        Encoding::Binary => message.encode_to_vec(),
        Encoding::Json => serde_json::to_vec(message).map_err(|_| FrameError::Json)?,
    };
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(bytes.len()));
    }
    Ok(bytes)
}
