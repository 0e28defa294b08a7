//! The public HTTP surface of a media node: `/rtc`, its validation, RoomService, health, CORS.
//!
//! Decides which handler answers and that every answer carries CORS headers. Invariant: nothing
//! is decided about a room before its token was verified.

mod connect;
mod session;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use livekit_contract::connect::Endpoint;

use crate::dev;
use crate::node::Node;
use crate::twirp;

pub use connect::{NOT_HERE_HEADER, NOT_HERE_VALUE};

/// How long a browser may remember a preflight answer, in seconds (LiveKit: a day).
const PREFLIGHT_SECONDS: &str = "86400";

/// The router of the signalling listener.
pub fn router(node: Arc<Node>) -> Router {
    Router::new().fallback(answer).with_state(node)
}

async fn answer(State(node): State<Arc<Node>>, request: Request) -> Response {
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        dispatch(node, request).await
    };
    allow_any_origin(response.headers_mut(), wanted);
    response
}

/// LiveKit relies on tokens, not on origins, and so do its SDKs.
fn allow_any_origin(headers: &mut HeaderMap, wanted: Option<HeaderValue>) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("OPTIONS, HEAD, GET, POST, PATCH, DELETE"),
    );
    // `*` does not cover Authorization, so a preflight gets back what it asked for.
    let allowed = wanted.unwrap_or_else(|| HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
}

async fn dispatch(node: Arc<Node>, request: Request<Body>) -> Response {
    match Endpoint::of(request.uri().path()) {
        Endpoint::Rtc => connect::rtc(node, request).await,
        Endpoint::RtcValidate => connect::validate(&node, &request),
        // No body: SDKs fall back to v0 unless it says that the room does not exist.
        Endpoint::RtcV1 { .. } => StatusCode::NOT_FOUND.into_response(),
        Endpoint::Twirp { service, method } => twirp::call(&node, &service, &method, request).await,
        Endpoint::Root if node.config.page_directory.is_none() => "OK".into_response(),
        Endpoint::Root | Endpoint::Other if node.config.dev => dev::answer(&node, request).await,
        Endpoint::Root => "OK".into_response(),
        Endpoint::Other => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}
