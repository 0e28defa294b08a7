//! A placer that speaks the real gRPC over mutual TLS and does as the test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use placement_api::v1::placement_server::{Placement, PlacementServer};
use placement_api::v1::{
    DirectoryRequest, DirectoryUpdate, MediaNodeEndpoint, RoomHome, RoomKey, RouteReply,
    RouteRequest,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::{Pki, TENANT};

#[derive(Default)]
pub(crate) struct State {
    /// Answered by every call while set.
    pub(crate) refuses: Option<Status>,
    pub(crate) media_nodes: BTreeMap<String, MediaNodeEndpoint>,
    pub(crate) rooms: BTreeMap<String, String>,
    /// Where the next new room goes.
    pub(crate) next: Option<String>,
    pub(crate) routed: Vec<RouteRequest>,
    /// Believes no gateway that a media node cannot be reached.
    pub(crate) insists: bool,
    /// Shown in answers and updates; 0 counts as 1.
    pub(crate) epoch: u64,
}

pub(crate) struct FakePlacer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    updates: broadcast::Sender<DirectoryUpdate>,
    runtime: Option<Runtime>,
}

impl FakePlacer {
    pub(crate) fn start(pki: &Pki) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let config = pki.server("placer.mc.ns.hemicycle.internal", "h2");
        let std = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        std.set_nonblocking(true).expect("nonblocking");
        let address = std.local_addr().expect("an address");
        let (updates, _) = broadcast::channel(64);
        let state = Arc::new(Mutex::new(State::default()));
        let service = Service { state: Arc::clone(&state), updates: updates.clone() };
        runtime.spawn(async move {
            let listener = TcpListener::from_std(std).expect("a listener");
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            let routes = Routes::new(PlacementServer::new(service)).prepare();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, routes) = (acceptor.clone(), routes.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let http = Builder::new(TokioExecutor::new()).http2_only();
                        let service = TowerToHyperService::new(routes);
                        let _ = http.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Self { address, state, updates, runtime: Some(runtime) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    /// Makes a media node known, and where the next room goes.
    pub(crate) fn add(&self, endpoint: MediaNodeEndpoint) {
        let mut state = self.state();
        state.next = Some(endpoint.media_node.clone());
        state.media_nodes.insert(endpoint.media_node.clone(), endpoint.clone());
        drop(state);
        let update =
            DirectoryUpdate { epoch: 1, media_nodes: vec![endpoint], ..Default::default() };
        let _ = self.updates.send(update);
    }

    /// Says that a media node is gone, and gives its rooms to `heir`.
    pub(crate) fn lose(&self, media_node: &str, heir: &str) {
        let mut state = self.state();
        state.media_nodes.remove(media_node);
        state.rooms.retain(|_, home| home != media_node);
        state.next = Some(heir.to_owned());
        drop(state);
        let update = DirectoryUpdate {
            epoch: 1,
            media_nodes_gone: vec![media_node.to_owned()],
            ..Default::default()
        };
        let _ = self.updates.send(update);
    }

    /// Says that a media node is out of its sight.
    pub(crate) fn unsee(&self, media_node: &str) {
        let epoch = self.state().epoch.max(1);
        let media_nodes_unseen = vec![media_node.to_owned()];
        let update = DirectoryUpdate { epoch, media_nodes_unseen, ..Default::default() };
        let _ = self.updates.send(update);
    }

    /// Ends it like a killed process.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakePlacer {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Service {
    state: Arc<Mutex<State>>,
    updates: broadcast::Sender<DirectoryUpdate>,
}

#[tonic::async_trait]
impl Placement for Service {
    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteReply>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().expect("no test panicked with it");
        state.routed.push(request.clone());
        if let Some(status) = &state.refuses {
            return Err(status.clone());
        }
        let room = request.room.expect("a room").name;
        let known = state.rooms.get(&room).cloned();
        let known = known.filter(|home| state.insists || *home != request.unreachable_media_node);
        let created = known.is_none();
        if created && !request.create {
            return Err(Status::not_found("no such room"));
        }
        let home = known.or_else(|| state.next.clone());
        let home = home.ok_or_else(|| Status::resource_exhausted("every media node is full"))?;
        state.rooms.insert(room, home.clone());
        let endpoint = state.media_nodes.get(&home).cloned();
        let epoch = state.epoch.max(1);
        Ok(Response::new(RouteReply { endpoint, epoch, created }))
    }

    type DirectoryStream = Pin<Box<dyn Stream<Item = Result<DirectoryUpdate, Status>> + Send>>;

    async fn directory(
        &self,
        _: Request<DirectoryRequest>,
    ) -> Result<Response<Self::DirectoryStream>, Status> {
        let changes = BroadcastStream::new(self.updates.subscribe());
        let state = self.state.lock().expect("no test panicked with it");
        if let Some(status) = &state.refuses {
            return Err(status.clone());
        }
        let rooms = state.rooms.iter().map(|(room, home)| RoomHome {
            room: Some(RoomKey { tenant: TENANT.to_owned(), name: room.clone() }),
            media_node: home.clone(),
            participants: 1,
        });
        let whole = DirectoryUpdate {
            epoch: state.epoch.max(1),
            whole: true,
            media_nodes: state.media_nodes.values().cloned().collect(),
            rooms: rooms.collect(),
            ..Default::default()
        };
        let changes = changes.filter_map(Result::ok).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(whole)).chain(changes))))
    }
}
