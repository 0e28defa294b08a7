//! Knows every media node of every meeting cluster while this replica leads: one task for each
//! keeps its Observe stream open, answers its reports with grants and passes on what it is wanted
//! to do. What is heard goes into the core's directory, which the placer and the plan read. Decides
//! nothing.
//! Invariant: every command carries the term's epoch, and none is sent after the term.

pub mod channel;
mod cluster;
mod media_node;
mod ticket;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use media_api::v1::{self as media, media_control_client::MediaControlClient};
use operator_core::{
    ids::RoomKey,
    placement::Settings,
    world::{DemandSeen, DesiredState, PlacerSeen, ReportSeen},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use self::{
    cluster::{Cluster, Known, Picture, Step, now},
    ticket::TicketTerms,
};
use self::{
    media_node::Speaker,
    ticket::{Holder, Tickets},
};
use crate::{
    metrics::Metrics,
    pki::{signing::SigningKeys, trust::TrustStore},
    replicas::Leadership,
};

/// A media node to speak to, as the reconcile saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the resource and of the pod.
    pub media_node: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Address of the pod.
    pub ip: IpAddr,
    /// What it is wanted to do.
    pub desired: DesiredState,
    /// On which terms it may carry new rooms; none: it holds no ticket.
    pub ticket: Option<TicketTerms>,
}

/// What a media node is told as soon as it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) desired: DesiredState,
    pub(crate) ticket: Option<TicketTerms>,
}

impl Wanted {
    fn of(target: &Target) -> Self {
        Self { desired: target.desired, ticket: target.ticket.clone() }
    }
}

/// What every task of the fleet shares.
pub(crate) struct Shared {
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) epoch_seen: watch::Sender<u64>,
    signing: RwLock<Option<Arc<SigningKeys>>>,
}

impl Shared {
    /// The keys, once a leader's term gave them.
    pub(crate) fn signing(&self) -> Option<Arc<SigningKeys>> {
        self.signing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The media nodes of every meeting cluster.
pub struct Fleet {
    shared: Arc<Shared>,
    term: Mutex<Option<Term>>,
}

struct Term {
    epoch: u64,
    stop: CancellationToken,
    clusters: BTreeMap<String, Entry>,
}

struct Entry {
    cluster: Arc<Cluster>,
    speakers: BTreeMap<String, Running>,
}

struct Running {
    target: Target,
    wanted: watch::Sender<Wanted>,
    client: watch::Receiver<Option<MediaControlClient<Channel>>>,
    stop: CancellationToken,
}

/// Why a command did not reach a media node.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nobody speaks to it now.
    #[error("media node {0} is not connected")]
    NotConnected(String),
    /// It did not answer in time.
    #[error("media node {0} did not answer in time")]
    Timeout(String),
    /// It refused.
    #[error("media node {media_node} refused: {status}")]
    Refused {
        /// Which.
        media_node: String,
        /// Its answer.
        status: Box<tonic::Status>,
    },
}

impl Fleet {
    /// A fleet of nobody, until a term begins.
    #[must_use]
    pub fn new(
        trust: Arc<TrustStore>,
        leadership: Arc<Leadership>,
        metrics: Arc<Metrics>,
        epoch_seen: watch::Sender<u64>,
    ) -> Self {
        let signing = RwLock::new(None);
        let shared = Arc::new(Shared { trust, leadership, metrics, epoch_seen, signing });
        Self { shared, term: Mutex::new(None) }
    }

    /// Tickets are signed with these keys from now on; before, media nodes are given none.
    pub fn sign_with(&self, keys: Arc<SigningKeys>) {
        let mut signing = self.shared.signing.write().unwrap_or_else(PoisonError::into_inner);
        *signing = Some(keys);
    }

    fn with_term<T>(&self, act: impl FnOnce(&mut Term) -> T) -> Option<T> {
        let mut term = self.term.lock().unwrap_or_else(PoisonError::into_inner);
        term.as_mut().map(act)
    }

    /// This replica leads under `epoch`: from nothing, every media node is asked.
    pub fn begin_term(&self, epoch: u64) {
        self.end_term();
        let fresh = Term { epoch, stop: CancellationToken::new(), clusters: BTreeMap::new() };
        *self.term.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
    }

    /// This replica leads no more: every stream is closed and everything forgotten.
    pub fn end_term(&self) {
        let ended = self.term.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(term) = ended {
            term.stop.cancel();
            for entry in term.clusters.values() {
                entry.cluster.close();
            }
        }
    }

    /// The meeting cluster of `tenant`, once the reconcile has shown its media nodes.
    #[must_use]
    pub fn cluster(&self, tenant: &str) -> Option<Arc<Cluster>> {
        self.with_term(|term| term.clusters.get(tenant).map(|entry| entry.cluster.clone()))?
    }

    /// Forgets a meeting cluster that is gone.
    pub fn forget(&self, tenant: &str) {
        self.with_term(|term| {
            if let Some(entry) = term.clusters.remove(tenant) {
                entry.cluster.close();
                for (name, running) in entry.speakers {
                    running.stop.cancel();
                    self.shared.metrics.forget_media_node(tenant, &name);
                }
            }
        });
    }

    /// `known` are the media nodes of a meeting cluster that have a pod whose process is not known
    /// to be over; `targets` are those of them that can be spoken to.
    pub fn set_targets(
        self: &Arc<Self>,
        settings: Settings,
        known: Vec<Known>,
        targets: Vec<Target>,
    ) {
        let tenant = settings.tenant.clone();
        self.with_term(|term| {
            let (epoch, stop) = (term.epoch, term.stop.clone());
            let entry = term.clusters.entry(tenant.clone()).or_insert_with(|| {
                let cluster = Arc::new(Cluster::new(&tenant, epoch, settings.clone()));
                tokio::spawn(self.clone().publish(cluster.clone(), stop.clone()));
                Entry { cluster, speakers: BTreeMap::new() }
            });
            let named: BTreeSet<&str> =
                targets.iter().map(|target| target.media_node.as_str()).collect();
            entry.speakers.retain(|name, running| {
                let kept = named.contains(name.as_str());
                if !kept {
                    running.stop.cancel();
                    self.shared.metrics.forget_media_node(&tenant, name);
                }
                kept
            });
            entry.cluster.known(settings, known);
            for target in targets {
                self.speak_to(entry, target, &stop);
            }
        });
    }

    /// Tells gateways what changed and sends the releases that the directory asks for.
    async fn publish(self: Arc<Self>, cluster: Arc<Cluster>, stop: CancellationToken) {
        let mut tick = interval(Cluster::publish_every());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = cluster.closed() => return,
                _ = tick.tick() => {}
            }
            for release in cluster.publish() {
                let (fleet, cluster) = (self.clone(), cluster.clone());
                // The directory asks again until it is done.
                tokio::spawn(async move {
                    let name = release.media_node.as_str();
                    let done = fleet.release(cluster.tenant(), name, &release.room).await;
                    if done.is_ok() {
                        cluster.released(&release);
                    }
                });
            }
        }
    }

    fn speak_to(&self, entry: &mut Entry, target: Target, stop: &CancellationToken) {
        if let Some(running) = entry.speakers.get_mut(&target.media_node) {
            let same = running.target.pod_uid == target.pod_uid && running.target.ip == target.ip;
            if same {
                let now = Wanted::of(&target);
                running.wanted.send_if_modified(|wanted| {
                    let changed = *wanted != now;
                    *wanted = now;
                    changed
                });
                running.target = target;
                return;
            }
            running.stop.cancel();
        }
        let (wanted, wanted_receiver) = watch::channel(Wanted::of(&target));
        let (client_sender, client) = watch::channel(None);
        let stop = stop.child_token();
        let speaker = Speaker {
            shared: self.shared.clone(),
            cluster: entry.cluster.clone(),
            target: target.clone(),
            wanted: wanted_receiver,
            client: client_sender,
            heard: None,
            tickets: Tickets::new(Holder {
                tenant: entry.cluster.tenant().to_owned(),
                media_node: target.media_node.clone(),
                pod_uid: target.pod_uid.clone(),
                epoch: entry.cluster.epoch(),
            }),
            clock_fits: true,
            refusal_told: false,
        };
        tokio::spawn(speaker.run(stop.clone()));
        entry.speakers.insert(target.media_node.clone(), Running { target, wanted, client, stop });
    }

    fn client(&self, tenant: &str, media_node: &str) -> Option<(u64, MediaControlClient<Channel>)> {
        self.with_term(|term| {
            let running = term.clusters.get(tenant)?.speakers.get(media_node)?;
            Some((term.epoch, running.client.borrow().clone()?))
        })?
    }

    /// Gives a room its home on a media node.
    ///
    /// # Errors
    /// When the media node is not connected, does not answer in time, or refuses.
    pub async fn claim(
        &self,
        tenant: &str,
        media_node: &str,
        room: &RoomKey,
    ) -> Result<media::ClaimReply, CommandError> {
        let (epoch, mut client) = self
            .client(tenant, media_node)
            .ok_or_else(|| CommandError::NotConnected(media_node.to_owned()))?;
        let room = Some(wire_room(room));
        let reply =
            timeout(media_node::COMMAND_TIMEOUT, client.claim(media::ClaimRequest { epoch, room }));
        answered(media_node, reply.await)
    }

    /// Sends the people of a room home, so that they meet again elsewhere.
    ///
    /// # Errors
    /// When the media node is not connected, does not answer in time, or refuses.
    pub async fn release(
        &self,
        tenant: &str,
        media_node: &str,
        room: &RoomKey,
    ) -> Result<media::ReleaseReply, CommandError> {
        let (epoch, mut client) = self
            .client(tenant, media_node)
            .ok_or_else(|| CommandError::NotConnected(media_node.to_owned()))?;
        let room = Some(wire_room(room));
        let reply = timeout(
            media_node::COMMAND_TIMEOUT,
            client.release(media::ReleaseRequest { epoch, room }),
        );
        answered(media_node, reply.await)
    }

    /// What a media node said last; `None` when it never spoke in this term.
    #[must_use]
    pub fn report(&self, tenant: &str, media_node: &str) -> Option<ReportSeen> {
        self.cluster(tenant)?.report(media_node)
    }

    /// Version of a media node's binary, once it has spoken.
    #[must_use]
    pub fn version(&self, tenant: &str, media_node: &str) -> Option<String> {
        self.cluster(tenant)?.version(media_node)
    }

    /// What rooms ask for beyond what media nodes report.
    #[must_use]
    pub fn demand(&self, tenant: &str) -> DemandSeen {
        self.cluster(tenant).map_or_else(DemandSeen::default, |cluster| cluster.demand())
    }

    /// How far the placer is.
    #[must_use]
    pub fn placer_seen(&self, tenant: &str) -> PlacerSeen {
        match self.cluster(tenant) {
            Some(cluster) => cluster.placer_seen(),
            None if self.with_term(|_| ()).is_some() => PlacerSeen::Rebuilding { unheard: 0 },
            None => PlacerSeen::NotLeading,
        }
    }
}

fn answered<T>(
    media_node: &str,
    reply: Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>,
) -> Result<T, CommandError> {
    match reply {
        Err(_) => Err(CommandError::Timeout(media_node.to_owned())),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(CommandError::Refused {
            media_node: media_node.to_owned(),
            status: Box::new(status),
        }),
    }
}

/// A room in the words of the wire.
#[must_use]
pub fn wire_room(room: &RoomKey) -> media::RoomKey {
    media::RoomKey { tenant: room.tenant.clone(), name: room.name.clone() }
}
