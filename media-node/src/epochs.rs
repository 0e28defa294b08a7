//! Keeps the highest epoch over a restart of the process: a small file in a directory that lives as
//! long as the pod, and a floor that the pod was made with.
//!
//! Decides nothing about epochs. Invariants: an epoch is on disk before anything is done under it;
//! the file never falls back; a file that cannot be read starts no media node, since a process that
//! forgot would obey a leader that has been succeeded.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;

use crate::config::Config;

/// Name of the file in the state directory.
const FILE: &str = "epoch";

/// Why the highest epoch is not known or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    #[error("state_directory: cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("state_directory: {path} holds no number; delete the pod, not the file")]
    Content { path: PathBuf },
    #[error("state_directory: cannot write {path}; no command of a new leader is obeyed")]
    Write { path: PathBuf, source: io::Error },
}

/// The highest epoch on disk.
#[derive(Debug)]
pub struct Epochs {
    directory: Option<PathBuf>,
    kept: Mutex<u64>,
}

impl Epochs {
    /// Reads what an earlier process kept; returns it with the floor.
    ///
    /// # Errors
    /// When there is a file that does not say.
    pub fn load(config: &Config) -> Result<(Self, u64), EpochError> {
        let kept = match &config.state_directory {
            Some(directory) => read(&directory.join(FILE))?,
            None => 0,
        };
        let epochs = Self { directory: config.state_directory.clone(), kept: Mutex::new(kept) };
        Ok((epochs, kept.max(config.epoch_floor)))
    }

    /// Has `epoch` on disk before it returns, unless a higher one is there.
    ///
    /// # Errors
    /// When it cannot be written: then nothing may be done under it.
    pub async fn keep(&self, epoch: u64) -> Result<(), EpochError> {
        let Some(directory) = self.directory.clone() else {
            return Ok(());
        };
        let mut kept = self.kept.lock().await;
        if epoch <= *kept {
            return Ok(());
        }
        let path = directory.join(FILE);
        // Once in a leader's term; the disk may take its time.
        let written = tokio::task::spawn_blocking(move || write(&directory, epoch)).await;
        match written {
            Ok(Ok(())) => *kept = epoch,
            Ok(Err(source)) => return Err(EpochError::Write { path, source }),
            Err(ended) => return Err(EpochError::Write { path, source: io::Error::other(ended) }),
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<u64, EpochError> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| EpochError::Content { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(source) => Err(EpochError::Read { path: path.to_owned(), source }),
    }
}

/// Whole or not at all, whatever happens meanwhile.
fn write(directory: &Path, epoch: u64) -> io::Result<()> {
    let fresh = directory.join("epoch.new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{epoch}")?;
    file.sync_all()?;
    fs::rename(fresh, directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(directory: &Path, kept: u64) -> Epochs {
        Epochs { directory: Some(directory.to_owned()), kept: Mutex::new(kept) }
    }

    #[tokio::test]
    async fn what_was_kept_is_read_again_and_never_falls() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(read(&path).unwrap(), 0, "a first start");
        let kept = epochs(directory.path(), 0);
        kept.keep(7).await.unwrap();
        kept.keep(5).await.unwrap();
        assert_eq!(read(&path).unwrap(), 7);
    }

    #[tokio::test]
    async fn a_file_that_does_not_say_or_cannot_be_written_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, "").unwrap();
        assert!(matches!(read(&path), Err(EpochError::Content { .. })));
        let away = directory.path().join("away");
        assert!(matches!(epochs(&away, 0).keep(1).await, Err(EpochError::Write { .. })));
    }
}
