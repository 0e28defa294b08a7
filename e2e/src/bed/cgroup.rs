//! Cgroups of the bed: joining, listing and removing them, in every controller of the machine.
//!
//! Invariant: only cgroups below a path that the caller names are touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::process::Wait;

/// Mount points of all controllers; cgroup v1 has one for each.
pub(super) fn mounts() -> BTreeSet<PathBuf> {
    let table = fs::read_to_string("/proc/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (path, kind) = (words.nth(1)?, words.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| path.into())
        })
        .collect()
}

/// Moves the calling process into cgroup `path` of every controller.
///
/// # Errors
/// If a controller refuses.
pub(super) fn join(path: &Path) -> Result<()> {
    for root in mounts() {
        let own = root.join(path);
        fs::create_dir_all(&own).map_err(|source| Error::file("create", &own, source))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(&root, path, file)?;
        }
        let list = own.join("cgroup.procs");
        fs::write(&list, "0").map_err(|source| Error::file("enter", &list, source))?;
    }
    Ok(())
}

/// Leaves cgroup `path` only what processor time nobody else wants: the class of its own for that
/// where the kernel has one (since 5.15), the smallest share before.
///
/// # Errors
/// If the controller takes neither.
pub(super) fn yield_processor(path: &Path) -> Result<()> {
    let own = |root: PathBuf| root.join(path).join("cpu.shares");
    for shares in mounts().into_iter().map(own).filter(|file| file.exists()) {
        let idle = shares.with_file_name("cpu.idle");
        let (file, value) = if idle.exists() { (idle, "1") } else { (shares, "2") };
        fs::write(&file, value).map_err(|source| Error::file("write", &file, source))?;
    }
    Ok(())
}

/// A new cpuset of cgroup v1 is empty and takes no process: give each level what the root has.
fn inherit(root: &Path, path: &Path, file: &str) -> Result<()> {
    let Ok(all) = fs::read_to_string(root.join(file)) else {
        return Ok(());
    };
    let mut level = root.to_owned();
    for part in path {
        level.push(part);
        let here = level.join(file);
        if fs::read_to_string(&here).is_ok_and(|text| text.trim().is_empty()) {
            fs::write(&here, &all).map_err(|source| Error::file("write", &here, source))?;
        }
    }
    Ok(())
}

/// All processes in cgroup `path` and below, in any controller.
pub(super) fn processes(path: &Path) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for root in mounts() {
        for directory in below(&root.join(path)) {
            let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
    }
    found.remove(&0);
    found
}

/// Removes cgroup `path` and all below it, once their last processes are gone.
///
/// # Errors
/// If one still holds processes after ten seconds.
pub(super) fn remove(path: &Path) -> Result<()> {
    Wait::new(&format!("removal of cgroup {}", path.display()), 10).until(|| {
        let directories: Vec<_> =
            mounts().iter().flat_map(|root| below(&root.join(path))).collect();
        for directory in directories.iter().rev() {
            // One that is busy stays for the next round.
            let _ = fs::remove_dir(directory);
        }
        directories.iter().all(|directory| !directory.exists())
    })
}

/// `directory` and everything below it, parents first.
fn below(directory: &Path) -> Vec<PathBuf> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let mut found = vec![directory.to_owned()];
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.extend(below(&entry.path()));
    }
    found
}
