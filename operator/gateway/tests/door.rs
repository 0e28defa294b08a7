//! What the door says to whom: texts and statuses that SDKs look at, limits, Twirp, rotation.

mod bed;

use std::sync::Arc;

use bed::client::{echo, join};
use bed::{
    FakeMediaNode, FakePlacer, KEY, Pki, SECRET, admin_token, gateway, http, join_token,
    token_with, until,
};
use livekit_contract::grants::VideoGrant;
use livekit_contract::token::ApiKey;
use serde_json::Value;
use tonic::Status;

const UPGRADE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// As one request cannot say both `Connection: close` and `Upgrade`, the last one counts.
async fn upgrade(to: std::net::SocketAddr, target: &str) -> bed::Answer {
    http(to, &format!("GET {target}"), &UPGRADE, b"").await
}

#[tokio::test]
async fn refusals_have_the_status_and_text_that_sdks_expect() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let bed = gateway(pki, &[&placer], &[]).await;
    let own = ApiKey::new(KEY, SECRET);
    let other = ApiKey::new("API2", SECRET);
    let forged = ApiKey::new(KEY, "another-unguessable-secret-of-forty-eight-bytes");
    let nowhere = token_with(&own, VideoGrant { room_join: true, ..VideoGrant::default() });
    let no_join = token_with(&own, VideoGrant { room_admin: true, ..VideoGrant::join("r") });
    let mut not_joining = VideoGrant::join("r");
    not_joining.room_join = false;
    for (token, status, text) in [
        (String::new(), 401, "permissions denied"),
        ("nonsense".to_owned(), 401, "invalid authorization token"),
        (token_with(&other, VideoGrant::join("r")), 401, "invalid API key"),
        (token_with(&forged, VideoGrant::join("r")), 401, "invalid authorization token: "),
        (token_with(&own, not_joining), 401, "permissions denied"),
        (nowhere, 400, "no room name"),
    ] {
        for path in ["/rtc", "/rtc/validate"] {
            let answer = upgrade(bed.public, &format!("{path}?access_token={token}")).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
            assert!(answer.text().starts_with(text), "{path}: {}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        }
    }
    let basic = [("authorization", "Basic YTpi")];
    let answer = http(bed.public, "GET /rtc/validate", &basic, b"").await;
    let text = "invalid authorization header. Must start with Bearer ";
    assert_eq!((answer.status, answer.text().as_str()), (401, text));
    let bearer = format!("Bearer {no_join}");
    let answer = http(bed.public, "GET /rtc/validate", &[("authorization", &bearer)], b"").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "success"));
    let target = format!("GET /rtc/validate?access_token={}&attributes=%21", join_token("r"));
    assert_eq!(http(bed.public, &target, &[], b"").await.text(), "cannot decode attributes");
    assert!(placer.state().routed.is_empty(), "a refused request reached the placer");
}

#[tokio::test]
async fn the_new_protocol_is_declined_so_that_sdks_fall_back() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let bed = gateway(pki, &[&placer], &[]).await;
    for path in ["/rtc/v1", "/rtc/v1/validate", "/livekit/sfu/rtc/v1"] {
        let answer = upgrade(bed.public, &format!("{path}?access_token={}", join_token("r"))).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains("requested room does not exist"), "{path}");
    }
    let plain = http(bed.public, "GET /rtc", &[], b"").await;
    assert_eq!((plain.status, plain.text().as_str()), (404, ""));
    for line in ["GET /", "HEAD /", "HEAD //"] {
        let answer = http(bed.public, line, &[("origin", "https://visio.example")], b"").await;
        assert_eq!(answer.status, 200, "{line}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{line}");
    }
}

#[tokio::test]
async fn origins_off_the_list_get_nothing() {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    placer.add(node.endpoint());
    let flags = ["--allowed-origins=https://visio.example, https://tchap.example"];
    let bed = gateway(pki, &[&placer], &flags).await;
    let target = format!("GET /rtc/validate?access_token={}", join_token("r"));
    let good = [("origin", "https://tchap.example")];
    let answer = http(bed.public, &target, &good, b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://tchap.example"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    for origin in ["https://evil.example", "https://visio.example.evil.example", "null"] {
        let answer = http(bed.public, &target, &[("origin", origin)], b"").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));
    }
    assert_eq!(http(bed.public, &target, &[], b"").await.status, 200, "no page, no origin");
    let preflight = [
        ("origin", "https://tchap.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let line = "OPTIONS /twirp/livekit.RoomService/ListRooms";
    let answer = http(bed.public, line, &preflight, b"").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type"));
}

#[tokio::test]
async fn strangers_are_limited_by_address_and_token_holders_are_not() {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    placer.add(node.endpoint());
    let flags = ["--anonymous-rate=1", "--anonymous-burst=5", "--trusted-hops=1"];
    let bed = gateway(pki, &[&placer], &flags).await;
    let stranger = [("x-forwarded-for", "198.18.0.1")];
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = http(bed.public, "GET /rtc/validate?access_token=x", &stranger, b"").await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses[..5], [401; 5]);
    assert!(statuses[5..].contains(&429), "{statuses:?}");
    let other = [("x-forwarded-for", "198.18.0.2")];
    let answer = http(bed.public, "GET /rtc/validate?access_token=x", &other, b"").await;
    assert_eq!(answer.status, 401, "another address has its own bucket");
    let target = format!("GET /rtc/validate?access_token={}", join_token("r"));
    let declined = target.replace("/rtc/validate", "/rtc/v1/validate");
    for _ in 0..12 {
        assert_eq!(http(bed.public, &target, &stranger, b"").await.status, 200);
        assert_eq!(http(bed.public, &declined, &stranger, b"").await.status, 404);
    }
    assert!(bed.metric(r#"hemicycle_gateway_refused_total{reason="address_limit"}"#).await > 0.0);
}

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let bed = gateway(pki, &[&placer], &[]).await;
    let long = "x".repeat(100_000);
    let answer = http(bed.public, "GET /", &[("x-long", &long)], b"").await;
    assert_eq!(answer.status, 431);
    let target = format!("GET /rtc/validate?access_token={}", "x".repeat(20_000));
    let answer = http(bed.public, &target, &[], b"").await;
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("longer than"), "{}", answer.text());
    let bearer = format!("Bearer {}", admin_token("r"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = vec![b' '; 11 * 1024 * 1024];
    let line = "POST /twirp/livekit.RoomService/DeleteRoom";
    let answer = http(bed.public, line, &headers, &body).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.text().contains("resource_exhausted"));
}

async fn call(to: std::net::SocketAddr, token: &str, method: &str, body: &str) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let line = format!("POST /twirp/livekit.RoomService/{method}");
    let answer = http(to, &line, &headers, body.as_bytes()).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn calls_go_to_the_media_node_that_has_the_room() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let (a, b) = (FakeMediaNode::start(&pki, "a"), FakeMediaNode::start(&pki, "b"));
    a.host("r");
    b.takes_all();
    placer.add(a.endpoint());
    placer.add(b.endpoint());
    placer.state().rooms.insert("r".to_owned(), "a".to_owned());
    placer.state().rooms.insert("moved".to_owned(), "a".to_owned());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let (status, answer) =
        call(bed.public, &admin_token("r"), "ListParticipants", r#"{"room":"r"}"#).await;
    assert_eq!((status, &answer["answered_by"]), (200, &Value::from("a")));
    let (status, answer) =
        call(bed.public, &admin_token("moved"), "SendData", r#"{"room":"moved"}"#).await;
    assert_eq!(
        (status, &answer["code"]),
        (404, &Value::from("not_found")),
        "not created by a call"
    );
    let (status, answer) =
        call(bed.public, &admin_token(""), "CreateRoom", r#"{"name":"new"}"#).await;
    assert_eq!((status, &answer["answered_by"]), (200, &Value::from("b")));
    assert!(placer.state().routed.last().expect("asked").create);
    let (status, answer) =
        call(bed.public, &admin_token("x"), "GetParticipant", r#"{"room":"x"}"#).await;
    assert_eq!((status, &answer["code"]), (404, &Value::from("not_found")));
    assert_eq!(answer["msg"], "requested room does not exist");
}

#[tokio::test]
async fn calls_without_the_right_or_the_form_are_refused_at_the_door() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let room = r#"{"room":"r"}"#;
    let mut foreign = VideoGrant::join("other");
    foreign.room_admin = true;
    let foreign = token_with(&ApiKey::new(KEY, SECRET), foreign);
    for (token, method, body, status, code) in [
        ("", "DeleteRoom", room, 401, "unauthenticated"),
        ("nonsense", "DeleteRoom", room, 401, "unauthenticated"),
        (foreign.as_str(), "ListParticipants", room, 401, "unauthenticated"),
        (foreign.as_str(), "CreateRoom", r#"{"name":"r"}"#, 401, "unauthenticated"),
        (foreign.as_str(), "ListRooms", "{}", 401, "unauthenticated"),
        (&admin_token("r"), "DeleteRoom", "{", 400, "malformed"),
        (&admin_token("r"), "DeleteRoom", "{}", 400, "invalid_argument"),
    ] {
        let (got, answer) = call(bed.public, token, method, body).await;
        assert_eq!((got, &answer["code"]), (status, &Value::from(code)), "{method} {body}");
    }
    let bearer = format!("Bearer {}", admin_token("r"));
    let line = "POST /twirp/livekit.RoomService/ListRooms";
    let answer = http(bed.public, line, &[("authorization", &bearer)], b"{}").await;
    assert!(answer.text().contains("bad_route"), "no content type: {}", answer.text());
    assert!(placer.state().routed.is_empty(), "a refused call reached the placer");
    placer.state().refuses = Some(Status::resource_exhausted("every media node is full"));
    let (status, answer) =
        call(bed.public, &admin_token(""), "CreateRoom", r#"{"name":"r"}"#).await;
    assert_eq!((status, &answer["code"]), (429, &Value::from("resource_exhausted")));
    assert_eq!(answer["msg"], "every media node is full");
}

#[tokio::test]
async fn a_listing_names_every_room_even_those_of_a_silent_media_node() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let (a, mut b) = (FakeMediaNode::start(&pki, "a"), FakeMediaNode::start(&pki, "b"));
    a.host("one");
    b.host("two");
    placer.add(a.endpoint());
    placer.add(b.endpoint());
    placer.state().rooms.insert("one".to_owned(), "a".to_owned());
    placer.state().rooms.insert("two".to_owned(), "b".to_owned());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let names = async || {
        let (status, answer) = call(bed.public, &admin_token(""), "ListRooms", "{}").await;
        assert_eq!(status, 200);
        let rooms = answer["rooms"].as_array().cloned().unwrap_or_default();
        let name = |room: &Value| (room["name"].clone(), room["sid"] == "RM_1");
        rooms.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, [(Value::from("one"), true), (Value::from("two"), true)]);
    b.kill();
    assert_eq!(names().await, [(Value::from("one"), true), (Value::from("two"), false)]);
}

#[tokio::test]
async fn keys_and_certificates_rotate_without_a_restart_or_a_closed_socket() {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    placer.add(node.endpoint());
    let bed = gateway(pki, &[&placer], &[]).await;
    let mut socket = join(bed.public, "r").await.expect("joins");
    let first = node.state().callers.last().cloned();
    bed.pki.write_leaf(bed.path(), "gateway.mc.ns.hemicycle.internal");
    until("the new certificate is shown", async || {
        join(bed.public, "r").await.expect("joins in between");
        node.state().callers.last().cloned() != first
    })
    .await;
    join(bed.public, "placed-with-the-new-certificate").await.expect("joins");
    echo(&mut socket, "still open").await;
    // A broken file changes nothing.
    std::fs::write(bed.path().join("tls.crt"), "not a certificate").expect("writes");
    std::fs::write(bed.path().join("keys.yaml"), "devkey: secret\n").expect("writes");
    let line = r#"hemicycle_gateway_reloads_total{file_result="keys_refused"}"#;
    until("the broken files were seen", async || bed.metric(line).await > 0.0).await;
    join(bed.public, "r").await.expect("joins with what was there before");
    // A second key beside the first, then alone.
    let (new, secret) = ("API-new", "a-new-unguessable-secret-of-forty-eight-bytes-ok");
    let both = format!("{KEY}: {SECRET}\n{new}: {secret}\n");
    std::fs::write(bed.path().join("keys.yaml"), both).expect("writes");
    let token = token_with(&ApiKey::new(new, secret), VideoGrant::join("r"));
    let validate = async |token: &str| {
        http(bed.public, &format!("GET /rtc/validate?access_token={token}"), &[], b"").await.status
    };
    until("the new key opens", async || validate(&token).await == 200).await;
    assert_eq!(validate(&join_token("r")).await, 200);
    std::fs::write(bed.path().join("keys.yaml"), format!("{new}: {secret}\n")).expect("writes");
    until("the old key is shut out", async || validate(&join_token("r")).await == 401).await;
    assert_eq!(validate(&token).await, 200);
    echo(&mut socket, "still open").await;
}

#[tokio::test]
async fn the_public_certificate_rotates_under_open_sockets() {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    placer.add(node.endpoint());
    // The same directory for both: what is under test is the reload.
    let bed =
        gateway(pki.clone(), &[&placer], &["--public-tls=on", "--public-tls-dir={files}"]).await;
    let shown = async || {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(pki.roots())
        .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = tokio::net::TcpStream::connect(bed.public).await.expect("connects");
        let name = "gateway.mc.ns.hemicycle.internal".try_into().expect("a name");
        let stream = connector.connect(name, stream).await.expect("shakes hands");
        let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
        let url = format!("wss://gateway.test/rtc?access_token={}", join_token("r"));
        let (socket, _) =
            tokio_tungstenite::client_async(url, stream).await.expect("joins over TLS");
        (shown, socket)
    };
    let (first, mut socket) = shown().await;
    pki.write_leaf(bed.path(), "gateway.mc.ns.hemicycle.internal");
    until("the new certificate is shown", async || shown().await.0 != first).await;
    use futures_util::{SinkExt, StreamExt};
    let hello = tokio_tungstenite::tungstenite::Message::text("still open");
    socket.send(hello.clone()).await.expect("sends");
    assert_eq!(socket.next().await.expect("open").expect("a message"), hello);
}

#[tokio::test]
async fn the_page_is_served_and_nothing_beside_it() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let page = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(page.path().join("meet")).expect("creates");
    std::fs::write(page.path().join("meet/index.html"), "<h1>meet</h1>").expect("writes");
    std::fs::write(page.path().join("secret"), "not served").expect("writes");
    let flag = format!("--page-dir={}", page.path().join("meet").display());
    let bed = gateway(pki, &[&placer], &[&flag]).await;
    let answer = http(bed.public, "GET /meet/", &[], b"").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "<h1>meet</h1>"));
    assert!(answer.header("content-type").expect("a type").starts_with("text/html"));
    for path in ["/meet/../secret", "/meet/%2e%2e/secret", "/meet/..%2fsecret", "/meet//etc/passwd"]
    {
        let answer = http(bed.public, &format!("GET {path}"), &[], b"").await;
        assert_ne!(answer.status, 200, "{path}");
    }
}
