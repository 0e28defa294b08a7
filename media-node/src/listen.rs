//! A TCP listener that serves a router, in the clear or by mutual TLS.
//!
//! Decides only who may connect. Invariant: connections are bounded in number, and neither a slow
//! handshake nor slow request headers hold one for longer than [`HANDSHAKE_MAX`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::tls::{Role, Tls};

/// Connections at once: more than a media node can hold participants.
const CONNECTIONS_MAX: usize = 20_000;
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
pub async fn serve(listener: TcpListener, door: Option<Door>, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the client is gone already: let others finish first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (door, router) = (door.clone(), router.clone());
        tokio::spawn(async move {
            serve_stream(stream, door, router).await;
            drop(place);
        });
    }
}

async fn serve_stream(stream: TcpStream, door: Option<Door>, router: Router) {
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
