//! Speaks to one media node: keeps the channel and the Observe stream open, answers reports with
//! grants, says Drain and Undrain. Decides nothing; what it hears goes to the meeting cluster's
//! directory. Invariants: a grant is given only while this replica may place; a process is taken
//! for over only when its connection broke while it was in sight and the next one was refused.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use media_api::v1::{self as media, media_control_client::MediaControlClient};
use operator_core::{
    placement::{Grant, SIGHT_MS},
    world::DesiredState,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use super::{Cluster, Shared, Target, channel, cluster::Refusal};
use crate::{pki::Role, reconcile::build::media_pod::CONTROL_PORT};

/// Least time between two grants: a little less than that between two reports, so that each of
/// those is answered, and many changes in a burst are not.
const GRANT_EVERY: Duration = Duration::from_millis(450);
/// Deadline of a grant's call. One that takes longer arrives when it is nearly over.
const GRANT_TIMEOUT: Duration = Duration::from_secs(1);
/// Deadline of a command: a gateway waits for it.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_millis(1_500);
/// First and longest pause between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// One that was heard within this time was in sight when its connection broke.
const SIGHT: Duration = Duration::from_millis(SIGHT_MS);

/// The task of one media node.
pub(super) struct Speaker {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) target: Target,
    pub(super) wanted: watch::Receiver<DesiredState>,
    pub(super) client: watch::Sender<Option<MediaControlClient<Channel>>>,
    /// When the last report was believed, until the conversation's end has been looked into.
    pub(super) heard: Option<Instant>,
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

impl Ended {
    /// Whether the media node's Kubernetes node says that nobody listens.
    fn is_refusal(&self) -> bool {
        let Self::Channel(error) = self else { return false };
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if error.downcast_ref::<io::Error>().is_some_and(refused) {
                return true;
            }
            cause = error.source();
        }
        false
    }
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
        let mut broke = false;
        loop {
            let spoken = tokio::select! {
                () = stop.cancelled() => break,
                spoken = self.conversation() => spoken,
            };
            self.client.send_replace(None);
            self.cluster.lost(&self.target.media_node);
            let Err(ended) = spoken else { break };
            self.look_into(&ended, &mut broke);
            // The first attempts meet a process that is still starting.
            tracing::debug!(
                media_node = self.target.media_node,
                error = &ended as &dyn Error,
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

    /// Tells the end of the process from the loss of its sight. A path that is cut, or a firewall
    /// that begins to refuse, leaves the old connection silent until its pings fail; only the end
    /// of the process breaks it at once *and* has the next one refused.
    fn look_into(&mut self, ended: &Ended, broke: &mut bool) {
        if let Some(heard) = self.heard.take() {
            let by_itself = matches!(ended, Ended::Status(_) | Ended::StreamEnd);
            *broke = by_itself && heard.elapsed() < SIGHT;
        } else if *broke && ended.is_refusal() {
            *broke = false;
            tracing::info!(
                media_node = self.target.media_node,
                "the process is over; its rooms may get a new home"
            );
            self.cluster.process_over(&self.target.media_node);
        }
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
        let mut grants = JoinSet::new();
        let mut granted: Option<Instant> = None;
        loop {
            tokio::select! {
                report = reports.message() => {
                    let report = self.heard_status(report)?.ok_or(Ended::StreamEnd)?;
                    self.hear(report)?;
                    self.heard = Some(Instant::now());
                    if granted.is_none_or(|at| at.elapsed() >= GRANT_EVERY)
                        && let Some(grant) = self.grant()
                    {
                        granted = Some(Instant::now());
                        grants.spawn(send_grant(client.clone(), epoch, grant));
                    }
                }
                Some(sent) = grants.join_next() => {
                    if let Ok((grant, answer)) = sent {
                        self.heard_status(answer.map_err(|_| Ended::Timeout)?)?;
                        self.cluster.granted(&self.target.media_node, &grant);
                    }
                }
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
            // The only precondition of these calls is the epoch.
            if status.code() == Code::FailedPrecondition {
                let told = status.metadata().get(media_api::EPOCH_METADATA);
                let told = told.and_then(|text| text.to_str().ok()?.parse().ok());
                let higher = self.cluster.epoch().saturating_add(1);
                self.show_epoch(told.map_or(higher, |told: u64| told.max(higher)));
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

    /// The grant that answers the last report, if the media node may have one. Whether this replica
    /// may place is looked at after that report came: so the grant counts from a moment at which it
    /// might, however long the process sleeps before it is sent.
    fn grant(&self) -> Option<Grant> {
        let may = self.shared.leadership.may_place();
        may.then(|| self.cluster.grant(&self.target.media_node)).flatten()
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

type Answer = Result<Result<tonic::Response<media::GrantReply>, tonic::Status>, Elapsed>;

async fn send_grant(
    mut client: MediaControlClient<Channel>,
    epoch: u64,
    grant: Grant,
) -> (Grant, Answer) {
    let request = media::GrantRequest {
        epoch,
        ttl_ms: grant.ttl_ms,
        ticket: Vec::new(),
        incarnation: grant.incarnation.as_str().to_owned(),
        uptime_ms: grant.uptime_ms,
    };
    let answer = timeout(GRANT_TIMEOUT, client.grant(request)).await;
    (grant, answer)
}
