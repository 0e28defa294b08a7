//! Twirp calls: to the media node of the room that the call is about.
//!
//! Decides where a call goes and whether its token has anything to do with the room; the media
//! node decides what the call may do. Invariant: no body is read before the token is verified, and
//! at most [`crate::door`]'s number of bodies is held at once.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use livekit_contract::connect::ConnectQuery;
use livekit_contract::grants::Claims;
use livekit_contract::twirp::{BODY_BYTES_MAX, Code, Format, TwirpError, room_of};

use crate::door::{Caller, Door};
use crate::placer::RouteError;
use crate::reply::{self, Body};
use crate::router::Wanted;
use crate::upstream::{ROOM_HEADER, forwarded};

/// Longest wait for the head of an answer: `PerformRpc` waits for a participant.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest time for a client to send its body.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// A call whose body has been read.
pub(crate) struct Call {
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
    pub(crate) format: Format,
    pub(crate) claims: Claims,
    pub(crate) caller: Caller,
}

impl Call {
    /// The call as it goes on to a media node: the same path, query, headers and body.
    pub(crate) fn onward(&self) -> Request<Body> {
        let mut request = Request::new(reply::body(self.body.clone()));
        *request.method_mut() = Method::POST;
        let uri = self.parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
        *request.uri_mut() = uri.parse().unwrap_or_default();
        let mut headers = forwarded(&self.parts.headers, self.caller.address);
        // The body is whole now, whatever it came in.
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONTENT_LENGTH);
        *request.headers_mut() = headers;
        request
    }
}

impl Door {
    /// `/twirp/<service>/<method>`.
    pub(crate) async fn call(
        &self,
        caller: Caller,
        request: Request<Incoming>,
        service: &str,
        method: &str,
    ) -> Response<Body> {
        let query = ConnectQuery::parse(request.uri().query().unwrap_or_default());
        let claims = self.authenticate(request.headers(), &query.unwrap_or_default());
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                let error = TwirpError::new(Code::Unauthenticated, error.to_string());
                return self.refuse(caller, "token", || reply::twirp(&error));
            }
        };
        let Ok(_permit) = self.bodies.acquire().await else {
            return reply::twirp(&TwirpError::new(Code::Unavailable, "the gateway stops"));
        };
        let answered = match read(request, claims, caller).await {
            Ok(call) => self.dispatch(&call, service, method).await,
            Err(error) => Err(error),
        };
        let outcome = match &answered {
            Ok(response) if response.status().is_success() => "ok",
            Ok(_) => "media_node_refused",
            Err(error) if error.code.http_status() < 500 => "refused",
            Err(_) => "failed",
        };
        self.metrics.calls.with_label_values(&[outcome]).inc();
        answered.unwrap_or_else(|error| reply::twirp(&error))
    }

    async fn dispatch(
        &self,
        call: &Call,
        service: &str,
        method: &str,
    ) -> Result<Response<Body>, TwirpError> {
        if (service, method) == ("livekit.RoomService", "ListRooms") {
            return self.list_rooms(call).await;
        }
        let creates = method == "CreateRoom";
        match room_of(service, method, call.format, &call.body)? {
            Some(room) => self.call_room(call, &room, creates).await,
            None if service == "livekit.RoomService" => {
                Err(TwirpError::new(Code::InvalidArgument, "no room name"))
            }
            None => self.call_any(call).await,
        }
    }

    async fn call_room(
        &self,
        call: &Call,
        room: &str,
        creates: bool,
    ) -> Result<Response<Body>, TwirpError> {
        let claims = &call.claims;
        let concerned = if creates {
            claims.may_create_rooms()
        } else {
            claims.may_administer(room) || claims.may_create_rooms()
        };
        if !concerned {
            return Err(TwirpError::permission_denied());
        }
        let wanted =
            Wanted { room, create: creates, repeatable: false, answer_within: ANSWER_WITHIN };
        let delivered = self.router.deliver(&wanted, || call.onward()).await;
        let (response, _) = delivered.map_err(|error| twirp_error(&error))?;
        Ok(passed_on(response))
    }

    /// A call about no room: any media node can say whether it is served.
    async fn call_any(&self, call: &Call) -> Result<Response<Body>, TwirpError> {
        for media_node in self.router.directory.media_nodes() {
            let sent = self.router.deliver_to(&media_node, call.onward(), ANSWER_WITHIN).await;
            if let Ok(response) = sent {
                return Ok(passed_on(response));
            }
        }
        Err(TwirpError::new(Code::Unavailable, "no media node answers, try again"))
    }
}

async fn read(
    request: Request<Incoming>,
    claims: Claims,
    caller: Caller,
) -> Result<Call, TwirpError> {
    if request.method() != Method::POST {
        return Err(TwirpError::new(Code::BadRoute, "unsupported method, only POST is allowed"));
    }
    let (parts, body) = request.into_parts();
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = Format::from_content_type(content_type)?;
    let body = tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_BYTES_MAX).collect());
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("the request body is longer than {BODY_BYTES_MAX} bytes");
            return Err(TwirpError::new(Code::ResourceExhausted, text));
        }
        Ok(Err(_)) => return Err(TwirpError::new(Code::Malformed, "the body ended too soon")),
        Err(_) => return Err(TwirpError::new(Code::DeadlineExceeded, "the body took too long")),
    };
    Ok(Call { parts, body, format, claims, caller })
}

pub(crate) fn passed_on(mut response: Response<Incoming>) -> Response<Body> {
    response.headers_mut().remove(ROOM_HEADER);
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

fn twirp_error(error: &RouteError) -> TwirpError {
    let code = match error {
        RouteError::NoSuchRoom => Code::NotFound,
        RouteError::Full(_) => Code::ResourceExhausted,
        RouteError::Unavailable => Code::Unavailable,
        RouteError::Refused(_) => Code::Internal,
    };
    TwirpError::new(code, error.to_string())
}
