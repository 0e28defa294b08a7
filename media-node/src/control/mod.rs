//! The operator's side of a media node: reports out, grants, claims and drains in (`media.proto`).
//!
//! Translates between the wire and the directory; decides nothing. Invariant: every command's
//! epoch is checked, and kept when it is a higher one, before anything is changed.

mod observe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use media_api::v1;
use media_api::v1::media_control_server::{MediaControl, MediaControlServer};
use media_core::ids::RoomKey;
use media_core::io::Command;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::keys::unix_millis;
use crate::node::{EntryError, Node};
use crate::rooms::Refusal;
use crate::shard::ShardCommand;

/// Longest grant a leader may give: ten times what it gives (2.5 s) bounds a mistaken one.
const GRANT_MAX: Duration = Duration::from_secs(25);

/// The service.
pub struct Control {
    node: Arc<Node>,
}

/// The router of the control listener.
pub fn router(node: Arc<Node>) -> Router {
    let service = MediaControlServer::new(Control { node });
    tonic::service::Routes::new(service).into_axum_router()
}

fn status(error: &EntryError) -> Status {
    let text = error.to_string();
    match error {
        EntryError::Refused(Refusal::StaleEpoch) => Status::failed_precondition(text),
        EntryError::Refused(Refusal::Full(_)) => Status::resource_exhausted(text),
        EntryError::Refused(Refusal::NotHere) => Status::not_found(text),
        EntryError::Refused(
            Refusal::NoGrant | Refusal::NoTicket | Refusal::Draining | Refusal::Stopping,
        )
        | EntryError::Overloaded(_) => Status::unavailable(text),
    }
}

fn refused(refusal: Refusal) -> Status {
    status(&EntryError::Refused(refusal))
}

impl Control {
    /// Checks a command's epoch. A higher one is kept first, so that a restart does not forget it.
    async fn fence(&self, epoch: u64) -> Result<(), Status> {
        if epoch > self.node.rooms().epoch() {
            let kept = self.node.epochs.keep(epoch).await;
            kept.map_err(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "an epoch is not kept");
                Status::unavailable(error.to_string())
            })?;
        }
        let mut rooms = self.node.rooms();
        rooms.see_epoch(epoch).map_err(|refusal| {
            let mut status = refused(refusal);
            status.metadata_mut().insert(media_api::EPOCH_METADATA, rooms.epoch().into());
            status
        })
    }

    /// The moment that a grant quotes, on our clock. Nobody may quote the future.
    fn quoted(&self, uptime_ms: u64) -> Instant {
        let now = Instant::now();
        let quoted = self.node.started.checked_add(Duration::from_millis(uptime_ms));
        quoted.map_or(now, |quoted| quoted.min(now))
    }

    /// Takes the ticket of a grant and gives the grant, both or none. Returns the epoch.
    fn admit(&self, request: &v1::GrantRequest) -> Result<u64, Status> {
        let ttl = Duration::from_millis(request.ttl_ms).min(GRANT_MAX);
        let quoted = self.quoted(request.uptime_ms);
        let mut rooms = self.node.rooms();
        rooms.see_epoch(request.epoch).map_err(refused)?;
        let taken = rooms.tickets.take(Instant::now(), unix_millis(), quoted, &request.ticket);
        if let Err(refusal) = taken {
            if rooms.tickets.is_news(&refusal) {
                let reason = refusal.reason();
                tracing::warn!(reason, "a ticket is refused, and the grant with it: {refusal}");
            }
            return Err(Status::permission_denied(refusal.to_string()));
        }
        rooms.grant(quoted, request.epoch, ttl).map_err(refused)?;
        Ok(rooms.epoch())
    }

    /// The room of a command; only this tenant's rooms live here.
    fn room(&self, room: Option<v1::RoomKey>) -> Result<RoomKey, Status> {
        let room = room.ok_or_else(|| Status::invalid_argument("room: missing"))?;
        if room.name.is_empty() {
            return Err(Status::invalid_argument("room: the name is empty"));
        }
        if room.tenant != self.node.config.tenant {
            return Err(Status::invalid_argument("room: another tenant's"));
        }
        Ok(RoomKey { tenant: room.tenant, name: room.name })
    }
}

#[tonic::async_trait]
impl MediaControl for Control {
    type ObserveStream = ReceiverStream<Result<v1::NodeReport, Status>>;

    async fn observe(
        &self,
        request: Request<v1::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let epoch = request.into_inner().epoch;
        self.fence(epoch).await?;
        Ok(Response::new(observe::stream(Arc::clone(&self.node), epoch)))
    }

    async fn grant(
        &self,
        request: Request<v1::GrantRequest>,
    ) -> Result<Response<v1::GrantReply>, Status> {
        let request = request.into_inner();
        self.fence(request.epoch).await?;
        if request.incarnation != self.node.incarnation {
            return Err(Status::aborted("the grant quotes a report of another process"));
        }
        let epoch = self.admit(&request)?;
        let incarnation = self.node.incarnation.clone();
        Ok(Response::new(v1::GrantReply { epoch, incarnation }))
    }

    async fn claim(
        &self,
        request: Request<v1::ClaimRequest>,
    ) -> Result<Response<v1::ClaimReply>, Status> {
        let request = request.into_inner();
        self.fence(request.epoch).await?;
        let room = self.room(request.room)?;
        let existed = self.node.claim(request.epoch, &room).map_err(|error| status(&error))?;
        let incarnation = self.node.incarnation.clone();
        Ok(Response::new(v1::ClaimReply { existed, incarnation }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseReply>, Status> {
        let request = request.into_inner();
        self.fence(request.epoch).await?;
        let room = self.room(request.room)?;
        let home = self.node.rooms().release(request.epoch, &room).map_err(refused)?;
        let Some(home) = home else {
            return Ok(Response::new(v1::ReleaseReply {
                existed: false,
                participants_sent_home: 0,
            }));
        };
        if let Some(shard) = self.node.shards.get(home.shard) {
            let command = ShardCommand::from(Command::SendHome { room });
            let sent = shard.send_patiently(command).await;
            sent.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        self.node.changed.notify_waiters();
        let participants_sent_home = home.participants;
        Ok(Response::new(v1::ReleaseReply { existed: true, participants_sent_home }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainReply>, Status> {
        let epoch = request.into_inner().epoch;
        self.fence(epoch).await?;
        let rooms = self.node.rooms().drain(epoch).map_err(refused)?;
        self.node.changed.notify_waiters();
        Ok(Response::new(v1::DrainReply { rooms: u32::try_from(rooms).unwrap_or(u32::MAX) }))
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::UndrainReply>, Status> {
        let epoch = request.into_inner().epoch;
        self.fence(epoch).await?;
        self.node.rooms().undrain(epoch).map_err(refused)?;
        self.node.changed.notify_waiters();
        Ok(Response::new(v1::UndrainReply {}))
    }
}
