//! The door: one request comes in, one answer goes out.
//!
//! Decides by path and token who is led where. Invariant: an unauthenticated request costs its
//! address a token of its bucket, whatever it asked for, and never reaches a media node.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use livekit_contract::connect::{ConnectQuery, Endpoint};
use livekit_contract::grants::Claims;
use livekit_contract::token::{self, TokenError};
use places::Places;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::cors::Origins;
use crate::files::Files;
use crate::limits::{AddressLimits, client_address};
use crate::metrics::Metrics;
use crate::page::{self, Page};
use crate::pipe::Times;
use crate::reply::{self, Body};
use crate::router::Router;

/// Twirp bodies held in memory at once; with their bound of 10 MiB each this bounds memory.
const BODIES_MAX: usize = 8;
/// Header of proxies with the client's address.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Everything that requests share.
pub struct Door {
    pub(crate) files: Arc<Files>,
    pub(crate) router: Router,
    pub(crate) metrics: Metrics,
    pub(crate) times: Times,
    pub(crate) room_auto_create: bool,
    /// Fires when WebSockets are to be closed.
    pub(crate) closing: CancellationToken,
    /// Over what time they are.
    pub(crate) close_spread: std::time::Duration,
    pub(crate) pipes: TaskTracker,
    /// Places for them, by the client's address.
    pub(crate) websockets: Arc<Places>,
    pub(crate) bodies: Semaphore,
    origins: Origins,
    page: Option<Page>,
    trusted_hops: u8,
    limits: Mutex<AddressLimits>,
}

/// Who asks, as far as it is known before the token is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
}

impl Door {
    /// A door with this configuration.
    #[must_use]
    pub fn new(config: &Config, files: Arc<Files>, router: Router, metrics: Metrics) -> Self {
        Self {
            files,
            router,
            metrics,
            times: Times { idle: config.idle, write: config.write },
            room_auto_create: config.room_auto_create,
            closing: CancellationToken::new(),
            close_spread: config.stop_spread,
            pipes: TaskTracker::new(),
            websockets: Places::new(config.connections_max, config.connections_per_address_max),
            bodies: Semaphore::new(BODIES_MAX),
            origins: Origins::new(config.allowed_origins.clone()),
            page: config.page_dir.clone().map(Page::new),
            trusted_hops: config.trusted_hops,
            limits: Mutex::new(AddressLimits::new(config.anonymous_rate, config.anonymous_burst)),
        }
    }

    /// Answers one request of a connection from `peer`.
    pub async fn answer(&self, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
        let asked = request.headers().clone();
        let list = asked.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
        let caller = Caller { address: client_address(peer, list, self.trusted_hops) };
        let mut response = if self.origins.admit(&asked) {
            self.lead(caller, request).await
        } else {
            self.refuse(caller, "origin", || {
                reply::text(StatusCode::FORBIDDEN, "this origin is not allowed to call")
            })
        };
        self.origins.mark(&asked, &mut response);
        response
    }

    async fn lead(&self, caller: Caller, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            return self.anonymous(caller, || Origins::preflight(request.headers()));
        }
        let path = request.uri().path();
        if let Some(page) = self.page.as_ref().filter(|_| path.starts_with(page::PREFIX)) {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return self.anonymous(caller, not_allowed);
            }
            if !self.charge(caller) {
                return self.too_many();
            }
            return page.serve(request.method().clone(), path).await;
        }
        match Endpoint::of(path) {
            Endpoint::Root => self.anonymous(caller, || reply::text(StatusCode::OK, "OK")),
            Endpoint::Rtc => self.join(caller, request).await,
            Endpoint::RtcValidate => self.validate(caller, &request),
            // Protocol v1 is not spoken: any other text than LiveKit's for a missing room makes
            // SDKs fall back to v0.
            Endpoint::RtcV1 { .. } => self.decline(caller, &request),
            Endpoint::Twirp { service, method } => {
                self.call(caller, request, &service, &method).await
            }
            Endpoint::Other => {
                self.anonymous(caller, || reply::text(StatusCode::NOT_FOUND, "not found"))
            }
        }
    }

    /// Every join of today's JavaScript SDK begins here, so a genuine token costs its address
    /// nothing here either.
    fn decline(&self, caller: Caller, request: &Request<Incoming>) -> Response<Body> {
        let query = ConnectQuery::parse(request.uri().query().unwrap_or_default());
        let answer = || reply::text(StatusCode::NOT_FOUND, "not found");
        match self.authenticate(request.headers(), &query.unwrap_or_default()) {
            Ok(_) => answer(),
            Err(_) => self.anonymous(caller, answer),
        }
    }

    /// Verifies the request's token.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        query: &ConnectQuery,
    ) -> Result<Claims, TokenError> {
        // A header that is not text cannot be a bearer token.
        let header = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or("?"));
        let in_query = query.access_token.as_ref().map(|token| token.expose().as_str());
        let token = token::from_request(header, in_query)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        token::verify(&self.files.keys.load(), token, now.as_secs())
    }

    /// An answer to someone unauthenticated, if their address may have one more.
    pub(crate) fn anonymous(
        &self,
        caller: Caller,
        answer: impl FnOnce() -> Response<Body>,
    ) -> Response<Body> {
        if self.charge(caller) { answer() } else { self.too_many() }
    }

    /// As [`Door::anonymous`], counted as a refusal.
    pub(crate) fn refuse(
        &self,
        caller: Caller,
        reason: &str,
        answer: impl FnOnce() -> Response<Body>,
    ) -> Response<Body> {
        self.metrics.refused.with_label_values(&[reason]).inc();
        self.anonymous(caller, answer)
    }

    fn charge(&self, caller: Caller) -> bool {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.charge(caller.address, Instant::now())
    }

    fn too_many(&self) -> Response<Body> {
        self.metrics.refused.with_label_values(&["address_limit"]).inc();
        let mut response =
            reply::text(StatusCode::TOO_MANY_REQUESTS, "too many requests from this address");
        // The next attempt pays for a connection too.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

fn not_allowed() -> Response<Body> {
    reply::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}
