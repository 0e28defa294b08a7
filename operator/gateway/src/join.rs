//! Joining: `/rtc` and `/rtc/validate` (LiveKit `pkg/service/rtcservice.go`).
//!
//! Decides whether a join is well-formed and authorised; the media node decides again.
//! Invariant: errors are plain HTTP answers with the texts that SDKs look at, given before any
//! upgrade; after the upgrade the pipe owns both streams.

use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use livekit_contract::connect::ConnectQuery;
use livekit_contract::grants::Claims;
use livekit_contract::token::TokenError;
use places::{NoPlace, Place};
use std::sync::Arc;

use crate::directory::MediaNode;
use crate::door::{Caller, Door};
use crate::metrics::Counted;
use crate::pipe::{self, Stop};
use crate::placer::RouteError;
use crate::reply::{self, Body};
use crate::router::Wanted;
use crate::upstream::{ROOM_HEADER, forwarded};

/// Longest wait for a media node to take a WebSocket.
const UPGRADE_WITHIN: Duration = Duration::from_secs(3);
/// Longest room name and identity, in bytes (LiveKit's default limits).
const NAME_BYTES_MAX: usize = 256;

/// A join that may be led to a media node.
struct Join {
    room: String,
    create: bool,
}

/// Why a join is answered without one.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    text: String,
}

impl Refusal {
    fn bad(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "bad_request", text: text.into() }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let status = StatusCode::from_u16(error.http_status());
        Self {
            status: status.unwrap_or(StatusCode::UNAUTHORIZED),
            reason: "token",
            text: error.to_string(),
        }
    }
}

impl Door {
    /// `/rtc`: leads a WebSocket to the media node that has, or gets, the room.
    pub(crate) async fn join(&self, caller: Caller, request: Request<Incoming>) -> Response<Body> {
        if !is_websocket(&request) {
            // As LiveKit: only a WebSocket is at home here.
            return self.anonymous(caller, || reply::text(StatusCode::NOT_FOUND, ""));
        }
        let join = match self.check(&request, false) {
            Ok(join) => join,
            Err(refusal) => return self.refuse_join(caller, refusal),
        };
        let place = match self.websockets.take(caller.address) {
            Ok(place) => place,
            Err(none) => return self.no_place(none),
        };
        let (mut parts, _) = request.into_parts();
        let client = parts.extensions.remove::<OnUpgrade>();
        let headers = forwarded(&parts.headers, caller.address);
        let uri = parts.uri.path_and_query().map_or("/rtc", |uri| uri.as_str()).to_owned();
        let onward = || {
            let mut request = Request::new(reply::body(""));
            *request.uri_mut() = uri.parse().unwrap_or_default();
            *request.headers_mut() = headers.clone();
            request
        };
        let wanted = Wanted {
            room: &join.room,
            create: join.create,
            repeatable: true,
            answer_within: UPGRADE_WITHIN,
        };
        match self.router.deliver(&wanted, onward).await {
            Ok((response, media_node)) => self.take(client, response, media_node, place),
            Err(error) => self.not_placed(&error),
        }
    }

    fn no_place(&self, none: NoPlace) -> Response<Body> {
        let (status, outcome, who) = match none {
            NoPlace::Full => (StatusCode::SERVICE_UNAVAILABLE, "gateway_full", "this gateway"),
            NoPlace::AddressFull => (StatusCode::TOO_MANY_REQUESTS, "address_full", "your address"),
        };
        self.metrics.joins.with_label_values(&[outcome]).inc();
        reply::text(status, format!("{who} holds as many connections as it may, try again"))
    }

    /// `/rtc/validate`: what a client asks when its WebSocket failed.
    pub(crate) fn validate(&self, caller: Caller, request: &Request<Incoming>) -> Response<Body> {
        match self.check(request, true) {
            Ok(_) => reply::text(StatusCode::OK, "success"),
            Err(refusal) => self.refuse_join(caller, refusal),
        }
    }

    fn check<B>(&self, request: &Request<B>, strict: bool) -> Result<Join, Refusal> {
        let query = ConnectQuery::parse(request.uri().query().unwrap_or_default())
            .map_err(|error| Refusal::bad(error.to_string()))?;
        let claims = self.authenticate(request.headers(), &query)?;
        if strict && query.attributes_malformed {
            return Err(Refusal::bad("cannot decode attributes"));
        }
        room_to_join(&claims)
            .map(|room| Join { create: self.room_auto_create || claims.may_create_rooms(), room })
    }

    fn refuse_join(&self, caller: Caller, refusal: Refusal) -> Response<Body> {
        self.metrics.joins.with_label_values(&["refused"]).inc();
        self.refuse(caller, refusal.reason, || reply::text(refusal.status, refusal.text))
    }

    fn not_placed(&self, error: &RouteError) -> Response<Body> {
        let (status, outcome) = match error {
            RouteError::NoSuchRoom => (StatusCode::NOT_FOUND, "no_such_room"),
            RouteError::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, "full"),
            RouteError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            RouteError::Refused(_) => (StatusCode::INTERNAL_SERVER_ERROR, "refused_by_placer"),
        };
        self.metrics.joins.with_label_values(&[outcome]).inc();
        tracing::warn!(outcome, %error, "a join was not placed");
        reply::text(status, error.to_string())
    }

    /// Passes the media node's answer on and, when it upgraded, starts the pipe.
    fn take(
        &self,
        client: Option<OnUpgrade>,
        mut response: Response<Incoming>,
        media_node: Arc<MediaNode>,
        place: Place,
    ) -> Response<Body> {
        response.headers_mut().remove(ROOM_HEADER);
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let (Some(client), true) = (client, upgraded) else {
            let outcome = if upgraded { "no_upgrade" } else { "media_node_refused" };
            self.metrics.joins.with_label_values(&[outcome]).inc();
            return response.map(|body| body.map_err(Into::into).boxed_unsync());
        };
        self.metrics.joins.with_label_values(&["ok"]).inc();
        tracing::debug!(media_node = media_node.name, "a WebSocket was led to a media node");
        let upstream = hyper::upgrade::on(&mut response);
        self.start_pipe(client, upstream, media_node, place);
        response.map(|_| reply::body(""))
    }

    fn start_pipe(
        &self,
        client: OnUpgrade,
        upstream: OnUpgrade,
        media_node: Arc<MediaNode>,
        place: Place,
    ) {
        let (times, metrics, closing) = (self.times, self.metrics.clone(), self.closing.clone());
        let turn = self.close_turn();
        self.pipes.spawn(async move {
            let _place = place;
            let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
            let open = Counted::new(metrics.websockets.clone());
            let stop = async {
                tokio::select! {
                    () = media_node.gone.cancelled() => Stop::MediaNodeGone,
                    () = async {
                        closing.cancelled().await;
                        tokio::time::sleep(turn).await;
                    } => Stop::GatewayStops,
                }
            };
            let (client, upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            let ended = pipe::run(client, upstream, stop, times, &metrics).await;
            drop(open);
            metrics.websockets_ended.with_label_values(&[ended.label()]).inc();
            tracing::debug!(media_node = media_node.name, by = ended.label(), "a WebSocket ended");
        });
    }

    /// When within the spread this pipe closes, so that not all clients come back at once:
    /// successive numbers times the golden ratio spread evenly.
    fn close_turn(&self) -> Duration {
        let number = self.pipes.len() as u64;
        let share = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
        let share = u32::try_from(share).unwrap_or(0);
        self.close_spread.mul_f64(f64::from(share) / f64::from(1_u32 << 20))
    }
}

/// The room that the token is for (LiveKit `ValidateConnectRequest`).
fn room_to_join(claims: &Claims) -> Result<String, Refusal> {
    let video = claims.video.as_ref().filter(|video| video.room_join);
    let video = video.ok_or(TokenError::PermissionDenied)?;
    if claims.identity.is_empty() {
        return Err(Refusal::bad("identity cannot be empty"));
    }
    if claims.identity.len() > NAME_BYTES_MAX {
        let text = "participant identity length exceeds limits: max length";
        return Err(Refusal::bad(format!("{text} {NAME_BYTES_MAX}")));
    }
    if video.room.is_empty() {
        return Err(Refusal::bad("no room name"));
    }
    if video.room.len() > NAME_BYTES_MAX {
        let text = "room name length exceeds limits: max length";
        return Err(Refusal::bad(format!("{text} {NAME_BYTES_MAX}")));
    }
    Ok(video.room.clone())
}

fn is_websocket<B>(request: &Request<B>) -> bool {
    let names = |header, wanted: &str| {
        let values = request.headers().get_all(header).iter();
        let mut tokens = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        tokens.any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    request.method() == http::Method::GET
        && names(CONNECTION, "upgrade")
        && names(UPGRADE, "websocket")
}
