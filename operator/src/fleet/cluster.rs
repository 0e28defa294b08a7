//! One meeting cluster as the leader hears it: the core's directory behind one lock, the addresses
//! of its media nodes, and the stream of changes for gateways. Every choice is the directory's.
//! Invariant: the lock is never held across an await.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use media_api::v1 as media;
use operator_core::{
    capacity::Busy,
    ids::{Epoch, Incarnation, MediaNodeName, RoomKey, Timestamp, Zone},
    placement::{
        Admission, ClaimOutcome, Decision, Directory, DirectoryDelta, Grant, Hints, KnownMediaNode,
        PlacerState, Release, ReportOutcome, RoomHome, Settings,
    },
    report::{MediaNodeState, NodeReportView, ReportError, RoomView},
    world::{DemandSeen, PlacerSeen, ReportSeen},
};
use placement_api::v1 as placement;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::Target;
use crate::reconcile::build::media_pod::SIGNAL_PORT;

/// Changes are gathered for this long before gateways are told: a burst of joins is one message.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// Updates that a gateway may lag behind before it is given a fresh whole.
const UPDATES_MAX: usize = 64;

/// Milliseconds since 1970 on a clock that never goes back while the process lives.
#[must_use]
pub fn now() -> Timestamp {
    static START: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), wall_ms()));
    let elapsed = u64::try_from(START.0.elapsed().as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_unix_ms(START.1.saturating_add(elapsed))
}

/// Milliseconds since 1970 that the system's clock shows, for what others compare with theirs.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A media node that the reconcile knows, whether or not it can be spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub media_node: String,
    /// Zone of its Kubernetes node, empty when unknown.
    pub zone: String,
    /// Whether new rooms may be given to it.
    pub admission: Admission,
}

/// What was heard from a media node last.
#[derive(Clone, Debug)]
struct Heard {
    received: Timestamp,
    incarnation: Incarnation,
    sequence: u64,
    state: MediaNodeState,
    participants: u32,
    busy: Busy,
    version: String,
    clock_skew_ms: i64,
    ticket_expires: Timestamp,
}

struct Inner {
    directory: Directory,
    heard: BTreeMap<String, Heard>,
    addresses: BTreeMap<String, (SocketAddr, String)>,
    /// One entry for each claim on its way: those who wait for it listen here.
    claims: BTreeMap<RoomKey, watch::Sender<()>>,
    began: bool,
}

/// One meeting cluster as the leader hears it.
pub struct Cluster {
    tenant: String,
    epoch: u64,
    inner: Mutex<Inner>,
    updates: broadcast::Sender<Arc<placement::DirectoryUpdate>>,
    stop: CancellationToken,
}

/// What the placer does about a room.
#[derive(Debug)]
pub enum Step {
    /// What the directory decided.
    Decided(Decision),
    /// Another claim for this room is on its way; it ends when this does.
    Follow(watch::Receiver<()>),
}

impl Cluster {
    pub(super) fn new(tenant: &str, epoch: u64, settings: Settings) -> Self {
        let (updates, _) = broadcast::channel(UPDATES_MAX);
        Self {
            tenant: tenant.to_owned(),
            epoch,
            inner: Mutex::new(Inner {
                directory: Directory::new(settings),
                heard: BTreeMap::new(),
                addresses: BTreeMap::new(),
                claims: BTreeMap::new(),
                began: false,
            }),
            updates,
            stop: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// "namespace/name".
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The term's fencing number.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Ends the streams to gateways: this replica leads no more, or the meeting cluster is gone.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    /// Completes when the streams are to end.
    pub async fn closed(&self) {
        self.stop.cancelled().await;
    }

    /// These media nodes have a pod whose process is not known to be over; any other is over.
    pub(super) fn known(&self, settings: Settings, known: Vec<Known>) {
        let mut inner = self.lock();
        let now = now();
        let begins = !inner.began;
        let entries = known.iter().map(|known| KnownMediaNode {
            name: MediaNodeName::new(known.media_node.clone()),
            zone: Zone::new(known.zone.clone()),
            admission: known.admission,
            // Those that appear later were made by this leader, and nobody else gave them rooms.
            may_hold_rooms: begins,
        });
        inner.directory.set_settings(settings);
        if begins {
            inner.began = true;
            inner.directory.begin_epoch(Epoch(self.epoch), entries, now);
        } else {
            for entry in entries {
                inner.directory.node_known(entry, now);
            }
        }
        let gone = inner.directory.snapshot().media_nodes;
        for name in gone {
            if !known.iter().any(|known| known.media_node == name.as_str()) {
                inner.directory.node_terminated(&name, now);
                inner.heard.remove(name.as_str());
                inner.addresses.remove(name.as_str());
            }
        }
    }

    /// A conversation began.
    pub(super) fn met(&self, target: &Target, server_name: &str) {
        let address = SocketAddr::new(target.ip, SIGNAL_PORT);
        let mut inner = self.lock();
        inner.addresses.insert(target.media_node.clone(), (address, server_name.to_owned()));
    }

    /// The process that spoke is over: its connection broke while it was in sight, and nobody
    /// listens where it did.
    pub(super) fn process_over(&self, media_node: &str) {
        self.lock().directory.process_over(&media_node.into(), now());
    }

    /// A conversation broke.
    pub(super) fn lost(&self, media_node: &str) {
        self.lock().directory.node_lost(&media_node.into());
    }

    /// Takes a report of a media node whose clock is ahead by `clock_skew_ms`; the number of rooms
    /// that it has.
    pub(super) fn hear(
        &self,
        media_node: &str,
        report: media::NodeReport,
        clock_skew_ms: i64,
    ) -> Result<usize, Refusal> {
        let version = report.version.clone();
        let ticket_expires = Timestamp::from_unix_ms(report.ticket_expiry_unix_ms);
        let view = view_of(report);
        let name = MediaNodeName::new(media_node);
        let mut inner = self.lock();
        let now = now();
        match inner.directory.report(&name, &view, now) {
            ReportOutcome::Accepted => {}
            ReportOutcome::Ignored(error) => return Err(Refusal::Ignored(error)),
            ReportOutcome::Fenced { epoch } => return Err(Refusal::Fenced(epoch.0)),
        }
        let heard = Heard {
            received: now,
            busy: view.busy(),
            participants: u32::try_from(view.participants).unwrap_or_default(),
            incarnation: view.incarnation,
            sequence: view.sequence,
            state: view.state,
            version,
            clock_skew_ms,
            ticket_expires,
        };
        inner.heard.insert(media_node.to_owned(), heard);
        Ok(inner.directory.rooms_len_on(&name))
    }

    /// The grant to send to a media node now, if it may have one; it counts as given.
    pub(super) fn grant(&self, media_node: &str) -> Option<Grant> {
        self.lock().directory.grant(&media_node.into(), now())
    }

    /// A media node confirmed a grant.
    pub(super) fn granted(&self, media_node: &str, grant: &Grant) {
        self.lock().directory.granted(&media_node.into(), grant);
    }

    /// Decides about one request for a room. When the answer is to claim it, the caller must do so
    /// and report the outcome by [`Self::claimed`].
    #[must_use]
    pub fn route(&self, room: &RoomKey, hints: &Hints) -> Step {
        let mut inner = self.lock();
        let decision = inner.directory.route(room, hints, now());
        if let Decision::Claim { .. } = decision {
            inner.claims.insert(room.clone(), watch::Sender::new(()));
            return Step::Decided(decision);
        }
        match (&decision, inner.claims.get(room)) {
            (Decision::Wait { .. }, Some(claim)) => Step::Follow(claim.subscribe()),
            _ => Step::Decided(decision),
        }
    }

    /// A claim has come to its end.
    pub fn claimed(&self, room: &RoomKey, media_node: &MediaNodeName, outcome: ClaimOutcome) {
        let mut inner = self.lock();
        inner.directory.claimed(room, media_node, outcome, now());
        // Dropping the sender wakes those who follow.
        inner.claims.remove(room);
    }

    /// Where a room lives, if that is sure.
    #[must_use]
    pub fn home(&self, room: &RoomKey) -> Option<MediaNodeName> {
        self.lock().directory.home(room).map(|home| home.media_node)
    }

    /// How gateways reach a media node.
    #[must_use]
    pub fn endpoint(&self, media_node: &str) -> Option<placement::MediaNodeEndpoint> {
        self.lock().endpoint(media_node)
    }

    pub(super) fn report(&self, media_node: &str) -> Option<ReportSeen> {
        let inner = self.lock();
        let heard = inner.heard.get(media_node)?;
        let name = MediaNodeName::new(media_node);
        Some(ReportSeen {
            received: heard.received,
            incarnation: heard.incarnation.clone(),
            sequence: heard.sequence,
            state: heard.state,
            participants: heard.participants,
            busy: heard.busy,
            clock_skew_ms: heard.clock_skew_ms,
            ticket_expires: heard.ticket_expires,
            rooms: inner.directory.rooms_on(&name),
            claims_in_flight: inner.directory.claims_in_flight(&name),
        })
    }

    pub(super) fn version(&self, media_node: &str) -> Option<String> {
        let inner = self.lock();
        let version = &inner.heard.get(media_node)?.version;
        (!version.is_empty()).then(|| version.clone())
    }

    pub(super) fn demand(&self) -> DemandSeen {
        let inner = self.lock();
        DemandSeen {
            participants_reserved: inner.directory.participants_reserved(),
            rooms_refused: inner.directory.rooms_refused_recently(now()),
        }
    }

    pub(super) fn placer_seen(&self) -> PlacerSeen {
        match self.lock().directory.state(now()) {
            PlacerState::Idle => PlacerSeen::NotLeading,
            PlacerState::Rebuilding { unheard } => PlacerSeen::Rebuilding { unheard },
            PlacerState::Placing => PlacerSeen::Placing,
        }
    }

    /// Tells gateways what changed and returns the releases that are due. To be called again and
    /// again, every [`Self::publish_every`].
    pub(super) fn publish(&self) -> Vec<Release> {
        let mut inner = self.lock();
        let now = now();
        inner.directory.tick(now);
        inner.directory.note_sight(now);
        let delta = inner.directory.take_changes();
        if !delta.is_empty() {
            let update = inner.update(self.epoch, delta);
            // Nobody listens: then nobody misses it.
            let _ = self.updates.send(Arc::new(update));
        }
        inner.directory.take_releases(now)
    }

    /// How often [`Self::publish`] is to be called.
    pub(super) fn publish_every() -> Duration {
        PUBLISH_EVERY
    }

    /// A media node confirmed a release.
    pub(super) fn released(&self, release: &Release) {
        self.lock().directory.released(release);
    }

    /// The whole directory, and the updates that follow it.
    #[must_use]
    pub fn subscribe(&self) -> Picture {
        let inner = self.lock();
        let updates = self.updates.subscribe();
        Picture { whole: inner.update(self.epoch, inner.directory.snapshot()), updates }
    }
}

/// The whole directory, and the updates that follow it.
pub struct Picture {
    /// All there is now.
    pub whole: placement::DirectoryUpdate,
    /// What changes from now on; lagging means that a fresh picture is needed.
    pub updates: broadcast::Receiver<Arc<placement::DirectoryUpdate>>,
}

/// Why a report was not believed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    /// It cannot be, or is late: the stream must be opened anew.
    Ignored(ReportError),
    /// The media node has seen this higher epoch.
    Fenced(u64),
}

impl Inner {
    fn endpoint(&self, media_node: &str) -> Option<placement::MediaNodeEndpoint> {
        let (address, server_name) = self.addresses.get(media_node)?;
        let heard = self.heard.get(media_node)?;
        Some(placement::MediaNodeEndpoint {
            media_node: media_node.to_owned(),
            signal_address: address.to_string(),
            tls_server_name: server_name.clone(),
            incarnation: heard.incarnation.as_str().to_owned(),
        })
    }

    fn update(&self, epoch: u64, delta: DirectoryDelta) -> placement::DirectoryUpdate {
        let home = |home: RoomHome| placement::RoomHome {
            room: Some(placement_room(&home.room)),
            media_node: home.media_node.as_str().to_owned(),
            participants: home.participants,
        };
        let endpoints = delta.media_nodes.iter();
        placement::DirectoryUpdate {
            epoch,
            whole: delta.whole,
            media_nodes: endpoints.filter_map(|name| self.endpoint(name.as_str())).collect(),
            media_nodes_gone: delta.media_nodes_gone.iter().map(ToString::to_string).collect(),
            media_nodes_unseen: delta.media_nodes_unseen.iter().map(ToString::to_string).collect(),
            rooms: delta.rooms.into_iter().map(home).collect(),
            rooms_gone: delta.rooms_gone.iter().map(placement_room).collect(),
        }
    }
}

fn placement_room(room: &RoomKey) -> placement::RoomKey {
    placement::RoomKey { tenant: room.tenant.clone(), name: room.name.clone() }
}

/// The report in the core's words.
fn view_of(report: media::NodeReport) -> NodeReportView {
    let state = match report.state() {
        media::State::Serving => MediaNodeState::Serving,
        media::State::Draining => MediaNodeState::Draining,
        // An unknown word is no invitation.
        media::State::Stopping | media::State::Unspecified => MediaNodeState::Stopping,
    };
    let key = |room: media::RoomKey| RoomKey::new(room.tenant, room.name);
    NodeReportView {
        incarnation: Incarnation::new(report.incarnation),
        epoch: Epoch(report.epoch),
        sequence: report.sequence,
        uptime_ms: report.uptime_ms,
        state,
        busy_ratios: report.shards.iter().map(|shard| shard.busy_ratio).collect(),
        cpu_ratio: report.cpu_ratio,
        forwarding_delay_p99_seconds: report.forwarding_delay_p99_seconds,
        participants: i64::from(report.participants),
        whole: report.whole,
        rooms: report
            .rooms
            .into_iter()
            .filter_map(|room| {
                Some(RoomView {
                    room: key(room.room?),
                    claim_epoch: Epoch(room.claim_epoch),
                    participants: room.participants,
                    publishers: room.publishers,
                    created_unix_ms: room.created_unix_ms,
                })
            })
            .collect(),
        ended: report.ended.into_iter().map(key).collect(),
    }
}
