//! A signed, expiring word of a scope's owner: this Kubernetes node, which the provider knows
//! under this id, lies in this scope.
//!
//! Decides whether the word holds at a moment and for a Kubernetes node; whose keys count is the
//! caller's. Invariant: a declaration that was opened ends, and not before it begins.

use serde::{Deserialize, Serialize};

use crate::contradiction::Contradiction;
use crate::dsse::Envelope;
use crate::key::{KeyId, PublicKey, SigningKey};
use crate::moment::Moment;
use crate::signed::{self, Document, DocumentError};
use crate::text::Text;

/// Type of the payload of a declaration's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.hemicycle.declaration+json";
/// Type of the declaration itself.
pub const TYPE: &str = "https://hemicycle.dev/declaration/v1";

/// What an owner declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Declaration {
    /// Name of the Kubernetes node.
    pub kubernetes_node: Text,
    /// Its `spec.providerID`.
    pub provider_id: Text,
    /// Name of the `QualificationScope`.
    pub scope: Text,
    /// From when on it holds.
    pub issued_at: Moment,
    /// Until when.
    pub expires_at: Moment,
}

impl Document for Declaration {
    const PAYLOAD_TYPE: &'static str = PAYLOAD_TYPE;
    const TYPE: &'static str = TYPE;
}

impl Declaration {
    /// Signs the declaration.
    ///
    /// # Errors
    /// [`DocumentError`] when it ends before it begins or the key does not sign.
    pub fn sign(&self, key: &SigningKey) -> Result<Envelope, DocumentError> {
        self.check()?;
        signed::seal(self, key)
    }

    /// The declaration on a line that one of the `accepted` keys signed, and which of them.
    /// White space around the line is not looked at, since such lines live in annotations.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn open(line: &str, accepted: &[PublicKey]) -> Result<(Self, KeyId), DocumentError> {
        let envelope = Envelope::parse(line.trim().as_bytes())?;
        let declaration: Self = signed::open(&envelope, accepted)?;
        declaration.check()?;
        Ok((declaration, envelope.key_id()))
    }

    /// Whether it has begun and not ended at `now`.
    #[must_use]
    pub fn holds_at(&self, now: Moment) -> bool {
        (self.issued_at..self.expires_at).contains(&now)
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.issued_at < self.expires_at {
            return Ok(());
        }
        Err(DocumentError::Unsound(Contradiction::Validity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::hash::Sha256;
    use crate::key::tests::key;

    fn declaration() -> Declaration {
        let text = |text: &str| Text::new(text).unwrap();
        Declaration {
            kubernetes_node: text("worker-1"),
            provider_id: text("aws:///cloudgouv-eu-west-1a/i-1"),
            scope: text("gold"),
            issued_at: Moment::from_unix_ms(1_000),
            expires_at: Moment::from_unix_ms(2_000),
        }
    }

    #[test]
    fn a_declaration_opens_with_each_accepted_key_and_no_other() {
        let line = declaration().sign(&key(2)).unwrap().to_line();
        let accepted = [key(1).public_key(), key(2).public_key()];
        let (opened, by) = Declaration::open(&format!("{line}\n"), &accepted).unwrap();
        assert_eq!((opened, by), (declaration(), accepted[1].key_id()));
        assert!(Declaration::open(&line, &accepted[..1]).is_err());
    }

    #[test]
    fn a_declaration_begins_and_ends() {
        let holds = |ms| declaration().holds_at(Moment::from_unix_ms(ms));
        assert_eq!([999, 1_000, 1_999, 2_000].map(holds), [false, true, true, false]);
        let never = Declaration { expires_at: Moment::from_unix_ms(1_000), ..declaration() };
        assert!(never.sign(&key(1)).is_err());
    }

    #[test]
    fn another_document_is_no_declaration() {
        let checkpoint = Checkpoint {
            tenant: Text::new("a/b").unwrap(),
            first: 1,
            sequence: 0,
            records: 0,
            head: Sha256::NONE,
            epoch: 1,
            written_at: Moment::from_unix_ms(0),
            journal: None,
        };
        let line = checkpoint.seal(&key(1)).unwrap().to_line();
        assert!(Declaration::open(&line, &[key(1).public_key()]).is_err());
    }
}
