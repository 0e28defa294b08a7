//! The client of the placers: finds the one that leads and asks it.
//!
//! Decides whom to ask and how long. Chooses no media node.
//! Invariants: a question ends within [`PATIENCE`]; every connection is mutual TLS with the
//! placer's name verified; a placer that has been succeeded is not believed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use placement_api::v1::placement_client::PlacementClient;
use placement_api::v1::{DirectoryRequest, DirectoryUpdate, RouteReply, RouteRequest};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::files::Files;
use crate::metrics::Metrics;
use crate::tls::ClientTls;

/// How long a question is asked again while no placer leads: the Go and Rust SDKs give up a join
/// after 5 s, and the media node needs some of it.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Longest wait for one placer's answer. A placer that leads says within 3 s that it cannot tell.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(3500);
/// Longest wait for a connection to a placer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the name service.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the name service's answer is used: a burst of joins must not become a burst of lookups,
/// and a replica that is new is needed no sooner.
const RESOLVED_FOR: Duration = Duration::from_secs(1);
/// First and longest pause before the placers are asked again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(400);
/// Most addresses tried; an operator has three replicas.
const REPLICAS_MAX: usize = 16;
/// A connection without an answer to pings for so long is dead (its host is gone).
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Longest text of a placer that is passed on to a client, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a room has no home for this request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It does not exist, and the request may not create it.
    #[error("requested room does not exist")]
    NoSuchRoom,
    /// No media node can take another room.
    #[error("{0}")]
    Full(String),
    /// No placer leads, or none answers; the same request may succeed later.
    #[error("no placement is possible at the moment, try again")]
    Unavailable,
    /// A placer refused, or answered what cannot be used.
    #[error("the room cannot be placed: {0}")]
    Refused(String),
}

/// The placers of the operator.
pub struct Placer {
    address: String,
    server_name: String,
    files: Arc<Files>,
    metrics: Metrics,
    known: Mutex<Known>,
    leader: watch::Sender<Option<SocketAddr>>,
    /// The highest that any placer has shown.
    epoch: AtomicU64,
}

#[derive(Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    resolved: Option<Instant>,
    channels: HashMap<SocketAddr, (Arc<ClientTls>, Channel)>,
}

impl Placer {
    /// A client of the placers behind `address` (host:port), whose certificates say `server_name`.
    #[must_use]
    pub fn new(address: String, server_name: String, files: Arc<Files>, metrics: Metrics) -> Self {
        Self {
            address,
            server_name,
            files,
            metrics,
            known: Mutex::default(),
            leader: watch::Sender::new(None),
            epoch: AtomicU64::new(0),
        }
    }

    /// Follows which placer led when last asked.
    pub fn leader(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.leader.subscribe()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a room's home until a placer answers, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// When there is no home for it, or nobody answers.
    pub async fn route(&self, request: &RouteRequest) -> Result<RouteReply, RouteError> {
        let timer = self.metrics.route_seconds.start_timer();
        let deadline = Instant::now() + PATIENCE;
        let mut pause = RETRY_FIRST;
        let answer = loop {
            match tokio::time::timeout_at(deadline, self.round(request)).await {
                Ok(Some(answer)) => break answer,
                Ok(None) if Instant::now() + pause < deadline => sleep(pause).await,
                _ => break Err(RouteError::Unavailable),
            }
            pause = (pause * 2).min(RETRY_MAX);
        };
        timer.observe_duration();
        answer
    }

    /// Asks each placer once, the leader first. `None`: nobody could say.
    async fn round(&self, request: &RouteRequest) -> Option<Result<RouteReply, RouteError>> {
        for address in self.candidates().await {
            let Some(mut client) = self.client(address) else { continue };
            let asked = timeout(ANSWER_TIMEOUT, client.route(request.clone())).await;
            let status = match asked {
                Ok(Ok(reply)) if self.saw_epoch(reply.get_ref().epoch) => {
                    self.count("Ok");
                    self.led_by(address);
                    return Some(Ok(reply.into_inner()));
                }
                // It does not know yet that another leads.
                Ok(Ok(_)) => Status::failed_precondition("succeeded"),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            self.count(&format!("{:?}", status.code()));
            match status.code() {
                Code::NotFound => {
                    self.led_by(address);
                    return Some(Err(RouteError::NoSuchRoom));
                }
                Code::ResourceExhausted => {
                    self.led_by(address);
                    return Some(Err(RouteError::Full(told(&status))));
                }
                // Not leading, not ready, not there: another may be.
                Code::FailedPrecondition
                | Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unknown => tracing::debug!(code = ?status.code(), "a placer cannot say"),
                _ => return Some(Err(RouteError::Refused(told(&status)))),
            }
        }
        None
    }

    /// Opens the stream of the directory at the placer that leads.
    pub async fn directory(&self) -> Option<(SocketAddr, Streaming<DirectoryUpdate>)> {
        for address in self.candidates().await {
            let Some(mut client) = self.client(address) else { continue };
            let opened = timeout(ANSWER_TIMEOUT, client.directory(DirectoryRequest {})).await;
            match opened {
                Ok(Ok(stream)) => return Some((address, stream.into_inner())),
                Ok(Err(status)) => {
                    tracing::debug!(code = ?status.code(), "a placer streams no directory");
                }
                Err(_) => tracing::debug!("a placer does not answer"),
            }
        }
        None
    }

    fn count(&self, code: &str) {
        self.metrics.placer_answers.with_label_values(&[code]).inc();
    }

    /// Notes an epoch that a placer has shown; false when another has shown a higher one.
    pub fn saw_epoch(&self, epoch: u64) -> bool {
        self.epoch.fetch_max(epoch, Ordering::Relaxed) <= epoch
    }

    /// Notes who led.
    pub fn led_by(&self, address: SocketAddr) {
        self.leader.send_if_modified(|leader| leader.replace(address) != Some(address));
    }

    /// Every address of the placers, the last known leader first. When the name service does not
    /// answer, those known from before.
    async fn candidates(&self) -> Vec<SocketAddr> {
        let mut addresses = match self.resolved_lately() {
            Some(addresses) => addresses,
            None => self.resolve().await,
        };
        if let Some(leader) = *self.leader.borrow()
            && let Some(index) = addresses.iter().position(|address| *address == leader)
        {
            addresses.swap(0, index);
        }
        addresses
    }

    fn resolved_lately(&self) -> Option<Vec<SocketAddr>> {
        let known = self.known();
        let lately = known.resolved.is_some_and(|at| at.elapsed() < RESOLVED_FOR);
        lately.then(|| known.addresses.clone())
    }

    async fn resolve(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for host in self.address.split(',') {
            let resolved = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(host)).await;
            if let Ok(Ok(found)) = resolved {
                addresses.extend(found);
            }
        }
        addresses.truncate(REPLICAS_MAX);
        let mut known = self.known();
        if addresses.is_empty() {
            addresses.clone_from(&known.addresses);
        } else {
            known.addresses.clone_from(&addresses);
            known.resolved = Some(Instant::now());
            known.channels.retain(|address, _| addresses.contains(address));
        }
        addresses
    }

    /// A client of the placer at this address; its connection is made when first used and made
    /// anew after our certificate was changed.
    fn client(&self, address: SocketAddr) -> Option<PlacementClient<Channel>> {
        let tls = self.files.client.load_full();
        let mut known = self.known();
        let channel = match known.channels.get(&address) {
            Some((made_with, channel)) if Arc::ptr_eq(made_with, &tls) => channel.clone(),
            _ => {
                let channel = self.channel(address, &tls)?;
                known.channels.insert(address, (tls, channel.clone()));
                channel
            }
        };
        Some(PlacementClient::new(channel))
    }

    fn channel(&self, address: SocketAddr, tls: &Arc<ClientTls>) -> Option<Channel> {
        let server_name = ServerName::try_from(self.server_name.clone()).ok()?;
        // The connector below speaks TLS itself, so that it can follow certificates.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server_name)).ok()?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.placer));
        let connect = tower::service_fn(move |_: http::Uri| {
            let (connector, server_name) = (connector.clone(), server_name.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(server_name, stream).await?))
            }
        });
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        Some(endpoint.connect_with_connector_lazy(connect))
    }
}

/// What a placer says to people, bounded.
fn told(status: &Status) -> String {
    let text: String = status.message().chars().take(MESSAGE_CHARS_MAX).collect();
    if text.is_empty() { "no media node can take another room now".to_owned() } else { text }
}
