//! Everything that can go wrong in the bed, said so that a person knows what to do. Decides
//! nothing.

use std::io;
use std::path::{Path, PathBuf};

/// An act of the bed that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine lacks or refuses something.
    #[error("{what}: {remedy}")]
    Machine {
        /// What, where, with figures.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No bed runs in this state directory.
    #[error("no test bed is up in {}; start one with `testbed up`", state.display())]
    NotUp {
        /// The state directory looked at.
        state: PathBuf,
    },
    /// A file could not be handled.
    #[error("cannot {act} {}: {source}", path.display())]
    File {
        /// The verb.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// The whole command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// A condition was not met in time.
    #[error("{what} did not come about within {seconds} s{hint}")]
    NotInTime {
        /// The condition.
        what: String,
        /// How long we waited.
        seconds: u64,
        /// Where to look, and the last lines from there.
        hint: String,
    },
    /// A certificate could not be made.
    #[error("cannot make certificate {name}: {source}")]
    Certificate {
        /// Its file name without ending.
        name: String,
        /// The library's reason.
        source: rcgen::Error,
    },
    /// A thread of ours panicked.
    #[error("{what} crashed")]
    Crashed {
        /// What it did.
        what: &'static str,
    },
    /// The user named something that does not exist.
    #[error("{name} is unknown; known: {known}")]
    Unknown {
        /// What was named.
        name: String,
        /// What could have been.
        known: String,
    },
}

impl Error {
    /// A [`Error::File`].
    pub(crate) fn file(act: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { act, path: path.to_owned(), source }
    }
}
