//! The meeting page: its packages from npm and its build, once. Needs the network, so before the
//! bed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bed::{Error, Result};
use crate::cache;
use crate::process::fetch;

/// Installs what page and drivers import, builds the page and returns its directory.
///
/// # Errors
/// If a package cannot be had or the page does not build.
pub fn build() -> Result<PathBuf> {
    let lock = cache::lock("page");
    let _held = lock.map_err(|source| Error::file("lock", &cache::directory(), source))?;
    let web = cache::checkout().join("e2e/web");
    let pinned = web.join("package-lock.json");
    let wanted = fs::read(&pinned).map_err(|source| Error::file("read", &pinned, source))?;
    let mark = web.join("node_modules/.hemicycle-lock");
    if !fs::read(&mark).is_ok_and(|made| made == wanted) {
        npm(&web, &["ci", "--no-audit", "--no-fund"])?;
        fs::write(&mark, wanted).map_err(|source| Error::file("write", &mark, source))?;
    }
    npm(&web, &["run", "build"])?;
    Ok(web.join("dist"))
}

fn npm(directory: &Path, line: &[&str]) -> Result<()> {
    fetch("npm", "the meeting page", Command::new("npm").args(line).current_dir(directory))
}
