//! Brings a request to the media node that has its room.
//!
//! Decides whether the directory is enough, when the placer is asked, and when to try again.
//! Invariants: a room is looked for at most [`ATTEMPTS_MAX`] times; a call that a media node may
//! have acted upon is not sent twice.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use placement_api::v1::{RoomKey, RouteRequest};
use tokio::time::sleep;

use crate::directory::{Directory, MediaNode};
use crate::metrics::Metrics;
use crate::placer::{Placer, RouteError};
use crate::reply::Body;
use crate::upstream::{Upstream, UpstreamError, is_not_here};

/// Times that a room is looked for: where the directory says, where the leader says, and once more
/// when its answer was overtaken.
pub const ATTEMPTS_MAX: u32 = 3;
/// Pause before a media node that the leader insists on is tried again.
const INSISTED_PAUSE: Duration = Duration::from_millis(150);

/// A request that wants to reach a room.
pub struct Wanted<'a> {
    /// The room's name.
    pub room: &'a str,
    /// Whether it may be brought into being.
    pub create: bool,
    /// Whether it may be sent again when a media node may have acted upon it.
    pub repeatable: bool,
    /// Longest wait for the head of an answer.
    pub answer_within: Duration,
}

/// Directory, placers and media nodes together.
pub struct Router {
    /// What is known of rooms and media nodes.
    pub directory: Arc<Directory>,
    placer: Arc<Placer>,
    upstream: Upstream,
    tenant: String,
    zone: String,
    metrics: Metrics,
}

impl Router {
    /// Routes for `tenant`; new rooms prefer `zone`, if it is not empty.
    #[must_use]
    pub fn new(
        directory: Arc<Directory>,
        placer: Arc<Placer>,
        upstream: Upstream,
        (tenant, zone): (String, String),
        metrics: Metrics,
    ) -> Self {
        Self { directory, placer, upstream, tenant, zone, metrics }
    }

    /// Delivers what `request` makes to the media node of the room; returns its answer and who
    /// gave it.
    ///
    /// # Errors
    /// When the room has no home for it, or no home of it answers.
    pub async fn deliver(
        &self,
        wanted: &Wanted<'_>,
        mut request: impl FnMut() -> Request<Body>,
    ) -> Result<(Response<Incoming>, Arc<MediaNode>), RouteError> {
        let mut home = match self.directory.home_of(wanted.room) {
            Some(home) => home,
            None => self.ask(wanted, "").await?,
        };
        for attempt in 1..=ATTEMPTS_MAX {
            let sent = self.upstream.send(&home, request(), wanted.answer_within).await;
            let reason = match sent {
                Ok(response) if !is_not_here(&response) => return Ok((response, home)),
                Ok(_) => "not_here",
                Err(UpstreamError::Connect) => "connect",
                Err(UpstreamError::Answer) if wanted.repeatable => "answer",
                Err(UpstreamError::Answer) => return Err(RouteError::Unavailable),
            };
            self.metrics.reroutes.with_label_values(&[reason]).inc();
            tracing::info!(media_node = home.name, reason, "a room is looked for again");
            self.directory.forget(wanted.room, &home.name);
            if attempt == ATTEMPTS_MAX {
                break;
            }
            let next = self.ask(wanted, &home.name).await?;
            if next.name == home.name && reason != "not_here" {
                // The leader sees it: a restart, perhaps, or our own network.
                sleep(INSISTED_PAUSE).await;
            }
            home = next;
        }
        Err(RouteError::Unavailable)
    }

    /// Sends to this very media node.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub async fn deliver_to(
        &self,
        media_node: &MediaNode,
        request: Request<Body>,
        answer_within: Duration,
    ) -> Result<Response<Incoming>, UpstreamError> {
        self.upstream.send(media_node, request, answer_within).await
    }

    async fn ask(
        &self,
        wanted: &Wanted<'_>,
        unreachable: &str,
    ) -> Result<Arc<MediaNode>, RouteError> {
        let request = RouteRequest {
            room: Some(RoomKey { tenant: self.tenant.clone(), name: wanted.room.to_owned() }),
            create: wanted.create,
            zone: self.zone.clone(),
            participants_expected: 0,
            unreachable_media_node: unreachable.to_owned(),
        };
        let reply = self.placer.route(&request).await?;
        let endpoint = reply
            .endpoint
            .ok_or_else(|| RouteError::Refused("the placer named no media node".to_owned()))?;
        self.directory
            .learn(wanted.room, &endpoint, reply.epoch)
            .map_err(|error| RouteError::Refused(error.to_string()))
    }
}
