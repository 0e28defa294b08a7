//! The hash chain of one meeting cluster: each record names the line before it.
//!
//! Decides what follows on what. Writes nothing: [`Chain::append`] gives the line and the chain
//! that holds once the line is on the volume, so that a failed write leaves the chain as it was.
//! Invariants: numbers without gaps, epochs that never go down, one key for one chain. A store
//! creates what it adds exclusively and never writes over a record; a leader that was fenced out
//! then meets its successor's record instead of forking the chain.

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::dsse::{Envelope, EnvelopeError};
use crate::hash::Sha256;
use crate::key::{PublicKey, SigningKey};
use crate::moment::Moment;
use crate::signed::DocumentError;
use crate::statement::{Link, Observed, Placement, StatementError};
use crate::text::Text;

/// Where a chain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    tenant: Text,
    first: u64,
    /// Number of the last record; 0 when there is none.
    sequence: u64,
    head: Sha256,
    epoch: u64,
    latest: Moment,
}

/// Why a chain was not taken up or not continued.
#[derive(Debug, Error)]
pub enum ChainError {
    /// The line does not read.
    #[error("the last record does not read: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The last record, or the new one, is no sound statement.
    #[error("the record is not sound: {0}")]
    Statement(#[from] StatementError),
    /// The checkpoint is none.
    #[error("the checkpoint is not sound: {0}")]
    Checkpoint(#[from] DocumentError),
    /// The chain is another meeting cluster's.
    #[error("the chain belongs to {found}, not to {wanted}: give each meeting cluster its own")]
    Tenant {
        /// Whose it is.
        found: Text,
        /// Whose it should be.
        wanted: Text,
    },
    /// Records that a checkpoint counted are gone.
    #[error(
        "the checkpoint counts records up to {counted}, the last one that is there is {found}: \
         restore the records from a copy, or begin a new chain in another place"
    )]
    TailMissing {
        /// Last record by the checkpoint.
        counted: u64,
        /// Last record that is there.
        found: u64,
    },
    /// The record that a checkpoint counted as the last is another one now.
    #[error("record {sequence} is not the one that the checkpoint counted")]
    HeadChanged {
        /// Its number.
        sequence: u64,
    },
    /// A later leader has written already.
    #[error("a leader of epoch {found} has written, this one has epoch {mine}: it may not write")]
    Fenced {
        /// The chain's epoch.
        found: u64,
        /// The writer's.
        mine: u64,
    },
    /// The records to forget are not all there.
    #[error("records from {first} on cannot be kept: the chain has {from} to {to}")]
    Range {
        /// The first one to keep.
        first: u64,
        /// The first one that there is.
        from: u64,
        /// The last one that there is.
        to: u64,
    },
}

impl Chain {
    /// A chain without a record.
    #[must_use]
    pub const fn begin(tenant: Text) -> Self {
        let latest = Moment::from_unix_ms(0);
        Self { tenant, first: 1, sequence: 0, head: Sha256::NONE, epoch: 0, latest }
    }

    /// Takes a chain up where its last record and its checkpoint, each where there is one, leave
    /// it. Records after the checkpoint are well: a leader may have died between the two.
    ///
    /// # Errors
    /// [`ChainError`], among them that counted records are gone.
    pub fn resume(
        tenant: Text,
        last: Option<&[u8]>,
        checkpoint: Option<&[u8]>,
        key: &PublicKey,
    ) -> Result<Self, ChainError> {
        let mut chain = Self::begin(tenant);
        if let Some(line) = last {
            let Placement { observed, chain: link } =
                Placement::open(&Envelope::parse(line)?, &[*key])?;
            chain.belongs(observed.tenant)?;
            chain.sequence = link.sequence;
            chain.head = Sha256::of(line);
            chain.epoch = link.epoch;
            chain.latest = link.latest;
        }
        if let Some(line) = checkpoint {
            let counted = Checkpoint::open(&Envelope::parse(line)?, &[*key])?;
            chain.belongs(counted.tenant)?;
            if last.is_none() && counted.records == 0 {
                // Retention deleted every record; the checkpoint alone says what comes next.
                chain.sequence = counted.sequence;
                chain.head = counted.head;
                chain.latest = counted.written_at;
            }
            if counted.sequence > chain.sequence {
                let (counted, found) = (counted.sequence, chain.sequence);
                return Err(ChainError::TailMissing { counted, found });
            }
            if counted.sequence == chain.sequence && counted.head != chain.head {
                return Err(ChainError::HeadChanged { sequence: chain.sequence });
            }
            chain.first = counted.first;
            chain.epoch = chain.epoch.max(counted.epoch);
        }
        Ok(chain)
    }

    fn belongs(&self, found: Text) -> Result<(), ChainError> {
        if found == self.tenant {
            return Ok(());
        }
        Err(ChainError::Tenant { found, wanted: self.tenant.clone() })
    }

    /// The line of the next record, and the chain that holds once it is written.
    ///
    /// # Errors
    /// [`ChainError`] `Fenced`, `Tenant` or `Statement`.
    pub fn append(
        &self,
        observed: Observed,
        epoch: u64,
        key: &SigningKey,
    ) -> Result<(String, Self), ChainError> {
        self.may_write(epoch)?;
        self.belongs(observed.tenant.clone())?;
        let latest = self.latest.max(observed.interval.to);
        let sequence = self.sequence + 1;
        let link = Link { epoch, sequence, previous: self.head, latest };
        let line = Placement { observed, chain: link }.seal(key)?.to_line();
        let head = Sha256::of(line.as_bytes());
        Ok((line, Self { sequence, head, epoch, latest, ..self.clone() }))
    }

    /// The line of a checkpoint. `journal` is the hash of the audit journal's last line.
    ///
    /// # Errors
    /// [`ChainError`] `Fenced`, or `Checkpoint` when the key does not sign.
    pub fn checkpoint(
        &self,
        epoch: u64,
        written_at: Moment,
        journal: Option<Sha256>,
        key: &SigningKey,
    ) -> Result<String, ChainError> {
        self.may_write(epoch)?;
        let checkpoint = Checkpoint {
            tenant: self.tenant.clone(),
            first: self.first,
            sequence: self.sequence,
            records: self.sequence + 1 - self.first,
            head: self.head,
            epoch,
            written_at,
            journal,
        };
        Ok(checkpoint.seal(key)?.to_line())
    }

    fn may_write(&self, epoch: u64) -> Result<(), ChainError> {
        if epoch < self.epoch {
            return Err(ChainError::Fenced { found: self.epoch, mine: epoch });
        }
        Ok(())
    }

    /// The chain once retention has deleted the records before `first`. The next checkpoint says
    /// so; until it is written the deletion looks like a loss.
    ///
    /// # Errors
    /// [`ChainError::Range`] unless `first` is kept, or is the one that comes next.
    pub fn keep_from(&self, first: u64) -> Result<Self, ChainError> {
        let (from, to) = (self.first, self.sequence);
        if first < from || first > to + 1 {
            return Err(ChainError::Range { first, from, to });
        }
        Ok(Self { first, ..self.clone() })
    }

    /// Number of the last record; 0 when there is none.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Number of the first record that is kept.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The latest end of an interval so far: a new ledger begins no earlier.
    #[must_use]
    pub const fn latest(&self) -> Moment {
        self.latest
    }
}

/// Where a store keeps its records.
pub const RECORDS_DIRECTORY: &str = "records";
/// Where a store keeps its checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint.json";

/// The name of a record's file: names sort as the records follow.
#[must_use]
pub fn record_file_name(sequence: u64) -> String {
    format!("{sequence:016}.json")
}
