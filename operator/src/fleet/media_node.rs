//! Speaks to one media node: keeps the channel and the Observe stream open, renews the grant each
//! second, says Drain and Undrain. Decides nothing; what it hears goes to the meeting cluster's
//! directory. Invariant: a grant is given only while this replica may place.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use media_api::v1::{self as media, media_control_client::MediaControlClient};
use operator_core::{
    placement::{GRANT_SKEW_MS, GRANT_TTL_MS},
    world::DesiredState,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use super::{Cluster, Shared, Target, channel, cluster::Refusal};
use crate::{pki::Role, reconcile::build::media_pod::CONTROL_PORT};

/// How often it is renewed.
const GRANT_EVERY: Duration = Duration::from_secs(1);
/// Deadline of a grant's call: the directory counts on its end within this time.
const GRANT_TIMEOUT: Duration = Duration::from_millis(GRANT_SKEW_MS);
/// Deadline of a command: a gateway waits for it.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_millis(1_500);
/// First and longest pause between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The task of one media node.
pub(super) struct Speaker {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) target: Target,
    pub(super) wanted: watch::Receiver<DesiredState>,
    pub(super) client: watch::Sender<Option<MediaControlClient<Channel>>>,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the meeting cluster's CA is not known yet")]
    NoTrust,
    #[error(transparent)]
    Channel(#[from] channel::ChannelError),
    #[error("the media node ended the conversation: {0}")]
    Status(Box<tonic::Status>),
    #[error("the stream of reports ended")]
    StreamEnd,
    #[error("the media node did not answer in time")]
    Timeout,
    #[error("a report was not believed")]
    Report(#[source] operator_core::report::ReportError),
    #[error("the media node has seen a higher epoch")]
    Fenced,
    #[error("it is not the media node that it was taken for")]
    WrongMediaNode,
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Speaker {
    /// Speaks until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut pause = RETRY.0;
        loop {
            let spoken = tokio::select! {
                () = stop.cancelled() => break,
                spoken = self.conversation() => spoken,
            };
            self.client.send_replace(None);
            self.cluster.lost(&self.target.media_node);
            let Err(ended) = spoken else { break };
            // The first attempts meet a process that is still starting.
            tracing::debug!(
                media_node = self.target.media_node,
                error = &ended as &dyn std::error::Error,
                "a conversation ended"
            );
            // One that got somewhere is tried again at once.
            pause = match ended {
                Ended::StreamEnd | Ended::Status(_) => RETRY.0,
                _ => (pause * 2).min(RETRY.1),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        self.client.send_replace(None);
    }

    async fn conversation(&mut self) -> Result<(), Ended> {
        let trusted = self.shared.trust.get(self.cluster.tenant()).ok_or(Ended::NoTrust)?;
        let name = trusted.dns_name(&Role::MediaNode(&self.target.media_node));
        let address = SocketAddr::new(self.target.ip, CONTROL_PORT);
        let mut client = channel::control(channel::connect(&trusted, address, &name).await?);
        let epoch = self.cluster.epoch();
        let observe = client.observe(media::ObserveRequest { epoch });
        let observed = timeout(COMMAND_TIMEOUT, observe).await.map_err(|_| Ended::Timeout)?;
        let mut reports = self.heard_status(observed)?.into_inner();
        self.cluster.met(&self.target, &name);
        self.client.send_replace(Some(client.clone()));
        let wanted = *self.wanted.borrow_and_update();
        self.say_wanted(&mut client, wanted).await?;
        let mut renew = interval(GRANT_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = false;
        loop {
            tokio::select! {
                report = reports.message() => {
                    let report = self.heard_status(report)?.ok_or(Ended::StreamEnd)?;
                    self.hear(report)?;
                    // The first report makes it eligible: new rooms need not wait for the next
                    // beat.
                    if !std::mem::replace(&mut heard, true) {
                        self.grant(&mut client).await?;
                    }
                }
                _ = renew.tick() => self.grant(&mut client).await?,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let wanted = *self.wanted.borrow_and_update();
                    self.say_wanted(&mut client, wanted).await?;
                }
            }
        }
    }

    /// A refusal for a stale epoch shows us a higher one.
    fn heard_status<T>(&self, answer: Result<T, tonic::Status>) -> Result<T, Ended> {
        answer.map_err(|status| {
            // The only precondition of these calls is the epoch. It does not say how high it is.
            if status.code() == Code::FailedPrecondition {
                self.show_epoch(self.cluster.epoch().saturating_add(1));
            }
            Ended::from(status)
        })
    }

    fn show_epoch(&self, epoch: u64) {
        if epoch <= self.cluster.epoch() {
            return;
        }
        self.shared.epoch_seen.send_if_modified(|seen| {
            let higher = epoch > *seen;
            *seen = epoch.max(*seen);
            higher
        });
    }

    fn hear(&self, report: media::NodeReport) -> Result<(), Ended> {
        if report.media_node != self.target.media_node {
            return Err(Ended::WrongMediaNode);
        }
        let metrics = &self.shared.metrics;
        let labels = &[self.cluster.tenant(), self.target.media_node.as_str()];
        let busiest = report.shards.iter().map(|shard| shard.busy_ratio).fold(0.0, f64::max);
        let participants = i64::from(report.participants);
        match self.cluster.hear(&self.target.media_node, report) {
            Ok(rooms) => {
                let rooms = i64::try_from(rooms).unwrap_or(i64::MAX);
                metrics.rooms.with_label_values(labels).set(rooms);
                metrics.participants.with_label_values(labels).set(participants);
                metrics.load.with_label_values(labels).set(busiest);
                Ok(())
            }
            Err(Refusal::Ignored(error)) => {
                metrics.reports_refused.with_label_values(&[error.as_str()]).inc();
                Err(Ended::Report(error))
            }
            Err(Refusal::Fenced(epoch)) => {
                self.show_epoch(epoch);
                Err(Ended::Fenced)
            }
        }
    }

    async fn grant(&self, client: &mut MediaControlClient<Channel>) -> Result<(), Ended> {
        let name = &self.target.media_node;
        if !self.shared.leadership.may_place() || !self.cluster.grant_due(name) {
            return Ok(());
        }
        let epoch = self.cluster.epoch();
        let ttl_ms = GRANT_TTL_MS;
        let request = media::GrantRequest { epoch, ttl_ms, ticket: Vec::new() };
        // Before the call too: it may arrive although its answer does not.
        self.cluster.granted(name, false);
        let answer = timeout(GRANT_TIMEOUT, client.grant(request)).await;
        self.cluster.granted(name, matches!(answer, Ok(Ok(_))));
        let answer = answer.map_err(|_| Ended::Timeout)?;
        self.heard_status(answer).map(drop)
    }

    async fn say_wanted(
        &self,
        client: &mut MediaControlClient<Channel>,
        wanted: DesiredState,
    ) -> Result<(), Ended> {
        let epoch = self.cluster.epoch();
        let said = match wanted {
            DesiredState::Serving => {
                let undrain = client.undrain(media::UndrainRequest { epoch });
                timeout(COMMAND_TIMEOUT, undrain).await.map(|answer| answer.map(drop))
            }
            DesiredState::Draining | DesiredState::Retired => {
                let drain = client.drain(media::DrainRequest { epoch });
                timeout(COMMAND_TIMEOUT, drain).await.map(|answer| answer.map(drop))
            }
        };
        self.heard_status(said.map_err(|_| Ended::Timeout)?)
    }
}
