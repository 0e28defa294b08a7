//! One client's garbage costs that client only: a call running beside it goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use harness::{claims, get, request, sign, start};
use livekit_contract::frame::{self, Encoding};
use livekit_protocol::{
    Ping, SessionDescription, SignalRequest, TrickleRequest, signal_request, signal_response,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const PATIENCE: Duration = Duration::from_secs(10);

async fn join(node: &harness::Node, identity: &str) -> Socket {
    let token = sign(&claims(identity, "room"));
    let at = node.started.signal;
    let query = format!("protocol=16&sdk=js&auto_subscribe=1&access_token={token}");
    let (socket, _) = connect_async(format!("ws://{at}/rtc?{query}")).await.unwrap();
    socket
}

/// Asks for a pong and reads until it comes.
async fn alive(socket: &mut Socket) {
    let ping = Ping { timestamp: 42, rtt: 0 };
    let request = SignalRequest { message: Some(signal_request::Message::PingReq(ping)) };
    let bytes = frame::encode_request(Encoding::Binary, &request).unwrap();
    socket.send(Message::Binary(bytes.into())).await.unwrap();
    let answered = async {
        while let Some(Ok(message)) = socket.next().await {
            let Message::Binary(bytes) = message else {
                continue;
            };
            let response = frame::decode_response(Encoding::Binary, &bytes).unwrap();
            if let Some(signal_response::Message::PongResp(pong)) = response.message {
                assert_eq!(pong.last_ping_timestamp, 42);
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, answered).await.unwrap(), "the connection ended");
}

/// The close code a client is sent away with.
async fn sent_away(mut socket: Socket) -> Option<CloseCode> {
    let closed = async {
        while let Some(message) = socket.next().await {
            if let Ok(Message::Close(Some(frame))) = message {
                return Some(frame.code);
            }
        }
        None
    };
    timeout(PATIENCE, closed).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_and_oversized_frames_cost_their_sender_only() {
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    alive(&mut ada).await;

    let mut mallory = join(&node, "mallory").await;
    mallory.send(Message::Binary(vec![0xff; 100].into())).await.unwrap();
    assert_eq!(sent_away(mallory).await, Some(CloseCode::Protocol));
    let mut mallory = join(&node, "mallory").await;
    mallory.send(Message::Text("{\"offer\": 7".into())).await.unwrap();
    assert_eq!(sent_away(mallory).await, Some(CloseCode::Protocol));
    let mut mallory = join(&node, "mallory").await;
    // The server may cut the line before it has read all of it.
    let _ = mallory.send(Message::Binary(vec![0; 3 << 20].into())).await;
    assert!(matches!(sent_away(mallory).await, Some(CloseCode::Size) | None));

    alive(&mut ada).await;
    let metrics = get(node.started.admin, "/metrics").await.body;
    assert!(metrics.contains("hemicycle_media_node_frames_refused_total 3"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_datagrams_are_counted_and_get_no_answer() {
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let media = node.started.media[0];
    let stun = b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl";
    let samples: [&[u8]; 8] = [
        b"",
        b"x",
        stun,
        &stun[..19],
        &[22, 254, 253, 0, 0],
        &[128, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2],
        &[0xff; 1_400],
        &[200, 0, 0, 1],
    ];
    for round in 0..50_usize {
        for sample in samples {
            socket.send_to(sample, media).await.unwrap();
        }
        if round % 10 == 0 {
            alive(&mut ada).await;
        }
    }
    let mut answer = [0; 1_500];
    assert!(socket.try_recv_from(&mut answer).is_err(), "garbage got an answer");
    let counted = async {
        loop {
            let metrics = get(node.started.admin, "/metrics").await.body;
            if metrics.contains("packets_received_total{shard=\"0\"} 400") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    alive(&mut ada).await;
}

/// Waits until the metrics say so.
async fn counted(node: &harness::Node, line: &str) {
    let waiting = async {
        loop {
            let metrics = get(node.started.admin, "/metrics").await.body;
            if metrics.lines().any(|one| one == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never counted: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_connection_that_is_no_ice_is_dropped_and_counted() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    let framed = |frame: &[u8]| [&(frame.len() as u16).to_be_bytes()[..], frame].concat();
    let stranger = b"\0\x01\0\x0c\x21\x12\xa4\x42abcdefghijkl\0\x06\0\x08none:one";
    let openings = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        framed(&[22, 254, 253, 0, 0, 0, 0]),
        framed(&[]),
        framed(stranger),
        framed(&stranger[..21]),
    ];
    for opening in &openings {
        let mut stream = TcpStream::connect(node.started.media_tcp[0]).await.unwrap();
        stream.write_all(opening).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(ended.is_err() || rest.is_empty(), "{opening:?} got an answer");
    }
    let count = openings.len();
    counted(&node, &format!("hemicycle_media_node_tcp_refused_total {count}")).await;
    alive(&mut ada).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_that_are_none_end_their_sender_with_a_leave_and_a_reason() {
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    let describe = |sdp: &str| SessionDescription { sdp: sdp.to_owned(), ..Default::default() };
    let offers = ["", "v=0", "{\"type\":\"offer\"}", "v=0\r\nm=audio"];
    for sdp in offers {
        let mut mallory = join(&node, "mallory").await;
        let message = Some(signal_request::Message::Offer(describe(sdp)));
        let bytes = frame::encode_request(Encoding::Binary, &SignalRequest { message }).unwrap();
        mallory.send(Message::Binary(bytes.into())).await.unwrap();
        let mut left = false;
        let ended = async {
            while let Some(message) = mallory.next().await {
                match message {
                    Ok(Message::Binary(bytes)) => {
                        let told = frame::decode_response(Encoding::Binary, &bytes).unwrap();
                        left |= matches!(told.message, Some(signal_response::Message::Leave(_)));
                    }
                    Ok(Message::Close(Some(frame))) => return Some(frame),
                    _ => {}
                }
            }
            None
        };
        let frame = timeout(PATIENCE, ended).await.unwrap().expect("the line was only cut");
        assert_eq!(frame.code, CloseCode::Policy);
        assert!(frame.reason.as_str().starts_with("the offer "), "{}", frame.reason);
        assert!(left, "no leave");
    }
    let count = offers.len();
    counted(&node, &format!("hemicycle_media_node_protocol_errors_total{{shard=\"0\"}} {count}"))
        .await;
    alive(&mut ada).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none_are_refused_and_rooms_go_on() {
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    let mut admin = claims("admin", "room");
    let grant = admin.video.as_mut().unwrap();
    (grant.room_admin, grant.room_list, grant.room_create) = (true, true, true);
    let token = sign(&admin);
    let call = async |kind: &str, body: &str| {
        let headers = format!("authorization: Bearer {token}\r\ncontent-type: {kind}\r\n");
        let line = "POST /twirp/livekit.RoomService/ListParticipants";
        request(node.started.signal, line, &headers, body).await
    };
    for (kind, body) in [
        ("application/json", "{"),
        ("application/json", "[1,2]"),
        ("application/json", "{\"room\":7}"),
        ("application/protobuf", "\x0a\x7fshort"),
    ] {
        let answer = call(kind, body).await;
        assert_eq!(answer.status, 400, "{kind} {body:?}: {}", answer.body);
        assert!(answer.body.contains("\"code\":\"malformed\""), "{}", answer.body);
    }
    let answer = call("application/json", "{\"room\":\"room\"}").await;
    assert!(answer.body.contains("\"identity\":\"ada\""), "{}", answer.body);
    alive(&mut ada).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_json_is_answered_in_json() {
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    let ping = r#"{"pingReq": {"timestamp": "42"}}"#;
    ada.send(Message::Text(ping.into())).await.unwrap();
    let answered = async {
        while let Some(Ok(message)) = ada.next().await {
            if let Message::Text(text) = message
                && text.contains("pongResp")
            {
                return text.contains("\"lastPingTimestamp\":\"42\"");
            }
        }
        false
    };
    assert!(timeout(PATIENCE, answered).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_does_not_hold_up_others() {
    let node = start(&[]).await;
    let mut ada = join(&node, "ada").await;
    let mut mallory = join(&node, "mallory").await;
    let trickle =
        TrickleRequest { candidate_init: "x".repeat(100_000), ..TrickleRequest::default() };
    let request = SignalRequest { message: Some(signal_request::Message::Trickle(trickle)) };
    let bytes = frame::encode_request(Encoding::Binary, &request).unwrap();
    let flood = tokio::spawn(async move {
        for _ in 0..5_000 {
            if mallory.send(Message::Binary(bytes.clone().into())).await.is_err() {
                return;
            }
        }
    });
    for number in 0..10 {
        let mut other = timeout(PATIENCE, join(&node, &format!("guest-{number}"))).await.unwrap();
        alive(&mut other).await;
        alive(&mut ada).await;
    }
    flood.abort();
}
