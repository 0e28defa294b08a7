//! Which pages may call, and the headers that tell browsers so (Fetch standard, CORS protocol).
//!
//! Decides by the `Origin` header alone; tokens are another matter. Invariant: with an allow-list,
//! an origin that is not on it gets neither an answer nor a WebSocket.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Response, StatusCode};

use crate::reply::{self, Body};

/// Longest list of header names that a preflight is granted, in bytes.
const REQUEST_HEADERS_MAX: usize = 1024;

/// The origins that may call.
#[derive(Clone, Debug)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// These origins, or any when there are none: LiveKit allows any, and tokens protect rooms.
    #[must_use]
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed }
    }

    /// Whether a request with these headers may be answered. One without an origin comes from no
    /// page.
    #[must_use]
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        self.allowed.is_empty()
            || self.allowed.iter().any(|allowed| origin.as_bytes() == allowed.as_bytes())
    }

    /// Adds what browsers need to an answer for these request headers.
    pub fn mark(&self, request: &HeaderMap, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        // Whatever a media node said is replaced: it does not know the list.
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        if self.allowed.is_empty() {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if let Some(origin) = request.get(ORIGIN).filter(|_| self.admit(request)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }

    /// The answer to a preflight.
    #[must_use]
    pub fn preflight(request: &HeaderMap) -> Response<Body> {
        let mut response = reply::text(StatusCode::NO_CONTENT, "");
        let headers = response.headers_mut();
        headers.remove(http::header::CONTENT_TYPE);
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, HEAD, POST, OPTIONS"),
        );
        // By name, because `*` would not cover Authorization.
        let wanted = request
            .get(ACCESS_CONTROL_REQUEST_HEADERS)
            .filter(|names| names.len() <= REQUEST_HEADERS_MAX)
            .cloned()
            .unwrap_or_else(|| HeaderValue::from_static("Authorization, Content-Type"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        response
    }
}
