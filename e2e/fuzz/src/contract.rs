//! Targets of the crate `livekit-contract`: what strangers send before they are known to be anyone.
//!
//! Beyond not panicking, what was read and is written again must read the same.

use livekit_contract::connect::{ConnectQuery, Endpoint};
use livekit_contract::frame::{self, Encoding};
use livekit_contract::grants::Claims;
use livekit_contract::keys_file;
use livekit_contract::token::{self, ApiKey, KeyRing, Strength};
use livekit_contract::twirp::{self, Format};
use livekit_protocol as proto;

use crate::records::byte;

/// A key that seeds are signed with.
pub const KEY: (&str, &str) = ("devkey", "a-secret-of-the-fuzz-targets-only");
/// When tokens are looked at.
pub const NOW_UNIX_S: u64 = 1_700_000_000;

/// An access token and the header it came in. A second pass signs the claims, so that what lies
/// behind the signature is reached.
pub fn token(data: &[u8]) {
    let key = ApiKey::new(KEY.0, KEY.1);
    let ring = KeyRing::new([key.clone()], Strength::Dev).expect("a good key");
    let text = String::from_utf8_lossy(data);
    let _ = token::from_request(Some(&text), Some(&text));
    if let Ok(claims) = token::verify(&ring, &text, NOW_UNIX_S) {
        read(&claims);
    }
    // The same deserialiser as behind the signature.
    if let Ok(claims) = serde_json::from_slice::<Claims>(data) {
        read(&claims);
        let minted = token::mint(&key, &claims).expect("claims can be signed");
        let expired = claims.expires_at_unix_s.saturating_add(token::LEEWAY_S) <= NOW_UNIX_S;
        let accepted = token::verify(&ring, &minted, NOW_UNIX_S).is_ok();
        assert!(!(expired && accepted), "an expired token was accepted");
    }
}

fn read(claims: &Claims) {
    if let Some(video) = &claims.video {
        let _ = (video.can_publish(), video.can_subscribe(), claims.room_to_join());
        let _ = (video.permission(), video.can_publish_data());
    }
    let _ = (claims.may_create_rooms(), claims.may_list_rooms(), claims.participant_kind());
    let _ = format!("{claims:?}");
}

/// Signalling frames in both encodings.
pub fn frame(data: &[u8]) {
    for encoding in [Encoding::Binary, Encoding::Json] {
        if let Ok(request) = frame::decode_request(encoding, data) {
            let bytes = frame::encode_request(Encoding::Binary, &request).expect("as short");
            let again = frame::decode_request(Encoding::Binary, &bytes).expect("ours");
            // By value: attributes are a map, which has no order in bytes. A request holds no
            // floating-point number, of which one is not equal to itself.
            assert_eq!(request, again, "a frame changed on its way");
            let _ = frame::encode_request(Encoding::Json, &request);
        }
        if let Ok(response) = frame::decode_response(encoding, data) {
            let _ = frame::encode_response(Encoding::Json, &response);
        }
    }
}

/// Bodies of the room service, and the room that a gateway reads out of a body it does not know.
pub fn twirp(mut data: &[u8]) {
    const METHODS: [(&str, &str); 5] = [
        ("livekit.RoomService", "CreateRoom"),
        ("livekit.RoomService", "ListRooms"),
        ("livekit.RoomService", "SendData"),
        ("livekit.AgentDispatchService", "CreateDispatch"),
        ("livekit.Egress", "StartRoomCompositeEgress"),
    ];
    let (service, method) = METHODS[usize::from(byte(&mut data)) % METHODS.len()];
    let _ = Format::from_content_type(std::str::from_utf8(data).ok());
    for format in [Format::Protobuf, Format::Json] {
        let room = twirp::room_of(service, method, format, data);
        if let Ok(request) = format.decode::<proto::CreateRoomRequest>(data) {
            if method == "CreateRoom" {
                let named = (!request.name.is_empty()).then(|| request.name.clone());
                assert_eq!(room, Ok(named), "the gateway read another room");
            }
            let _ = format.encode(&request);
        }
        let _ = format.decode::<proto::MuteRoomTrackRequest>(data);
        let _ = format.decode::<proto::UpdateParticipantRequest>(data);
        let _ = format.decode::<proto::UpdateSubscriptionsRequest>(data);
        if let Ok(request) = format.decode::<proto::SendDataRequest>(data) {
            let _ = format.encode(&request);
        }
    }
}

/// Paths and queries of `/rtc`.
pub fn connect(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, query) = text.split_once('?').unwrap_or((&text, &text));
    let _ = Endpoint::of(path);
    if let Ok(read) = ConnectQuery::parse(query) {
        assert!(read.sid.is_none() || read.reconnect, "a sid without a resume");
        let _ = format!("{read:?}");
    }
}

/// The keys file.
pub fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for strength in [Strength::Strict, Strength::Dev] {
        if let Ok(ring) = keys_file::parse(text, strength) {
            assert!(ring.first().is_some(), "an empty ring");
        }
    }
}
