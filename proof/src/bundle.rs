//! Verifies a bundle offline: all record lines of a chain, then one checkpoint line.
//!
//! Decides whether a bundle is intact (nothing altered, removed, added or moved) and whether what
//! it says is in order (within tickets and attestation, without violations). Trusts nothing but
//! the one public key. Invariant: a bundle in which any byte was changed is refused.

use std::collections::BTreeMap;

use crate::account::Account;
use crate::checkpoint::Checkpoint;
use crate::dsse::{Envelope, EnvelopeError};
use crate::finding::{Breach, Finding, Flaw, Place};
use crate::hash::Sha256;
use crate::key::PublicKey;
use crate::moment::{Moment, Span};
use crate::signed::DocumentError;
use crate::statement::{Observed, Placement, StatementError};
use crate::text::Text;

/// Longest bundle that is verified: a year of a hundred media nodes with a record each hour.
pub const BUNDLE_BYTES_MAX: usize = 2 << 30;
/// Findings that are listed: the first ones say what happened, later ones follow from them.
pub const FINDINGS_MAX: usize = 100;

/// A bundle that does not prove what it should.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was found, in order of the lines.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub omitted: u64,
    /// What the bundle says, when it is intact and only what it says is not in order.
    pub account: Option<Box<Account>>,
}

/// Verifies a bundle with nothing but a public key.
///
/// # Errors
/// [`Refused`] with everything that was found.
pub fn verify(bytes: &[u8], key: &PublicKey) -> Result<Account, Refused> {
    let mut walk = Walk::new(*key);
    let account = walk.bundle(bytes);
    match account {
        Some(account) if walk.findings.is_empty() => Ok(account),
        account => Err(Refused {
            findings: walk.findings,
            omitted: walk.omitted,
            account: account.filter(|_| !walk.broken).map(Box::new),
        }),
    }
}

struct Walk {
    key: PublicKey,
    findings: Vec<Finding>,
    omitted: u64,
    broken: bool,
    /// What the next record must carry; unknown at the beginning of a bundle without checkpoint.
    sequence: Option<u64>,
    previous: Option<Sha256>,
    tenant: Option<Text>,
    epoch: u64,
    latest: Option<Moment>,
    /// Where the last interval of each pod ended.
    ends: BTreeMap<Text, Moment>,
}

impl Walk {
    const fn new(key: PublicKey) -> Self {
        Self {
            key,
            findings: Vec::new(),
            omitted: 0,
            broken: false,
            sequence: None,
            previous: None,
            tenant: None,
            epoch: 0,
            latest: None,
            ends: BTreeMap::new(),
        }
    }

    fn bundle(&mut self, bytes: &[u8]) -> Option<Account> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            self.find(Place::Bundle, Flaw::TooLong);
            return None;
        }
        let Some(body) = bytes.strip_suffix(b"\n") else {
            self.find(Place::Bundle, Flaw::CutShort);
            return None;
        };
        let (records, last) = match body.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => (body.get(..at), body.get(at + 1..).unwrap_or_default()),
            None => (None, body),
        };
        let records = records.into_iter().flat_map(|records| records.split(|b| *b == b'\n'));
        // The checkpoint says with which number the records begin, so it is read first.
        let checkpoint = self.checkpoint(last);
        let mut account = None;
        if let Ok(checkpoint) = &checkpoint {
            self.sequence = Some(checkpoint.first);
            self.tenant = Some(checkpoint.tenant.clone());
            account = Some(Account::new(checkpoint.clone(), self.key.key_id()));
        }
        let mut count = 0;
        for line in records {
            count += 1;
            if let Some(record) = self.record(count, line) {
                self.add(count, record, account.as_mut());
            }
        }
        match checkpoint {
            Ok(checkpoint) => self.end(count, &checkpoint),
            Err(flaw) => self.find(Place::Line(count + 1), flaw),
        }
        account
    }

    fn checkpoint(&self, line: &[u8]) -> Result<Checkpoint, Flaw> {
        let envelope = Envelope::parse(line).map_err(|error| envelope_flaw(&error))?;
        Checkpoint::open(&envelope, &[self.key]).map_err(|error| match error {
            DocumentError::Envelope(EnvelopeError::PayloadType { .. }) => Flaw::NoCheckpoint,
            DocumentError::Envelope(error) => envelope_flaw(&error),
            DocumentError::Malformed(_) => Flaw::Malformed,
            DocumentError::Unsound(what) => Flaw::Unsound(what),
        })
    }

    /// The record on a line, with its place in the chain checked.
    fn record(&mut self, number: u64, line: &[u8]) -> Option<Placement> {
        let at = Place::Line(number);
        let expected = self.sequence;
        let previous = self.previous.replace(Sha256::of(line));
        self.sequence = expected.map(|sequence| sequence.saturating_add(1));
        let opened = Envelope::parse(line).map_err(StatementError::Envelope);
        let opened = opened.and_then(|envelope| Placement::open(&envelope, &[self.key]));
        let record = match opened {
            Ok(record) => record,
            Err(error) => {
                let flaw = match error {
                    StatementError::Envelope(error) => envelope_flaw(&error),
                    StatementError::Malformed => Flaw::Malformed,
                    StatementError::Unsound(what) => Flaw::Unsound(what),
                };
                self.find(at, flaw);
                return None;
            }
        };
        let link = record.chain;
        if let Some(expected) = expected.filter(|expected| *expected != link.sequence) {
            self.find(at, Flaw::Sequence { expected, found: link.sequence });
        }
        self.sequence = Some(link.sequence.saturating_add(1));
        if previous.is_some_and(|previous| previous != link.previous) {
            self.find(at, Flaw::Previous);
        }
        let epoch = self.epoch;
        if link.epoch < epoch {
            self.find(at, Flaw::EpochWentBack { before: epoch, found: link.epoch });
        }
        self.epoch = epoch.max(link.epoch);
        Some(record)
    }

    /// What a record says, checked against what other records say.
    fn add(&mut self, number: u64, record: Placement, account: Option<&mut Account>) {
        let observed = &record.observed;
        let at = Place::Line(number);
        if self.tenant.get_or_insert_with(|| observed.tenant.clone()) != &observed.tenant {
            self.find(at, Flaw::Tenant(observed.tenant.clone()));
        }
        let interval = observed.interval;
        let latest = self.latest.map_or(record.chain.latest, |latest| latest.max(interval.to));
        if latest != record.chain.latest {
            self.find(at, Flaw::Latest);
        }
        self.latest = Some(latest.max(record.chain.latest));
        let pod = observed.facts.pod_uid.clone();
        let before = self.ends.insert(pod.clone(), interval.to);
        let silence = before.map(|end| Span::new(end, interval.from)).filter(|gap| gap.ms() > 0);
        if before.is_some_and(|end| interval.from < end) {
            self.find(at, Flaw::Overlap { pod });
        }
        for breach in breaches(observed) {
            self.find(at, Flaw::Breach(breach));
        }
        if let Some(account) = account {
            if let Some(silence) = silence {
                account.add_silence(&observed.facts.media_node, silence);
            }
            account.add(record);
        }
    }

    fn end(&mut self, count: u64, checkpoint: &Checkpoint) {
        let at = Place::Line(count + 1);
        if checkpoint.records != count {
            self.find(at, Flaw::Count { counted: checkpoint.records, found: count });
        }
        if self.previous.is_some_and(|head| head != checkpoint.head) {
            self.find(at, Flaw::Head);
        }
        if checkpoint.epoch < self.epoch {
            let (before, found) = (self.epoch, checkpoint.epoch);
            self.find(at, Flaw::EpochWentBack { before, found });
        }
    }

    fn find(&mut self, place: Place, flaw: Flaw) {
        self.broken |= flaw.breaks_the_chain();
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { place, flaw });
        } else {
            self.omitted += 1;
        }
    }
}

/// What a record says against itself.
fn breaches(observed: &Observed) -> Vec<Breach> {
    let interval = observed.interval;
    let mut found = Vec::new();
    match observed.ticket {
        None => found.push(Breach::NoTicket),
        Some(ticket) if !ticket.contains(interval) => {
            found.push(Breach::OutsideTicket { ticket, interval });
        }
        Some(_) => {}
    }
    let scope = &observed.facts.scope;
    if interval.to > scope.expires {
        let (scope, expires) = (scope.name.clone(), scope.expires);
        found.push(Breach::AfterExpiry { scope, expires, interval });
    }
    if observed.violations > 0 {
        found.push(Breach::Violations { count: observed.violations, interval });
    }
    found
}

fn envelope_flaw(error: &EnvelopeError) -> Flaw {
    match error {
        EnvelopeError::Signature => Flaw::Altered,
        EnvelopeError::UnknownKey { key_id } => Flaw::ForeignKey(*key_id),
        EnvelopeError::PayloadType { .. } => Flaw::NotARecord,
        _ => Flaw::Unreadable,
    }
}

#[cfg(test)]
mod tests;
