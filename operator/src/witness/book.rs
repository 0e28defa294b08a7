//! The proof of one meeting cluster during one term: its ledger, and the chain on its store.
//! Begins no chain over one that cannot be taken up: that is told until a person has looked.
//! Invariant: a statement leaves the queue only once it is on the store.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use hemicycle_proof::{
    Moment, Sha256, Span, Text,
    chain::Chain,
    ledger::{Ledger, Sighting},
    statement::Observed,
};
use operator_core::world::ReportSeen;

use super::{
    Ground, Settings, Term,
    store::{Store, StoreError},
};
use crate::{metrics::Metrics, pki::signing::SigningKeys};

/// A report older than this says nothing about now: it is four that are missing.
const REPORT_FRESH_MS: u64 = 2_000;
/// Statements that wait for a store that fails: an hour's of a large fleet. Older ones are dropped
/// and show as a gap in time.
const WAITING_MAX: usize = 4_096;

/// What one round of writing is about.
pub(super) struct Round {
    pub(super) keys: Arc<SigningKeys>,
    pub(super) epoch: u64,
    pub(super) now: Moment,
    /// Nothing is looked at after it: all that was counted is written.
    pub(super) last: bool,
    /// Hash of the journal's last line.
    pub(super) journal: Option<Sha256>,
}

/// A pod that is being witnessed.
struct Pod {
    pod: Text,
    /// The last ticket that it held.
    ticket: Span,
}

pub(super) struct Book {
    tenant: Text,
    chain: Option<Chain>,
    ledger: Option<Ledger>,
    pods: BTreeMap<String, Pod>,
    waiting: VecDeque<Observed>,
    told: Option<String>,
    checkpointed: bool,
}

impl Book {
    pub(super) fn new(tenant: &str) -> Self {
        Self {
            tenant: Text::lossy(tenant),
            chain: None,
            ledger: None,
            pods: BTreeMap::new(),
            waiting: VecDeque::new(),
            told: None,
            checkpointed: false,
        }
    }

    /// Looks at every media node now.
    pub(super) fn look(
        &mut self,
        settings: &Settings,
        term: &Term,
        grounds: &BTreeMap<String, Ground>,
        now: Moment,
    ) {
        let Some(chain) = &self.chain else { return };
        let every_ms = u64::try_from(settings.every.as_millis()).unwrap_or(u64::MAX);
        let fresh = || Ledger::new(self.tenant.clone(), every_ms, chain.latest());
        let ledger = self.ledger.get_or_insert_with(fresh);
        for (media_node, ground) in grounds {
            let report = term.fleet.report(self.tenant.as_str(), media_node);
            let heard = report.filter(|it| {
                now.unix_ms().saturating_sub(it.received.unix_ms()) <= REPORT_FRESH_MS
            });
            let Some(report) = heard else { continue };
            let known = self.pods.get(media_node).filter(|it| it.pod == ground.facts.pod_uid);
            let expires = Moment::from_unix_ms(report.ticket_expires.unix_ms());
            let fresh = (expires.unix_ms() > 0).then(|| Span::new(now.min(expires), expires));
            // The last one that it held counts, also when it was taken away. One that never had any
            // has not begun to carry rooms.
            let Some(ticket) = fresh.or(known.map(|it| it.ticket)) else { continue };
            ledger.observe(now, sighting(term, ground, &report, ticket));
            let pod = ground.facts.pod_uid.clone();
            self.pods.insert(media_node.clone(), Pod { pod, ticket });
        }
        self.pods.retain(|media_node, known| {
            let ground = grounds.get(media_node);
            let over = ground.is_none_or(|ground| ground.facts.pod_uid != known.pod);
            if over {
                ledger.end(now, &known.pod);
            }
            !over
        });
    }

    /// Writes what is due; everything when `last`.
    pub(super) fn write(&mut self, settings: &Settings, metrics: &Metrics, round: &Round) {
        let Some(directory) = &settings.directory else { return };
        let key = round.keys.proof();
        let store = Store::of(directory, self.tenant.as_str());
        if self.chain.is_none() {
            match store.resume(self.tenant.clone(), &key.public_key()) {
                Ok(chain) => self.chain = Some(chain),
                Err(error) => return self.tell(metrics, &error),
            }
        }
        if let Some(ledger) = &mut self.ledger {
            let due = if round.last { ledger.flush(round.now) } else { ledger.due(round.now) };
            self.waiting.extend(due);
        }
        while self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            metrics.witness.dropped.with_label_values(&["statement"]).inc();
        }
        let mut wrote = false;
        while let (Some(chain), Some(next)) = (&self.chain, self.waiting.front()) {
            match store.append(chain, next.clone(), round.epoch, key) {
                Ok(grown) => {
                    self.chain = Some(grown);
                    self.waiting.pop_front();
                    metrics.witness.statements.inc();
                    wrote = true;
                }
                Err(error) => {
                    // Another leader may have written: what there is now is taken up again.
                    self.chain = None;
                    return self.tell(metrics, &error);
                }
            }
        }
        if let (Some(chain), true) = (&self.chain, wrote || !self.checkpointed) {
            match store.checkpoint(chain, round.epoch, round.now, round.journal, key) {
                Ok(()) => self.checkpointed = true,
                Err(error) => return self.tell(metrics, &error),
            }
        }
        self.told = None;
    }

    fn tell(&mut self, metrics: &Metrics, error: &StoreError) {
        metrics.witness.failures.inc();
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            let tenant = self.tenant.as_str();
            let error = error as &dyn std::error::Error;
            tracing::error!(tenant, error, "the proof of where meetings ran cannot be written");
            self.told = Some(text);
        }
    }
}

fn sighting(term: &Term, ground: &Ground, report: &ReportSeen, ticket: Span) -> Sighting {
    let key = term.keys.rooms();
    let rooms = report.rooms.iter();
    Sighting {
        facts: ground.facts.clone(),
        ticket: Some(ticket),
        violations: ground.violations,
        rooms: rooms.map(|(room, people)| (key.hash(&room.tenant, &room.name), *people)).collect(),
    }
}
