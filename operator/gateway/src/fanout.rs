//! `ListRooms`: asked of every media node, answered as one list.
//!
//! Decides how the answers are merged. Invariant: a room that exists is in the list; where its
//! media node does not answer, the directory's few facts stand in, and that is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use livekit_contract::proto::{ListRoomsRequest, ListRoomsResponse, Room};
use livekit_contract::twirp::{BODY_BYTES_MAX, Format, TwirpError};

use crate::directory::MediaNode;
use crate::door::Door;
use crate::reply::{self, Body};
use crate::rpc::Call;

/// Media nodes asked at the same time, which bounds connections and answers in memory.
const ASKED_AT_ONCE: usize = 16;
/// Longest wait for one media node: a listing should not hang on one that is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

enum Answer {
    Rooms(Vec<Room>),
    Refused(Response<Body>),
    Silent(Arc<MediaNode>),
}

impl Door {
    pub(crate) async fn list_rooms(&self, call: &Call) -> Result<Response<Body>, TwirpError> {
        if !call.claims.may_list_rooms() {
            return Err(TwirpError::permission_denied());
        }
        let request: ListRoomsRequest = call.format.decode(&call.body)?;
        let names: BTreeSet<String> = request.names.into_iter().collect();
        let media_nodes = self.router.directory.media_nodes();
        let mut answers = futures_util::stream::iter(media_nodes)
            .map(|media_node| self.list_one(call, media_node))
            .buffer_unordered(ASKED_AT_ONCE);
        let mut rooms: BTreeMap<String, Room> = BTreeMap::new();
        while let Some(answer) = answers.next().await {
            let some = match answer {
                Answer::Rooms(some) => some,
                Answer::Refused(response) => return Ok(response),
                Answer::Silent(media_node) => self.known_rooms(&media_node, &names),
            };
            for room in some {
                merge(&mut rooms, room);
            }
        }
        drop(answers);
        let merged = ListRoomsResponse { rooms: rooms.into_values().collect() };
        let body = call.format.encode(&merged)?;
        Ok(reply::typed(StatusCode::OK, call.format.content_type(), body))
    }

    async fn list_one(&self, call: &Call, media_node: Arc<MediaNode>) -> Answer {
        let sent = self.router.deliver_to(&media_node, call.onward(), ANSWER_WITHIN).await;
        let Ok(response) = sent else { return Answer::Silent(media_node) };
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Answer::Refused(crate::rpc::passed_on(response));
        }
        if !response.status().is_success() {
            return Answer::Silent(media_node);
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect();
        match tokio::time::timeout(ANSWER_WITHIN, body).await {
            Ok(Ok(body)) => read(call.format, &body.to_bytes())
                .map_or_else(|| Answer::Silent(media_node), Answer::Rooms),
            _ => Answer::Silent(media_node),
        }
    }

    /// What the directory knows of a media node that does not answer.
    fn known_rooms(&self, media_node: &MediaNode, names: &BTreeSet<String>) -> Vec<Room> {
        self.metrics.listings_filled_in.inc();
        tracing::warn!(media_node = media_node.name, "a media node did not list its rooms");
        let rooms = self.router.directory.rooms_of(&media_node.name).into_iter();
        rooms
            .filter(|(name, _)| names.is_empty() || names.contains(name))
            .map(|(name, num_participants)| Room { name, num_participants, ..Room::default() })
            .collect()
    }
}

fn read(format: Format, body: &[u8]) -> Option<Vec<Room>> {
    format.decode::<ListRoomsResponse>(body).ok().map(|list| list.rooms)
}

/// Of a room that is being moved, the side with more participants counts.
fn merge(rooms: &mut BTreeMap<String, Room>, room: Room) {
    match rooms.get(&room.name) {
        Some(known) if known.num_participants >= room.num_participants => {}
        _ => {
            rooms.insert(room.name.clone(), room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_that_moves_is_listed_once_with_its_people() {
        let room = |name: &str, sid: &str, num_participants| Room {
            name: name.to_owned(),
            sid: sid.to_owned(),
            num_participants,
            ..Room::default()
        };
        let mut rooms = BTreeMap::new();
        for room in [room("r", "new", 1), room("r", "old", 4), room("s", "x", 0)] {
            merge(&mut rooms, room);
        }
        let listed: Vec<_> = rooms.values().map(|room| room.sid.as_str()).collect();
        assert_eq!(listed, ["old", "x"]);
    }
}
