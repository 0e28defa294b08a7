//! The admin listener: liveness, readiness, metrics. Plain HTTP, apart from the public door.
//!
//! Decides when the gateway counts as ready: it has its files and once held a directory, and it
//! is not stopping. Invariant: a placer that goes away later does not make it unready, because the
//! rooms that exist stay reachable.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::metrics::Metrics;

/// What the answers are made of.
#[derive(Clone)]
pub struct Health {
    /// Known rooms and media nodes.
    pub directory: Arc<Directory>,
    /// Fires when the gateway begins to stop.
    pub stopping: CancellationToken,
    /// What is counted.
    pub metrics: Metrics,
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(|State(health): State<Health>| async move { health.metrics.render() }),
        )
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.stopping.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if !health.directory.is_known() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "no placer has told yet which rooms and media nodes exist",
        )
    } else {
        (StatusCode::OK, "ready")
    }
}
