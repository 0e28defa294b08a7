//! Listeners, connections, start and orderly stop.
//!
//! Decides who gets a connection at all. Invariants: connections are bounded in number, in all and
//! for each address, WebSockets among them as long as they live; handshakes are bounded in time;
//! after the order to stop every WebSocket is closed, and `run_until` returns, within grace, spread
//! and a second or two.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use places::{Held, Places};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Health};
use crate::config::Config;
use crate::directory::Directory;
use crate::door::Door;
use crate::files::Files;
use crate::follow::follow;
use crate::limits::AddressLimits;
use crate::metrics::{Counted, Metrics};
use crate::placer::Placer;
use crate::router::Router;
use crate::upstream::Upstream;

/// Longest TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for a request's head, also between two requests of a connection.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Longest request head, in bytes: a token of 16 KiB in the query and as much again beside it.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields of a request.
const HEADERS_MAX: usize = 100;
/// What is left open after the spread is cut after this long.
const CUT_AFTER: Duration = Duration::from_secs(2);
/// One connection beside so many WebSockets.
const BESIDE: usize = 16;
/// Pause after the system refused to accept (out of files), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gateway that serves.
pub struct Gateway {
    door: Arc<Door>,
    public: SocketAddr,
    admin: SocketAddr,
    /// Stops readiness.
    stopping: CancellationToken,
    /// Stops accepting.
    closed: CancellationToken,
    /// Stops everything else.
    over: CancellationToken,
    config: Config,
}

/// Reads the files, opens both listeners and serves.
///
/// # Errors
/// When a file cannot be used or an address cannot be bound; the text names it.
pub async fn start(config: Config) -> anyhow::Result<Gateway> {
    use anyhow::Context as _;
    let metrics = Metrics::new()?;
    let over = CancellationToken::new();
    let files = Files::load_and_follow(&config, &metrics, over.clone())?;
    let directory = Arc::new(Directory::new(&config.tenant.domain()));
    let placer = Arc::new(Placer::new(
        config.placer_address.clone(),
        config.placer_server_name.clone(),
        Arc::clone(&files),
        metrics.clone(),
    ));
    tokio::spawn(follow(
        Arc::clone(&directory),
        Arc::clone(&placer),
        config.tenant.key(),
        metrics.clone(),
        over.clone(),
    ));
    let router = Router::new(
        Arc::clone(&directory),
        placer,
        Upstream::new(Arc::clone(&files)),
        (config.tenant.key(), config.zone.clone()),
        metrics.clone(),
    );
    let door = Arc::new(Door::new(&config, files, router, metrics.clone()));
    let bind = async |field: &str, address: SocketAddr| {
        let bound = TcpListener::bind(address).await;
        bound.with_context(|| format!("{field} is {address}, which cannot be bound"))
    };
    let public = bind("HEMICYCLE_LISTEN (--listen)", config.listen).await?;
    let admin = bind("HEMICYCLE_ADMIN_LISTEN (--admin-listen)", config.admin_listen).await?;
    let stopping = CancellationToken::new();
    let closed = CancellationToken::new();
    let gateway = Gateway {
        door: Arc::clone(&door),
        public: public.local_addr()?,
        admin: admin.local_addr()?,
        stopping: stopping.clone(),
        closed: closed.clone(),
        over: over.clone(),
        config,
    };
    let health = Health { directory, stopping, metrics };
    let serving = axum::serve(admin, admin::routes(health));
    tokio::spawn(async move {
        let _ = serving.with_graceful_shutdown(over.cancelled_owned()).await;
    });
    tokio::spawn(accept(public, door, gateway.config.clone(), closed));
    tracing::info!(public = %gateway.public, admin = %gateway.admin,
        tls = gateway.config.public_tls_dir.is_some(), "the gateway is open");
    Ok(gateway)
}

impl Gateway {
    /// The public address, as bound.
    #[must_use]
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// The admin address, as bound.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until `stop`, then stops in order: unready at once, accepting for the grace, then
    /// WebSockets closed over the spread, so that SDKs resume through other gateways.
    pub async fn run_until(self, stop: CancellationToken) {
        stop.cancelled().await;
        tracing::info!(websockets = self.door.pipes.len(), "the gateway stops");
        self.stopping.cancel();
        sleep(self.config.stop_grace).await;
        self.closed.cancel();
        self.door.closing.cancel();
        self.door.pipes.close();
        let left = timeout(self.config.stop_spread + CUT_AFTER, self.door.pipes.wait()).await;
        if left.is_err() {
            tracing::warn!(websockets = self.door.pipes.len(), "WebSockets left open are cut");
        }
        self.over.cancel();
    }
}

/// As many places and, beside them, a sixteenth more of both: for those who ask for something else,
/// and for telling whoever comes in vain why.
fn places_beside(max: usize, per_address_max: usize) -> Arc<Places> {
    let more = |number: usize| number.saturating_add(number.div_ceil(BESIDE));
    Places::new(more(max), more(per_address_max))
}

async fn accept(listener: TcpListener, door: Arc<Door>, config: Config, closed: CancellationToken) {
    // Behind proxies all connections come from a few addresses, which are not the clients'.
    let direct = config.trusted_hops == 0;
    let own = if direct { config.connections_per_address_max } else { config.connections_max };
    let places = places_beside(config.connections_max, own);
    let mut limits = AddressLimits::new(config.connection_rate, config.connection_burst);
    while let Some(accepted) = closed.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if direct && !limits.charge(peer.ip(), Instant::now()) {
            door.metrics.connections_dropped.with_label_values(&["address_limit"]).inc();
            continue;
        }
        let place = match places.take(peer.ip()) {
            Ok(place) => place,
            Err(none) => {
                door.metrics.connections_dropped.with_label_values(&[none.label()]).inc();
                continue;
            }
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let open = Counted::new(door.metrics.connections.clone());
        let stream = Held::new(stream, (place, open));
        let (door, closed) = (Arc::clone(&door), closed.clone());
        tokio::spawn(async move { greet(stream, peer, &door, closed).await });
    }
}

async fn greet(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    door: &Arc<Door>,
    closed: CancellationToken,
) {
    let Some(public) = &door.files.public else {
        return serve(stream, peer, door, closed).await;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(public.load_full());
    match timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, peer, door, closed).await,
        _ => door.metrics.connections_dropped.with_label_values(&["tls"]).inc(),
    }
}

async fn serve<S>(stream: S, peer: SocketAddr, door: &Arc<Door>, closed: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let door = Arc::clone(door);
        async move { Ok::<_, std::convert::Infallible>(door.answer(peer.ip(), request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closed.cancelled() => {
            // Finishes the request under way and takes no other.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
