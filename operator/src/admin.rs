//! Serves the admin listener: /healthz (the process turns), /readyz (it has seen the API server
//! once and its placer listens), /metrics. Reads shared state; changes nothing. Invariant: health
//! never depends on the API server, or an outage there would restart every replica.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What readiness waits for. Each part is set once and never cleared.
#[derive(Debug, Default)]
pub struct Readiness {
    /// The API server has answered at least once.
    pub api_server_seen: AtomicBool,
    /// The placement listener accepts connections.
    pub placer_listens: AtomicBool,
}

impl Readiness {
    fn missing(&self) -> Option<&'static str> {
        if !self.api_server_seen.load(Ordering::Relaxed) {
            return Some("the API server has not answered yet");
        }
        if !self.placer_listens.load(Ordering::Relaxed) {
            return Some("the placement listener is not up yet");
        }
        None
    }
}

#[derive(Clone)]
struct Shared {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

/// Serves until `shutdown` completes.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Shared { readiness, metrics });
    let listener = TcpListener::bind(address).await?;
    tracing::info!(%address, "admin listener is up");
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.readiness.missing() {
        None => (StatusCode::OK, "ok"),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

async fn render(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.metrics.render() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
