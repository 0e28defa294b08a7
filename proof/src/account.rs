//! What a bundle says once it is verified: by scope, day and media node, and room by room.
//!
//! Decides nothing about soundness. Invariant: it is as large as the bundle that it was read from
//! at most, and the list of silences is bounded.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::Checkpoint;
use crate::key::KeyId;
use crate::moment::{Day, Span};
use crate::room_hash::RoomHash;
use crate::statement::{Image, Level, Observed, Placement, ScopeFacts};
use crate::text::Text;

/// Silences that are listed; a reader does not follow more, their sum is told in any case.
pub const SILENCES_LISTED_MAX: usize = 200;

/// What a bundle proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The end of the chain, as it was signed.
    pub checkpoint: Checkpoint,
    /// The key that signed everything.
    pub key_id: KeyId,
    /// The scopes as they were declared, in order.
    pub scopes: BTreeSet<ScopeFacts>,
    /// What the pods ran, in order.
    pub images: BTreeSet<Image>,
    /// The sums.
    pub rows: BTreeMap<RowKey, Row>,
    /// When nothing was heard of a media node whose pod went on.
    pub silences: Vec<Silence>,
    /// Milliseconds of all silences, listed or not.
    pub silent_ms: u64,
    /// Silences that are not listed.
    pub silences_omitted: u64,
    /// Where each room was.
    pub rooms: BTreeMap<RoomHash, Vec<Stay>>,
}

/// What a row adds up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// Name of the scope.
    pub scope: Text,
    /// The UTC day.
    pub day: Day,
    /// Name of the media node.
    pub media_node: Text,
    /// Name of the Kubernetes node.
    pub kubernetes_node: Text,
}

/// Sums of one media node on one Kubernetes node and day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// UIDs of its pods.
    pub pods: BTreeSet<Text>,
    /// Milliseconds during which it was heard of.
    pub observed_ms: u64,
    /// Its rooms.
    pub rooms: BTreeSet<RoomHash>,
    /// Participant time in milliseconds.
    pub participant_ms: u64,
    /// The weakest ground that it stood on; `None` when there was a time without evidence.
    pub evidence: Option<Level>,
    /// Whether some rooms found no place in a statement.
    pub rooms_omitted: bool,
}

/// A time without observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Name of the media node.
    pub media_node: Text,
    /// When.
    pub span: Span,
}

/// Where one room was in one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Name of the media node.
    pub media_node: Text,
    /// Name of the Kubernetes node.
    pub kubernetes_node: Text,
    /// Name of the scope.
    pub scope: Text,
    /// The interval in which it was there.
    pub interval: Span,
    /// Participant time in milliseconds.
    pub participant_ms: u64,
}

impl Account {
    pub(crate) const fn new(checkpoint: Checkpoint, key_id: KeyId) -> Self {
        Self {
            checkpoint,
            key_id,
            scopes: BTreeSet::new(),
            images: BTreeSet::new(),
            rows: BTreeMap::new(),
            silences: Vec::new(),
            silent_ms: 0,
            silences_omitted: 0,
            rooms: BTreeMap::new(),
        }
    }

    /// Adds a record that was verified.
    pub(crate) fn add(&mut self, record: Placement) {
        let Observed { facts, interval, rooms, .. } = record.observed;
        let key = RowKey {
            scope: facts.scope.name.clone(),
            day: interval.from.day(),
            media_node: facts.media_node.clone(),
            kubernetes_node: facts.kubernetes_node.clone(),
        };
        let level = facts.evidence.iter().map(|evidence| evidence.level).max();
        let first = Row { evidence: level, ..Row::default() };
        let row = self.rows.entry(key).or_insert(first);
        row.evidence = row.evidence.min(level);
        row.observed_ms += interval.ms() - record.observed.unobserved_ms;
        row.participant_ms = row.participant_ms.saturating_add(record.observed.participant_ms);
        row.rooms.extend(rooms.iter().map(|room| room.hash));
        row.rooms_omitted |= record.observed.rooms_omitted > 0;
        row.pods.insert(facts.pod_uid);
        for room in rooms {
            self.rooms.entry(room.hash).or_default().push(Stay {
                media_node: facts.media_node.clone(),
                kubernetes_node: facts.kubernetes_node.clone(),
                scope: facts.scope.name.clone(),
                interval,
                participant_ms: room.participant_ms,
            });
        }
        let listed: u64 = record.observed.silences.iter().map(|silence| silence.ms()).sum();
        for span in record.observed.silences {
            self.add_silence(&facts.media_node, span);
        }
        if record.observed.unobserved_ms > listed {
            self.silent_ms += record.observed.unobserved_ms - listed;
            self.silences_omitted += 1;
        }
        self.scopes.insert(facts.scope);
        self.images.insert(facts.image);
    }

    /// Adds a silence within a statement or between two of one pod.
    pub(crate) fn add_silence(&mut self, media_node: &Text, span: Span) {
        self.silent_ms += span.ms();
        if self.silences.len() < SILENCES_LISTED_MAX {
            self.silences.push(Silence { media_node: media_node.clone(), span });
        } else {
            self.silences_omitted += 1;
        }
    }

    /// Participant time of all rows, in milliseconds.
    #[must_use]
    pub fn participant_ms(&self) -> u64 {
        self.rows.values().fold(0, |sum, row| sum.saturating_add(row.participant_ms))
    }

    /// The weakest evidence of all rows; `None` when there was a time without any.
    #[must_use]
    pub fn weakest_evidence(&self) -> Option<Level> {
        self.rows.values().map(|row| row.evidence).min().flatten()
    }

    /// Whether some statement had more rooms than it lists.
    #[must_use]
    pub fn rooms_omitted(&self) -> bool {
        self.rows.values().any(|row| row.rooms_omitted)
    }
}
