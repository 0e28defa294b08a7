//! Shows that rooms get one home each: a gateway asks the real placer over mutual TLS, which claims
//! on media nodes that speak the real gRPC. Only the media nodes' rooms are simulated. Harm if it
//! fails: people of one meeting end up in two rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use jiff::Timestamp;
use media_api::{
    ticket::open,
    v1::{self as media, media_control_server},
};
use operator::{
    fleet::{Fleet, Known, Target, TicketTerms},
    lease::{Standing, holding::Acknowledged},
    metrics::Metrics,
    pki::{
        Authority, Issued, Role,
        signing::SigningKeys,
        trust::{self, TrustStore},
    },
    placer::{self, Placer},
    replicas::Leadership,
};
use operator_core::{
    placement::{Admission, Settings},
    world::DesiredState,
};
use placement_api::v1::{self as placement, placement_client::PlacementClient};
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    service::Routes,
    transport::{Channel, Endpoint},
};

const NAMESPACE: &str = "ministry";
const CLUSTER: &str = "visio";
const TENANT: &str = "ministry/visio";

/// What a simulated media node has seen.
#[derive(Default)]
struct Rooms {
    epoch: u64,
    claims: BTreeMap<String, u64>,
    granted_until: Option<Instant>,
    /// As the last grant brought it.
    ticket: Vec<u8>,
    /// How far its clock is ahead, in milliseconds.
    ahead_ms: i64,
    /// Conversations that were begun with it.
    observed: usize,
    /// It takes no ticket.
    refuses: bool,
}

#[derive(Clone)]
struct MediaNode {
    name: String,
    rooms: Arc<Mutex<Rooms>>,
    started: Instant,
    /// Ends its listener and its connections, as the end of a process does.
    stop: CancellationToken,
}

impl MediaNode {
    fn fence(&self, epoch: u64) -> Result<(), Status> {
        let mut rooms = self.rooms.lock().expect("not poisoned");
        if epoch < rooms.epoch {
            return Err(Status::failed_precondition("stale epoch"));
        }
        rooms.epoch = epoch;
        Ok(())
    }

    fn report(&self, sequence: u64) -> media::NodeReport {
        let rooms = self.rooms.lock().expect("not poisoned");
        let listed = rooms.claims.iter().map(|(name, epoch)| media::RoomReport {
            room: Some(media::RoomKey { tenant: TENANT.into(), name: name.clone() }),
            claim_epoch: *epoch,
            participants: 1,
            ..media::RoomReport::default()
        });
        let now = Timestamp::now().as_millisecond() + rooms.ahead_ms;
        media::NodeReport {
            media_node: self.name.clone(),
            incarnation: format!("{}-first", self.name),
            epoch: rooms.epoch,
            sequence,
            unix_ms: u64::try_from(now).expect("after 1970"),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            state: media::State::Serving.into(),
            shards: vec![media::ShardLoad::default()],
            ticket_expiry_unix_ms: u64::from(!rooms.ticket.is_empty()),
            whole: true,
            rooms: listed.collect(),
            version: "test".into(),
            ..media::NodeReport::default()
        }
    }
}

#[tonic::async_trait]
impl media_control_server::MediaControl for MediaNode {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<media::NodeReport, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<media::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.fence(request.into_inner().epoch)?;
        self.rooms.lock().expect("not poisoned").observed += 1;
        let (sender, receiver) = mpsc::channel(1);
        let media_node = self.clone();
        tokio::spawn(async move {
            for sequence in 1.. {
                if sender.send(Ok(media_node.report(sequence))).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn grant(
        &self,
        request: Request<media::GrantRequest>,
    ) -> Result<Response<media::GrantReply>, Status> {
        let media::GrantRequest { epoch, ttl_ms, uptime_ms, ticket, .. } = request.into_inner();
        self.fence(epoch)?;
        let until = self.started + Duration::from_millis(uptime_ms + ttl_ms);
        let mut rooms = self.rooms.lock().expect("not poisoned");
        rooms.ticket = ticket;
        if rooms.refuses {
            return Err(Status::permission_denied("the ticket is for another"));
        }
        rooms.granted_until = Some(until);
        Ok(Response::new(media::GrantReply { epoch, incarnation: format!("{}-first", self.name) }))
    }

    async fn claim(
        &self,
        request: Request<media::ClaimRequest>,
    ) -> Result<Response<media::ClaimReply>, Status> {
        let asked = request.into_inner();
        self.fence(asked.epoch)?;
        let mut rooms = self.rooms.lock().expect("not poisoned");
        if rooms.granted_until.is_none_or(|until| until < Instant::now()) {
            return Err(Status::unavailable("no grant"));
        }
        let name = asked.room.expect("named").name;
        let existed = rooms.claims.insert(name, asked.epoch).is_some();
        Ok(Response::new(media::ClaimReply {
            existed,
            incarnation: format!("{}-first", self.name),
        }))
    }

    async fn release(
        &self,
        request: Request<media::ReleaseRequest>,
    ) -> Result<Response<media::ReleaseReply>, Status> {
        let asked = request.into_inner();
        self.fence(asked.epoch)?;
        let name = asked.room.expect("named").name;
        let existed = self.rooms.lock().expect("not poisoned").claims.remove(&name).is_some();
        Ok(Response::new(media::ReleaseReply { existed, participants_sent_home: 0 }))
    }

    async fn drain(
        &self,
        request: Request<media::DrainRequest>,
    ) -> Result<Response<media::DrainReply>, Status> {
        self.fence(request.into_inner().epoch)?;
        Ok(Response::new(media::DrainReply { rooms: 0 }))
    }

    async fn undrain(
        &self,
        request: Request<media::UndrainRequest>,
    ) -> Result<Response<media::UndrainReply>, Status> {
        self.fence(request.into_inner().epoch)?;
        Ok(Response::new(media::UndrainReply {}))
    }
}

fn issued(authority: &Authority, role: &Role<'_>) -> Issued {
    authority.issue(&role.dns_name(NAMESPACE, CLUSTER), Timestamp::now()).expect("issued")
}

/// Starts a media node on its own loopback address, on the port where the operator looks for it.
async fn start_media_node(
    authority: &Authority,
    number: u8,
    stop: &CancellationToken,
) -> MediaNode {
    let name = format!("visio-{number}");
    let leaf = issued(authority, &Role::MediaNode(&name));
    let acceptor = TlsAcceptor::from(trust::server(authority, &leaf).expect("usable"));
    let stop = stop.child_token();
    let media_node =
        MediaNode { name, rooms: Arc::default(), started: Instant::now(), stop: stop.clone() };
    let service = media_control_server::MediaControlServer::new(media_node.clone());
    let routes = Routes::new(service).prepare();
    let listener = TcpListener::bind((address(number), 7881)).await.expect("a free port");
    tokio::spawn(async move {
        while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
            let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let http = Builder::new(TokioExecutor::new()).http2_only();
                let service = TowerToHyperService::new(routes);
                let serving = http.serve_connection(TokioIo::new(stream), service);
                let _ = stop.run_until_cancelled(serving).await;
            });
        }
    });
    media_node
}

fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 77, 0, number))
}

async fn gateway(
    authority: &Authority,
    role: &Role<'_>,
    address: SocketAddr,
) -> Result<PlacementClient<Channel>, tonic::transport::Error> {
    let config = trust::client(authority, &issued(authority, role)).expect("usable");
    let connector = TlsConnector::from(config);
    let name = ServerName::try_from(Role::Placer.dns_name(NAMESPACE, CLUSTER)).expect("a name");
    let dial = tower::service_fn(move |_| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let channel = Endpoint::from_static("http://placer").connect_with_connector(dial).await?;
    Ok(PlacementClient::new(channel))
}

fn ask(name: &str) -> placement::RouteRequest {
    placement::RouteRequest {
        room: Some(placement::RoomKey { tenant: TENANT.into(), name: name.into() }),
        create: true,
        ..placement::RouteRequest::default()
    }
}

/// Asks until answered: gateways retry what is unavailable.
async fn answered(gateway: &mut PlacementClient<Channel>, name: &str) -> placement::RouteReply {
    let begun = Instant::now();
    loop {
        match gateway.route(ask(name)).await {
            Ok(reply) => return reply.into_inner(),
            Err(status) => assert!(begun.elapsed().as_secs() < 20, "{name}: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One operator replica's placer over `count` media nodes.
struct Stage {
    authority: Authority,
    address: SocketAddr,
    standing: watch::Sender<Standing>,
    fleet: Arc<Fleet>,
    media_nodes: Vec<MediaNode>,
    stop: CancellationToken,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stage {
    async fn set(first: u8, count: u8) -> Self {
        // Both libraries of the tests speak TLS with the one provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::generate(TENANT, Timestamp::now()).expect("a CA");
        let stop = CancellationToken::new();
        let mut media_nodes = Vec::new();
        for number in first..first + count {
            media_nodes.push(start_media_node(&authority, number, &stop).await);
        }
        let trust = Arc::new(TrustStore::default());
        trust.put(NAMESPACE, CLUSTER, &authority, Timestamp::now()).expect("usable");
        let metrics = Arc::new(Metrics::new());
        let (standing, receiver) = watch::channel(Standing::Leading { epoch: 7 });
        let leadership = Arc::new(Leadership::new(receiver, 1));
        let (epoch_seen, _) = watch::channel(0);
        let fleet = Arc::new(Fleet::new(
            trust.clone(),
            leadership.clone(),
            metrics.clone(),
            epoch_seen.clone(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let service = Placer {
            fleet: fleet.clone(),
            leadership,
            metrics: metrics.clone(),
            acknowledged: Arc::new(Acknowledged::default()),
            epoch_seen,
            identity: "a".into(),
        };
        tokio::spawn(placer::serve(listener, trust, service, metrics, stop.clone()));
        let stage = Self { authority, address, standing, fleet, media_nodes, stop };
        stage.begin_term(7, first, count);
        stage
    }

    fn begin_term(&self, epoch: u64, first: u8, count: u8) {
        self.fleet.begin_term(epoch);
        self.show(first, count, Admission::Admit, None);
    }

    /// Shows the fleet its media nodes, as a reconcile does.
    fn show(&self, first: u8, count: u8, admission: Admission, ticket: Option<&TicketTerms>) {
        let settings = Settings {
            tenant: TENANT.into(),
            participants_per_node_max: 100_000,
            target_fill: 0.8,
        };
        let numbers = || first..first + count;
        let known = numbers().map(|number| Known {
            media_node: format!("visio-{number}"),
            zone: String::new(),
            admission,
        });
        let targets = numbers().map(|number| Target {
            media_node: format!("visio-{number}"),
            pod_uid: format!("uid-{number}"),
            ip: address(number),
            desired: DesiredState::Serving,
            ticket: ticket.cloned(),
        });
        self.fleet.set_targets(settings, known.collect(), targets.collect());
    }

    async fn gateway(&self) -> PlacementClient<Channel> {
        gateway(&self.authority, &Role::Gateway, self.address).await.expect("connected")
    }

    /// Rooms by name with the media nodes that have them, asked from the media nodes.
    fn homes(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for media_node in &self.media_nodes {
            for room in media_node.rooms.lock().expect("not poisoned").claims.keys() {
                homes.entry(room.clone()).or_default().insert(media_node.name.clone());
            }
        }
        homes
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_simultaneous_first_joins_from_two_gateways_get_one_home() {
    const ROOMS: usize = 1_000;
    let stage = Stage::set(1, 3).await;
    let mut gateways = [stage.gateway().await, stage.gateway().await];
    answered(&mut gateways[0], "warm-up").await;
    let begun = Instant::now();
    let mut questions = tokio::task::JoinSet::new();
    for room in 0..ROOMS {
        for join in 0..5 {
            let mut gateway = gateways[join % 2].clone();
            questions.spawn(async move {
                let name = format!("room-{room}");
                let asked = Instant::now();
                let reply = answered(&mut gateway, &name).await;
                let media_node = reply.endpoint.expect("an endpoint").media_node;
                (name, media_node, reply.created, asked.elapsed())
            });
        }
    }
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut created, mut longest) = (0, Duration::ZERO);
    while let Some(answer) = questions.join_next().await {
        let (name, media_node, first, took) = answer.expect("no panic");
        told.entry(name).or_default().insert(media_node);
        created += usize::from(first);
        longest = longest.max(took);
    }
    let took = begun.elapsed();
    println!(
        "{ROOMS} rooms × 5 joins in {took:?}: {:.0} rooms/s, longest answer {longest:?}",
        ROOMS as f64 / took.as_secs_f64()
    );
    assert_eq!(told.len(), ROOMS);
    let homes = stage.homes();
    for (name, media_nodes) in &told {
        assert_eq!(media_nodes.len(), 1, "{name} was told two homes: {media_nodes:?}");
        assert_eq!(homes.get(name), Some(media_nodes), "{name} lives where it was told");
    }
    // A claim whose answer was late is sent again, and then the room is there already.
    assert!(created <= ROOMS, "{created} joins say that they made a room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_comes_with_each_grant_and_is_taken_away_at_once_in_the_same_conversation() {
    let stage = Stage::set(51, 1).await;
    let mut gateway = stage.gateway().await;
    answered(&mut gateway, "without tickets of anybody").await;
    let keys = Arc::new(SigningKeys::generate().expect("generated"));
    let public = keys.ticket().public_key();
    stage.fleet.sign_with(keys);
    let mut terms = TicketTerms {
        scope: "gold".into(),
        evidence_level: "E0".into(),
        kubernetes_node: "paris-1".into(),
        valid_until: operator_core::ids::Timestamp(u64::MAX),
    };
    let seen = || {
        let rooms = stage.media_nodes[0].rooms.lock().expect("not poisoned");
        open(&rooms.ticket, &[public]).ok()
    };
    let until = async |what: &str, holds: &dyn Fn(Option<media::Ticket>) -> bool| {
        let begun = Instant::now();
        while !holds(seen()) {
            assert!(begun.elapsed().as_secs() < 10, "{what}: {:?}", seen());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    stage.show(51, 1, Admission::Admit, Some(&terms));
    until("a ticket comes", &|ticket| ticket.is_some_and(|t| t.scope == "gold")).await;
    let ticket = seen().expect("held");
    assert_eq!((ticket.tenant.as_str(), ticket.pod_uid.as_str()), (TENANT, "uid-51"));
    assert_eq!((ticket.media_node.as_str(), ticket.issued_epoch), ("visio-51", 7));
    terms.scope = "silver".into();
    stage.show(51, 1, Admission::Admit, Some(&terms));
    until("other terms", &|ticket| ticket.is_some_and(|t| t.scope == "silver")).await;
    let before = seen().expect("held").serial;

    // No grant is given any more that could bring it.
    stage.show(51, 1, Admission::Deny, None);
    until("withdrawn", &|ticket| ticket.is_none()).await;
    stage.show(51, 1, Admission::Admit, Some(&terms));
    until("a new one", &|ticket| ticket.is_some_and(|t| t.serial > before)).await;

    let rooms = || stage.media_nodes[0].rooms.lock().expect("not poisoned");
    for ahead_ms in [7_200_000, -7_200_000] {
        rooms().ahead_ms = ahead_ms;
        until("a clock that is two hours off", &|ticket| ticket.is_none()).await;
        rooms().ahead_ms = 0;
        until("a clock that was put right", &|ticket| ticket.is_some()).await;
    }
    rooms().refuses = true;
    let refused = seen().expect("held").serial;
    until("a refused one is signed anew", &|t| t.is_some_and(|t| t.serial > refused + 1)).await;
    assert_eq!(rooms().observed, 1, "nothing of this ends a conversation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_hears_the_rooms_that_exist_and_moves_none() {
    let stage = Stage::set(11, 3).await;
    let mut gateway = stage.gateway().await;
    let mut before = BTreeMap::new();
    for room in 0..50 {
        let name = format!("room-{room}");
        let home = answered(&mut gateway, &name).await.endpoint.expect("an endpoint");
        before.insert(name, home.media_node);
    }
    stage.standing.send_replace(Standing::Following);
    stage.fleet.end_term();
    let refused = gateway.route(ask("room-1")).await.expect_err("nobody leads here");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(refused.message(), "not leader");
    stage.standing.send_replace(Standing::Leading { epoch: 8 });
    stage.begin_term(8, 11, 3);
    for (name, media_node) in &before {
        let reply = answered(&mut gateway, name).await;
        assert_eq!(reply.endpoint.expect("an endpoint").media_node, *media_node, "{name}");
        assert!(!reply.created);
        assert_eq!(reply.epoch, 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_are_streamed_the_whole_directory_and_then_what_changes() {
    let stage = Stage::set(21, 1).await;
    let mut gateway = stage.gateway().await;
    answered(&mut gateway, "first").await;
    let mut stream =
        gateway.directory(placement::DirectoryRequest {}).await.expect("streamed").into_inner();
    let whole = stream.message().await.expect("sent").expect("not over");
    assert!(whole.whole);
    assert_eq!(whole.rooms.len(), 1);
    assert_eq!(whole.media_nodes[0].media_node, "visio-21");
    assert_eq!(
        whole.media_nodes[0].tls_server_name,
        "visio-21.media.visio.ministry.hemicycle.internal"
    );
    assert_eq!(whole.media_nodes[0].signal_address, "127.77.0.21:7880");
    answered(&mut gateway, "second").await;
    let mut names = BTreeSet::new();
    while !names.contains("second") {
        let update = stream.message().await.expect("sent").expect("not over");
        assert!(!update.whole);
        names.extend(update.rooms.into_iter().filter_map(|home| Some(home.room?.name)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_over_is_told_from_one_that_is_lost() {
    let stage = Stage::set(41, 2).await;
    let mut gateway = stage.gateway().await;
    let home = answered(&mut gateway, "r").await.endpoint.expect("an endpoint").media_node;
    let mut stream =
        gateway.directory(placement::DirectoryRequest {}).await.expect("streamed").into_inner();
    let lost = stage.media_nodes.iter().find(|media_node| media_node.name == home);
    lost.expect("one of them").stop.cancel();
    let begun = Instant::now();
    // Only who is known to be over is told as gone: a grant that ends by itself tells nothing.
    while !stream.message().await.expect("sent").expect("not over").media_nodes_gone.contains(&home)
    {
        assert!(begun.elapsed().as_secs() < 20, "a reset and a refused connection prove nothing");
    }
    let mut question = ask("r");
    question.unreachable_media_node = home.clone();
    let reply = loop {
        match gateway.route(question.clone()).await {
            Ok(reply) => break reply.into_inner(),
            Err(status) => assert!(begun.elapsed().as_secs() < 20, "{status}"),
        }
    };
    println!("a new home after {:?}", begun.elapsed());
    assert_ne!(reply.endpoint.expect("an endpoint").media_node, home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_meeting_clusters_own_gateways_is_answered() {
    let stage = Stage::set(31, 1).await;
    let role = Role::MediaNode("visio-31");
    // Refused right after the handshake, which in TLS 1.3 the client may see at once.
    if let Ok(mut media_node) = gateway(&stage.authority, &role, stage.address).await {
        media_node.route(ask("a")).await.expect_err("a media node is no gateway");
    }
    let foreign = Authority::generate("other/visio", Timestamp::now()).expect("a CA");
    let refused = gateway(&foreign, &Role::Gateway, stage.address).await;
    assert!(refused.is_err(), "another CA's certificate was accepted");
    let mut own = stage.gateway().await;
    let mut other_tenant = ask("a");
    other_tenant.room = Some(placement::RoomKey { tenant: "other/visio".into(), name: "a".into() });
    let refused = own.route(other_tenant).await.expect_err("another tenant's room");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}
