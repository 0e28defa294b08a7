//! A TCP listener that serves a router, in the clear or by mutual TLS.
//!
//! Decides only who may connect. Invariant: connections are bounded in number, in all and for each
//! address, WebSockets among them as long as they live; neither a slow handshake nor slow request
//! headers hold one for longer than [`HANDSHAKE_MAX`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use places::{Held, Place, Places};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::node::{Node, count};
use crate::tls::{Role, Tls};

/// Connections at once: more than a media node can hold participants.
const CONNECTIONS_MAX: usize = 20_000;
/// Of these, those of one address where anybody may connect, so that none takes all. Behind a door
/// it may: one gateway leads many people here, and limits them itself.
const CONNECTIONS_PER_ADDRESS_MAX: usize = CONNECTIONS_MAX / 2;
/// A TLS handshake or request headers that take longer are given up.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest request line with headers: a token, attributes and an offer in the query.
const HEADER_BYTES_MAX: usize = 128 * 1024;

/// Who may connect, if it is not anybody.
#[derive(Clone)]
pub struct Door {
    pub tls: Tls,
    pub role: Role,
}

/// Binds the address, telling which setting it came from.
pub async fn bind(field: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("{field}: cannot listen on `{address}`: {error}; choose a free address")
    })
}

/// Accepts for ever.
pub async fn serve(listener: TcpListener, door: Option<Door>, router: Router, node: Arc<Node>) {
    let own = if door.is_some() { CONNECTIONS_MAX } else { CONNECTIONS_PER_ADDRESS_MAX };
    let places = Places::new(CONNECTIONS_MAX, own);
    serve_within(listener, door, router, &places, || count(&node.counters.connections_refused))
        .await;
}

/// Accepts as many as there are places, and tells of each that it drops for want of one.
async fn serve_within(
    listener: TcpListener,
    door: Option<Door>,
    router: Router,
    places: &Arc<Places>,
    refused: impl Fn(),
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client is gone already: let others finish first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.take(peer.ip()) else {
            refused();
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve_stream(Held::new(stream, place), door.clone(), router.clone()));
    }
}

async fn serve_stream(stream: Held<TcpStream, Place>, door: Option<Door>, router: Router) {
    let Some(door) = door else {
        return serve_connection(stream, router).await;
    };
    match tokio::time::timeout(HANDSHAKE_MAX, door.tls.accept(stream, &door.role)).await {
        Ok(Ok(stream)) => serve_connection(stream, router).await,
        Ok(Err(error)) => tracing::warn!(%error, "connection refused"),
        Err(_) => tracing::warn!("connection refused: TLS handshake took too long"),
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(10));
    let service = TowerToHyperService::new(router);
    // Errors are the client's: it went away or does not speak HTTP.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::extract::WebSocketUpgrade;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Whether the server answers on a connection that asks for something.
    async fn is_answered(to: SocketAddr) -> bool {
        let mut stream = TcpStream::connect(to).await.expect("connects");
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        matches!(stream.read(&mut [0]).await, Ok(1))
    }

    /// Harm if it fails: WebSockets take no places, and whoever opens them has no end.
    #[tokio::test]
    async fn a_websocket_keeps_its_place_as_long_as_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let at = listener.local_addr().expect("an address");
        let silent = |upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move { while socket.recv().await.is_some() {} })
        };
        let router = Router::new().route("/", get(|| async { "OK" })).route("/ws", get(silent));
        let places = Places::new(2, 2);
        let refused = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&refused);
        tokio::spawn(async move {
            let count = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            serve_within(listener, None, router, &places, count).await;
        });
        let url = format!("ws://{at}/ws");
        let join = async || tokio_tungstenite::connect_async(&url).await;
        let (first, _) = join().await.expect("joins");
        let (_second, _) = join().await.expect("joins");
        assert!(!is_answered(at).await, "a third connection is held");
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        drop(first);
        let freed = async { while !is_answered(at).await {} };
        tokio::time::timeout(HANDSHAKE_MAX, freed).await.expect("its place is given back");
    }
}
