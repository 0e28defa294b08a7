//! Speaks to one media node: keeps the channel and the Observe stream open, answers reports with
//! grants and the ticket, says Drain and Undrain. Decides nothing; what it hears goes to the
//! meeting cluster's directory. Invariants: a grant is given only while this replica may place; a
//! media node that may hold no ticket is told so at once, and again as long as it reports one; a
//! process is taken for over only when its connection broke while it was in sight and the next one
//! was refused.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use media_api::v1::{self as media, media_control_client::MediaControlClient};
use operator_core::{
    placement::{Grant, SIGHT_MS},
    sovereignty::clock_fits,
    world::DesiredState,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, error::Elapsed, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use super::{
    Cluster, Shared, Target, Wanted, channel,
    cluster::{Refusal, wall_ms},
    ticket::Tickets,
};
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
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) client: watch::Sender<Option<MediaControlClient<Channel>>>,
    /// When the last report was believed, until the conversation's end has been looked into.
    pub(super) heard: Option<Instant>,
    pub(super) tickets: Tickets,
    /// Whether its clock and ours agreed in the last report.
    pub(super) clock_fits: bool,
    /// That it refuses its ticket is in the log.
    pub(super) refusal_told: bool,
}

/// The report that a grant quotes.
#[derive(Clone, Debug)]
struct Quoted {
    incarnation: String,
    uptime_ms: u64,
    holds_ticket: bool,
}

impl Quoted {
    fn of(report: &media::NodeReport) -> Self {
        Self {
            incarnation: report.incarnation.clone(),
            uptime_ms: report.uptime_ms,
            holds_ticket: report.ticket_expiry_unix_ms > 0,
        }
    }
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
        let mut said = self.wanted.borrow_and_update().desired;
        self.say_wanted(&mut client, said).await?;
        let mut grants = JoinSet::new();
        let (mut granted, mut quoted): (Option<Instant>, Option<Quoted>) = (None, None);
        loop {
            tokio::select! {
                report = reports.message() => {
                    let report = self.heard_status(report)?.ok_or(Ended::StreamEnd)?;
                    let quote = Quoted::of(&report);
                    self.hear(report)?;
                    self.heard = Some(Instant::now());
                    if granted.is_none_or(|at| at.elapsed() >= GRANT_EVERY)
                        && let Some((request, grant)) = self.answer(&quote)
                    {
                        granted = Some(Instant::now());
                        grants.spawn(send_grant(client.clone(), request, grant));
                    }
                    quoted = Some(quote);
                }
                Some(sent) = grants.join_next() => {
                    if let Ok((grant, answer)) = sent {
                        self.answered(grant.as_ref(), answer)?;
                    }
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let wanted = self.wanted.borrow_and_update().clone();
                    if let (None, Some(quoted)) = (&wanted.ticket, &quoted) {
                        // What was taken away never comes back: the next one is a new one.
                        self.tickets.forget();
                        let none = without_grant(epoch, quoted, vec![]);
                        grants.spawn(send_grant(client.clone(), none, None));
                    }
                    if wanted.desired != said {
                        said = wanted.desired;
                        self.say_wanted(&mut client, said).await?;
                    }
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

    fn hear(&mut self, report: media::NodeReport) -> Result<(), Ended> {
        if report.media_node != self.target.media_node {
            return Err(Ended::WrongMediaNode);
        }
        let skew_ms = report.unix_ms.cast_signed().saturating_sub(wall_ms().cast_signed());
        self.compare_clocks(skew_ms);
        let metrics = &self.shared.metrics;
        let labels = &[self.cluster.tenant(), self.target.media_node.as_str()];
        let busiest = report.shards.iter().map(|shard| shard.busy_ratio).fold(0.0, f64::max);
        let (participants, cpu) = (i64::from(report.participants), report.cpu_ratio);
        match self.cluster.hear(&self.target.media_node, report, skew_ms) {
            Ok(rooms) => {
                let rooms = i64::try_from(rooms).unwrap_or(i64::MAX);
                metrics.rooms.with_label_values(labels).set(rooms);
                metrics.participants.with_label_values(labels).set(participants);
                metrics.load.with_label_values(labels).set(busiest);
                metrics.cpu.with_label_values(labels).set(cpu);
                metrics.clock_skew.with_label_values(labels).set(skew_ms as f64 / 1_000.0);
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

    /// With clocks that far apart neither side could tell when a ticket ends.
    fn compare_clocks(&mut self, skew_ms: i64) {
        let fits = clock_fits(skew_ms);
        if fits != self.clock_fits {
            let (media_node, ahead_ms) = (&self.target.media_node, skew_ms);
            if fits {
                tracing::info!(media_node, ahead_ms, "its clock fits again");
            } else {
                tracing::warn!(media_node, ahead_ms, "its clock does not fit: it gets no ticket");
            }
        }
        self.clock_fits = fits;
    }

    /// What answers a report: a grant with the ticket; without a grant, as while it drains, the
    /// ticket alone, since its rooms stay under it; or the end of a ticket that may not be held.
    fn answer(&mut self, quoted: &Quoted) -> Option<(media::GrantRequest, Option<Grant>)> {
        let epoch = self.cluster.epoch();
        let ticket = self.ticket();
        if let Some(grant) = self.grant() {
            let request = media::GrantRequest {
                epoch,
                ttl_ms: grant.ttl_ms,
                ticket,
                incarnation: grant.incarnation.as_str().to_owned(),
                uptime_ms: grant.uptime_ms,
            };
            return Some((request, Some(grant)));
        }
        let worth_saying = if ticket.is_empty() {
            quoted.holds_ticket
        } else {
            self.shared.leadership.may_place()
        };
        worth_saying.then(|| (without_grant(epoch, quoted, ticket), None))
    }

    /// The ticket that the media node is to hold now; no bytes are none.
    fn ticket(&mut self) -> Vec<u8> {
        let wanted = self.wanted.borrow();
        let terms = wanted.ticket.as_ref().filter(|_| self.clock_fits);
        match self.shared.signing() {
            Some(keys) => self.tickets.current(keys.ticket(), terms, wall_ms()),
            None => Vec::new(),
        }
    }

    /// A ticket that is refused ends no conversation: reports are worth as much as before.
    fn answered(&mut self, grant: Option<&Grant>, answer: Answer) -> Result<(), Ended> {
        let answer = answer.map_err(|_| Ended::Timeout)?;
        if let Err(status) = &answer
            && status.code() == Code::PermissionDenied
        {
            let media_node = self.target.media_node.as_str();
            let labels = &[self.cluster.tenant(), media_node];
            self.shared.metrics.tickets_refused.with_label_values(labels).inc();
            if !self.refusal_told {
                tracing::warn!(media_node, "its ticket is refused: {}", status.message());
            }
            self.refusal_told = true;
            self.tickets.forget();
            return Ok(());
        }
        self.heard_status(answer)?;
        self.refusal_told = false;
        if let Some(grant) = grant {
            self.cluster.granted(&self.target.media_node, grant);
        }
        Ok(())
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

/// Allows no new room; says what ticket is to be held, or, by no bytes, that none is.
fn without_grant(epoch: u64, quoted: &Quoted, ticket: Vec<u8>) -> media::GrantRequest {
    media::GrantRequest {
        epoch,
        ttl_ms: 0,
        ticket,
        incarnation: quoted.incarnation.clone(),
        uptime_ms: quoted.uptime_ms,
    }
}

async fn send_grant(
    mut client: MediaControlClient<Channel>,
    request: media::GrantRequest,
    grant: Option<Grant>,
) -> (Option<Grant>, Answer) {
    let answer = timeout(GRANT_TIMEOUT, client.grant(request)).await;
    (grant, answer)
}
