//! Where built programs, images and packages are kept between runs. Decides the paths; builds
//! nothing.
//!
//! Invariant: what lies here can be removed at any time and is made again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `$HEMICYCLE_CACHE`, by default `~/.cache/hemicycle`; outside the checkout, so that a fresh
/// clone finds it.
#[must_use]
pub fn directory() -> PathBuf {
    let named = std::env::var_os("HEMICYCLE_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    named.unwrap_or_else(|| home().join(".cache/hemicycle"))
}

/// The repository that this crate was built from.
#[must_use]
pub fn checkout() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| own.clone(), Into::into)
}

/// An empty directory of this process called `name`; those of processes that are gone are removed.
///
/// # Errors
/// If the cache cannot be written.
pub fn scratch(name: &str) -> io::Result<PathBuf> {
    let all = directory().join("scratch");
    fs::create_dir_all(&all)?;
    for entry in fs::read_dir(&all)? {
        let entry = entry?;
        let owner = entry.file_name().to_string_lossy().rsplit('-').next().map(str::to_owned);
        if !owner.is_some_and(|pid| Path::new("/proc").join(pid).exists()) {
            // What stays costs only disk.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let own = all.join(format!("{name}-{}", std::process::id()));
    if own.exists() {
        fs::remove_dir_all(&own)?;
    }
    fs::create_dir(&own)?;
    Ok(own)
}

/// Held while one process makes what is called `name`; the others wait. Let go when dropped.
///
/// # Errors
/// If the cache cannot be written.
pub fn lock(name: &str) -> io::Result<fs::File> {
    let directory = directory().join("locks");
    fs::create_dir_all(&directory)?;
    let file = fs::File::create(directory.join(name))?;
    file.lock()?;
    Ok(file)
}
