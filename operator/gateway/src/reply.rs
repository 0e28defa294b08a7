//! Answers that a gateway gives by itself, and the body type of all answers.
//!
//! Decides how they are written. Invariant: an answer to a stranger is short and says nothing of
//! what is inside.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use livekit_contract::twirp::TwirpError;

/// The body of every request and answer that passes.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A body held in memory.
#[must_use]
pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer in plain text.
#[must_use]
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", text)
}

/// An answer of the given type.
#[must_use]
pub fn typed(
    status: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(body(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A Twirp error.
#[must_use]
pub fn twirp(error: &TwirpError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code.http_status());
    typed(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "application/json", error.to_json())
}
