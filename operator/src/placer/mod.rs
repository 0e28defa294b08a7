//! Answers gateways: which media node has this room? Gives a new room its home before it answers,
//! and streams the directory. Every choice is the core's; this module claims, waits and translates.
//! Invariant: a gateway is answered only for the tenant in its certificate, and a room is placed
//! only while this replica may place.

pub mod listener;

use std::{pin::Pin, sync::Arc, time::Instant};

use operator_core::{
    ids::{Incarnation, MediaNodeName, RoomKey, Zone},
    placement::{ClaimOutcome, ClaimRefusal, Create, Decision, Hints, RefuseReason, WaitReason},
};
use placement_api::v1::{
    AcknowledgeReply, AcknowledgeRequest, DirectoryRequest, DirectoryUpdate, RouteReply,
    RouteRequest, placement_server, replica_server,
};
use tokio::{
    net::TcpListener,
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::{Duration, sleep, timeout_at},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Server};

use self::listener::{Caller, CallerRole};
use crate::{
    fleet::{Cluster, CommandError, Fleet, Step},
    lease::holding::Acknowledged,
    metrics::Metrics,
    pki::trust::TrustStore,
    replicas::Leadership,
};

/// How long a gateway's question may wait for a claim or for the end of a rebuild. Gateways retry.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(3);
/// First and longest pause before a question that waits for something without a signal is decided
/// again: thousands that wait must not keep the reports from being read that they wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(400);
/// Longest room name that is looked at, in bytes.
const ROOM_NAME_BYTES_MAX: usize = 1_024;
/// Requests at once on one connection; more wait in the gateway. Also keeps a burst of joins below
/// the number of small unread frames (about 100) at which h2 takes a connection for an attack.
const STREAMS_MAX: u32 = 96;
/// Updates buffered between the directory and one slow gateway's connection.
const BUFFERED_MAX: usize = 4;

/// What the service needs.
#[derive(Clone)]
pub struct Placer {
    /// The media nodes.
    pub fleet: Arc<Fleet>,
    /// Whether this replica leads and may place.
    pub leadership: Arc<Leadership>,
    /// Of the process.
    pub metrics: Arc<Metrics>,
    /// Promises given to a leader without the API server.
    pub acknowledged: Arc<Acknowledged>,
    /// The highest epoch that anybody has shown.
    pub epoch_seen: watch::Sender<u64>,
    /// This replica, as in the Lease.
    pub identity: String,
}

/// Serves until `stop`.
///
/// # Errors
/// When the server fails as a whole.
pub async fn serve(
    listener: TcpListener,
    trust: Arc<TrustStore>,
    placer: Placer,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let connections = listener::accept(listener, trust, metrics, stop.clone());
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(placement_server::PlacementServer::new(placer.clone()))
        .add_service(replica_server::ReplicaServer::new(placer))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.cancelled_owned())
        .await
}

fn caller<T>(request: &Request<T>, role: CallerRole) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    match caller {
        Some(caller) if caller.role == role => Ok(caller.clone()),
        _ => Err(Status::permission_denied("this identity may not ask this")),
    }
}

fn not_leader() -> Status {
    Status::failed_precondition("not leader")
}

#[tonic::async_trait]
impl placement_server::Placement for Placer {
    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteReply>, Status> {
        let begun = Instant::now();
        let caller = caller(&request, CallerRole::Gateway)?;
        let answer = self.answer(&caller, request.into_inner()).await;
        let outcome = match &answer {
            Ok(reply) if reply.created => "created",
            Ok(_) => "existing",
            Err(status) => word(status.code()),
        };
        self.metrics.placed(outcome, begun.elapsed());
        answer.map(Response::new)
    }

    type DirectoryStream = Pin<Box<dyn Stream<Item = Result<DirectoryUpdate, Status>> + Send>>;

    async fn directory(
        &self,
        request: Request<DirectoryRequest>,
    ) -> Result<Response<Self::DirectoryStream>, Status> {
        let caller = caller(&request, CallerRole::Gateway)?;
        let cluster = self.cluster(&caller)?;
        let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
        tokio::spawn(stream_directory(cluster, sender, self.metrics.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl replica_server::Replica for Placer {
    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeReply>, Status> {
        caller(&request, CallerRole::Operator)?;
        let asked = request.into_inner();
        let own = self.leadership.epoch().unwrap_or_default();
        let highest = own.max(*self.epoch_seen.borrow());
        let itself = asked.identity == self.identity;
        let acknowledged =
            !itself && self.acknowledged.acknowledge(asked.epoch, highest, Instant::now());
        let identity = self.identity.clone();
        Ok(Response::new(AcknowledgeReply { acknowledged, epoch_highest: highest, identity }))
    }
}

fn word(code: Code) -> &'static str {
    match code {
        Code::NotFound => "not_found",
        Code::ResourceExhausted => "full",
        Code::FailedPrecondition => "not_leader",
        Code::Unavailable => "unavailable",
        Code::InvalidArgument => "invalid",
        _ => "error",
    }
}

impl Placer {
    fn cluster(&self, caller: &Caller) -> Result<Arc<Cluster>, Status> {
        if self.leadership.epoch().is_none() {
            return Err(not_leader());
        }
        let unready = || Status::unavailable("this leader has not seen the meeting cluster yet");
        self.fleet.cluster(&caller.tenant).ok_or_else(unready)
    }

    async fn answer(&self, caller: &Caller, asked: RouteRequest) -> Result<RouteReply, Status> {
        let room = asked.room.ok_or_else(|| Status::invalid_argument("no room is named"))?;
        if room.tenant != *caller.tenant {
            return Err(Status::permission_denied("the room belongs to another meeting cluster"));
        }
        if room.name.is_empty() || room.name.len() > ROOM_NAME_BYTES_MAX {
            return Err(Status::invalid_argument("the room's name is empty or too long"));
        }
        let room = RoomKey::new(room.tenant, room.name);
        let unreachable = asked.unreachable_media_node;
        let hints = Hints {
            create: if asked.create { Create::Allowed } else { Create::Forbidden },
            zone: Zone::new(asked.zone),
            participants_expected: asked.participants_expected,
            unreachable: (!unreachable.is_empty()).then(|| MediaNodeName::new(unreachable)),
        };
        let cluster = self.cluster(caller)?;
        self.settle(&cluster, &room, hints).await
    }

    /// Asks the directory until it has an answer, claiming when it says so.
    async fn settle(
        &self,
        cluster: &Arc<Cluster>,
        room: &RoomKey,
        mut hints: Hints,
    ) -> Result<RouteReply, Status> {
        let deadline = tokio::time::Instant::now() + ROUTE_TIMEOUT;
        let (mut created, mut pause) = (false, LOOK_AGAIN);
        loop {
            if !self.leadership.may_place() {
                return self.existing_only(cluster, room);
            }
            let why = match cluster.route(room, &hints) {
                Step::Decided(Decision::Existing { media_node }) => {
                    return reply(cluster, media_node.as_str(), created);
                }
                Step::Decided(Decision::Claim { media_node }) => {
                    // In a task of its own: a gateway that hangs up must not leave a claim
                    // undecided.
                    let claim =
                        claim(self.fleet.clone(), cluster.clone(), room.clone(), media_node);
                    created = tokio::spawn(claim).await.unwrap_or(false);
                    hints.unreachable = None;
                    "the media node did not answer the claim"
                }
                Step::Decided(Decision::Refuse { reason }) => return Err(refusal(reason)),
                Step::Decided(Decision::Wait { reason }) => {
                    sleep(pause.min(worth_waiting(&reason))).await;
                    pause = (pause * 2).min(LOOK_AGAIN_MAX);
                    waiting_for(&reason)
                }
                Step::Follow(mut claim) => {
                    // An error is the end of the claim, which is what is waited for.
                    let _ = timeout_at(deadline, claim.changed()).await;
                    "another claim for the room is on its way"
                }
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(Status::unavailable(why));
            }
        }
    }

    /// A leader that may not place still knows where rooms are.
    fn existing_only(&self, cluster: &Cluster, room: &RoomKey) -> Result<RouteReply, Status> {
        if self.leadership.epoch().is_none() {
            return Err(not_leader());
        }
        match cluster.home(room) {
            Some(media_node) => reply(cluster, media_node.as_str(), false),
            None => Err(Status::unavailable(
                "this leader is cut off from the API server and from most replicas",
            )),
        }
    }
}

fn reply(cluster: &Cluster, media_node: &str, created: bool) -> Result<RouteReply, Status> {
    let endpoint = cluster
        .endpoint(media_node)
        .ok_or_else(|| Status::unavailable("the media node's address is not known yet"))?;
    Ok(RouteReply { endpoint: Some(endpoint), epoch: cluster.epoch(), created })
}

fn refusal(reason: RefuseReason) -> Status {
    match reason {
        RefuseReason::NotFound => Status::not_found("requested room does not exist"),
        RefuseReason::Full => Status::resource_exhausted("every media node is full"),
        RefuseReason::NoMediaNode => {
            Status::resource_exhausted("no media node takes new rooms now")
        }
        RefuseReason::WrongTenant => {
            Status::permission_denied("the room belongs to another meeting cluster")
        }
    }
}

/// When to look again at the latest.
fn worth_waiting(reason: &WaitReason) -> Duration {
    match reason {
        // People of a lost media node: they wait for this moment, or for a proof before it.
        WaitReason::HomeOutOfSight { retry_in_ms, .. } => {
            Duration::from_millis(*retry_in_ms).clamp(Duration::from_millis(1), LOOK_AGAIN)
        }
        _ => LOOK_AGAIN_MAX,
    }
}

fn waiting_for(reason: &WaitReason) -> &'static str {
    match reason {
        WaitReason::ClaimInFlight { .. } => "another claim for the room is on its way",
        WaitReason::SightLost => "no media node was heard a moment ago",
        WaitReason::Rebuilding { .. } => "this leader is still hearing the media nodes",
        WaitReason::HomeOutOfSight { .. } => "the room's media node is out of sight",
    }
}

/// Claims the room and reports the outcome; whether this call gave it its home.
async fn claim(
    fleet: Arc<Fleet>,
    cluster: Arc<Cluster>,
    room: RoomKey,
    media_node: MediaNodeName,
) -> bool {
    let claimed = fleet.claim(cluster.tenant(), media_node.as_str(), &room).await;
    let (outcome, created) = match claimed {
        Ok(reply) => {
            let incarnation = Incarnation::new(reply.incarnation);
            (ClaimOutcome::Held { incarnation }, !reply.existed)
        }
        Err(CommandError::Refused { status, .. }) => (refused(&status), false),
        // It was never sent.
        Err(CommandError::NotConnected(_)) => {
            (ClaimOutcome::Refused(ClaimRefusal::NotAdmitting), false)
        }
        Err(CommandError::Timeout(_)) => (ClaimOutcome::Unknown, false),
    };
    cluster.claimed(&room, &media_node, outcome);
    created
}

fn refused(status: &Status) -> ClaimOutcome {
    let says = |word: &&str| status.message().contains(*word);
    match status.code() {
        Code::ResourceExhausted => ClaimOutcome::Refused(ClaimRefusal::Full),
        Code::FailedPrecondition => ClaimOutcome::Refused(ClaimRefusal::StaleEpoch),
        // The contract's answer while draining, stopping or without a grant or a ticket; a broken
        // connection gives the same code with other words.
        Code::Unavailable
            if ["grant", "ticket", "draining", "stopping", "full"].iter().any(says) =>
        {
            ClaimOutcome::Refused(ClaimRefusal::NotAdmitting)
        }
        _ => ClaimOutcome::Unknown,
    }
}

async fn stream_directory(
    cluster: Arc<Cluster>,
    sender: mpsc::Sender<Result<DirectoryUpdate, Status>>,
    metrics: Arc<Metrics>,
) {
    let mut picture = cluster.subscribe();
    let mut next = picture.whole;
    loop {
        if sender.send(Ok(next)).await.is_err() {
            return;
        }
        let received = tokio::select! {
            () = cluster.closed() => {
                // The gateway asks another replica.
                let _ = sender.send(Err(not_leader())).await;
                return;
            }
            () = sender.closed() => return,
            received = picture.updates.recv() => received,
        };
        next = match received {
            Ok(update) => (*update).clone(),
            Err(RecvError::Closed) => return,
            Err(RecvError::Lagged(_)) => {
                metrics.directory_resyncs.with_label_values(&[cluster.tenant()]).inc();
                picture = cluster.subscribe();
                picture.whole.clone()
            }
        };
    }
}
