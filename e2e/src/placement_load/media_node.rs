//! Media nodes whose rooms are only names: they speak the real gRPC over mutual TLS, hold grants
//! and epochs, report as real ones do, and let each room end after its time.
//!
//! Invariant: a claim without a grant or under a lower epoch is refused, and a room that is
//! claimed on two of them at once is counted: as double, while the first could still admit it; as
//! moved, when the first was out of the placer's sight for so long that its grant had run out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use media_api::v1::{self as media, media_control_server as server};
use operator::pki::{Authority, Role, trust};
use operator::reconcile::build::media_pod::CONTROL_PORT;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::{CLUSTER, NAMESPACE, TENANT};

/// Reports go out at least so often, and changes within the second time share one.
const REPORT_EVERY: Duration = Duration::from_millis(500);
const GATHER: Duration = Duration::from_millis(20);
/// Reports waiting for their reader.
const WAITING_MAX: usize = 8;

/// Name of a media node.
pub(super) fn name(number: u8) -> String {
    format!("visio-{number}")
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
    moved: usize,
}

/// All simulated media nodes.
#[derive(Clone)]
pub(super) struct Bed {
    state: Arc<Mutex<State>>,
    room_lifetime: Duration,
    started: Instant,
    network: u8,
}

impl Bed {
    /// Starts `count` media nodes; they serve until the process ends.
    pub(super) async fn start(
        authority: &Authority,
        count: u8,
        room_lifetime: Duration,
    ) -> anyhow::Result<Self> {
        static BEDS: AtomicU8 = AtomicU8::new(0);
        let network = BEDS.fetch_add(1, Ordering::Relaxed);
        let bed = Self { state: Arc::default(), room_lifetime, started: Instant::now(), network };
        for number in 1..=count {
            let (name, changed) = (name(number), Arc::new(Notify::new()));
            let dns = Role::MediaNode(&name).dns_name(NAMESPACE, CLUSTER);
            let leaf = authority.issue(&dns, Timestamp::now()).context("no certificate")?;
            let acceptor = TlsAcceptor::from(trust::server(authority, &leaf)?);
            let incarnation = format!("{name}-first");
            let media_node = MediaNode { name, incarnation, changed, bed: bed.clone() };
            let at = (bed.address(number), CONTROL_PORT);
            let listener = TcpListener::bind(at).await;
            let listener = listener.with_context(|| format!("cannot listen on {at:?}"))?;
            tokio::spawn(serve(listener, acceptor, media_node));
        }
        Ok(bed)
    }

    /// The loopback address of a media node, which no other bed of this process has.
    pub(super) fn address(&self, number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 78, self.network, number))
    }

    /// Where a room lives.
    #[cfg(test)]
    pub(super) fn home(&self, room: &str) -> Option<String> {
        self.state().rooms.get(room).map(|home| home.media_node.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rooms that got a second home while their first held a grant.
    pub(super) fn double(&self) -> usize {
        self.state().double
    }

    /// Rooms that got a second home after their first was out of sight.
    pub(super) fn moved(&self) -> usize {
        self.state().moved
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

/// Shakes hands with whoever the meeting cluster's CA vouches for, and serves.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, media_node: MediaNode) {
    let routes = Routes::new(server::MediaControlServer::new(media_node)).prepare();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        tokio::spawn(async move {
            if stream.set_nodelay(true).is_ok()
                && let Ok(stream) = acceptor.accept(stream).await
            {
                converse(stream, routes).await;
            }
        });
    }
}

/// Answers on a connection that shook hands, until the operator's side ends it.
pub(crate) async fn converse(stream: TlsStream<TcpStream>, routes: Routes) {
    let http = Builder::new(TokioExecutor::new()).http2_only();
    let service = TowerToHyperService::new(routes);
    // What breaks it is the operator's to notice.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
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
            uptime_ms: self.bed.started.elapsed().as_millis() as u64,
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
        let media::GrantRequest { epoch, ttl_ms, uptime_ms, .. } = request.into_inner();
        let until = self.bed.started + Duration::from_millis(uptime_ms + ttl_ms);
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
        let elsewhere = before.as_ref().filter(|home| home.media_node != self.name);
        let until = elsewhere.and_then(|home| state.granted_until.get(&home.media_node).copied());
        let granted = until.is_some_and(|until| since < until);
        let existed = before.is_some() && elsewhere.is_none();
        match (elsewhere, granted) {
            (Some(_), true) => state.double += 1,
            (Some(_), false) => state.moved += 1,
            (None, _) => {}
        }
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
