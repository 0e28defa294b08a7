//! A media node that demands the gateway's certificate, takes WebSockets for its rooms and gives
//! back whatever bytes come through them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use livekit_contract::connect::{ConnectQuery, Endpoint};
use livekit_contract::proto::{ListRoomsResponse, Room};
use livekit_contract::token::{ApiKey, KeyRing, Strength, verify};
use livekit_contract::twirp::{Format, room_of};
use placement_api::v1::MediaNodeEndpoint;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{KEY, Pki, SECRET, now};

#[derive(Default)]
pub(crate) struct State {
    pub(crate) rooms: BTreeSet<String>,
    /// Takes every room that comes, as a dev server does.
    pub(crate) takes_all: bool,
    /// Request targets and headers seen.
    pub(crate) seen: Vec<(String, HeaderMap)>,
    /// Gateways' certificates seen, in DER.
    pub(crate) callers: Vec<Vec<u8>>,
}

pub(crate) struct FakeMediaNode {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

impl FakeMediaNode {
    pub(crate) fn start(pki: &Pki, name: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let config = pki.server(&format!("{name}.media.mc.ns.hemicycle.internal"), "http/1.1");
        let std = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        std.set_nonblocking(true).expect("nonblocking");
        let address = std.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let (served, own_name) = (Arc::clone(&state), name.to_owned());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(std).expect("a listener");
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&served));
                let name = own_name.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let caller =
                        stream.get_ref().1.peer_certificates().expect("mutual TLS")[0].to_vec();
                    state.lock().expect("unpoisoned").callers.push(caller);
                    let service = service_fn(|request| {
                        let (state, name) = (Arc::clone(&state), name.clone());
                        async move { Ok::<_, hyper::Error>(answer(request, &state, &name).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { name: name.to_owned(), address, state, runtime: Some(runtime) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    pub(crate) fn host(&self, room: &str) {
        self.state().rooms.insert(room.to_owned());
    }

    pub(crate) fn takes_all(&self) {
        self.state().takes_all = true;
    }

    pub(crate) fn endpoint(&self) -> MediaNodeEndpoint {
        MediaNodeEndpoint {
            media_node: self.name.clone(),
            signal_address: self.address.to_string(),
            tls_server_name: format!("{}.media.mc.ns.hemicycle.internal", self.name),
            incarnation: "1".to_owned(),
        }
    }

    /// Ends it like a killed process.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeMediaNode {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn answer(
    mut request: Request<Incoming>,
    state: &Mutex<State>,
    name: &str,
) -> Response<Full<Bytes>> {
    let target = request.uri().to_string();
    let path = request.uri().path().to_owned();
    let query = ConnectQuery::parse(request.uri().query().unwrap_or_default()).expect("a query");
    state.lock().expect("unpoisoned").seen.push((target, request.headers().clone()));
    let has = |room: &str| {
        let held = state.lock().expect("unpoisoned");
        held.takes_all || held.rooms.contains(room)
    };
    match Endpoint::of(&path) {
        Endpoint::Rtc => {
            let token = query.access_token.expect("a token in the query").into_exposed();
            let ring = KeyRing::new([ApiKey::new(KEY, SECRET)], Strength::Strict).expect("a ring");
            let claims = verify(&ring, &token, now()).expect("verified before");
            let room = claims.room_to_join().expect("a room").to_owned();
            if !has(&room) {
                return not_here();
            }
            state.lock().expect("unpoisoned").rooms.insert(room);
            upgrade(&mut request)
        }
        Endpoint::Twirp { service, method } => {
            let format = Format::from_content_type(
                request.headers().get("content-type").and_then(|value| value.to_str().ok()),
            );
            let rooms: Vec<_> = state.lock().expect("unpoisoned").rooms.iter().cloned().collect();
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let format = format.expect("a format");
            if method == "ListRooms" {
                let rooms = rooms.into_iter();
                let rooms =
                    rooms.map(|name| Room { name, sid: "RM_1".to_owned(), ..Room::default() });
                let list = ListRoomsResponse { rooms: rooms.collect() };
                return Response::new(Full::from(format.encode(&list).expect("encodes")));
            }
            let room = room_of(&service, &method, format, &body).expect("read").expect("a room");
            if !has(&room) {
                return not_here();
            }
            Response::new(Full::from(format!(r#"{{"answered_by":"{name}"}}"#)))
        }
        other => panic!("the gateway passed {other:?} on"),
    }
}

fn not_here() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("requested room does not exist"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert("x-hemicycle-room", "not-here".parse().expect("a value"));
    response
}

/// Takes the WebSocket and gives its bytes back.
fn upgrade(request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
    let key = request.headers()["sec-websocket-key"].as_bytes();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key);
    let extensions = request.headers().get("sec-websocket-extensions").cloned();
    let raw = request.headers().contains_key("x-raw");
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await.expect("upgraded"));
        if raw {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            return;
        }
        use futures_util::{SinkExt, StreamExt};
        let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
        let mut socket =
            tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut response = Response::new(Full::from(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, "Upgrade".parse().expect("a value"));
    headers.insert(UPGRADE, "websocket".parse().expect("a value"));
    headers.insert("sec-websocket-accept", accept.parse().expect("a value"));
    if let Some(extensions) = extensions {
        headers.insert("sec-websocket-extensions", extensions);
    }
    response
}
