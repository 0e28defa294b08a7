//! Bears witness to where meetings ran: adds up what the fleet reports, and signs, chains and
//! stores it, with the journal of acts beside it. Runs through a leader's whole term, also while
//! the API server is away. Decides nothing about media and never stands in a meeting's way: a
//! store that fails is told and tried again. Invariant: no name of a room or a person leaves it.

mod book;
pub mod ground;
mod journal;
mod store;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hemicycle_proof::{Moment, statement::Facts};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use self::journal::{Act, Journal, facts, named, object};
use self::{
    book::{Book, Round},
    journal::Pages,
};
use crate::{fleet::Fleet, metrics::Metrics, pki::signing::SigningKeys};

/// How often media nodes are looked at: five looks within the time for which one counts.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Meeting clusters that are witnessed at once; the operator reconciles no more in practice, and
/// each costs an open ledger.
const TENANTS_MAX: usize = 1_024;

/// Where a media node's pod stands, as the reconcile saw it last.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The pod and why it may, or might, carry rooms there.
    pub facts: Facts,
    /// Whether it may now.
    pub attested: bool,
    /// Violations that are open for it.
    pub violations: u32,
}

/// What one term of leadership brings.
pub struct Term {
    /// Its fencing number.
    pub epoch: u64,
    /// What signs.
    pub keys: Arc<SigningKeys>,
    /// The media nodes.
    pub fleet: Arc<Fleet>,
}

/// How it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the store; none: statements are not kept, and acts are logged alone.
    pub directory: Option<PathBuf>,
    /// A statement covers this long at most, so that a dying leader loses no more.
    pub every: Duration,
    /// How long the journal is kept.
    pub retention: hemicycle_proof::retention::Retention,
}

/// Bears witness.
pub struct Witness {
    settings: Settings,
    metrics: Arc<Metrics>,
    journal: Journal,
    grounds: Mutex<BTreeMap<String, BTreeMap<String, Ground>>>,
}

impl Witness {
    /// Has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let journal = Journal::new(metrics.clone());
        Self { settings, metrics, journal, grounds: Mutex::default() }
    }

    /// Where acts are told.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The media nodes of a meeting cluster stand there now; all others of it are over.
    pub fn stand(&self, tenant: &str, grounds: BTreeMap<String, Ground>) {
        let mut all = self.lock();
        if all.len() < TENANTS_MAX || all.contains_key(tenant) {
            all.insert(tenant.to_owned(), grounds);
        } else {
            self.metrics.witness.dropped.with_label_values(&["tenant"]).inc();
        }
    }

    /// What was seen of the ground of a pod last, for one that has none now.
    #[must_use]
    pub fn last(&self, tenant: &str, media_node: &str) -> Option<Ground> {
        self.lock().get(tenant)?.get(media_node).cloned()
    }

    /// A meeting cluster is gone.
    pub fn forget(&self, tenant: &str) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, Ground>>> {
        self.grounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bears witness until `stop`, and writes down what is left then.
    pub async fn run(self: Arc<Self>, term: Term, stop: CancellationToken) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut desk = Desk { books: BTreeMap::new(), pages: Pages::default() };
        loop {
            let last = tokio::select! {
                () = stop.cancelled() => true,
                _ = tick.tick() => false,
            };
            desk = self.round(&term, desk, last).await;
            if last {
                return;
            }
        }
    }

    /// One look, and the writing that follows from it, away from the executor's threads.
    async fn round(&self, term: &Term, mut desk: Desk, last: bool) -> Desk {
        let now = moment(Timestamp::now());
        if self.settings.directory.is_some() {
            let grounds = self.lock();
            desk.books.retain(|tenant, _| grounds.contains_key(tenant));
            for (tenant, grounds) in &*grounds {
                let book = desk.books.entry(tenant.clone()).or_insert_with(|| Book::new(tenant));
                book.look(&self.settings, term, grounds, now);
            }
        }
        let acts = self.journal.take();
        let (settings, metrics) = (self.settings.clone(), self.metrics.clone());
        let (keys, epoch) = (term.keys.clone(), term.epoch);
        let written = tokio::task::spawn_blocking(move || {
            desk.pages.write(&settings, &metrics, acts);
            let round = Round { keys, epoch, now, last, journal: desk.pages.head() };
            for book in desk.books.values_mut() {
                book.write(&settings, &metrics, &round);
            }
            desk
        });
        written.await.unwrap_or_else(|_| Desk { books: BTreeMap::new(), pages: Pages::default() })
    }
}

/// What is written on.
struct Desk {
    books: BTreeMap<String, Book>,
    pages: Pages,
}

/// A jiff time in the proof's terms; before 1970 counts as 1970.
#[must_use]
pub fn moment(time: Timestamp) -> Moment {
    Moment::from_unix_ms(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
