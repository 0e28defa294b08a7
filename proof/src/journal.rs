//! The audit journal: JSON lines, each naming the one before it, for every act that touches scope,
//! evidence, ticket, credential, drain, policy or label.
//!
//! Decides what a line looks like and whether lines hang together. Writes nothing. Invariants: an
//! accepted line is, byte for byte, what [`Entry::to_line`] writes; no type of an entry holds the
//! name of a room or a person. Lines are linked and not signed: the signed checkpoint of the
//! [`chain`](crate::chain) names a line of the journal, which vouches for all before it.

mod act;
mod event;

use thiserror::Error;

use crate::hash::Sha256;
use crate::moment::Moment;

pub use act::{
    Actor, Fact, FactName, NotAFactName, NotRedacted, Object, ObjectKind, Redacted, Resource,
    RoomObject, State,
};
pub use event::EventId;

use serde::{Deserialize, Serialize};

/// Longest line that is parsed, in bytes: two states with every fact full stay below it.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Facts in a state before or after an act: more than any resource here has fields.
pub const FACTS_MAX: usize = 32;
/// Findings that are listed; later ones follow from the first.
pub const FINDINGS_MAX: usize = 100;

/// One act, as it is told to the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened; the id does not change between versions.
    pub id: EventId,
    /// When, in UTC with milliseconds.
    pub at: Moment,
    /// Who did it.
    pub actor: Actor,
    /// To what.
    pub object: Object,
    /// What held before; empty when nothing did.
    pub before: State,
    /// What holds after; empty when nothing does.
    pub after: State,
}

/// An event and its place in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// SHA-256 of the line before it; [`Sha256::NONE`] at the very beginning.
    pub previous: Sha256,
}

/// Why a line is no entry, or an event none that can be written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The line is longer than any that is written.
    #[error("the line has {length} bytes, at most {LINE_BYTES_MAX} are read")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The line is no entry.
    #[error("the line is no journal entry, or is spelt in another way than it is written")]
    Malformed,
    /// A state has too many facts.
    #[error("a state has {count} facts, at most {FACTS_MAX} are written: name those that changed")]
    TooManyFacts {
        /// How many.
        count: usize,
    },
}

/// Where a journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    head: Sha256,
}

impl Journal {
    /// A journal without an entry.
    #[must_use]
    pub const fn begin() -> Self {
        Self { head: Sha256::NONE }
    }

    /// Takes a journal up after its last line, without its line feed.
    ///
    /// # Errors
    /// [`JournalError`] when that line is no entry, such as one that was written in part: keep
    /// the file aside and begin a new journal, so that the loss shows.
    pub fn resume(last: &[u8]) -> Result<Self, JournalError> {
        Entry::parse(last)?;
        Ok(Self { head: Sha256::of(last) })
    }

    /// The line of the next entry, and the journal that holds once it is written.
    ///
    /// # Errors
    /// [`JournalError::TooManyFacts`].
    pub fn append(self, event: Event) -> Result<(String, Self), JournalError> {
        let count = event.before.len().max(event.after.len());
        if count > FACTS_MAX {
            return Err(JournalError::TooManyFacts { count });
        }
        let line = Entry { event, previous: self.head }.to_line();
        let head = Sha256::of(line.as_bytes());
        Ok((line, Self { head }))
    }

    /// SHA-256 of the last line, for the chain's checkpoint.
    #[must_use]
    pub const fn head(self) -> Sha256 {
        self.head
    }
}

impl Entry {
    /// The entry as one line of JSON, without a line feed.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// [`JournalError`] `TooLong`, `Malformed` or `TooManyFacts`.
    pub fn parse(line: &[u8]) -> Result<Self, JournalError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(JournalError::TooLong { length: line.len() });
        }
        let entry: Self = serde_json::from_slice(line).map_err(|_| JournalError::Malformed)?;
        let count = entry.event.before.len().max(entry.event.after.len());
        if count > FACTS_MAX {
            return Err(JournalError::TooManyFacts { count });
        }
        if entry.to_line().as_bytes() == line { Ok(entry) } else { Err(JournalError::Malformed) }
    }
}

/// What a journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many entries.
    pub entries: u64,
    /// When the first and the last happened.
    pub span: Option<(Moment, Moment)>,
    /// SHA-256 of the last line.
    pub head: Sha256,
    /// Whether the first entry is the very first; otherwise retention deleted earlier files, or
    /// somebody else did.
    pub from_the_beginning: bool,
    /// How many entries an anchor vouches for; `None` without an anchor.
    pub vouched: Option<u64>,
}

/// What is wrong with a journal, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// On which line of all, the first being 1; `None` for the journal as a whole.
    pub line: Option<u64>,
    /// What.
    pub flaw: Flaw,
}

/// What can be wrong with a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The text does not end with a line feed.
    CutShort,
    /// The line is no entry as they are written.
    Unreadable,
    /// The entry does not name the line before it.
    Previous,
    /// The signed checkpoint names a line that is not there.
    AnchorMissing,
}

/// Verifies journal text: the lines of one file, or of several in the order of their days.
/// `anchor` is the hash of a line that a signed checkpoint names.
///
/// # Errors
/// At most [`FINDINGS_MAX`] findings, in order.
pub fn verify(text: &[u8], anchor: Option<Sha256>) -> Result<Verified, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut find = |line, flaw| {
        if findings.len() < FINDINGS_MAX {
            findings.push(Finding { line, flaw });
        }
    };
    let mut verified = Verified {
        entries: 0,
        span: None,
        head: Sha256::NONE,
        from_the_beginning: true,
        vouched: anchor.filter(|anchor| *anchor == Sha256::NONE).map(|_| 0),
    };
    let body = text.strip_suffix(b"\n");
    if body.is_none() && !text.is_empty() {
        find(None, Flaw::CutShort);
    }
    for line in body.into_iter().flat_map(|body| body.split(|byte| *byte == b'\n')) {
        verified.entries += 1;
        let number = Some(verified.entries);
        match Entry::parse(line) {
            Err(_) => find(number, Flaw::Unreadable),
            Ok(Entry { event, previous }) => {
                let begins = verified.entries == 1;
                if begins {
                    verified.from_the_beginning = previous == Sha256::NONE;
                } else if previous != verified.head {
                    find(number, Flaw::Previous);
                }
                let from = verified.span.map_or(event.at, |(from, _)| from);
                verified.span = Some((from, event.at));
            }
        }
        verified.head = Sha256::of(line);
        if anchor == Some(verified.head) {
            verified.vouched = Some(verified.entries);
        }
    }
    if anchor.is_some() && verified.vouched.is_none() {
        find(None, Flaw::AnchorMissing);
    }
    if findings.is_empty() { Ok(verified) } else { Err(findings) }
}

#[cfg(test)]
mod tests;
