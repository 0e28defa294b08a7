//! Joins through the gateway: pipes, homes that change, placers that go away.

mod bed;

use bed::client::{closed, echo, join, parse, refused_join};
use bed::{FakeMediaNode, FakePlacer, LONG, Pki, alone, gateway, http, join_token, pair, until};
use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tonic::Status;

#[tokio::test]
async fn a_join_is_piped_to_the_media_node_with_path_query_and_headers() {
    let (placer, node, bed) = alone(&[]).await;
    let mut socket = join(bed.public, "r").await.expect("joins");
    echo(&mut socket, "hello").await;
    echo(&mut socket, &"x".repeat(300_000)).await;
    let (target, headers) = node.state().seen[0].clone();
    assert_eq!(target, format!("/rtc?access_token={}&protocol=16", join_token_of(&target)));
    assert!(target.ends_with("&protocol=16"));
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["host"], bed.public.to_string());
    let asked = placer.state().routed.clone();
    assert_eq!((asked.len(), asked[0].create), (1, true));
    // The next who come need no placer.
    join(bed.public, "r").await.expect("joins");
    assert_eq!(placer.state().routed.len(), 1);
}

fn join_token_of(target: &str) -> String {
    let start = target.find("access_token=").expect("a token") + "access_token=".len();
    target[start..].split('&').next().expect("a token").to_owned()
}

#[tokio::test]
async fn bytes_and_extensions_pass_unchanged_behind_prefix_and_double_slash() {
    let (_placer, node, bed) = alone(&[]).await;
    for path in ["//rtc", "/livekit/sfu/rtc"] {
        let mut stream = TcpStream::connect(bed.public).await.expect("connects");
        let head = format!(
            "GET {path}?access_token={} HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nx-raw: 1\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
            join_token("r")
        );
        // A compressed frame (RSV1), sent with the head: nothing is lost at the upgrade.
        let frame = [0xc2, 0x84, 1, 2, 3, 4, 9, 9, 9, 9];
        let bytes = [head.as_bytes(), &frame].concat();
        stream.write_all(&bytes).await.expect("sends");
        let mut answer = Vec::new();
        let read = async {
            while !answer.ends_with(&frame) {
                assert!(stream.read_buf(&mut answer).await.expect("reads") > 0, "closed");
            }
        };
        tokio::time::timeout(LONG, read).await.expect("the frame comes back");
        let head = parse(&answer);
        assert_eq!(head.status, 101);
        assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let extensions = head.header("sec-websocket-extensions");
        assert_eq!(extensions, Some("permessage-deflate; client_max_window_bits"));
        assert!(node.state().seen.last().expect("seen").0.starts_with(path));
    }
}

#[tokio::test]
async fn a_media_node_that_does_not_have_the_room_costs_one_more_question() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let (old, new) = (FakeMediaNode::start(&pki, "old"), FakeMediaNode::start(&pki, "new"));
    placer.add(old.endpoint());
    placer.state().rooms.insert("r".to_owned(), "old".to_owned());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    placer.add(new.endpoint());
    new.host("r");
    let mut socket = join(bed.public, "r").await.expect("joins");
    echo(&mut socket, "at the new home").await;
    let asked = placer.state().routed.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].unreachable_media_node, "old");
    assert_eq!(old.state().seen.len(), 1);
    assert_eq!(bed.metric(r#"hemicycle_gateway_reroutes_total{reason="not_here"}"#).await, 1.0);
}

#[tokio::test]
async fn a_room_that_was_just_let_go_is_waited_for_until_its_media_node_has_it_again() {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    placer.add(node.endpoint());
    placer.state().insists = true;
    placer.state().rooms.insert("r".to_owned(), "a".to_owned());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let joining = tokio::spawn({
        let public = bed.public;
        async move { join(public, "r").await.is_ok() }
    });
    until("the placer has insisted twice", async || placer.state().routed.len() >= 2).await;
    node.host("r");
    assert!(joining.await.expect("no panic"), "the join gave up");
}

#[tokio::test]
async fn when_a_media_node_is_gone_its_sockets_close_at_once_and_people_come_back_elsewhere() {
    let (pki, placer, mut old, new) = pair();
    placer.add(new.endpoint());
    placer.add(old.endpoint());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let mut socket = join(bed.public, "r").await.expect("joins");
    echo(&mut socket, "before").await;
    // It hangs rather than dies: nothing but the leader's word can tell.
    placer.lose("old", "new");
    assert_eq!(closed(&mut socket).await, Some(1012), "SDKs come back on service restart");
    let mut socket = join(bed.public, "r").await.expect("joins again");
    echo(&mut socket, "after").await;
    assert_eq!(new.state().rooms.len(), 1);
    old.kill();
}

#[tokio::test]
async fn a_media_node_that_dies_closes_its_sockets_and_is_reported_to_the_placer() {
    let (pki, placer, mut old, new) = pair();
    placer.add(old.endpoint());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let mut socket = join(bed.public, "r").await.expect("joins");
    placer.add(new.endpoint());
    old.kill();
    assert_eq!(closed(&mut socket).await, Some(1012));
    let mut socket = join(bed.public, "r").await.expect("joins again");
    echo(&mut socket, "after").await;
    let asked = placer.state().routed.last().cloned().expect("asked");
    assert_eq!(asked.unreachable_media_node, "old");
}

/// An address that answers no connection, as that of a machine without power: one whose queue of
/// connections is full. It lasts as long as what is returned with it.
async fn silent_address() -> (std::net::SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let listener = socket.listen(0).expect("listens");
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    let brief = std::time::Duration::from_millis(100);
    while let Ok(stream) = tokio::time::timeout(brief, TcpStream::connect(address)).await {
        waiting.push(stream.expect("connects or waits"));
    }
    (address, (listener, waiting))
}

#[tokio::test]
async fn a_media_node_that_neither_the_placer_sees_nor_the_gateway_reaches_lets_its_people_go() {
    let (pki, placer, old, new) = pair();
    placer.add(new.endpoint());
    placer.add(old.endpoint());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let mut socket = join(bed.public, "r").await.expect("joins");
    // Out of the placer's sight alone it goes on.
    placer.unsee("old");
    let found =
        |word: &str| format!(r#"hemicycle_gateway_media_nodes_unseen_total{{found="{word}"}}"#);
    until("it was looked at", async || bed.metric(&found("reached")).await == 1.0).await;
    echo(&mut socket, "before").await;
    // Its power goes.
    let (silent, _held) = silent_address().await;
    let mut endpoint = old.endpoint();
    endpoint.signal_address = silent.to_string();
    placer.add(endpoint);
    placer.unsee("old");
    let began = std::time::Instant::now();
    assert_eq!(closed(&mut socket).await, Some(1012));
    println!("its sockets were closed after {:?}", began.elapsed());
    assert_eq!(bed.metric(&found("unreachable")).await, 1.0);
    placer.state().next = Some("new".to_owned());
    let mut socket = join(bed.public, "r").await.expect("joins again");
    echo(&mut socket, "after").await;
    let asked = placer.state().routed.last().cloned().expect("asked");
    assert_eq!(asked.unreachable_media_node, "old");
    assert_eq!(bed.metric(r#"hemicycle_gateway_reroutes_total{reason="connect"}"#).await, 0.0);
}

#[tokio::test]
async fn a_placer_that_was_succeeded_is_not_believed() {
    let pki = Pki::new();
    let (former, leader) = (FakePlacer::start(&pki), FakePlacer::start(&pki));
    let (old, new) = (FakeMediaNode::start(&pki, "old"), FakeMediaNode::start(&pki, "new"));
    old.takes_all();
    new.takes_all();
    former.add(old.endpoint());
    leader.add(new.endpoint());
    leader.state().epoch = 2;
    let bed = gateway(pki, &[&leader, &former], &[]).await;
    bed.ready().await;
    join(bed.public, "r").await.expect("joins");
    // The leader cannot say for a moment; the former one would.
    leader.state().refuses = Some(Status::unavailable("hearing the media nodes"));
    let joining = tokio::spawn({
        let public = bed.public;
        async move { join(public, "s").await.is_ok() }
    });
    until("the former one was asked", async || !former.state().routed.is_empty()).await;
    leader.state().refuses = None;
    assert!(joining.await.expect("no panic"));
    assert!(old.state().rooms.is_empty(), "a leader of a lower epoch placed a room");
}

#[tokio::test]
async fn rooms_stay_reachable_while_every_placer_is_away() {
    let pki = Pki::new();
    let (mut placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    placer.add(node.endpoint());
    placer.state().rooms.insert("r".to_owned(), "a".to_owned());
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let mut before = join(bed.public, "r").await.expect("joins");
    placer.kill();
    until("the stream ends", async || {
        bed.metric("hemicycle_gateway_directory_connected").await == 0.0
    })
    .await;
    echo(&mut before, "still here").await;
    let mut after = join(bed.public, "r").await.expect("joins without a placer");
    echo(&mut after, "and new ones").await;
    let started = std::time::Instant::now();
    let (status, text) = refused_join(bed.public, "new").await;
    assert_eq!((status, text.as_str()), (503, "no placement is possible at the moment, try again"));
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "SDKs give up after 5 s");
    assert_eq!(http(bed.admin, "GET /readyz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn the_replica_that_leads_is_found_and_a_leader_that_still_listens_is_waited_for() {
    let pki = Pki::new();
    let (follower, leader) = (FakePlacer::start(&pki), FakePlacer::start(&pki));
    let node = FakeMediaNode::start(&pki, "a");
    node.takes_all();
    follower.state().refuses = Some(Status::failed_precondition("not leader"));
    leader.add(node.endpoint());
    let bed = gateway(pki, &[&follower, &leader], &[]).await;
    bed.ready().await;
    join(bed.public, "r").await.expect("joins");
    let asked = follower.state().routed.len();
    join(bed.public, "s").await.expect("joins");
    assert_eq!(follower.state().routed.len(), asked, "the leader is asked first from now on");
    leader.state().refuses = Some(Status::unavailable("hearing the media nodes"));
    let joining = tokio::spawn({
        let public = bed.public;
        async move { join(public, "t").await.is_ok() }
    });
    until("the leader was asked", async || leader.state().routed.len() > 2).await;
    leader.state().refuses = None;
    assert!(joining.await.expect("no panic"), "the join outlasted the leader's start");
    // Leadership moves: both the next question and the directory follow it.
    follower.state().refuses = None;
    follower.add(node.endpoint());
    leader.state().refuses = Some(Status::failed_precondition("not leader"));
    join(bed.public, "u").await.expect("joins");
    assert!(follower.state().routed.len() > asked);
}

#[tokio::test]
async fn a_full_meeting_cluster_answers_503_in_its_own_words() {
    let pki = Pki::new();
    let placer = FakePlacer::start(&pki);
    let bed = gateway(pki, &[&placer], &[]).await;
    bed.ready().await;
    let refused = refused_join(bed.public, "r").await;
    assert_eq!(refused, (503, "every media node is full".to_owned()));
}

#[tokio::test]
async fn a_media_node_of_another_name_is_not_believed() {
    let pki = Pki::new();
    let (placer, node) = (FakePlacer::start(&pki), FakeMediaNode::start(&pki, "a"));
    node.takes_all();
    let mut endpoint = node.endpoint();
    endpoint.tls_server_name = "b.media.mc.ns.hemicycle.internal".to_owned();
    placer.add(endpoint);
    let bed = gateway(pki, &[&placer], &[]).await;
    let (status, _) = refused_join(bed.public, "r").await;
    assert_eq!(status, 503);
    assert!(node.state().seen.is_empty(), "a request reached a media node that was not verified");
}

#[tokio::test]
async fn a_silent_client_is_closed_and_others_are_not() {
    let (_placer, _node, bed) = alone(&["--idle-s=1"]).await;
    let mut silent = join(bed.public, "r").await.expect("joins");
    let mut lively = join(bed.public, "r").await.expect("joins");
    let talk = async {
        loop {
            echo(&mut lively, "ping").await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        code = closed(&mut silent) => assert_eq!(code, Some(1012)),
        () = talk => unreachable!(),
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_ends_its_own_pipe() {
    let (_placer, _node, bed) = alone(&["--write-s=1"]).await;
    let mut reader = join(bed.public, "r").await.expect("joins");
    let mut deaf = join(bed.public, "r").await.expect("joins");
    let shout = Message::binary(vec![7; 1 << 20]);
    let shouting =
        tokio::time::timeout(LONG, async { while deaf.send(shout.clone()).await.is_ok() {} });
    shouting.await.expect("the pipe ends");
    let line = r#"hemicycle_gateway_websockets_ended_total{by="write_timeout"}"#;
    until("the reason is counted", async || bed.metric(line).await == 1.0).await;
    echo(&mut reader, "others go on").await;
}

#[tokio::test]
async fn websockets_and_connections_are_bounded() {
    let limits = ["--connections-max=3", "--connection-burst=6", "--connection-rate=1"];
    let (_placer, _node, bed) = alone(&limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(join(bed.public, "r").await.expect("joins"));
    }
    let (status, text) = refused_join(bed.public, "r").await;
    assert_eq!(status, 503);
    assert!(text.starts_with("this gateway holds as many"), "{text}");
    // More than are let in while it lasts, however slow the machine is.
    let mut dropped = false;
    for _ in 0..64 {
        let mut stream = TcpStream::connect(bed.public).await.expect("connects");
        let request = b"HEAD / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        dropped = answer.is_empty();
        if dropped {
            break;
        }
    }
    assert!(dropped, "an address may connect without end");
    let line = r#"hemicycle_gateway_connections_dropped_total{reason="address_limit"}"#;
    assert!(bed.metric(line).await >= 1.0);
    for socket in &mut held {
        echo(socket, "held").await;
    }
}

/// A connection that stays open, if the gateway answers on it; none if it drops it without a word.
async fn connection(to: std::net::SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(to).await.expect("connects");
    let _ = stream.write_all(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut byte = [0];
    let answer = tokio::time::timeout(LONG, stream.read(&mut byte)).await.expect("in time");
    matches!(answer, Ok(1)).then_some(stream)
}

/// Harm if it fails: whoever holds WebSockets takes no places, and connections have no end.
#[tokio::test]
async fn a_websocket_keeps_the_place_of_its_connection_as_long_as_it_lives() {
    let (_placer, _node, bed) = alone(&["--connections-max=3"]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(join(bed.public, "r").await.expect("joins"));
    }
    // One place more, so that who finds it full is told so.
    let beside = connection(bed.public).await.expect("nobody could be told that it is full");
    assert!(connection(bed.public).await.is_none(), "a connection beyond all places is held");
    let line = r#"hemicycle_gateway_connections_dropped_total{reason="full"}"#;
    assert_eq!(bed.metric(line).await, 1.0);
    assert_eq!(bed.metric("hemicycle_gateway_connections").await, 4.0);
    drop((beside, held.pop()));
    until("its place is free", async || bed.metric("hemicycle_gateway_connections").await == 2.0)
        .await;
    join(bed.public, "r").await.expect("joins in the free place");
}

/// Harm if it fails: one address holds all places, and nobody else comes in.
#[tokio::test]
async fn one_address_cannot_hold_all_places() {
    let (_placer, _node, bed) = alone(&["--connections-per-address-max=2"]).await;
    let first = join(bed.public, "r").await.expect("joins");
    let mut second = join(bed.public, "r").await.expect("joins");
    let (status, text) = refused_join(bed.public, "r").await;
    assert_eq!(status, 429);
    assert!(text.contains("your address"), "{text}");
    assert_eq!(bed.metric(r#"hemicycle_gateway_joins_total{outcome="address_full"}"#).await, 1.0);
    let beside = connection(bed.public).await.expect("nobody could be told why");
    assert!(connection(bed.public).await.is_none(), "one beyond the address's places is held");
    let line = r#"hemicycle_gateway_connections_dropped_total{reason="address_full"}"#;
    assert_eq!(bed.metric(line).await, 1.0);

    let other = TcpSocket::new_v4().expect("a socket");
    other.bind("127.0.0.2:0".parse().expect("an address")).expect("binds");
    let other = other.connect(bed.public).await.expect("connects");
    let url = format!("ws://{}/rtc?access_token={}&protocol=16", bed.public, join_token("r"));
    tokio_tungstenite::client_async(url, other).await.expect("another address comes in");
    echo(&mut second, "goes on").await;
    drop((first, beside));
    until("its place is free", async || join(bed.public, "r").await.is_ok()).await;
}

#[tokio::test]
async fn an_orderly_stop_is_announced_then_closes_every_socket_within_its_bound() {
    let (_placer, _node, bed) = alone(&[]).await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(join(bed.public, "r").await.expect("joins"));
    }
    bed.stop.cancel();
    until("it says that it is not ready", async || {
        http(bed.admin, "GET /readyz", &[], b"").await.status == 503
    })
    .await;
    let mut late = join(bed.public, "r").await.expect("joins while others learn of it");
    for socket in sockets.iter_mut().chain([&mut late]) {
        assert_eq!(closed(socket).await, Some(1012));
    }
    tokio::time::timeout(LONG, bed.running).await.expect("it ends").expect("without a panic");
    assert!(TcpStream::connect(bed.public).await.is_err(), "it still listens");
}
