//! What can be wrong with a bundle.
//!
//! Data alone: [`plain`] says each in words. Invariant: a flaw that breaks the chain
//! takes the proof away from the whole bundle; any other is told by the bundle itself, intact, and
//! takes it away from the interval that it names.

use std::fmt;

use crate::contradiction::Contradiction;
use crate::key::KeyId;
use crate::moment::{Moment, Span};
use crate::plain::{self, Lang};
use crate::text::Text;

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub flaw: Flaw,
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With all of it.
    Bundle,
    /// On a line; the first is 1.
    Line(u64),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The bundle is longer than any that is verified.
    TooLong,
    /// The bundle does not end with a line feed.
    CutShort,
    /// The line is no envelope as they are written.
    Unreadable,
    /// The signature does not fit the content.
    Altered,
    /// Another key signed.
    ForeignKey(KeyId),
    /// The line is signed and no record.
    NotARecord,
    /// The last line is signed and no checkpoint.
    NoCheckpoint,
    /// The signed content is not of its type.
    Malformed,
    /// The signed content contradicts itself.
    Unsound(Contradiction),
    /// The number is not the next one.
    Sequence {
        /// The next one.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// The record does not name the line before it.
    Previous,
    /// An earlier leader wrote after a later one.
    EpochWentBack {
        /// The later leader's.
        before: u64,
        /// The earlier leader's.
        found: u64,
    },
    /// The record is another meeting cluster's.
    Tenant(Text),
    /// The latest end so far is not what the records say.
    Latest,
    /// A moment of a pod is counted twice.
    Overlap {
        /// UID of the pod.
        pod: Text,
    },
    /// The checkpoint counts other records.
    Count {
        /// How many it counts.
        counted: u64,
        /// How many are there.
        found: u64,
    },
    /// The checkpoint names another last record.
    Head,
    /// The record is intact, and what it says is not in order.
    Breach(Breach),
}

/// What an intact record says that is not in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The pod held no ticket.
    NoTicket,
    /// The interval goes beyond the pod's tickets.
    OutsideTicket {
        /// When it held tickets.
        ticket: Span,
        /// The interval.
        interval: Span,
    },
    /// The interval goes beyond the attestation.
    AfterExpiry {
        /// Name of the scope.
        scope: Text,
        /// When its attestation ended.
        expires: Moment,
        /// The interval.
        interval: Span,
    },
    /// Violations of the scope were open.
    Violations {
        /// How many at once.
        count: u32,
        /// The interval.
        interval: Span,
    },
}

impl Flaw {
    /// Whether the bundle is not what was written, rather than saying something unwelcome.
    #[must_use]
    pub const fn breaks_the_chain(&self) -> bool {
        !matches!(self, Self::Breach(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain::finding(Lang::English, self))
    }
}
