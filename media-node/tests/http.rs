//! The HTTP surface as SDKs see it: exact statuses and texts, CORS, odd paths.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::{claims, config, get, now, request, sign, start};
use livekit_contract::token::{self, ApiKey};
use media_node::serve;

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_is_told_apart_as_sdks_expect() {
    let node = start(&[]).await;
    let at = node.started.signal;
    let mut expired = claims("ada", "room");
    expired.expires_at_unix_s = now() - 3_600;
    let mut no_join = claims("ada", "room");
    no_join.video.as_mut().unwrap().room_join = false;
    let good = claims("ada", "room");
    let signed_as = |id: &str, secret: &str| token::mint(&ApiKey::new(id, secret), &good).unwrap();
    let none_alg = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJpc3MiOiJBUEl0ZXN0In0.";
    let cases = [
        (String::new(), 401, "permissions denied"),
        ("abc".to_owned(), 401, "invalid authorization token"),
        (none_alg.to_owned(), 401, "invalid authorization token: signing method is not HS256"),
        (sign(&expired), 401, "invalid authorization token: token is expired"),
        (signed_as("APIother", harness::SECRET), 401, "invalid API key"),
        (
            signed_as(harness::KEY, "another secret of 32 bytes or so"),
            401,
            "invalid authorization token: signature is invalid",
        ),
        (sign(&no_join), 401, "permissions denied"),
        (sign(&claims("", "room")), 400, "identity cannot be empty"),
        (sign(&claims("ada", "")), 400, "no room name"),
    ];
    for (token, status, text) in cases {
        for path in ["/rtc", "/rtc/validate"] {
            let answer = get(at, &format!("{path}?access_token={token}")).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, text), "{path}");
            assert!(answer.head.contains("access-control-allow-origin: *"), "{}", answer.head);
        }
    }
    let basic = request(at, "GET /rtc/validate", "authorization: Basic eA==\r\n", "").await;
    let text = "invalid authorization header. Must start with Bearer ";
    assert_eq!((basic.status, basic.body.as_str()), (401, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_validates_on_every_path_clients_use() {
    let node = start(&[]).await;
    let at = node.started.signal;
    let token = sign(&claims("ada", "room"));
    for path in ["/rtc/validate", "//rtc/validate", "/livekit/sfu/rtc/validate"] {
        let answer = get(at, &format!("{path}?access_token={token}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "success"), "{path}");
    }
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert_eq!(request(at, "GET /rtc/validate", &bearer, "").await.status, 200);
    assert_eq!(request(at, "GET /rtc", &bearer, "").await.status, 404, "no upgrade asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_answers_404_so_that_sdks_fall_back() {
    let node = start(&[]).await;
    let token = sign(&claims("ada", "room"));
    for path in ["/rtc/v1", "/rtc/v1/validate", "/livekit/sfu/rtc/v1/validate"] {
        let answer = get(node.started.signal, &format!("{path}?access_token={token}")).await;
        assert_eq!(answer.status, 404);
        assert!(!answer.body.contains("requested room does not exist"), "{}", answer.body);
        assert!(answer.head.contains("access-control-allow-origin: *"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_may_ask_from_anywhere() {
    let node = start(&[]).await;
    let at = node.started.signal;
    let wanted = "origin: https://visio.example\r\naccess-control-request-method: POST\r\n\
                  access-control-request-headers: authorization,content-type\r\n";
    let answer = request(at, "OPTIONS /twirp/livekit.RoomService/ListRooms", wanted, "").await;
    assert_eq!(answer.status, 204);
    let allowed = "access-control-allow-headers: authorization,content-type";
    assert!(answer.head.contains(allowed), "{}", answer.head);
    let answer = request(at, "HEAD /", "", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(answer.head.contains("access-control-allow-origin: *"));
    assert_eq!(get(at, "/").await.body, "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_may_not_be_created_does_not_exist() {
    let node = start(&["--auto-create=false"]).await;
    let token = sign(&claims("ada", "room"));
    let at = node.started.signal;
    let answer = get(at, &format!("/rtc/validate?access_token={token}")).await;
    assert_eq!((answer.status, answer.body.as_str()), (404, "requested room does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn room_service_wants_the_grant_for_that_very_room() {
    let node = start(&[]).await;
    let at = node.started.signal;
    let mut admin = claims("ada", "mine");
    admin.video.as_mut().unwrap().room_admin = true;
    let call = async |method: &str, claims: &_, body: &str| {
        let token = sign(claims);
        let headers =
            format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
        let line = format!("POST /twirp/livekit.RoomService/{method}");
        request(at, &line, &headers, body).await
    };
    let denied = r#"{"code":"unauthenticated","msg":"permissions denied"}"#;
    for (method, body) in [
        ("ListRooms", "{}"),
        ("CreateRoom", r#"{"name":"mine"}"#),
        ("DeleteRoom", r#"{"room":"mine"}"#),
        ("ListParticipants", r#"{"room":"other"}"#),
        ("GetParticipant", r#"{"room":"other","identity":"x"}"#),
        ("RemoveParticipant", r#"{"room":"other","identity":"x"}"#),
        ("MutePublishedTrack", r#"{"room":"other"}"#),
        ("UpdateParticipant", r#"{"room":"other"}"#),
        ("UpdateSubscriptions", r#"{"room":"other"}"#),
        ("SendData", r#"{"room":"other"}"#),
        ("UpdateRoomMetadata", r#"{"room":"other"}"#),
    ] {
        let answer = call(method, &admin, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (401, denied), "{method}");
    }
    let answer = call("GetParticipant", &admin, r#"{"room":"mine","identity":"x"}"#).await;
    let missing = r#"{"code":"not_found","msg":"participant does not exist"}"#;
    assert_eq!((answer.status, answer.body.as_str()), (404, missing));
    assert_eq!(call("Nonsense", &admin, "{}").await.status, 404);
    let no_token = request(at, "POST /twirp/livekit.RoomService/ListRooms", "", "{}").await;
    assert_eq!(no_token.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dev_server_hands_out_tokens_and_shows_the_page() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("index.html"), "<title>meet</title>").unwrap();
    std::fs::write(files.path().join("page.js"), "1").unwrap();
    let page = format!("--page-directory={}", files.path().display());
    let started = serve::start(config(&["--dev", &page])).await.unwrap();
    let at = started.signal;
    assert_eq!(get(at, "/?room=demo").await.body, "<title>meet</title>");
    assert_eq!(get(at, "/page.js").await.body, "1");
    assert_eq!(get(at, "/../../etc/passwd").await.body, "<title>meet</title>");

    let answer = get(at, "/dev/token?room=demo&identity=ada&name=Ada").await;
    let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(answer["url"], "ws://x");
    let token = answer["token"].as_str().unwrap();
    let answer = get(at, &format!("/rtc/validate?access_token={token}")).await;
    assert_eq!(answer.body, "success");

    let node = start(&[]).await;
    let answer = get(node.started.signal, "/dev/token?room=demo").await;
    assert_eq!(answer.status, 404, "tokens are handed out with --dev only");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_a_restart() {
    let node = start(&[]).await;
    let at = node.started.signal;
    let next = ApiKey::new("APInext", "fedcba9876543210fedcba9876543210");
    let token = token::mint(&next, &claims("ada", "room")).unwrap();
    let path = format!("/rtc/validate?access_token={token}");
    assert_eq!(get(at, &path).await.body, "invalid API key");
    node.write_keys("APInext: fedcba9876543210fedcba9876543210\n");
    let began = std::time::Instant::now();
    while get(at, &path).await.status != 200 {
        assert!(began.elapsed() < std::time::Duration::from_secs(15), "the new key is not taken");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let old = sign(&claims("ada", "room"));
    let answer = get(at, &format!("/rtc/validate?access_token={old}")).await;
    assert_eq!(answer.body, "invalid API key");
}
