//! Text that is bounded and harmless to print: names, references and reasons.
//!
//! Decides what may stand in a signed statement or the journal as free text. Invariant: a
//! [`Text`] has 1 to [`Text::BYTES_MAX`] bytes and no control or direction character, so that
//! printing one can neither move a terminal's cursor nor turn a line around.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bounded, printable text on one line. It never holds the name of a room or a participant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

/// A text that may not stand in a statement.
#[derive(Debug, Error)]
pub enum NotAText {
    /// It is empty or too long.
    #[error("a text has 1 to {max} bytes, this one has {length}", max = Text::BYTES_MAX)]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// It holds a character that changes how a terminal shows what stands around it.
    #[error("a text holds no control or direction character, this one has U+{0:04X}")]
    Character(u32),
}

impl Text {
    /// An image reference with its digest is the longest text; Kubernetes' names have 253 bytes.
    pub const BYTES_MAX: usize = 512;

    /// Accepts a bounded, printable text.
    ///
    /// # Errors
    /// [`NotAText`] says what is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self, NotAText> {
        let text = text.into();
        if text.is_empty() || text.len() > Self::BYTES_MAX {
            return Err(NotAText::Length { length: text.len() });
        }
        match text.chars().find(|c| c.is_control() || turns_around(*c)) {
            Some(found) => Err(NotAText::Character(found.into())),
            None => Ok(Self(text)),
        }
    }

    /// What is left of any text once it is cut and cleaned; `?` when that is nothing. For words
    /// that come from elsewhere and must not keep a record from being written.
    #[must_use]
    pub fn lossy(text: &str) -> Self {
        let mut kept = String::new();
        for c in text.chars() {
            let c = if c.is_control() || turns_around(c) { '?' } else { c };
            if kept.len() + c.len_utf8() > Self::BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        if kept.is_empty() {
            kept.push('?');
        }
        Self(kept)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Line and paragraph separators, and marks, embeddings, overrides and isolates of direction
/// (Unicode UAX 9).
fn turns_around(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Text {
    type Error = NotAText;

    fn try_from(text: String) -> Result<Self, NotAText> {
        Self::new(text)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_write_over_what_stands_before_it() {
        for bad in ["", "a\nb", "\u{1b}[2Jgone", "a\u{202e}b", &"x".repeat(Text::BYTES_MAX + 1)] {
            assert!(Text::new(bad).is_err(), "{bad:?}");
            assert!(Text::new(Text::lossy(bad).as_str()).is_ok(), "{bad:?}");
        }
        assert_eq!(Text::lossy("région\n").as_str(), "région?");
    }
}
