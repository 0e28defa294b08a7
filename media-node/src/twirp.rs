//! RoomService over Twirp (LiveKit `pkg/service/roomservice.go`).
//!
//! Decides grants and finds the room's shard; what a call does is the core's. Invariant: a call is
//! refused before its room is looked at, so that nobody learns which rooms exist.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use livekit_contract::grants::Claims;
use livekit_contract::token;
use livekit_contract::twirp::{BODY_BYTES_MAX, Code, Format, TwirpError};
use livekit_protocol as proto;
use media_core::ids::RoomKey;
use media_core::io::{AdminCall, AdminReply, RoomWish};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::node::{EntryError, Node, count};
use crate::rooms::Refusal;
use crate::signal::{NOT_HERE_HEADER, NOT_HERE_VALUE};

/// The one service of a media node.
const SERVICE: &str = "livekit.RoomService";
/// Longest metadata of a room or participant, in bytes (LiveKit's default limit is 64 KiB).
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Longest room name, in characters (LiveKit's default).
const ROOM_NAME_CHARS_MAX: usize = 256;

/// Why a call failed: on the wire, or because the room lives elsewhere.
enum Failure {
    Twirp(TwirpError),
    /// The gateway asks the placer again; the error is what a client gets if there is none.
    NotHere(TwirpError),
}

impl From<TwirpError> for Failure {
    fn from(error: TwirpError) -> Self {
        Self::Twirp(error)
    }
}

impl From<EntryError> for Failure {
    fn from(error: EntryError) -> Self {
        let code = match error {
            EntryError::Refused(Refusal::NotHere) => return Self::NotHere(no_room()),
            EntryError::Refused(Refusal::Full(_)) => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        Self::Twirp(TwirpError::new(code, error.to_string()))
    }
}

fn no_room() -> TwirpError {
    TwirpError::new(Code::NotFound, "requested room does not exist")
}

fn no_participant() -> TwirpError {
    TwirpError::new(Code::NotFound, "participant does not exist")
}

/// One call, from request to response.
pub async fn call(node: &Arc<Node>, service: &str, method: &str, request: Request) -> Response {
    count(&node.counters.twirp_calls);
    match answer(node, service, method, request).await {
        Ok((format, body)) => respond(StatusCode::OK, format.content_type(), body, false),
        Err(failure) => {
            let (error, not_here) = match failure {
                Failure::Twirp(error) => (error, false),
                Failure::NotHere(error) => (error, true),
            };
            let status = StatusCode::from_u16(error.code.http_status());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            respond(status, Format::Json.content_type(), error.to_json(), not_here)
        }
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
    not_here: bool,
) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if not_here {
        headers.insert(NOT_HERE_HEADER, HeaderValue::from_static(NOT_HERE_VALUE));
    }
    response
}

async fn answer(
    node: &Arc<Node>,
    service: &str,
    method: &str,
    request: Request,
) -> Result<(Format, Vec<u8>), Failure> {
    let path = format!("/twirp/{service}/{method}");
    if request.method() != Method::POST || service != SERVICE {
        return Err(TwirpError::bad_route(&path).into());
    }
    let claims = verified(node, &request)?;
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let format = Format::from_content_type(content_type.and_then(|value| value.to_str().ok()))?;
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
        TwirpError::new(Code::ResourceExhausted, "the request body is too long or broke off")
    })?;
    let call = Call { node, claims, format, body: &body };
    let answered = match method {
        "CreateRoom" => call.create_room().await,
        "ListRooms" => call.list_rooms().await,
        "DeleteRoom" => call.delete_room().await,
        "ListParticipants" => call.list_participants().await,
        "GetParticipant" => call.get_participant().await,
        "RemoveParticipant" => call.remove_participant().await,
        "MutePublishedTrack" => call.mute_published_track().await,
        "UpdateParticipant" => call.update_participant().await,
        "UpdateSubscriptions" => call.update_subscriptions().await,
        "SendData" => call.send_data().await,
        "UpdateRoomMetadata" => call.update_room_metadata().await,
        _ => Err(TwirpError::bad_route(&path).into()),
    };
    answered.map(|body| (format, body))
}

fn verified(node: &Node, request: &Request) -> Result<Claims, TwirpError> {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap_or("?"));
    token::from_request(authorization, None).and_then(|token| node.keys.verify(token)).map_err(
        |error| {
            count(&node.counters.tokens_refused);
            TwirpError::new(Code::Unauthenticated, error.to_string())
        },
    )
}

struct Call<'a> {
    node: &'a Arc<Node>,
    claims: Claims,
    format: Format,
    body: &'a [u8],
}

type Answer = Result<Vec<u8>, Failure>;

impl Call<'_> {
    fn read<M: Message + Default + DeserializeOwned>(&self) -> Result<M, TwirpError> {
        self.format.decode(self.body)
    }

    fn write<M: Message + Serialize>(&self, message: &M) -> Answer {
        Ok(self.format.encode(message)?)
    }

    fn administers(&self, room: &str) -> Result<RoomKey, TwirpError> {
        if self.claims.may_administer(room) {
            Ok(self.node.room_key(room))
        } else {
            Err(TwirpError::permission_denied())
        }
    }

    /// Asks the room's shard; a refusal of the core is a refusal of the call.
    async fn ask(
        &self,
        room: RoomKey,
        call: AdminCall,
        missing: fn() -> TwirpError,
    ) -> Result<AdminReply, Failure> {
        let Some(shard) = self.node.find(&room) else {
            return Err(Failure::NotHere(missing()));
        };
        let shard = shard.clone();
        match shard.ask(room, call).await.map_err(EntryError::from)? {
            AdminReply::Refused(error) => Err(error.into()),
            reply => Ok(reply),
        }
    }

    async fn create_room(&self) -> Answer {
        if !self.claims.may_create_rooms() {
            return Err(TwirpError::permission_denied().into());
        }
        let request: proto::CreateRoomRequest = self.read()?;
        if request.name.chars().count() > ROOM_NAME_CHARS_MAX {
            let text = "room name length exceeds limits: max length 256";
            return Err(TwirpError::new(Code::InvalidArgument, text).into());
        }
        check_metadata(&request.metadata)?;
        let room = self.node.room_key(&request.name);
        let options = self.node.config.room.wished(&RoomWish::from(&request));
        self.node.create(&room, options)?;
        match self.ask(room, AdminCall::CreateRoom(request), no_room).await? {
            AdminReply::Room(room) => self.write(&room),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_rooms(&self) -> Answer {
        if !self.claims.may_list_rooms() {
            return Err(TwirpError::permission_denied().into());
        }
        let request: proto::ListRoomsRequest = self.read()?;
        let wanted =
            |room: &RoomKey| request.names.is_empty() || request.names.contains(&room.name);
        let here: Vec<RoomKey> = {
            let rooms = self.node.rooms();
            rooms.all().map(|(room, _)| room.clone()).filter(wanted).collect()
        };
        let mut rooms = Vec::with_capacity(here.len());
        for room in here {
            // A room that ended since is simply not listed.
            if let Ok(AdminReply::Room(room)) = self.ask(room, AdminCall::GetRoom, no_room).await {
                rooms.push(room);
            }
        }
        self.write(&proto::ListRoomsResponse { rooms })
    }

    async fn delete_room(&self) -> Answer {
        if !self.claims.may_create_rooms() {
            return Err(TwirpError::permission_denied().into());
        }
        let request: proto::DeleteRoomRequest = self.read()?;
        let room = self.node.room_key(&request.room);
        self.ask(room, AdminCall::DeleteRoom, no_room).await?;
        self.write(&proto::DeleteRoomResponse {})
    }

    async fn list_participants(&self) -> Answer {
        let request: proto::ListParticipantsRequest = self.read()?;
        let room = self.administers(&request.room)?;
        if !self.node.rooms().claimed() && self.node.find(&room).is_none() {
            // As LiveKit: a room that is not there has nobody in it.
            return self.write(&proto::ListParticipantsResponse::default());
        }
        match self.ask(room, AdminCall::ListParticipants, no_room).await? {
            AdminReply::Participants(participants) => {
                self.write(&proto::ListParticipantsResponse { participants })
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn get_participant(&self) -> Answer {
        let request: proto::RoomParticipantIdentity = self.read()?;
        let room = self.administers(&request.room)?;
        let call = AdminCall::GetParticipant { identity: request.identity };
        match self.ask(room, call, no_participant).await? {
            AdminReply::Participant(participant) => self.write(&participant),
            other => Err(unexpected(&other)),
        }
    }

    async fn remove_participant(&self) -> Answer {
        let request: proto::RoomParticipantIdentity = self.read()?;
        let room = self.administers(&request.room)?;
        let call = AdminCall::RemoveParticipant { identity: request.identity };
        self.ask(room, call, no_participant).await?;
        self.write(&proto::RemoveParticipantResponse {})
    }

    async fn mute_published_track(&self) -> Answer {
        let request: proto::MuteRoomTrackRequest = self.read()?;
        let room = self.administers(&request.room)?;
        let call = AdminCall::MutePublishedTrack(request);
        match self.ask(room, call, no_participant).await? {
            AdminReply::Track(track) => {
                self.write(&proto::MuteRoomTrackResponse { track: Some(track) })
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn update_participant(&self) -> Answer {
        let request: proto::UpdateParticipantRequest = self.read()?;
        check_metadata(&request.metadata)?;
        let room = self.administers(&request.room)?;
        let call = AdminCall::UpdateParticipant(request);
        match self.ask(room, call, no_participant).await? {
            AdminReply::Participant(participant) => self.write(&participant),
            other => Err(unexpected(&other)),
        }
    }

    async fn update_subscriptions(&self) -> Answer {
        let request: proto::UpdateSubscriptionsRequest = self.read()?;
        let room = self.administers(&request.room)?;
        self.ask(room, AdminCall::UpdateSubscriptions(request), no_participant).await?;
        self.write(&proto::UpdateSubscriptionsResponse {})
    }

    async fn send_data(&self) -> Answer {
        let request: proto::SendDataRequest = self.read()?;
        let room = self.administers(&request.room)?;
        if !matches!(request.nonce.len(), 0 | 16) {
            let length = request.nonce.len();
            let text = format!("nonce should be 16-bytes or not present, got: {length} bytes");
            return Err(TwirpError::new(Code::InvalidArgument, text).into());
        }
        self.ask(room, AdminCall::SendData(request), no_room).await?;
        self.write(&proto::SendDataResponse {})
    }

    async fn update_room_metadata(&self) -> Answer {
        let request: proto::UpdateRoomMetadataRequest = self.read()?;
        check_metadata(&request.metadata)?;
        let room = self.administers(&request.room)?;
        let call = AdminCall::UpdateRoomMetadata { metadata: request.metadata };
        match self.ask(room, call, no_room).await? {
            AdminReply::Room(room) => self.write(&room),
            other => Err(unexpected(&other)),
        }
    }
}

fn check_metadata(metadata: &str) -> Result<(), TwirpError> {
    if metadata.len() <= METADATA_BYTES_MAX {
        return Ok(());
    }
    Err(TwirpError::new(Code::InvalidArgument, "metadata size exceeds limits"))
}

/// The core answered another question; a fault of ours, not of the caller.
fn unexpected(reply: &AdminReply) -> Failure {
    tracing::error!(?reply, "the core gave an answer of another kind");
    TwirpError::new(Code::Internal, "operation cannot be completed").into()
}
