//! What a reconcile of one term of leadership has at hand: clients, caches, what it remembers
//! between two plans. Lives as long as the term; a new term begins with empty memory. Invariant:
//! [`Context::still_leading`] is asked before every write.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use kube::{Client, runtime::events::Recorder};
use operator_core::{autoscale::ScaleMemory, violation::Violation, world::RefusalSeen};
use tokio_stream::wrappers::WatchStream;

use super::{build::manifest::Kind, due::Due, error::ReconcileError};
use crate::{
    admission::Admission,
    config::Config,
    evidence::Book,
    fleet::Fleet,
    lease::Standing,
    metrics::Metrics,
    pki::{signing::SigningKeys, trust::TrustStore},
    replicas::Leadership,
    watches::Watches,
    witness::Witness,
};

/// Refusals kept for one meeting cluster: the conditions name the newest, the log has them all.
pub const REFUSALS_MAX: usize = 8;

/// What is remembered of one meeting cluster between two plans.
#[derive(Debug, Default)]
pub struct Memory {
    /// UID of that meeting cluster: another of its name begins with empty memory.
    pub of: Option<String>,
    /// What the last plan wished, so that shrinking can wait.
    pub scale: ScaleMemory,
    /// What the API server refused lately.
    pub refusals: Vec<RefusalSeen>,
    /// Violations recorded so far; `None` until the first look of this term.
    pub violations: Option<Vec<Violation>>,
    /// Failures in a row.
    pub failures: u32,
    /// The last of them, so that the log tells each once.
    pub failure: String,
    /// Its namespace is being deleted.
    pub ending: bool,
    /// What was told last, so that an Event is made for a change and not for every plan.
    pub told: BTreeMap<String, String>,
    /// When the certificates were looked at last.
    pub certificates_checked: Option<Timestamp>,
    /// When the numbers in the status were written last.
    pub status_written: Option<Timestamp>,
    /// Which of its standing objects are to be read.
    pub due: Due,
}

/// What a reconcile has at hand.
pub struct Context {
    /// For the API server.
    pub client: Client,
    /// Of the process.
    pub config: Arc<Config>,
    /// One for all Events: it joins repeats.
    pub recorder: Recorder,
    /// Of the process.
    pub metrics: Arc<Metrics>,
    /// Who is trusted.
    pub trust: Arc<TrustStore>,
    /// What the operator signs with.
    pub signing: Arc<SigningKeys>,
    /// The media nodes.
    pub fleet: Arc<Fleet>,
    /// Whether this replica leads.
    pub leadership: Arc<Leadership>,
    /// The epoch of this term.
    pub epoch: u64,
    /// Warm copies.
    pub watches: Watches,
    /// What the API server itself is told to hold.
    pub admission: Arc<Admission>,
    /// Bears witness to where meetings run, and keeps the journal of acts.
    pub witness: Arc<Witness>,
    /// What others than the cluster say of Kubernetes nodes.
    pub book: Arc<Book>,
    /// By tenant.
    pub memory: Mutex<BTreeMap<String, Memory>>,
    /// The wall clock.
    pub clock: Clock,
}

/// Where the time comes from: the system, save in tests that let hours pass.
pub type Clock = fn() -> Timestamp;

impl Context {
    /// The wall clock, for certificates, plans and transition times.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Counts everything that plans and statuses depend on and that does not concern one meeting
    /// cluster alone: Kubernetes nodes, scopes, and what is said of them.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        let seen = WatchStream::from_changes(self.watches.changes.clone());
        stream::select(seen, WatchStream::from_changes(self.book.changes())).map(|_| ())
    }

    /// Refuses to go on when the Lease is not certainly ours any more.
    ///
    /// # Errors
    /// [`ReconcileError::NotLeading`].
    pub fn still_leading(&self) -> Result<(), ReconcileError> {
        let standing = *self.leadership.watch().borrow();
        if standing == (Standing::Leading { epoch: self.epoch }) {
            Ok(())
        } else {
            Err(ReconcileError::NotLeading)
        }
    }

    /// Reads or changes what is remembered of a meeting cluster.
    pub fn remember<T>(&self, tenant: &str, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        change(memory.entry(tenant.to_owned()).or_default())
    }

    /// Notes that a standing object of a meeting cluster changed. Of one that nothing is remembered
    /// of, all will be read anyway.
    pub fn touch(&self, tenant: &str, kind: Kind) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = memory.get_mut(tenant) {
            memory.due.touch(kind);
        }
    }

    /// Forgets an earlier meeting cluster of the same name, whose end nobody may have seen.
    pub fn acquaint(&self, tenant: &str, uid: Option<String>) {
        if self.remember(tenant, |memory| memory.of.is_some() && memory.of != uid) {
            self.forget(tenant);
        }
        self.remember(tenant, |memory| memory.of = uid);
    }

    /// Forgets a meeting cluster that is gone.
    pub fn forget(&self, tenant: &str) {
        self.fleet.forget(tenant);
        self.witness.forget(tenant);
        self.metrics.queue.forget(tenant);
        // A series that was never made cannot be removed, and need not be.
        let _ = self.metrics.witness.violations_open.remove_label_values(&[tenant]);
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }
}
