//! The seeds: one good message of every kind, from which libFuzzer begins. Written, with
//! `HEMICYCLE_FUZZ_SEEDS=corpus`, into the corpus that the repository keeps.

use std::fs;
use std::io;
use std::path::Path;

use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::token::{ApiKey, mint};
use livekit_protocol as proto;
use livekit_protocol::signal_request::Message as Request;
use prost::Message;

use crate::contract::{KEY, NOW_UNIX_S};
use crate::records::append;

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:\
    77:88:99:AA:BB:CC:DD:EE:FF\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\n\
    a=msid:- mic\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=ssrc:1234 cname:x\r\n\
    a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendonly\r\n\
    a=msid:s cam\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n\
    a=fmtp:97 apt=96\r\na=rid:q send\r\na=rid:h send\r\na=rid:f send\r\n\
    a=simulcast:send q;h;f\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
    a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\n\
    a=sctp-port:5000\r\n";

/// Writes every seed below `directory`, one folder for each target.
pub fn write(directory: &Path) -> io::Result<()> {
    let mut all: Vec<(&str, &str, Vec<u8>)> = contract();
    all.extend(media());
    all.extend(shell());
    all.extend(meetings());
    all.extend(crate::proof::seeds());
    for (target, name, bytes) in all {
        let folder = directory.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

fn contract() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let claims = Claims {
        identity: "ada".to_owned(),
        expires_at_unix_s: NOW_UNIX_S + 600,
        video: Some(VideoGrant::join("room")),
        ..Claims::default()
    };
    let token = mint(&ApiKey::new(KEY.0, KEY.1), &claims).expect("claims can be signed");
    let json = serde_json::to_vec(&claims).expect("claims are JSON");
    let query = b"/livekit/sfu//rtc?auto_subscribe=1&sdk=js&version=2.15&protocol=16&reconnect=1\
        &sid=PA_x&adaptive_stream=1&attributes=eyJhIjoiYiJ9&capabilities=CAP_PACKET_TRAILER";
    let create = proto::CreateRoomRequest { name: "room".to_owned(), ..Default::default() };
    let with_method = |method: u8, body: &[u8]| [&[method], body].concat();
    let requests = requests().into_iter().map(|(name, message)| {
        let frame = proto::SignalRequest { message: Some(message) };
        ("frame", name, frame.encode_to_vec())
    });
    let mut all = vec![
        ("token", "signed", token.into_bytes()),
        ("token", "claims", json),
        ("token", "none", b"Bearer eyJhbGciOiJub25lIn0.e30.".to_vec()),
        ("connect", "resume", query.to_vec()),
        ("connect", "twirp", b"/twirp/livekit.RoomService/ListRooms?access_token=a".to_vec()),
        ("keys", "two", b"devkey: secret\nother: \"0123456789abcdef0123456789abcdef\"\n".to_vec()),
        ("twirp", "binary", with_method(0, &create.encode_to_vec())),
        ("twirp", "json", with_method(0, b"{\"name\":\"room\",\"emptyTimeout\":5}")),
        ("twirp", "room", with_method(2, b"{\"room\":\"r\",\"data\":\"AAAA\",\"kind\":\"LOSSY\"}")),
        ("frame", "json", b"{\"mute\":{\"sid\":\"TR_x\",\"muted\":true}}".to_vec()),
        (
            "frame",
            "attributes",
            b"{\"updateMetadata\":{\"attributes\":{\"a\":\"b\",\"c\":\"d\"}}}".to_vec(),
        ),
    ];
    all.extend(requests);
    all
}

fn requests() -> Vec<(&'static str, Request)> {
    let layer = |quality, width, rid: &str| proto::VideoLayer {
        quality,
        width,
        height: width / 2,
        rid: rid.to_owned(),
        ..Default::default()
    };
    let camera = proto::AddTrackRequest {
        cid: "cam".to_owned(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        layers: vec![layer(0, 320, "q"), layer(1, 640, "h"), layer(2, 1280, "f")],
        ..Default::default()
    };
    let microphone = proto::AddTrackRequest {
        cid: "mic".to_owned(),
        name: "m".to_owned(),
        ..Default::default()
    };
    let offer = proto::SessionDescription {
        r#type: "offer".to_owned(),
        sdp: OFFER.to_owned(),
        id: 1,
        ..Default::default()
    };
    let answer = proto::SessionDescription { r#type: "answer".to_owned(), ..offer.clone() };
    let sids = || vec!["TR_x".to_owned()];
    vec![
        ("camera", Request::AddTrack(camera)),
        ("microphone", Request::AddTrack(microphone)),
        ("offer", Request::Offer(offer)),
        ("answer", Request::Answer(answer)),
        ("mute", Request::Mute(proto::MuteTrackRequest { sid: "TR_x".to_owned(), muted: true })),
        (
            "subscription",
            Request::Subscription(proto::UpdateSubscription {
                track_sids: sids(),
                subscribe: true,
                ..Default::default()
            }),
        ),
        (
            "settings",
            Request::TrackSetting(proto::UpdateTrackSettings {
                track_sids: sids(),
                width: 640,
                height: 360,
                fps: 15,
                ..Default::default()
            }),
        ),
        (
            "permission",
            Request::SubscriptionPermission(proto::SubscriptionPermission {
                all_participants: false,
                track_permissions: vec![proto::TrackPermission {
                    participant_identity: "bob".to_owned(),
                    all_tracks: true,
                    ..Default::default()
                }],
            }),
        ),
        (
            "metadata",
            Request::UpdateMetadata(proto::UpdateParticipantMetadata {
                metadata: "m".to_owned(),
                name: "n".to_owned(),
                attributes: [("a".to_owned(), "b".to_owned())].into(),
                ..Default::default()
            }),
        ),
        ("sync", Request::SyncState(proto::SyncState::default())),
        ("trickle", Request::Trickle(proto::TrickleRequest::default())),
        ("ping", Request::PingReq(proto::Ping { timestamp: 1, rtt: 2 })),
        ("leave", Request::Leave(proto::LeaveRequest::default())),
    ]
}

fn media() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let vp8 = [0x90, 0xf0, 0x92, 0x34, 9, 0x45, 0x00, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 2, 0x68, 1];
    let stap = [0x78, 0, 2, 0x67, 1, 0, 2, 0x68, 2, 0, 2, 0x65, 3];
    let red = [0x80 | 111, 0, 0, 2, 111, 8, 9, 1, 2, 3];
    let mut run = Vec::new();
    for index in 0..6_u8 {
        let head = [0, 0xff, 0xfc_u8.wrapping_add(index), 0, 0, index, 0];
        append(&mut run, index % 3, &[&head[..], &vp8].concat());
        append(&mut run, 3, &[0xff, 0xfe_u8.wrapping_add(index), 0, 0, index, 0]);
        append(&mut run, 6, &[0, 33]);
    }
    append(&mut run, 4, &[0x13]);
    append(&mut run, 5, &[0]);
    append(&mut run, 7, &[0, 9, 1, 2, 3, 4]);
    let mut lossy = Vec::new();
    for index in [0_u8, 1, 3, 6, 5] {
        let head = [0xff, 0xfd_u8.wrapping_add(index), 0, 0, 0x0f - index, 0xc0_u8 >> index];
        let [ticks, more] = [0x0f, 0x00];
        let twice = [0xef, ticks * 2, more, 1, 0xef, ticks, more, 1, 111, 7, 8, 9];
        append(&mut lossy, 20, &[&head[..], &twice].concat());
    }
    let mut told =
        vec![("rtcp", "feedback", rtcp()), ("rtcp", "cut", rtcp().into_iter().take(39).collect())];
    told.extend([
        ("red", "lossy", lossy),
        ("payload", "vp8", vp8.to_vec()),
        ("payload", "stap-a", stap.to_vec()),
        ("payload", "fu-a", vec![0x7c, 0x85, 1]),
        ("payload", "red", red.to_vec()),
        ("numbers", "wrap", run),
    ]);
    told
}

/// Everything that a receiver tells: a report, what is missing, both requests for a keyframe, when
/// packets arrived, and a goodbye.
fn rtcp() -> Vec<u8> {
    let of = |first: u8, kind: u8, words: &[u32]| {
        let mut packet = vec![first, kind];
        packet.extend_from_slice(&(words.len() as u16).to_be_bytes());
        packet.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        packet
    };
    [
        of(0x81, 201, &[1, 9, 0x0100_0002, 77, 5, 0xabcd_0000, 0x8000]),
        of(0x81, 205, &[1, 9, 0xfffe_8001, 0x0007_0000]),
        of(0x81, 206, &[1, 9]),
        of(0x84, 206, &[1, 0, 9, 0x0300_0000]),
        of(0x8f, 205, &[1, 9, 0x0010_0003, 0x0000_0500, 0x2003_0408, 0x0c00_0000]),
        of(0xa1, 203, &[1, 0x0000_0004]),
    ]
    .concat()
}

fn shell() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let frame = |message: Vec<u8>| {
        let length = u16::try_from(message.len()).expect("seeds are short").to_be_bytes();
        [&length[..], &message].concat()
    };
    let yaml = "\0tenant: a/b\nudp_port_first: 40000\nshards: auto\ntcp_port: off\n\
        advertised_addresses: [192.0.2.1, \"2001:db8::1\"]\nauto_create: false\n";
    let flags = "\x01--dev\0--udp-port-first=50000\0--shards=2\0--media-addresses=127.0.0.1,::1\0\
        --room-empty-timeout-seconds=9\0--log-format=text";
    let gateway = "\x02--listen=[::]:8443\0--allowed-origins=https://a.example, http://b\0\
        --trusted-hops=1\0--idle-s=60\0--log=info,gateway=debug";
    vec![
        (
            "frames",
            "binding",
            [frame(stun(16)), frame(b"more".to_vec()), frame(stun(250))].concat(),
        ),
        ("config", "file", yaml.as_bytes().to_vec()),
        ("config", "flags", flags.as_bytes().to_vec()),
        ("config", "gateway", gateway.as_bytes().to_vec()),
    ]
}

/// A STUN binding request without integrity, and one with a length that lies.
fn stun(length: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 0, length, 0x21, 0x12, 0xa4, 0x42];
    message.extend_from_slice(&[7; 12]);
    message.extend_from_slice(&[0, 6, 0, 9]);
    message.extend_from_slice(b"abcd:efgh\0\0\0");
    message
}

fn meetings() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let frame = |message| proto::SignalRequest { message: Some(message) }.encode_to_vec();
    let mut session = Vec::new();
    for (name, message) in requests() {
        if name != "leave" {
            append(&mut session, 0, &frame(message));
        }
    }
    append(&mut session, 8, &[0, 200]);
    append(&mut session, 0x10, &frame(Request::Leave(proto::LeaveRequest::default())));
    let mut away = Vec::new();
    append(&mut away, 11, &[]);
    append(&mut away, 8, &[0x10, 0]);
    append(&mut away, 12, &[0]);
    append(
        &mut away,
        0x2d,
        b"adaptive_stream=1&attributes=eyJhIjoiYiJ9\0{\"sub\":\"eve\",\"exp\":9}",
    );
    for kind in 0..11 {
        append(&mut away, 9, &[kind, b'a', b'd', b'a']);
    }
    append(&mut away, 15, &[]);
    // A DTLS client hello's head, RTP, RTCP: all from an address that nobody validated.
    let packets = [
        stun(16),
        stun(250),
        vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0],
        vec![0x90, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 0x10, 0x85, 0, 0, 1],
        vec![0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2],
    ];
    let (mut datagrams, mut call) = (Vec::new(), Vec::new());
    for packet in &packets {
        append(&mut datagrams, 5, packet);
        append(&mut datagrams, 7, packet);
        append(&mut call, 0, packet);
        append(&mut call, 8, packet);
    }
    let user = proto::UserPacket { payload: b"hello".to_vec(), ..Default::default() };
    let data = proto::DataPacket {
        destination_identities: vec!["bob".to_owned()],
        value: Some(proto::data_packet::Value::User(user)),
        sequence: 3,
        ..Default::default()
    };
    append(&mut call, 2, &data.encode_to_vec());
    append(&mut call, 4, &data.encode_to_vec());
    append(&mut call, 3, b"\xff\xff\xff");
    for (_, message) in requests() {
        append(&mut call, 5, &frame(message));
    }
    append(&mut call, 7, &[1, 0]);
    vec![
        ("shard", "session", session),
        ("shard", "away", away),
        ("shard", "datagrams", datagrams),
        ("call", "everything", call),
    ]
}
