//! Values that must not reach a log: names, identities, addresses, tokens, secrets.
//!
//! Invariant: no formatting of a [`Private`] shows what it holds; only [`Private::expose`] does,
//! so that every place which does so can be found by its name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a private value prints as.
const REDACTED: &str = "‹redacted›";

/// A value that prints as `‹redacted›`. It serialises as itself, because messages carry it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Private<T>(T);

impl<T> Private<T> {
    /// Marks `value` as private.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Whoever calls this keeps it out of logs, metrics and error texts.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself, owned; see [`Private::expose`].
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Private<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> fmt::Display for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_through_formatting() {
        let name = Private::new("Simone Veil".to_owned());
        assert_eq!(
            format!("{name} {name:?} {:?}", Some(&name)),
            "‹redacted› ‹redacted› Some(‹redacted›)"
        );
        assert_eq!(name.expose(), "Simone Veil");
    }
}
