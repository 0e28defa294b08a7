//! Twirp, the RPC over HTTP of LiveKit's server API
//! (<https://twitchtv.github.io/twirp/docs/spec_v7.html>).
//!
//! Decides how calls, answers and errors are written, and which room a call is about. Does not
//! know what the calls do. Invariant: a body over [`BODY_BYTES_MAX`] is not parsed.

use std::collections::BTreeMap;

use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest request body, in bytes (LiveKit's default limit).
pub const BODY_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Twirp's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum Code {
    Canceled,
    Unknown,
    InvalidArgument,
    Malformed,
    DeadlineExceeded,
    NotFound,
    BadRoute,
    AlreadyExists,
    PermissionDenied,
    Unauthenticated,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    #[serde(rename = "dataloss")]
    DataLoss,
}

impl Code {
    /// The HTTP status that the specification ties to the code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Canceled | Self::DeadlineExceeded => 408,
            Self::InvalidArgument | Self::Malformed | Self::OutOfRange => 400,
            Self::NotFound | Self::BadRoute => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::PermissionDenied => 403,
            Self::Unauthenticated => 401,
            Self::ResourceExhausted => 429,
            Self::FailedPrecondition => 412,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
        }
    }
}

/// An error as it goes over the wire, always in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}")]
pub struct TwirpError {
    /// The code.
    pub code: Code,
    /// What happened, for people.
    pub msg: String,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

impl TwirpError {
    /// An error without meta.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), meta: BTreeMap::new() }
    }

    /// What LiveKit answers to a token whose grants do not suffice.
    #[must_use]
    pub fn permission_denied() -> Self {
        Self::new(Code::Unauthenticated, "permissions denied")
    }

    /// No such service or method.
    #[must_use]
    pub fn bad_route(path: &str) -> Self {
        Self::new(Code::BadRoute, format!("no handler for path {path:?}"))
    }

    /// The body; its content type is `application/json`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Format {
    /// From the content type; parameters such as a charset are ignored.
    ///
    /// # Errors
    /// `bad_route`, as the specification says, when it is neither.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, TwirpError> {
        let full = content_type.unwrap_or_default();
        let essence = full.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/protobuf") {
            Ok(Self::Protobuf)
        } else if essence.eq_ignore_ascii_case("application/json") {
            Ok(Self::Json)
        } else {
            let msg = "unexpected Content-Type: send application/json or application/protobuf";
            Err(TwirpError::new(Code::BadRoute, msg))
        }
    }

    /// The content type of an answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/protobuf",
            Self::Json => "application/json",
        }
    }

    /// Reads a request or an answer.
    ///
    /// # Errors
    /// `malformed` when it is not that message, `resource_exhausted` when it is too long.
    pub fn decode<M>(self, body: &[u8]) -> Result<M, TwirpError>
    where
        M: Message + Default + DeserializeOwned,
    {
        check_length(body)?;
        let read = match self {
            Self::Protobuf => M::decode(body).ok(),
            Self::Json => read_json(body),
        };
        read.ok_or_else(|| malformed(self))
    }

    /// Writes a request or an answer.
    ///
    /// # Errors
    /// `internal` when the message holds an enum number that has no name in JSON.
    pub fn encode<M: Message + Serialize>(self, message: &M) -> Result<Vec<u8>, TwirpError> {
        match self {
            Self::Protobuf => Ok(message.encode_to_vec()),
            Self::Json => serde_json::to_vec(message)
                .map_err(|_| TwirpError::new(Code::Internal, "the answer has no JSON form")),
        }
    }
}

fn malformed(format: Format) -> TwirpError {
    let name = match format {
        Format::Protobuf => "protobuf",
        Format::Json => "json",
    };
    TwirpError::new(Code::Malformed, format!("the {name} request could not be decoded"))
}

/// JSON is UTF-8 throughout (RFC 8259 §8.1), also in what is skipped, which the parser leaves
/// unread: all who see a body must agree on whether it is one.
fn read_json<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_str(std::str::from_utf8(body).ok()?).ok()
}

fn check_length(body: &[u8]) -> Result<(), TwirpError> {
    if body.len() > BODY_BYTES_MAX {
        let msg = format!("the request body is longer than {BODY_BYTES_MAX} bytes");
        return Err(TwirpError::new(Code::ResourceExhausted, msg));
    }
    Ok(())
}

/// The room that a call is about, without knowing its message: `name` in `CreateRoom`, else `room`.
/// `None` when the call names none.
///
/// # Errors
/// As [`Format::decode`].
pub fn room_of(
    service: &str,
    method: &str,
    format: Format,
    body: &[u8],
) -> Result<Option<String>, TwirpError> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct First {
        #[prost(string, tag = "1")]
        room: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Second {
        #[prost(string, tag = "2")]
        room: String,
    }
    // Apart, so that a field of the same name that the message does not have is not looked at.
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
    }
    #[derive(Deserialize)]
    struct About {
        room: Option<String>,
    }
    check_length(body)?;
    let creates = method == "CreateRoom";
    let room = match format {
        // Dispatch requests carry the room in their second field, all others in their first.
        Format::Protobuf if service == "livekit.AgentDispatchService" => {
            Second::decode(body).map_err(|_| malformed(format))?.room
        }
        Format::Protobuf => First::decode(body).map_err(|_| malformed(format))?.room,
        Format::Json => {
            let named = if creates {
                read_json(body).map(|Named { name }| name)
            } else {
                read_json(body).map(|About { room }| room)
            };
            named.ok_or_else(|| malformed(format))?.unwrap_or_default()
        }
    };
    Ok((!room.is_empty()).then_some(room))
}
