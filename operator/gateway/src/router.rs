//! Brings a request to the media node that has its room.
//!
//! Decides whether the directory is enough, when the placer is asked, and when to try again.
//! Invariants: a room is looked for at most [`ATTEMPTS_MAX`] times and for [`LOOK_FOR`]; a call
//! that a media node may have acted upon is not sent twice.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use placement_api::v1::{RoomKey, RouteRequest};
use tokio::time::{Instant, sleep, timeout_at};

use crate::directory::{Directory, MediaNode};
use crate::metrics::Metrics;
use crate::placer::{Placer, RouteError};
use crate::reply::Body;
use crate::upstream::{Upstream, UpstreamError, is_not_here};

/// Times that a room is looked for: where the directory says, where the leader says, and again
/// while the leader insists on a media node that has just let the room go.
pub const ATTEMPTS_MAX: u32 = 10;
/// How long a room is looked for: the Go and Rust SDKs give up a join after 5 s.
pub const LOOK_FOR: Duration = Duration::from_millis(4500);
/// First and longest pause before a media node that the leader insists on is tried again. Media
/// nodes report twice a second and on change.
const INSISTED_FIRST: Duration = Duration::from_millis(100);
const INSISTED_MAX: Duration = Duration::from_millis(800);

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
            Some(home) if self.directory.is_unreachable(&home.name) => {
                self.ask(wanted, &home.name).await?
            }
            Some(home) => home,
            None => self.ask(wanted, "").await?,
        };
        let until = Instant::now() + LOOK_FOR;
        let mut pause = INSISTED_FIRST;
        for _ in 1..ATTEMPTS_MAX {
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
            let next = timeout_at(until, self.ask(wanted, &home.name));
            let next = next.await.map_err(|_| RouteError::Unavailable)??;
            if next.name == home.name {
                // The leader sees it there: a restart, perhaps, or news still on their way.
                if Instant::now() + pause > until {
                    break;
                }
                sleep(pause).await;
                pause = (pause * 2).min(INSISTED_MAX);
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
