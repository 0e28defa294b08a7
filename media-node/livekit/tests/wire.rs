//! Frames, Twirp bodies, paths and queries as SDKs send them, and as attackers do.

use livekit_contract::connect::{ConnectError, ConnectQuery, Endpoint, PARAMETERS_MAX};
use livekit_contract::frame::{
    Encoding, FRAME_BYTES_MAX, FrameError, decode_request, decode_response, encode_request,
    encode_response,
};
use livekit_contract::proto::{
    ListRoomsResponse, MuteTrackRequest, Room, RoomParticipantIdentity, SignalRequest,
    SignalResponse, signal_request, signal_response,
};
use livekit_contract::twirp::{BODY_BYTES_MAX, Code, Format, TwirpError, room_of};
use proptest::prelude::*;

fn mute() -> SignalRequest {
    let track = MuteTrackRequest { sid: "TR_1".to_owned(), muted: true };
    SignalRequest { message: Some(signal_request::Message::Mute(track)) }
}

#[test]
fn requests_and_responses_survive_both_encodings() {
    for encoding in [Encoding::Binary, Encoding::Json] {
        let bytes = encode_request(encoding, &mute()).expect("encodes");
        assert_eq!(decode_request(encoding, &bytes), Ok(mute()));
        let pong = SignalResponse { message: Some(signal_response::Message::Pong(17)) };
        let bytes = encode_response(encoding, &pong).expect("encodes");
        assert_eq!(decode_response(encoding, &bytes), Ok(pong));
    }
}

#[test]
fn json_is_read_in_camel_case_and_in_proto_names() {
    for text in [
        r#"{"addTrack": {"cid": "c", "type": "AUDIO", "disableRed": true, "new": [1]}}"#,
        r#"{"add_track": {"cid": "c", "type": 0, "simulcast": true, "disable_red": true}}"#,
    ] {
        let request = decode_request(Encoding::Json, text.as_bytes()).expect("reads");
        let Some(signal_request::Message::AddTrack(add)) = request.message else {
            panic!("not an addTrack: {text}");
        };
        assert!(add.disable_red && add.cid == "c");
    }
}

#[test]
fn frames_are_bounded_and_never_panic() {
    let long = vec![0; FRAME_BYTES_MAX + 1];
    for encoding in [Encoding::Binary, Encoding::Json] {
        let refused = decode_request(encoding, &long);
        assert_eq!(refused, Err(FrameError::TooLong(FRAME_BYTES_MAX + 1)));
    }
    assert_eq!(decode_request(Encoding::Json, b"{"), Err(FrameError::Json));
    assert_eq!(decode_request(Encoding::Binary, &[0x0a, 0xff]), Err(FrameError::Protobuf));
    let nested = "[".repeat(100_000);
    assert_eq!(decode_request(Encoding::Json, nested.as_bytes()), Err(FrameError::Json));
    let bytes = encode_request(Encoding::Binary, &mute()).expect("encodes");
    for end in 1..bytes.len() {
        assert_eq!(decode_request(Encoding::Binary, &bytes[..end]), Err(FrameError::Protobuf));
    }
}

#[test]
fn twirp_errors_have_the_shape_and_status_of_the_specification() {
    let error = TwirpError::new(Code::NotFound, "participant does not exist");
    let json = String::from_utf8(error.to_json()).expect("UTF-8");
    assert_eq!(json, r#"{"code":"not_found","msg":"participant does not exist"}"#);
    assert_eq!(error.code.http_status(), 404);
    let statuses = [
        (Code::Unauthenticated, 401),
        (Code::PermissionDenied, 403),
        (Code::ResourceExhausted, 429),
        (Code::Unavailable, 503),
        (Code::Malformed, 400),
        (Code::FailedPrecondition, 412),
        (Code::Internal, 500),
    ];
    for (code, status) in statuses {
        assert_eq!(code.http_status(), status, "{code:?}");
    }
    let read: TwirpError = serde_json::from_slice(&error.to_json()).expect("reads");
    assert_eq!(read, error);
}

#[test]
fn content_types_choose_the_format() {
    let json = Format::from_content_type(Some("application/json; charset=UTF-8"));
    assert_eq!(json, Ok(Format::Json));
    let protobuf = Format::from_content_type(Some("Application/Protobuf"));
    assert_eq!(protobuf, Ok(Format::Protobuf));
    for wrong in [None, Some("text/plain"), Some("")] {
        let refused = Format::from_content_type(wrong).expect_err("refused");
        assert_eq!(refused.code, Code::BadRoute);
    }
}

#[test]
fn bodies_survive_both_formats_and_are_bounded() {
    let rooms = ListRoomsResponse {
        rooms: vec![Room { name: "r".to_owned(), num_participants: 3, ..Room::default() }],
    };
    for format in [Format::Protobuf, Format::Json] {
        let body = format.encode(&rooms).expect("encodes");
        assert_eq!(format.decode::<ListRoomsResponse>(&body), Ok(rooms.clone()));
        let long = vec![b' '; BODY_BYTES_MAX + 1];
        let refused = format.decode::<ListRoomsResponse>(&long).expect_err("refused");
        assert_eq!(refused.code, Code::ResourceExhausted);
        let refused = format.decode::<ListRoomsResponse>(b"\xff\xff").expect_err("refused");
        assert_eq!(refused.code, Code::Malformed);
    }
}

/// The gateway and the media node read the same body and must agree on it.
#[test]
fn a_body_is_one_for_both_who_read_it_or_for_neither() {
    let service = "livekit.RoomService";
    let not_text = b"{\"room\":\"\xd6\",\"name\":\"r\"}";
    assert!(room_of(service, "CreateRoom", Format::Json, not_text).is_err());
    assert!(Format::Json.decode::<livekit_contract::proto::CreateRoomRequest>(not_text).is_err());
    // A field that the message does not have may be anything.
    let stranger = br#"{"room": 5, "name": "r"}"#;
    let room = room_of(service, "CreateRoom", Format::Json, stranger);
    assert_eq!(room, Ok(Some("r".to_owned())));
    assert!(Format::Json.decode::<livekit_contract::proto::CreateRoomRequest>(stranger).is_ok());
}

#[test]
fn the_room_of_a_call_is_found_without_its_message() {
    let service = "livekit.RoomService";
    let call = RoomParticipantIdentity {
        room: "r1".to_owned(),
        identity: "anna".to_owned(),
        ..Default::default()
    };
    for format in [Format::Protobuf, Format::Json] {
        let body = format.encode(&call).expect("encodes");
        let room = room_of(service, "GetParticipant", format, &body);
        assert_eq!(room, Ok(Some("r1".to_owned())), "{format:?}");
    }
    let json = br#"{"name": "r2", "empty_timeout": 10}"#;
    let room = room_of(service, "CreateRoom", Format::Json, json);
    assert_eq!(room, Ok(Some("r2".to_owned())));
    // A new display name is not a room.
    let json = br#"{"room": "r3", "identity": "a", "name": "Anna"}"#;
    let room = room_of(service, "UpdateParticipant", Format::Json, json);
    assert_eq!(room, Ok(Some("r3".to_owned())));
    let dispatch = livekit_contract::proto::CreateAgentDispatchRequest {
        agent_name: "scribe".to_owned(),
        room: "r4".to_owned(),
        ..Default::default()
    };
    let body = Format::Protobuf.encode(&dispatch).expect("encodes");
    let agents = "livekit.AgentDispatchService";
    let room = room_of(agents, "CreateDispatch", Format::Protobuf, &body);
    assert_eq!(room, Ok(Some("r4".to_owned())));
    assert_eq!(room_of(service, "ListRooms", Format::Protobuf, b""), Ok(None));
}

#[test]
fn paths_are_read_with_prefixes_and_doubled_slashes() {
    for path in ["/rtc", "//rtc", "/rtc/", "/livekit/sfu/rtc", "/livekit/sfu//rtc"] {
        assert_eq!(Endpoint::of(path), Endpoint::Rtc, "{path}");
    }
    assert_eq!(Endpoint::of("/"), Endpoint::Root);
    assert_eq!(Endpoint::of("//rtc/validate"), Endpoint::RtcValidate);
    assert_eq!(Endpoint::of("/rtc/v1"), Endpoint::RtcV1 { validate: false });
    assert_eq!(Endpoint::of("/rtc/v1/validate"), Endpoint::RtcV1 { validate: true });
    let twirp = Endpoint::Twirp {
        service: "livekit.RoomService".to_owned(),
        method: "ListRooms".to_owned(),
    };
    assert_eq!(Endpoint::of("/twirp/livekit.RoomService/ListRooms"), twirp);
    assert_eq!(Endpoint::of("/a/b//twirp/livekit.RoomService/ListRooms"), twirp);
    for path in ["/rtcx", "/rtc/v2", "/twirp/a", "/a/b/c/d/e/rtc", "/meet/", "/twirp/a/b/c"] {
        assert_eq!(Endpoint::of(path), Endpoint::Other, "{path}");
    }
}

#[test]
fn the_query_of_livekit_client_is_read_whole() {
    // {"color":"red","role":null} and {"color":"red"} in base64url, padded and not.
    let query = "access_token=a.b.c&auto_subscribe=1&sdk=js&version=2.21.0&protocol=16\
                 &client_protocol=1&device_model=Pixel%207&browser=Firefox&browser_version=140\
                 &os=Linux&os_version=6&network=wifi&adaptive_stream=1&reconnect=1\
                 &reconnect_reason=3&sid=PA_x&subscriber_allow_pause=true&disable_ice_lite=false\
                 &auto_subscribe_data_track=0&publish=screen\
                 &attributes=eyJjb2xvciI6InJlZCIsInJvbGUiOm51bGx9&unknown=1";
    let read = ConnectQuery::parse(query).expect("reads");
    assert_eq!(read.access_token.as_ref().map(|token| token.expose().as_str()), Some("a.b.c"));
    assert!(read.auto_subscribe && read.adaptive_stream && read.reconnect);
    assert_eq!((read.reconnect_reason, read.sid.as_deref()), (3, Some("PA_x")));
    assert_eq!((read.client.protocol, read.client.client_protocol), (16, 1));
    assert_eq!(read.client.sdk(), livekit_contract::proto::client_info::Sdk::Js);
    assert_eq!(read.client.device_model, "Pixel 7");
    assert_eq!(read.attributes.get("color").map(String::as_str), Some("red"));
    assert_eq!(read.attributes.len(), 1);
    assert_eq!(read.subscriber_allow_pause, Some(true));
    assert_eq!(read.auto_subscribe_data_track, Some(false));
    assert_eq!(read.publish.as_deref(), Some("screen"));
    assert!(!read.disable_ice_lite && !read.attributes_malformed);
    let padded = ConnectQuery::parse("attributes=eyJjb2xvciI6InJlZCJ9").expect("reads");
    assert_eq!(padded.attributes.len(), 1);
    let shown = format!("{read:?}");
    assert!(!shown.contains("a.b.c") && !shown.contains("PA_x") && !shown.contains("red"));
}

#[test]
fn an_empty_query_means_the_defaults() {
    let read = ConnectQuery::parse("").expect("reads");
    assert!(read.auto_subscribe && !read.adaptive_stream && !read.reconnect);
    assert_eq!(read.sid, None);
    let unsubscribed = ConnectQuery::parse("auto_subscribe=0&sid=PA_x").expect("reads");
    assert!(!unsubscribed.auto_subscribe);
    assert_eq!(unsubscribed.sid, None, "a sid without reconnect is not believed");
    let bad = ConnectQuery::parse("attributes=%21%21&reconnect_reason=x").expect("reads");
    assert!(bad.attributes_malformed && bad.reconnect_reason == 0);
}

#[test]
fn queries_are_bounded() {
    let long = format!("access_token={}", "a".repeat(70_000));
    assert!(matches!(ConnectQuery::parse(&long), Err(ConnectError::TooLong(_))));
    let many = "a=1&".repeat(PARAMETERS_MAX + 1);
    assert_eq!(ConnectQuery::parse(&many), Err(ConnectError::TooMany));
}

proptest! {
    /// Bytes from strangers end with a message or an error in every parser.
    #[test]
    fn noise_ends_with_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300),
                                 text in ".{0,200}") {
        for encoding in [Encoding::Binary, Encoding::Json] {
            let _ = decode_request(encoding, &bytes);
            let _ = decode_response(encoding, &bytes);
        }
        for format in [Format::Protobuf, Format::Json] {
            let _ = room_of("livekit.RoomService", "CreateRoom", format, &bytes);
        }
        let _ = ConnectQuery::parse(&text);
        let _ = Endpoint::of(&text);
    }
}

#[test]
fn the_browser_is_read_from_the_user_agent() {
    use livekit_contract::connect::browser_of;
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0";
    let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                  Chrome/156.0.0.0 Safari/537.36";
    let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, \
                  like Gecko) Version/17.4 Safari/605.1.15";
    assert_eq!(browser_of(firefox), "Firefox");
    assert_eq!(browser_of(chrome), "Chrome");
    assert_eq!(browser_of(safari), "Safari");
    assert_eq!(browser_of("curl/8.0"), "");
}
