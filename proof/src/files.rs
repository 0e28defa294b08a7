//! The files of the program: read within bounds, written without overwriting.
//!
//! Decides nothing but what of a store goes into a bundle: the records up to the one that the
//! checkpoint names, since the operator may write on while we read.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hemicycle_proof::bundle::BUNDLE_BYTES_MAX;
use hemicycle_proof::chain::{CHECKPOINT_FILE, RECORDS_DIRECTORY};
use hemicycle_proof::checkpoint::Checkpoint;
use hemicycle_proof::dsse::LINE_BYTES_MAX;
use hemicycle_proof::key::KEY_FILE_BYTES_MAX;
use hemicycle_proof::{PublicKey, Sha256};

use crate::at;

/// Who may read a file that is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone.
    Owner,
    /// Everyone.
    All,
}

/// All of a file, or of standard input for `-`, up to `max` bytes.
pub(crate) fn bytes(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let mut read = Vec::new();
    let limit = max as u64 + 1;
    let done = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut read)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut read))
    };
    done.map_err(|error| at(path, error))?;
    if read.len() > max {
        return Err(at(path, format!("more than {max} bytes are not read")));
    }
    Ok(read)
}

/// A short text.
pub(crate) fn text(path: &Path) -> Result<String, String> {
    let read = bytes(path, KEY_FILE_BYTES_MAX)?;
    String::from_utf8(read).map_err(|_| at(path, "this is not text"))
}

/// A public key.
pub(crate) fn public_key(path: &Path) -> Result<PublicKey, String> {
    PublicKey::parse(&text(path)?).map_err(|error| at(path, error))
}

/// Writes a file that did not exist.
pub(crate) fn create(path: &Path, text: &str, readers: Readers) -> Result<(), String> {
    let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| at(path, error))
}

/// The store in `directory` as a bundle.
pub(crate) fn bundle(directory: &Path) -> Result<Vec<u8>, String> {
    let path = directory.join(CHECKPOINT_FILE);
    // Before the records: whatever is written from now on does not belong to it.
    let checkpoint = bytes(&path, LINE_BYTES_MAX + 1)?;
    let checkpoint = checkpoint.strip_suffix(b"\n").unwrap_or(&checkpoint);
    let counted = Checkpoint::read_unverified(checkpoint).map_err(|error| at(&path, error))?;
    let mut bundle = Vec::new();
    let mut ended = counted.records == 0;
    for path in record_files(&directory.join(RECORDS_DIRECTORY))? {
        if ended {
            break;
        }
        let left = BUNDLE_BYTES_MAX.saturating_sub(bundle.len());
        let lines = bytes(&path, left)?;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            bundle.extend_from_slice(line);
            bundle.push(b'\n');
            ended = Sha256::of(line) == counted.head;
            if ended {
                break;
            }
        }
    }
    if !ended {
        // Not ours to hide: the bundle shows it to whoever verifies it.
        eprintln!("hemicycle-proof: the record that the checkpoint names as the last is missing");
    }
    bundle.extend_from_slice(checkpoint);
    bundle.push(b'\n');
    Ok(bundle)
}

/// The files of records in the order of their names, which is that of the chain.
fn record_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| at(directory, error))? {
        let path = entry.map_err(|error| at(directory, error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
