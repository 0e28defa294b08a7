//! What is signed about one media node on one day: an in-toto statement with our predicate.
//!
//! in-toto Statement v1: <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>.
//! Decides what a sound statement is. Invariant: a [`Placement`] that was opened or sealed passed
//! [`Placement::check`], so that its lists are bounded and its sums hold; it names no room and no
//! participant.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::contradiction::Contradiction;
use crate::dsse::{Envelope, EnvelopeError};
use crate::hash::Sha256;
use crate::key::{PublicKey, SigningKey};
use crate::moment::{Moment, Span};
use crate::room_hash::RoomHash;
use crate::text::Text;

/// The payload type that in-toto prescribes.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The type of in-toto statements.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of our predicate.
pub const PREDICATE_TYPE: &str = "https://hemicycle.dev/placement/v1";

/// Rooms in one statement: what fits into a line beside everything else. More are counted.
pub const ROOMS_MAX: usize = 1_000;
/// Pieces of evidence in one statement: each verifier gives one, and there are four kinds.
pub const EVIDENCE_MAX: usize = 16;
/// Silences listed in one statement; more are summed up.
pub const SILENCES_MAX: usize = 64;
/// The largest number that every reader of JSON keeps exact (RFC 8259, section 6).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// How much evidence is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// A label alone: somebody who may write labels said so.
    E0,
    /// A cross-check that the machine alone cannot answer, such as the provider's id of it.
    E1,
    /// A signed statement or the provider's own answer.
    E2,
}

/// One reason to believe that a Kubernetes node lies in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvidenceFact {
    /// Which verifier gave it, such as `providerId`.
    pub kind: Text,
    /// What it is worth.
    pub level: Level,
    /// SHA-256 of what the verifier saw.
    pub digest: Sha256,
    /// When it was last seen.
    pub observed_at: Moment,
    /// In words, why it holds.
    pub reason: Text,
}

impl EvidenceFact {
    /// Whether it says the same, whenever it was seen.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.level == other.level && self.digest == other.digest
    }
}

/// The scope as its `QualificationScope` declares it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScopeFacts {
    /// Name of the resource.
    pub name: Text,
    /// Who provides the service.
    pub provider: Text,
    /// The qualified service.
    pub service: Text,
    /// The referential with its version.
    pub referential: Text,
    /// The attestation's number.
    pub attestation_id: Text,
    /// SHA-256 of the attestation document, when the owner gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_sha256: Option<Sha256>,
    /// When the attestation ends.
    pub expires: Moment,
}

/// The container image of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The reference in the pod.
    pub reference: Text,
    /// The digest that the kubelet reported, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

/// What holds for one pod as long as it stays what and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// Name of the `MediaNode` resource.
    pub media_node: Text,
    /// `metadata.uid` of its pod.
    pub pod_uid: Text,
    /// What the pod runs.
    pub image: Image,
    /// Where the pod runs.
    pub kubernetes_node: Text,
    /// The scope it runs in.
    pub scope: ScopeFacts,
    /// Why the Kubernetes node is believed to lie in the scope.
    pub evidence: Vec<EvidenceFact>,
}

impl Facts {
    /// Whether the same pod stands on the same ground, whenever the evidence was seen.
    #[must_use]
    pub fn same_ground(&self, other: &Self) -> bool {
        let same_evidence = self.evidence.len() == other.evidence.len()
            && self.evidence.iter().zip(&other.evidence).all(|(a, b)| a.says_the_same(b));
        self.media_node == other.media_node
            && self.pod_uid == other.pod_uid
            && self.image == other.image
            && self.kubernetes_node == other.kubernetes_node
            && self.scope == other.scope
            && same_evidence
    }
}

/// How long people were in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoomTime {
    /// Which room.
    pub hash: RoomHash,
    /// The sum over its participants of the time that they were seen in it, in milliseconds: whole
    /// numbers, so that sums are exact.
    pub participant_ms: u64,
}

/// What was seen of one pod in one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observed {
    /// `namespace/name` of the meeting cluster.
    pub tenant: Text,
    /// The pod and the ground that it stands on.
    pub facts: Facts,
    /// From when to when it held tickets without a break; absent when it held none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Span>,
    /// The interval, in one UTC day.
    pub interval: Span,
    /// Its rooms in order of their hashes.
    pub rooms: Vec<RoomTime>,
    /// The most rooms at a time that found no place in the list.
    pub rooms_omitted: u32,
    /// Participant time of all rooms, listed or not, in milliseconds.
    pub participant_ms: u64,
    /// How long nothing was heard of the media node within the interval, in milliseconds. That time
    /// counts for no participant.
    pub unobserved_ms: u64,
    /// When that was, as far as the list goes.
    pub silences: Vec<Span>,
    /// The most violations of the scope that were open for the pod at a time.
    pub violations: u32,
}

/// How a record hangs on those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Epoch of the leader that wrote it.
    pub epoch: u64,
    /// Its number; the first is 1.
    pub sequence: u64,
    /// SHA-256 of the line before it, or [`Sha256::NONE`].
    pub previous: Sha256,
    /// The latest end of an interval so far: a new leader begins no earlier.
    pub latest: Moment,
}

/// The predicate: what was seen, and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// What was seen.
    pub observed: Observed,
    /// Its place in the chain.
    pub chain: Link,
}

/// Why a statement was refused.
#[derive(Debug, Error)]
pub enum StatementError {
    /// Its envelope was.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It is no in-toto statement with our predicate.
    #[error("the signed content is not an in-toto statement of type {PREDICATE_TYPE}")]
    Malformed,
    /// It contradicts itself.
    #[error("the statement contradicts itself: {0}")]
    Unsound(Contradiction),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Placement,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: Text,
    digest: Digest,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Digest {
    sha256: Sha256,
}

impl Placement {
    /// Signs the statement.
    ///
    /// # Errors
    /// [`StatementError`] when it is unsound or the key does not sign.
    pub fn seal(self, key: &SigningKey) -> Result<Envelope, StatementError> {
        self.check().map_err(StatementError::Unsound)?;
        let wire = Wire {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: subject(&self.observed.facts.image),
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: self,
        };
        let payload = serde_json::to_vec(&wire).map_err(|_| StatementError::Malformed)?;
        Ok(Envelope::seal(PAYLOAD_TYPE, payload, key)?)
    }

    /// The statement in an envelope that one of `keys` signed.
    ///
    /// # Errors
    /// [`StatementError`] says what is wrong with the envelope or the statement.
    pub fn open(envelope: &Envelope, keys: &[PublicKey]) -> Result<Self, StatementError> {
        Self::read(envelope.open(PAYLOAD_TYPE, keys)?)
    }

    /// The statement in a payload whose signature the caller has verified.
    ///
    /// # Errors
    /// [`StatementError`] `Malformed` or `Unsound`.
    pub fn read(payload: &[u8]) -> Result<Self, StatementError> {
        let wire: Wire = serde_json::from_slice(payload).map_err(|_| StatementError::Malformed)?;
        if wire.statement_type != STATEMENT_TYPE || wire.predicate_type != PREDICATE_TYPE {
            return Err(StatementError::Malformed);
        }
        if wire.subject != subject(&wire.predicate.observed.facts.image) {
            return Err(StatementError::Unsound(Contradiction::Subject));
        }
        wire.predicate.check().map_err(StatementError::Unsound)?;
        Ok(wire.predicate)
    }

    /// Whether its lists are bounded, its times in order and its sums right.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), Contradiction> {
        self.observed.check()?;
        let Link { epoch, sequence, previous, latest } = self.chain;
        if sequence == 0 || sequence > NUMBER_MAX || epoch > NUMBER_MAX {
            return Err(Contradiction::Number);
        }
        if (sequence == 1) != (previous == Sha256::NONE) {
            return Err(Contradiction::Beginning);
        }
        if latest < self.observed.interval.to {
            return Err(Contradiction::LatestEnd);
        }
        Ok(())
    }
}

impl Observed {
    fn check(&self) -> Result<(), Contradiction> {
        if !self.interval.lies_in_one_day() {
            return Err(Contradiction::Interval);
        }
        if self.ticket.is_some_and(|ticket| ticket.from >= ticket.to) {
            return Err(Contradiction::Ticket);
        }
        if self.facts.evidence.len() > EVIDENCE_MAX {
            return Err(Contradiction::TooMuchEvidence);
        }
        self.check_rooms()?;
        self.check_silences()
    }

    fn check_rooms(&self) -> Result<(), Contradiction> {
        if self.rooms.len() > ROOMS_MAX {
            return Err(Contradiction::TooManyRooms);
        }
        if !self.rooms.is_sorted_by(|a, b| a.hash < b.hash) {
            return Err(Contradiction::RoomOrder);
        }
        let listed =
            self.rooms.iter().fold(0, |sum: u64, room| sum.saturating_add(room.participant_ms));
        let all = self.participant_ms;
        if all > NUMBER_MAX || listed > all || (self.rooms_omitted == 0 && listed != all) {
            return Err(Contradiction::RoomSum);
        }
        Ok(())
    }

    fn check_silences(&self) -> Result<(), Contradiction> {
        if self.silences.len() > SILENCES_MAX {
            return Err(Contradiction::TooManySilences);
        }
        let mut upto = self.interval.from;
        for silence in &self.silences {
            if silence.from < upto || silence.to <= silence.from {
                return Err(Contradiction::SilenceOrder);
            }
            upto = silence.to;
        }
        let listed =
            self.silences.iter().fold(0, |sum: u64, silence| sum.saturating_add(silence.ms()));
        let most = self.interval.ms();
        if upto > self.interval.to || self.unobserved_ms > most || listed > self.unobserved_ms {
            return Err(Contradiction::SilenceLength);
        }
        if self.silences.len() < SILENCES_MAX && listed != self.unobserved_ms {
            return Err(Contradiction::SilenceSum);
        }
        Ok(())
    }
}

/// The image as in-toto names what a statement is about; nothing while its digest is unknown.
fn subject(image: &Image) -> Vec<Subject> {
    let subject = |sha256| Subject { name: image.reference.clone(), digest: Digest { sha256 } };
    image.sha256.map(subject).into_iter().collect()
}
