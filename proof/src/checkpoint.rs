//! The signed end of a chain: how many records there are, so that the loss of the last ones shows.
//!
//! Decides nothing. What it cannot show: records written after it, and that an older checkpoint
//! was put back together with the older end of the chain; it says when it was written.

use serde::{Deserialize, Serialize};

use crate::contradiction::Contradiction;
use crate::dsse::Envelope;
use crate::hash::Sha256;
use crate::key::{PublicKey, SigningKey};
use crate::moment::Moment;
use crate::signed::{self, Document, DocumentError};
use crate::text::Text;

/// Type of the payload of a checkpoint's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.hemicycle.checkpoint+json";

/// What a chain held at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// `namespace/name` of the meeting cluster.
    pub tenant: Text,
    /// Number of the first record that is kept: 1 until retention deletes the oldest.
    pub first: u64,
    /// Number of the last record; `first - 1` when there is none.
    pub sequence: u64,
    /// How many records there are.
    pub records: u64,
    /// SHA-256 of the last record's line, or [`Sha256::NONE`].
    pub head: Sha256,
    /// Epoch of the leader that wrote the checkpoint.
    pub epoch: u64,
    /// When it was written.
    pub written_at: Moment,
    /// SHA-256 of the audit journal's last line at that moment, when one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Sha256>,
}

impl Document for Checkpoint {
    const PAYLOAD_TYPE: &'static str = PAYLOAD_TYPE;
    const TYPE: &'static str = "https://hemicycle.dev/checkpoint/v1";
}

impl Checkpoint {
    /// Signs the checkpoint.
    ///
    /// # Errors
    /// [`DocumentError`] when it is unsound or the key does not sign.
    pub fn seal(&self, key: &SigningKey) -> Result<Envelope, DocumentError> {
        self.check()?;
        signed::seal(self, key)
    }

    /// The checkpoint in an envelope that one of `keys` signed.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn open(envelope: &Envelope, keys: &[PublicKey]) -> Result<Self, DocumentError> {
        let checkpoint: Self = signed::open(envelope, keys)?;
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The checkpoint without a look at its signature: for deciding what to copy into a bundle,
    /// never what to believe.
    ///
    /// # Errors
    /// [`DocumentError`] when the line is no checkpoint.
    pub fn read_unverified(line: &[u8]) -> Result<Self, DocumentError> {
        signed::read(Envelope::parse(line)?.payload_unverified())
    }

    fn check(&self) -> Result<(), DocumentError> {
        let end = self.first.checked_add(self.records);
        let adds_up = end.is_some_and(|end| end.checked_sub(1) == Some(self.sequence));
        if self.first == 0 || !adds_up {
            return Err(DocumentError::Unsound(Contradiction::Count));
        }
        if (self.sequence == 0) != (self.head == Sha256::NONE) {
            return Err(DocumentError::Unsound(Contradiction::Head));
        }
        Ok(())
    }
}
