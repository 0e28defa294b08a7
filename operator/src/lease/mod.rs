//! Contends for the operator's Lease and tells the rest of the process whether it leads.
//! [`election`] decides; this module reads and writes the Lease, each call under its own deadline
//! and never forced, and publishes the [`Standing`]. Invariant: a standing of `Leading` is
//! withdrawn on our own clock, without waiting for any call.

pub mod election;
pub mod holding;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::election::Standing;
use self::election::{Election, Record, Step};

/// How often the holder renews: three attempts fit into the 3 s for which it may go on writing with
/// the shortest Lease, and it costs the API server little more than one write a second.
pub const RENEW_EVERY: Duration = Duration::from_millis(800);
/// How often the others look: a take-over is later by the time in which a last renewal was not
/// seen, at most this. They look once more at the moment at which the Lease may be taken.
pub const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Deadline of one call, so that one that hangs leaves time for another. The client would otherwise
/// retry for minutes on 429, 503 and 504.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Why a call about the Lease failed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No answer, or the server says that it cannot answer now.
    #[error("the API server cannot be reached for the Lease")]
    Unreachable(#[source] Option<kube::Error>),
    /// Somebody else wrote first.
    #[error("the Lease was written by another replica meanwhile")]
    Conflict,
    /// The server answered and refused.
    #[error("the API server refused the call on the Lease")]
    Refused(#[source] kube::Error),
}

/// Which Lease, and under which name.
#[derive(Clone, Debug)]
pub struct Candidacy {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Unique to this process.
    pub identity: String,
    /// How long an unchanged Lease is left alone.
    pub duration: Duration,
}

/// Contends for one Lease until told to stop.
pub struct Contender {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    start: Instant,
    election: Election,
    standing: watch::Sender<Standing>,
    epoch_seen: watch::Receiver<u64>,
    acknowledged: Arc<holding::Acknowledged>,
    term_end: Arc<TermEnd>,
}

/// When a term ends unless it is renewed before. Whoever acts on the term looks here with its own
/// eyes, since after a pause of the process it may run before the standing has been withdrawn.
#[derive(Debug, Default)]
pub struct TermEnd(Mutex<Option<Instant>>);

impl TermEnd {
    fn set(&self, end: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Whether the end has passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.is_some_and(|end| Instant::now() >= end)
    }
}

impl Contender {
    /// A contender for a Lease. `epoch_seen` carries the highest epoch that any media node or
    /// replica has shown us.
    #[must_use]
    pub fn new(
        client: Client,
        candidacy: Candidacy,
        epoch_seen: watch::Receiver<u64>,
        acknowledged: Arc<holding::Acknowledged>,
    ) -> (Self, watch::Receiver<Standing>) {
        let (standing, receiver) = watch::channel(Standing::Following);
        let Candidacy { namespace, lease, identity, duration } = candidacy;
        let contender = Self {
            api: Api::namespaced(client, &namespace),
            name: lease,
            election: Election::new(identity.clone(), duration),
            identity,
            duration,
            start: Instant::now(),
            standing,
            epoch_seen,
            acknowledged,
            term_end: Arc::default(),
        };
        (contender, receiver)
    }

    /// When the term ends, kept up to date.
    #[must_use]
    pub fn term_end(&self) -> Arc<TermEnd> {
        Arc::clone(&self.term_end)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Runs until `stop`, then releases the Lease if it is ours.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.attempt().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    lease = self.name,
                    "the Lease could not be kept up"
                );
                if matches!(error, LeaseError::Refused(_)) {
                    self.election.resign();
                }
            }
            self.publish();
            let now = self.now();
            let pause = match self.election.standing(now) {
                Standing::Leading { .. } => RENEW_EVERY,
                _ => {
                    self.election.expires_in(now).map_or(WATCH_EVERY, |left| left.min(WATCH_EVERY))
                }
            };
            if !self.pause(pause, &stop).await {
                break;
            }
        }
        self.release().await;
    }

    /// Waits, withdrawing the standing on time. False when told to stop.
    async fn pause(&mut self, pause: Duration, stop: &CancellationToken) -> bool {
        let until = Instant::now() + pause;
        loop {
            let deadline = self.election.deadline().map_or(until, |end| self.start + end);
            let wake = if deadline > Instant::now() { until.min(deadline) } else { until };
            tokio::select! {
                () = stop.cancelled() => return false,
                changed = self.epoch_seen.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let epoch = *self.epoch_seen.borrow_and_update();
                    self.election.saw_epoch(epoch);
                }
                () = sleep_until(wake) => {}
            }
            self.publish();
            if Instant::now() >= until {
                return true;
            }
        }
    }

    fn publish(&self) {
        self.term_end.set(self.election.deadline().map(|end| self.start + end));
        let standing = self.election.standing(self.now());
        self.standing.send_if_modified(|present| {
            let changed = *present != standing;
            if changed {
                tracing::info!(from = ?present, to = ?standing, "leadership changed");
                *present = standing;
            }
            changed
        });
    }

    /// How long the next call may take: never past the moment at which the standing must be
    /// withdrawn.
    fn budget(&self) -> Duration {
        let left = self.election.deadline().map(|end| end.saturating_sub(self.now()));
        left.filter(|left| !left.is_zero()).map_or(CALL_TIMEOUT, |left| left.min(CALL_TIMEOUT))
    }

    /// One round: read, decide, write. The standing is withdrawn on time even while a call hangs.
    async fn attempt(&mut self) -> Result<(), LeaseError> {
        let found = within(self.budget(), self.api.get_opt(&self.name)).await;
        self.publish();
        let found = found?;
        self.acknowledged.api_server_answered(std::time::Instant::now());
        let record = found.as_ref().map(record_of);
        let stays_with_other = record
            .as_ref()
            .is_some_and(|record| record.holder != self.identity && !record.holder.is_empty());
        match self.election.observe(self.now(), record) {
            Step::Watch => Ok(()),
            // We told another replica that it may go on placing: not while that holds.
            Step::Take { .. } if stays_with_other && self.acknowledged.binds() => Ok(()),
            Step::Take { epoch } => self.write(found, epoch, Acquired::Now).await,
            Step::Renew { epoch } => self.write(found, epoch, Acquired::Before).await,
        }
    }

    async fn write(
        &mut self,
        found: Option<Lease>,
        epoch: u64,
        acquired: Acquired,
    ) -> Result<(), LeaseError> {
        let begun = self.now();
        let lease = self.lease(found, epoch, acquired);
        let params = PostParams::default();
        let written = if lease.metadata.resource_version.is_some() {
            within(self.budget(), self.api.replace(&self.name, &params, &lease)).await
        } else {
            within(self.budget(), self.api.create(&params, &lease)).await
        };
        match written {
            Ok(lease) => {
                self.election.wrote(begun, record_of(&lease));
                Ok(())
            }
            Err(error) => {
                self.election.conflicted();
                Err(error)
            }
        }
    }

    fn lease(&self, found: Option<Lease>, epoch: u64, acquired: Acquired) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let before = lease.spec.take().unwrap_or_default();
        let acquire_time = match acquired {
            Acquired::Now => Some(now.clone()),
            Acquired::Before => before.acquire_time.or(Some(now.clone())),
        };
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            lease_transitions: i32::try_from(epoch).ok(),
            acquire_time,
            renew_time: Some(now),
            ..before
        });
        lease
    }

    /// Gives the Lease up, so that another replica need not wait for it to expire.
    async fn release(&mut self) {
        let ours = !matches!(self.election.standing(self.now()), Standing::Following);
        self.election.resign();
        self.publish();
        if !ours {
            return;
        }
        let found = within(CALL_TIMEOUT, self.api.get_opt(&self.name)).await;
        let Ok(Some(mut lease)) = found else { return };
        if record_of(&lease).holder != self.identity {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let replaced =
            within(CALL_TIMEOUT, self.api.replace(&self.name, &PostParams::default(), &lease))
                .await;
        match replaced {
            Ok(_) => tracing::info!(lease = self.name, "released the Lease"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                lease = self.name,
                "the Lease was not released and will expire"
            ),
        }
    }
}

/// Whether the term begins with this write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acquired {
    Now,
    Before,
}

async fn within<T>(
    budget: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LeaseError> {
    match timeout(budget, call).await {
        Err(_) => Err(LeaseError::Unreachable(None)),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(classify(error)),
    }
}

fn classify(error: kube::Error) -> LeaseError {
    match &error {
        kube::Error::Api(status) if status.code == 409 => LeaseError::Conflict,
        // 429 and 5xx: a server that is too busy or starting is out of reach for our purpose.
        kube::Error::Api(status) if status.code != 429 && status.code < 500 => {
            LeaseError::Refused(error)
        }
        _ => LeaseError::Unreachable(Some(error)),
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec
            .lease_transitions
            .and_then(|transitions| u64::try_from(transitions).ok())
            .unwrap_or_default(),
        renewed_at_us: spec.renew_time.map_or(0, |time| time.0.as_microsecond()),
        duration: Duration::from_secs(seconds.unwrap_or_default()),
    }
}
