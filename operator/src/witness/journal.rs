//! The audit journal: who did what to scope, evidence, ticket, credential or drain, and what held
//! before and after. Each act is a line in the process log and, with a store, in the day's file,
//! chained. Acts wait in a bounded queue, so that telling one never waits for a disk.
//! Invariant: names of rooms and people have no type here.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use hemicycle_proof::{
    Day, Sha256, Text,
    journal::{
        Actor, Event, EventId, Fact, FactName, Journal as Chained, JournalError, Object,
        ObjectKind, State,
    },
};
use jiff::Timestamp;

use super::{Settings, moment};
use crate::metrics::Metrics;

/// Acts that wait to be written: a whole fleet that loses its scope at once.
const WAITING_MAX: usize = 8_192;
/// Directory of the daily files.
const DIRECTORY: &str = "audit";

/// What is told of an act.
#[derive(Clone, Debug)]
pub struct Act {
    /// What happened.
    pub id: EventId,
    /// To what.
    pub object: Object,
    /// What held before.
    pub before: State,
    /// What holds after.
    pub after: State,
}

/// Facts by name; a name that is none is left out.
#[must_use]
pub fn facts<const N: usize>(facts: [(&str, &str); N]) -> State {
    let named = |(name, text): (&str, &str)| Some((FactName::new(name).ok()?, Fact::text(text)));
    facts.into_iter().filter_map(named).collect()
}

/// A cluster-scoped object.
#[must_use]
pub fn named(kind: ObjectKind, name: &str) -> Object {
    Object::cluster(kind, Text::lossy(name))
}

/// An object of a meeting cluster's namespace; `tenant` is `namespace/name`.
#[must_use]
pub fn object(kind: ObjectKind, tenant: &str, name: &str) -> Object {
    let namespace = tenant.split('/').next().unwrap_or_default();
    Object::namespaced(kind, Text::lossy(namespace), Text::lossy(name))
}

/// Where acts are told.
pub struct Journal {
    waiting: Mutex<VecDeque<Event>>,
    actor: Mutex<Actor>,
    metrics: Arc<Metrics>,
}

impl Journal {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let actor = Mutex::new(Actor::Unknown);
        Self { waiting: Mutex::default(), actor, metrics }
    }

    /// From now on this replica acts, under this epoch.
    pub fn acts(&self, replica: &str, epoch: u64) {
        let actor = Actor::Operator { replica: Text::lossy(replica), epoch };
        *self.actor.lock().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    /// Tells what the operator did.
    pub fn tell(&self, act: Act) {
        let actor = self.actor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.tell_of(actor, act);
    }

    /// Tells what somebody else did, or what was found and not seen.
    pub fn tell_of(&self, actor: Actor, act: Act) {
        let Act { id, object, before, after } = act;
        let event = Event { id, at: moment(Timestamp::now()), actor, object, before, after };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            self.metrics.witness.dropped.with_label_values(&["act"]).inc();
            return;
        }
        waiting.push_back(event);
    }

    pub(super) fn take(&self) -> Vec<Event> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// The daily files.
#[derive(Default)]
pub(super) struct Pages {
    chained: Option<Chained>,
    cleared: Option<Day>,
}

impl Pages {
    /// SHA-256 of the last line, once one was written in this term.
    pub(super) fn head(&self) -> Option<Sha256> {
        self.chained.map(Chained::head)
    }

    pub(super) fn write(&mut self, settings: &Settings, metrics: &Metrics, acts: Vec<Event>) {
        for event in acts {
            let day = event.at.day();
            let chained = match (&settings.directory, self.chained) {
                (_, Some(chained)) => chained,
                (None, None) => Chained::begin(),
                (Some(root), None) => resume(&root.join(DIRECTORY)).unwrap_or_else(Chained::begin),
            };
            let (line, grown) = match chained.append(event) {
                Ok(written) => written,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "an act is lost");
                    metrics.witness.failures.inc();
                    continue;
                }
            };
            tracing::info!(target: "audit", "{line}");
            self.chained = Some(grown);
            let Some(root) = &settings.directory else { continue };
            let directory = root.join(DIRECTORY);
            if let Err(error) = append(&directory, day, &line) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the audit journal cannot be written: look at the volume");
                metrics.witness.failures.inc();
            }
            if self.cleared.replace(day) != Some(day) {
                clear(&directory, settings, day);
            }
        }
    }
}

fn append(directory: &Path, day: Day, line: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{day}.jsonl"));
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_data()
}

/// The days that have a file, in order.
fn days(directory: &Path) -> Vec<Day> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let day =
        |entry: fs::DirEntry| Day::parse(entry.file_name().to_str()?.strip_suffix(".jsonl")?).ok();
    let mut days: Vec<Day> = names.filter_map(day).collect();
    days.sort_unstable();
    days
}

/// Where the journal stands by its last line; none where there is none, or none that reads.
fn resume(directory: &Path) -> Option<Chained> {
    let last = days(directory).into_iter().next_back()?;
    let path = directory.join(format!("{last}.jsonl"));
    let text = fs::read(&path).ok()?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.rsplit(|byte| *byte == b'\n').next()?;
    match Chained::resume(line) {
        Ok(chained) => Some(chained),
        Err(error) => {
            keep_aside(&path, &error);
            None
        }
    }
}

/// A line was written in part: the file is set aside, so that the loss shows.
fn keep_aside(path: &Path, error: &JournalError) {
    let aside = path.with_extension("damaged");
    let moved = fs::rename(path, &aside);
    tracing::error!(%error, file = %aside.display(), kept = moved.is_ok(), "the journal broke off");
}

fn clear(directory: &Path, settings: &Settings, today: Day) {
    for day in settings.retention.expired(&days(directory), today) {
        let removed = fs::remove_file(directory.join(format!("{day}.jsonl")));
        tracing::info!(%day, removed = removed.is_ok(), "a page of the journal is over its time");
    }
}
