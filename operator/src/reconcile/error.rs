//! Why a reconcile failed: one variant for each act. Sorts failures into bad objects, which wait
//! for a change, and bad moments, which are tried again with a growing pause.

use std::time::Duration;

use crate::{
    admission::{AdmissionError, attested::AttestedError, namespace::NamespaceError},
    pki::{store::StoreError, trust::TrustError},
};

/// First pause after a failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Longest pause: an operator that was cut off is back at work a minute after the cut at the
/// latest.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Longest pause after a refusal: nothing wakes us when a quota is raised, and whoever raised it
/// looks for the effect.
const REFUSED_MAX: Duration = Duration::from_secs(8);
/// Pause after a bad object: it changes nothing until its owner changes it, which wakes us anyway.
const BAD_OBJECT: Duration = Duration::from_mins(5);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The resource cannot be decoded.
    #[error("the MeetingCluster cannot be read: {0}")]
    Undecodable(String),
    /// Something could not be read.
    #[error("{what} could not be read")]
    Read {
        /// What was read.
        what: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// Something could not be written.
    #[error("could not {act}")]
    Write {
        /// What was tried, such as `create Pod visio-3`.
        act: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// An object of the name exists and belongs to somebody else.
    #[error("{object} exists and is not ours; delete or rename it")]
    Foreign {
        /// Kind and name.
        object: String,
    },
    /// The internal PKI failed.
    #[error(transparent)]
    Secrets(#[from] StoreError),
    /// The internal PKI's material is unusable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Leadership ended meanwhile; nothing more is written.
    #[error("this replica leads no more")]
    NotLeading,
}

impl From<AdmissionError> for ReconcileError {
    /// Reads and writes like all others: a namespace that ends, or a refusal, is told alike.
    fn from(error: AdmissionError) -> Self {
        let told = error.to_string();
        match error {
            AdmissionError::Attested(AttestedError::Read { source, .. })
            | AdmissionError::Namespace(NamespaceError::Read { source, .. }) => {
                Self::Read { what: told, source }
            }
            AdmissionError::Attested(
                AttestedError::Write { source, .. } | AttestedError::Remove { source, .. },
            )
            | AdmissionError::Namespace(NamespaceError::Write { source, .. }) => {
                let act = told.strip_prefix("could not ").unwrap_or(&told).to_owned();
                Self::Write { act, source }
            }
        }
    }
}

impl ReconcileError {
    /// The metric label, and the reason of the Event.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "Undecodable",
            Self::Read { .. } => "ReadFailed",
            Self::Write { source, .. } if is_conflict(source) => "Conflict",
            Self::Write { source, .. } if is_refusal(source) => "Refused",
            Self::Write { .. } => "WriteFailed",
            Self::Foreign { .. } => "ForeignObject",
            Self::Secrets(_) => "Secrets",
            Self::Trust(_) => "Trust",
            Self::NotLeading => "NotLeading",
        }
    }

    /// How long to wait after the `failures`-th failure in a row.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let longest = if self.refusal().is_some() { REFUSED_MAX } else { BACKOFF_MAX };
        match self {
            Self::Undecodable(_) => BAD_OBJECT,
            _ => BACKOFF_FIRST
                .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
                .min(longest),
        }
    }

    /// What the API server refused, in its own words, when it is something that a person can mend.
    #[must_use]
    pub fn refusal(&self) -> Option<(String, String)> {
        match self {
            Self::Write { act, source: source @ kube::Error::Api(status) }
                if is_refusal(source) =>
            {
                Some((act.clone(), status.message.clone()))
            }
            Self::Secrets(StoreError::Api { name, source: source @ kube::Error::Api(status) })
                if is_refusal(source) =>
            {
                Some((format!("write Secret {name}"), status.message.clone()))
            }
            Self::Secrets(StoreError::Damaged { name }) => {
                Some((format!("go on with Secret {name}"), self.to_string()))
            }
            Self::Foreign { object } => Some((format!("write {object}"), self.to_string())),
            _ => None,
        }
    }
}

/// The object changed since it was read: the next reconcile sees why.
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Quota, admission or validation said no.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let error = ReconcileError::NotLeading;
        assert_eq!(error.pause(1), Duration::from_millis(500));
        assert_eq!(error.pause(4), Duration::from_secs(4));
        assert_eq!(error.pause(400), BACKOFF_MAX);
        let foreign = ReconcileError::Foreign { object: "Pod visio-1".into() };
        assert_eq!(foreign.pause(400), REFUSED_MAX, "a person who mends it waits for the effect");
    }
}
