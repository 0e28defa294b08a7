//! The processes in the fake media pods: one listener stands for all of them, and the name in the
//! TLS handshake says which one is meant. They speak the real gRPC over mutual TLS with the
//! certificates that the operator put into their Secrets, report twice a second as real ones do,
//! and rooms begin and end in them all the time.
//!
//! Decides the load. Invariant: a lower epoch than was seen is refused, and one that was asked to
//! drain holds no room from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use media_api::v1::{self as media, media_control_server as server};
use operator::reconcile::build::media_pod::{CONTROL_PORT, tls_secret};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::placement_load::converse;

/// Rooms of each media node at any time. Every second the oldest ends and a new one begins, so a
/// fleet of 300 begins 300 rooms a second.
const ROOMS: u64 = 20;
/// Participants of a room, at least; some have up to three more.
const PARTICIPANTS: u64 = 1;
/// How often a media node reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Reports waiting for their reader.
const WAITING_MAX: usize = 8;

/// Which media node a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    namespace: String,
    meeting_cluster: String,
    media_node: String,
}

impl Name {
    /// From the first DNS name of its certificate.
    fn parse(dns_name: &str) -> Option<Self> {
        let mut labels = dns_name.split('.');
        let media_node = labels.next()?.to_owned();
        let (role, meeting_cluster) = (labels.next()?, labels.next()?.to_owned());
        let namespace = labels.next()?.to_owned();
        (role == "media").then_some(Self { namespace, meeting_cluster, media_node })
    }

    fn tenant(&self) -> String {
        format!("{}/{}", self.namespace, self.meeting_cluster)
    }
}

/// What one media node remembers.
#[derive(Debug, Default)]
struct Life {
    epoch: u64,
    drained: bool,
}

/// All of them, which began at once.
#[derive(Clone)]
pub(super) struct MediaNodes {
    begun: Instant,
    lives: Arc<Mutex<BTreeMap<Name, Life>>>,
}

impl MediaNodes {
    /// Serves until the process ends.
    ///
    /// # Errors
    /// If the port is taken.
    pub(super) async fn serve(client: &Client) -> Result<()> {
        let at = (Ipv4Addr::UNSPECIFIED, CONTROL_PORT);
        let listener = TcpListener::bind(at).await;
        let listener = listener.with_context(|| format!("cannot listen on {at:?}"))?;
        let all = Self { begun: Instant::now(), lives: Arc::default() };
        tokio::spawn(accept(listener, client.clone(), all));
        Ok(())
    }
}

/// The one that a connection leads to.
#[derive(Clone)]
struct MediaNode {
    name: Name,
    all: MediaNodes,
}

impl MediaNode {
    /// The lives of all, if the epoch is not a lower one than this one has seen.
    fn fenced(&self, epoch: u64) -> Result<MutexGuard<'_, BTreeMap<Name, Life>>, Status> {
        let mut lives = self.all.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let life = lives.entry(self.name.clone()).or_default();
        if epoch < life.epoch {
            return Err(Status::failed_precondition("stale epoch"));
        }
        life.epoch = epoch;
        Ok(lives)
    }

    /// Says whether it is drained.
    fn set_drained(&self, epoch: u64, drained: bool) -> Result<(), Status> {
        if let Some(life) = self.fenced(epoch)?.get_mut(&self.name) {
            life.drained = drained;
        }
        Ok(())
    }

    async fn tell(self, epoch: u64, reports: mpsc::Sender<Result<media::NodeReport, Status>>) {
        let Self { name, all } = &self;
        let mut tick = interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = BTreeSet::new();
        for sequence in 1.. {
            tick.tick().await;
            let drained = match self.fenced(epoch) {
                Ok(lives) => lives.get(name).is_some_and(|life| life.drained),
                Err(_) => return,
            };
            let mut report = report(name, epoch, sequence, drained, &mut told);
            report.uptime_ms = u64::try_from(all.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if reports.send(Ok(report)).await.is_err() {
                return;
            }
        }
    }
}

/// What is so in this second; `told` is what the stream knows already and learns.
fn report(
    name: &Name,
    epoch: u64,
    sequence: u64,
    drained: bool,
    told: &mut BTreeSet<u64>,
) -> media::NodeReport {
    let unix_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    let second = unix_ms / 1_000;
    let here: BTreeSet<u64> =
        if drained { BTreeSet::new() } else { (second - ROOMS..second).collect() };
    let key = |room: &u64| media::RoomKey {
        tenant: name.tenant(),
        name: format!("{}-{room}", name.media_node),
    };
    let rooms = here.difference(told).map(|room| media::RoomReport {
        room: Some(key(room)),
        claim_epoch: epoch,
        participants: u32::try_from(PARTICIPANTS + room % 4).unwrap_or_default(),
        created_unix_ms: room * 1_000,
        ..media::RoomReport::default()
    });
    let rooms = rooms.collect();
    let ended = told.difference(&here).map(key).collect();
    let participants = here.iter().map(|room| PARTICIPANTS + room % 4).sum::<u64>();
    // More than the participants fill, and never the same twice: what changes may be written.
    let busy_ratio = if drained { 0.0 } else { 0.2 + (second % 30) as f64 / 100.0 };
    let state = if drained { media::State::Draining } else { media::State::Serving };
    *told = here;
    media::NodeReport {
        media_node: name.media_node.clone(),
        incarnation: format!("{}-first", name.media_node),
        epoch,
        sequence,
        unix_ms,
        state: state.into(),
        shards: vec![media::ShardLoad { busy_ratio, ..media::ShardLoad::default() }],
        participants: u32::try_from(participants).unwrap_or_default(),
        whole: sequence == 1,
        rooms,
        ended,
        version: "simulated".to_owned(),
        ..media::NodeReport::default()
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
        let epoch = request.into_inner().epoch;
        drop(self.fenced(epoch)?);
        let incarnation = format!("{}-first", self.name.media_node);
        Ok(Response::new(media::GrantReply { epoch, incarnation }))
    }

    async fn claim(
        &self,
        _: Request<media::ClaimRequest>,
    ) -> Result<Response<media::ClaimReply>, Status> {
        Err(Status::unavailable("rooms come and go by themselves here"))
    }

    async fn release(
        &self,
        request: Request<media::ReleaseRequest>,
    ) -> Result<Response<media::ReleaseReply>, Status> {
        drop(self.fenced(request.into_inner().epoch)?);
        Ok(Response::new(media::ReleaseReply::default()))
    }

    async fn drain(
        &self,
        request: Request<media::DrainRequest>,
    ) -> Result<Response<media::DrainReply>, Status> {
        self.set_drained(request.into_inner().epoch, true)?;
        Ok(Response::new(media::DrainReply::default()))
    }

    async fn undrain(
        &self,
        request: Request<media::UndrainRequest>,
    ) -> Result<Response<media::UndrainReply>, Status> {
        self.set_drained(request.into_inner().epoch, false)?;
        Ok(Response::new(media::UndrainReply {}))
    }
}

async fn accept(listener: TcpListener, client: Client, all: MediaNodes) {
    while let Ok((stream, _)) = listener.accept().await {
        let (client, all) = (client.clone(), all.clone());
        tokio::spawn(async move {
            // The operator gives up early and tries again; what fails for good is never heard.
            if let Ok((stream, name)) = shake_hands(stream, &client).await {
                let service = server::MediaControlServer::new(MediaNode { name, all });
                converse(stream, Routes::new(service).prepare()).await;
            }
        });
    }
}

async fn shake_hands(stream: TcpStream, client: &Client) -> Result<(TlsStream<TcpStream>, Name)> {
    stream.set_nodelay(true)?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let asked = start.client_hello().server_name().unwrap_or_default().to_owned();
    let name = Name::parse(&asked).with_context(|| format!("{asked:?} is no media node"))?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &name.namespace);
    let secret = secrets.get(&tls_secret(&name.media_node)).await?;
    let stream = start.into_stream(Arc::new(tls(&secret)?)).await?;
    Ok((stream, name))
}

/// As the kubelet would have put the Secret's files into the pod.
fn tls(secret: &Secret) -> Result<rustls::ServerConfig> {
    let file = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|bytes| bytes.0.as_slice()).with_context(|| format!("the Secret has no {key}"))
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(file("ca.crt")?) {
        roots.add(root?)?;
    }
    let chain = CertificateDer::pem_slice_iter(file("tls.crt")?).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(file("tls.key")?)?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::parse("visio-7.media.visio.ministry.hemicycle.internal").expect("a media node")
    }

    #[test]
    fn only_a_media_nodes_name_leads_to_one() {
        assert_eq!(
            (name().tenant().as_str(), name().media_node.as_str()),
            ("ministry/visio", "visio-7")
        );
        assert_eq!(Name::parse("placer.visio.ministry.hemicycle.internal"), None);
    }

    #[test]
    fn a_drained_media_node_ends_its_rooms_and_says_so_once() {
        let mut told = BTreeSet::new();
        let first = report(&name(), 1, 1, false, &mut told);
        assert_eq!((first.whole, first.rooms.len() as u64), (true, ROOMS));
        let drained = report(&name(), 1, 2, true, &mut told);
        assert_eq!((drained.participants, drained.ended.len() as u64), (0, ROOMS));
        assert_eq!(report(&name(), 1, 3, true, &mut told).ended.len(), 0);
    }
}
