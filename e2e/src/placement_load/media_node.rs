//! Media nodes whose rooms are only names: they speak the real gRPC over mutual TLS, hold grants
//! and epochs, report as real ones do, and let each room end after its time.
//!
//! Invariant: a claim without a grant or under a lower epoch is refused, and a room that is
//! claimed on two of them at once is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use media_api::v1::{self as media, media_control_server as server};
use operator::pki::{Authority, Role};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::{CLUSTER, NAMESPACE, TENANT};

/// Where the operator looks for a media node's control listener.
const CONTROL_PORT: u16 = 7881;
/// Reports go out at least so often, and changes within the second time share one.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const GATHER: Duration = Duration::from_millis(20);
/// Reports and connections waiting for their reader.
const WAITING_MAX: usize = 8;

/// Name of a media node.
pub(super) fn name(number: u8) -> String {
    format!("visio-{number}")
}

/// Its own loopback address.
pub(super) fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 78, 0, number))
}

struct Home {
    media_node: String,
    epoch: u64,
    since: Instant,
}

#[derive(Default)]
struct State {
    /// Every room that lives, on whichever media node: what no placer can see at once.
    rooms: BTreeMap<String, Home>,
    epochs: BTreeMap<String, u64>,
    granted_until: BTreeMap<String, Instant>,
    double: usize,
}

/// All simulated media nodes.
#[derive(Clone)]
pub(super) struct Bed {
    state: Arc<Mutex<State>>,
    room_lifetime: Duration,
}

impl Bed {
    /// Starts `count` media nodes; they serve until the process ends.
    pub(super) async fn start(
        authority: &Authority,
        count: u8,
        room_lifetime: Duration,
    ) -> anyhow::Result<Self> {
        let bed = Self { state: Arc::default(), room_lifetime };
        for number in 1..=count {
            let (name, changed) = (name(number), Arc::new(Notify::new()));
            let incarnation = format!("{name}-first");
            let media_node = MediaNode { name, incarnation, changed, bed: bed.clone() };
            let acceptor = TlsAcceptor::from(tls(authority, &media_node.name)?);
            let at = (address(number), CONTROL_PORT);
            let listener = TcpListener::bind(at).await;
            let listener = listener.with_context(|| format!("cannot listen on {at:?}"))?;
            let (sender, connections) = mpsc::channel(WAITING_MAX);
            tokio::spawn(accept(listener, acceptor, sender));
            let service = server::MediaControlServer::new(media_node);
            let serving = Server::builder().add_service(service);
            tokio::spawn(serving.serve_with_incoming(ReceiverStream::new(connections)));
        }
        Ok(bed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rooms that got a second home while they lived in a first.
    pub(super) fn double(&self) -> usize {
        self.state().double
    }

    /// Rooms that live.
    pub(super) fn rooms(&self) -> usize {
        self.state().rooms.len()
    }

    /// The highest epoch seen.
    pub(super) fn epoch(&self) -> u64 {
        self.state().epochs.values().copied().max().unwrap_or_default()
    }
}

fn tls(authority: &Authority, name: &str) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let dns = Role::MediaNode(name).dns_name(NAMESPACE, CLUSTER);
    let issued = authority.issue(&dns, Timestamp::now()).context("no certificate")?;
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.bundle().as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            if stream.set_nodelay(true).is_ok()
                && let Ok(stream) = acceptor.accept(stream).await
            {
                drop(ready.send(Ok(Connection(stream))).await);
            }
        });
    }
}

#[derive(Clone)]
struct MediaNode {
    name: String,
    incarnation: String,
    changed: Arc<Notify>,
    bed: Bed,
}

impl MediaNode {
    /// The state, if the epoch is not a lower one than was seen.
    fn fenced(&self, epoch: u64) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.bed.state();
        let seen = state.epochs.entry(self.name.clone()).or_default();
        if epoch < *seen {
            return Err(Status::failed_precondition("stale epoch"));
        }
        *seen = epoch;
        Ok(state)
    }

    /// What is so now; `told` is what the stream knows already and learns.
    fn report(&self, sequence: u64, told: &mut BTreeSet<String>) -> media::NodeReport {
        let key = |name: &String| media::RoomKey { tenant: TENANT.into(), name: name.clone() };
        let mut state = self.bed.state();
        let lifetime = self.bed.room_lifetime;
        let over = |home: &Home| home.media_node == self.name && home.since.elapsed() >= lifetime;
        state.rooms.retain(|_, home| !over(home));
        let here = state.rooms.iter().filter(|(_, home)| home.media_node == self.name);
        let here: BTreeMap<&String, &Home> = here.collect();
        let fresh = here.iter().filter(|(name, _)| !told.contains(**name));
        let rooms = fresh.map(|(name, home)| media::RoomReport {
            room: Some(key(name)),
            claim_epoch: home.epoch,
            participants: 1,
            ..media::RoomReport::default()
        });
        let rooms = rooms.collect();
        let ended = told.iter().filter(|name| !here.contains_key(name)).map(key).collect();
        let participants = here.len() as u32;
        *told = here.into_keys().cloned().collect();
        media::NodeReport {
            media_node: self.name.clone(),
            incarnation: self.incarnation.clone(),
            epoch: state.epochs.get(&self.name).copied().unwrap_or_default(),
            sequence,
            unix_ms: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default(),
            state: media::State::Serving.into(),
            shards: vec![media::ShardLoad::default()],
            participants,
            whole: sequence == 1,
            rooms,
            ended,
            version: "simulated".to_owned(),
            ..media::NodeReport::default()
        }
    }

    async fn tell(self, epoch: u64, reports: mpsc::Sender<Result<media::NodeReport, Status>>) {
        let mut told = BTreeSet::new();
        for sequence in 1.. {
            if self.fenced(epoch).is_err() {
                return;
            }
            let report = self.report(sequence, &mut told);
            if reports.send(Ok(report)).await.is_err() {
                return;
            }
            let _ = tokio::time::timeout(REPORT_EVERY, self.changed.notified()).await;
            tokio::time::sleep(GATHER).await;
        }
    }
}

#[tonic::async_trait]
impl server::MediaControl for MediaNode {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<media::NodeReport, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<media::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let epoch = request.into_inner().epoch;
        drop(self.fenced(epoch)?);
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(self.clone().tell(epoch, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn grant(
        &self,
        request: Request<media::GrantRequest>,
    ) -> Result<Response<media::GrantReply>, Status> {
        let media::GrantRequest { epoch, ttl_ms, .. } = request.into_inner();
        let until = Instant::now() + Duration::from_millis(ttl_ms);
        self.fenced(epoch)?.granted_until.insert(self.name.clone(), until);
        Ok(Response::new(media::GrantReply { epoch, incarnation: self.incarnation.clone() }))
    }

    async fn claim(
        &self,
        request: Request<media::ClaimRequest>,
    ) -> Result<Response<media::ClaimReply>, Status> {
        let asked = request.into_inner();
        let mut state = self.fenced(asked.epoch)?;
        if state.granted_until.get(&self.name).is_none_or(|until| *until < Instant::now()) {
            return Err(Status::unavailable("no grant"));
        }
        let room = asked.room.unwrap_or_default().name;
        let (media_node, since) = (self.name.clone(), Instant::now());
        let before = state.rooms.insert(room, Home { media_node, epoch: asked.epoch, since });
        let elsewhere = before.as_ref().is_some_and(|home| home.media_node != self.name);
        state.double += usize::from(elsewhere);
        let existed = before.is_some() && !elsewhere;
        drop(state);
        self.changed.notify_waiters();
        Ok(Response::new(media::ClaimReply { existed, incarnation: self.incarnation.clone() }))
    }

    async fn release(
        &self,
        request: Request<media::ReleaseRequest>,
    ) -> Result<Response<media::ReleaseReply>, Status> {
        let asked = request.into_inner();
        let room = asked.room.unwrap_or_default().name;
        let mut state = self.fenced(asked.epoch)?;
        let existed = state.rooms.get(&room).is_some_and(|home| home.media_node == self.name);
        if existed {
            state.rooms.remove(&room);
        }
        Ok(Response::new(media::ReleaseReply { existed, participants_sent_home: 0 }))
    }

    async fn drain(
        &self,
        request: Request<media::DrainRequest>,
    ) -> Result<Response<media::DrainReply>, Status> {
        drop(self.fenced(request.into_inner().epoch)?);
        Ok(Response::new(media::DrainReply { rooms: 0 }))
    }

    async fn undrain(
        &self,
        request: Request<media::UndrainRequest>,
    ) -> Result<Response<media::UndrainReply>, Status> {
        drop(self.fenced(request.into_inner().epoch)?);
        Ok(Response::new(media::UndrainReply {}))
    }
}

/// A TLS stream that tells the service nothing of its other end.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
