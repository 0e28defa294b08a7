//! The stage of the fuzz targets: builds them with coverage counters and runs each for a bounded
//! time, one on each processor, from the seeds in the repository and what earlier runs found.
//!
//! Decides how long. Invariant: what a crash was found by is kept in the cache, and its path told.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, ensure};

use super::beside::{Pile, share};
use super::surroundings::{Surroundings, cargo};
use super::{Count, Log};
use crate::cache;

/// Seconds for each target: sixteen of them stay within a minute and a half on two processors.
const SECONDS: u32 = 10;
/// Longest input in bytes: seeds are a third of it, and longer ones are slower than they are worth.
const INPUT_BYTES_MAX: u32 = 12_288;
/// One input may take so long, in seconds, on a machine that is busy.
const INPUT_SECONDS_MAX: u32 = 20;
/// Inputs that a target keeps between runs; beyond them it begins from the seeds again.
const KEPT_MAX: usize = 4_000;

/// Every target that has seeds.
pub(super) fn all(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let crate_directory = cache::checkout().join("e2e/fuzz");
    let built = cache::directory().join("target-fuzz");
    log.run(
        cargo("build --release")
            .current_dir(&crate_directory)
            .env("CARGO_TARGET_DIR", &built)
            // The flags are the crate's own.
            .env_remove("RUSTFLAGS"),
    )?;
    let program = built.join("x86_64-unknown-linux-gnu/release/fuzz");
    let seeds = crate_directory.join("corpus");
    let mut targets = Vec::new();
    for entry in fs::read_dir(seeds).context("there are no seeds")? {
        targets.push(entry?.path());
    }
    targets.sort();
    let count = targets.len() as u64;
    let mut processors = vec![(); thread::available_parallelism().map_or(1, NonZero::get)];
    share(log, &mut processors, targets, |(), part, unrun| run_some(&program, part, unrun))?;
    Ok(Count { passed: count, failed: 0 })
}

/// Runs targets as long as there are some that nobody has run.
fn run_some(program: &Path, log: &Log, unrun: &Pile<PathBuf>) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    while let Some(seeds) = unrun.next() {
        if let Err(error) = run(program, &seeds, log) {
            failed.push(format!("{}: {error:#}", seeds.display()));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// The target that `seeds` is named after.
fn run(program: &Path, seeds: &Path, log: &Log) -> anyhow::Result<()> {
    let target = seeds.file_name().unwrap_or_default().to_string_lossy();
    let kept = cache::directory().join("fuzz").join(&*target);
    if fs::read_dir(&kept).is_ok_and(|entries| entries.count() > KEPT_MAX) {
        fs::remove_dir_all(&kept).context("cannot begin from the seeds again")?;
    }
    fs::create_dir_all(&kept).context("cannot make the directory of inputs")?;
    let findings = cache::directory().join(format!("fuzz/finding-{target}-"));
    let ran = log.run(
        Command::new(program)
            .env("HEMICYCLE_FUZZ_TARGET", &*target)
            .arg(format!("-max_total_time={SECONDS}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg("-rss_limit_mb=2048")
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}", findings.display()))
            .arg(&kept)
            .arg(seeds),
    );
    ran.with_context(|| format!("the input is kept as {}*", findings.display()))
}
