//! A chain on a volume: one file a record, created and never written over, and one checkpoint that
//! is replaced whole. Any number of operator replicas may have the volume. Decides nothing.
//! Invariant: a record appears under its name with all its bytes on the disk, or not at all; where
//! the name is taken, nothing is written.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hemicycle_proof::{
    Moment, PublicKey, Sha256, SigningKey, Text,
    chain::{CHECKPOINT_FILE, Chain, ChainError, RECORDS_DIRECTORY, record_file_name},
    statement::Observed,
};

/// Why a chain was not taken up or continued.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The volume failed.
    #[error("{} cannot be {act}: look at the volume", path.display())]
    Volume {
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A record of that number is there already.
    #[error("record {0} is there already: another leader has written")]
    Taken(u64),
    /// What is there cannot be continued.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// The store of a meeting cluster, `namespace/name`.
    pub(super) fn of(root: &Path, tenant: &str) -> Self {
        Self { directory: root.join("proof").join(tenant) }
    }

    /// Takes up the chain that is there, or begins one.
    pub(super) fn resume(&self, tenant: Text, key: &PublicKey) -> Result<Chain, StoreError> {
        let records = self.directory.join(RECORDS_DIRECTORY);
        fs::create_dir_all(&records).map_err(failed("made", &records))?;
        let mut last: Option<PathBuf> = None;
        for entry in fs::read_dir(&records).map_err(failed("read", &records))? {
            let path = entry.map_err(failed("read", &records))?.path();
            let is_record = path.extension().is_some_and(|extension| extension == "json");
            if is_record && last.as_ref().is_none_or(|last| *last < path) {
                last = Some(path);
            }
        }
        let last = last.map(|path| read(&path)).transpose()?.flatten();
        let checkpoint = read(&self.directory.join(CHECKPOINT_FILE))?;
        Ok(Chain::resume(tenant, last.as_deref(), checkpoint.as_deref(), key)?)
    }

    /// Adds a record; the chain that holds then.
    pub(super) fn append(
        &self,
        chain: &Chain,
        observed: Observed,
        epoch: u64,
        key: &SigningKey,
    ) -> Result<Chain, StoreError> {
        let (line, grown) = chain.append(observed, epoch, key)?;
        let records = self.directory.join(RECORDS_DIRECTORY);
        let path = records.join(record_file_name(grown.sequence()));
        let draft = records.join(format!(".{epoch}.draft"));
        self.put(&draft, &line)?;
        let linked = fs::hard_link(&draft, &path);
        let removed = fs::remove_file(&draft);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Taken(grown.sequence()));
            }
            Err(error) => return Err(failed("written", &path)(error)),
        }
        removed.map_err(failed("removed", &draft))?;
        sync(&records)?;
        Ok(grown)
    }

    /// Replaces the checkpoint.
    pub(super) fn checkpoint(
        &self,
        chain: &Chain,
        epoch: u64,
        now: Moment,
        journal: Option<Sha256>,
        key: &SigningKey,
    ) -> Result<(), StoreError> {
        let line = chain.checkpoint(epoch, now, journal, key)?;
        let draft = self.directory.join(format!(".{epoch}.checkpoint"));
        let path = self.directory.join(CHECKPOINT_FILE);
        self.put(&draft, &line)?;
        fs::rename(&draft, &path).map_err(failed("written", &path))?;
        sync(&self.directory)
    }

    fn put(&self, path: &Path, line: &str) -> Result<(), StoreError> {
        let mut file = File::create(path).map_err(failed("made", path))?;
        file.write_all(line.as_bytes()).map_err(failed("written", path))?;
        file.sync_all().map_err(failed("written", path))
    }
}

fn sync(directory: &Path) -> Result<(), StoreError> {
    let opened = File::open(directory).and_then(|it| it.sync_all());
    opened.map_err(failed("written", directory))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Volume { act, path, source }
}
