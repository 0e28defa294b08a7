//! From an HTTP request to an admitted participant: token, query, room, then the upgrade.
//!
//! Decides the status and text of every refusal, as LiveKit's SDKs look at them
//! (`pkg/service/rtcservice.go`). Invariant: whatever can be refused is refused before the upgrade.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use livekit_contract::connect::{ConnectQuery, browser_of};
use livekit_contract::frame::FRAME_BYTES_MAX;
use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::token;
use livekit_protocol::client_info::Sdk;
use media_core::ids::RoomKey;
use media_core::io::{ClientParams, Command, Join, RoomOptions, RoomWish};
use tokio::sync::mpsc;

use super::session::Session;
use crate::node::{EntryError, Node, count};
use crate::rooms::Refusal;
use crate::shard::{SIGNALS_MAX, ShardCommand, ShardHandle};

/// Tells the gateway to ask the placer again; see the contract in docs/architecture.md.
pub const NOT_HERE_HEADER: &str = "x-hemicycle-room";
/// Its value.
pub const NOT_HERE_VALUE: &str = "not-here";
/// Longest identity and room name, in characters (LiveKit's limits are 256 each).
const NAME_CHARS_MAX: usize = 256;

/// Read ahead per WebSocket. The library's 128 KiB would be most of an idle participant.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// A refusal as HTTP.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    text: String,
    not_here: bool,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), not_here: false }
    }

    fn permissions() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "permissions denied")
    }
}

impl From<EntryError> for Refused {
    fn from(error: EntryError) -> Self {
        let status = match error {
            EntryError::Refused(Refusal::NotHere) => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let not_here = status == StatusCode::NOT_FOUND;
        Self { status, text: error.to_string(), not_here }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text).into_response();
        if self.not_here {
            let value = HeaderValue::from_static(NOT_HERE_VALUE);
            response.headers_mut().insert(NOT_HERE_HEADER, value);
        }
        response
    }
}

/// A request that may join: who, where, how.
struct Admitted {
    claims: Claims,
    room: RoomKey,
    query: ConnectQuery,
}

/// `GET /rtc/validate`: what would `/rtc` say?
pub(super) fn validate(node: &Node, request: &Request) -> Response {
    let checked =
        admit(node, request.headers(), request.uri().query(), true).and_then(|admitted| {
            node.rooms()
                .may_join(&admitted.room)
                .map_err(|refusal| EntryError::from(refusal).into())
        });
    match checked {
        Ok(()) => "success".into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// `GET /rtc`: the WebSocket.
pub(super) async fn rtc(node: Arc<Node>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let admitted = match admit(&node, &parts.headers, parts.uri.query(), false) {
        Ok(admitted) => admitted,
        Err(refused) => return refused.into_response(),
    };
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let entered = if admitted.query.reconnect {
        node.enter_again(&admitted.room)
    } else {
        node.enter(&admitted.room, options(&node, &admitted.claims))
    };
    let shard = match entered {
        Ok(shard) => shard.clone(),
        Err(error) => return Refused::from(error).into_response(),
    };
    let (session, command) = session(&node, shard, admitted);
    upgrade
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME_BYTES_MAX)
        .on_upgrade(move |socket| session.run(socket, command))
}

/// Checks token and query and names the room.
fn admit(
    node: &Node,
    headers: &HeaderMap,
    query: Option<&str>,
    strict: bool,
) -> Result<Admitted, Refused> {
    let mut query = ConnectQuery::parse(query.unwrap_or_default())
        .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let mut claims = verified(node, headers, &query)?;
    if query.attributes_malformed && strict {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "cannot decode attributes"));
    }
    let room = claims.room_to_join().map(str::to_owned);
    let video = claims.video.as_mut().ok_or_else(Refused::permissions)?;
    if !video.room_join {
        return Err(Refused::permissions());
    }
    if let Some(suffix) = &query.publish {
        if !video.can_publish() {
            return Err(Refused::permissions());
        }
        video.can_subscribe = Some(false);
        claims.identity = format!("{}#{suffix}", claims.identity);
    }
    if query.client.browser.is_empty() {
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        query.client.browser = browser_of(agent.unwrap_or_default()).to_owned();
    }
    check_names(&claims.identity, room.as_deref())?;
    add_attributes(&mut claims, &query)?;
    let room = node.room_key(&room.unwrap_or_default());
    Ok(Admitted { claims, room, query })
}

fn verified(node: &Node, headers: &HeaderMap, query: &ConnectQuery) -> Result<Claims, Refused> {
    let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::to_str);
    let authorization = match authorization {
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => Some("?"),
        None => None,
    };
    let in_query = query.access_token.as_ref().map(|token| token.expose().as_str());
    token::from_request(authorization, in_query).and_then(|token| node.keys.verify(token)).map_err(
        |error| {
            count(&node.counters.tokens_refused);
            let status = StatusCode::from_u16(error.http_status());
            Refused::new(status.unwrap_or(StatusCode::UNAUTHORIZED), error.to_string())
        },
    )
}

fn check_names(identity: &str, room: Option<&str>) -> Result<(), Refused> {
    let too_long = |text: &str| text.chars().count() > NAME_CHARS_MAX;
    let text = if identity.is_empty() {
        "identity cannot be empty".to_owned()
    } else if too_long(identity) {
        format!("participant identity length exceeds limits: max length {NAME_CHARS_MAX}")
    } else {
        match room {
            None => "no room name".to_owned(),
            Some(room) if too_long(room) => {
                format!("room name length exceeds limits: max length {NAME_CHARS_MAX}")
            }
            Some(_) => return Ok(()),
        }
    };
    Err(Refused::new(StatusCode::BAD_REQUEST, text))
}

/// Attributes of the query are the participant's own; the grant must allow that.
fn add_attributes(claims: &mut Claims, query: &ConnectQuery) -> Result<(), Refused> {
    if query.attributes.is_empty() {
        return Ok(());
    }
    let allowed = claims.video.as_ref().is_some_and(VideoGrant::can_update_own_metadata);
    if !allowed {
        return Err(Refused::permissions());
    }
    let given = query.attributes.iter().filter(|(_, value)| !value.is_empty());
    claims.attributes.extend(given.map(|(key, value)| (key.clone(), value.clone())));
    Ok(())
}

fn session(node: &Arc<Node>, shard: ShardHandle, admitted: Admitted) -> (Session, ShardCommand) {
    let Admitted { claims, room, query } = admitted;
    let connection = node.connection_id();
    let (outgoing, incoming) = mpsc::channel(SIGNALS_MAX);
    let session = Session::new(Arc::clone(node), shard, connection, incoming);
    let command = if query.reconnect {
        count(&node.counters.resumes);
        let participant_sid = query.sid.clone().unwrap_or_default();
        Command::Resume { connection, room, participant_sid, claims: Box::new(claims) }
    } else {
        count(&node.counters.joins);
        let client = client_params(&query);
        Command::Join(Box::new(Join { connection, room, claims, client }))
    };
    let command = Box::new(command);
    (session, ShardCommand::Attach { connection, outgoing, command })
}

/// What the first participant's token wants of the room, over the configuration.
fn options(node: &Node, claims: &Claims) -> RoomOptions {
    let configured = &node.config.room;
    let wanted = claims.room_config.as_ref();
    wanted.map_or_else(|| configured.clone(), |wanted| configured.wished(&RoomWish::from(wanted)))
}

fn client_params(query: &ConnectQuery) -> ClientParams {
    let client = &query.client;
    let sdk = Sdk::try_from(client.sdk).unwrap_or_default();
    ClientParams {
        protocol: u32::try_from(client.protocol).unwrap_or(0),
        client_protocol: client.client_protocol,
        sdk: sdk.as_str_name().to_lowercase(),
        version: client.version.clone(),
        os: client.os.clone(),
        device_model: client.device_model.clone(),
        browser: client.browser.clone(),
        browser_version: client.browser_version.clone(),
        network: client.network.clone(),
        auto_subscribe: query.auto_subscribe,
        adaptive_stream: query.adaptive_stream,
        subscriber_allow_pause: query.subscriber_allow_pause,
        disable_ice_lite: query.disable_ice_lite,
        attributes: query.attributes.clone().into_iter().collect(),
    }
}
