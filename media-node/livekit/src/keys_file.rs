//! The keys file: a YAML map of API key to secret, as in LiveKit's configuration.
//!
//! Decides whether its text is a ring of keys. Invariant: no error text repeats a secret, so
//! errors of the YAML parser, which quote the file, are reduced to a line number.

use std::collections::BTreeMap;

use crate::token::{ApiKey, KeyError, KeyRing, Strength};

/// Longest keys file, in bytes: [`crate::token::KEYS_MAX`] keys with room to spare.
pub const KEYS_FILE_BYTES_MAX: usize = 64 * 1024;

/// Why a keys file is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysFileError {
    /// Longer than [`KEYS_FILE_BYTES_MAX`].
    #[error("keys file of {0} bytes is longer than {KEYS_FILE_BYTES_MAX}")]
    TooLong(usize),
    /// Not a map of text to text.
    #[error("keys file is not a YAML map of API key to secret{}", at_line(*.line))]
    Yaml {
        /// Where, if the parser knows; the first line is 1.
        line: Option<u64>,
    },
    /// The keys themselves.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

fn at_line(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(" (line {line})"))
}

/// Reads a keys file.
///
/// # Errors
/// When it is too long, is not such a map, or its keys are refused.
pub fn parse(text: &str, strength: Strength) -> Result<KeyRing, KeysFileError> {
    if text.len() > KEYS_FILE_BYTES_MAX {
        return Err(KeysFileError::TooLong(text.len()));
    }
    if text.trim().is_empty() {
        return Err(KeyError::None.into());
    }
    let entries: BTreeMap<String, String> = serde_saphyr::from_str(text)
        .map_err(|error| KeysFileError::Yaml { line: error.location().map(|at| at.line()) })?;
    let keys = entries.into_iter().map(|(id, secret)| ApiKey::new(id, secret.trim()));
    Ok(KeyRing::new(keys, strength)?)
}
