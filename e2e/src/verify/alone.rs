//! The stages that need no cluster: one media node alone, real browsers and LiveKit's SDKs.
//!
//! Decides what must be shown; the drivers measure it. Invariant: the media node is the binary
//! that goes into the image.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::surroundings::Surroundings;
use super::{Count, Log};
use crate::{cache, cast, images, page};

/// Rooms of the Go SDK: what it is told besides the server.
const LOADS: [&[&str]; 3] =
    [&["--case", "audio"], &["--case", "video"], &["--case", "video", "--codec", "h264"]];

/// Pairs of browsers do everything that a meeting must do.
pub(super) fn scenario(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    page::build()?;
    let pictures = cache::directory().join("verify/scenario");
    // Those of the run before; the driver makes the directory.
    let _ = fs::remove_dir_all(&pictures);
    let mut command = Command::new("node");
    command.current_dir(web()).arg("drive/scenario.mjs").arg("--media-node").arg(media_node()?);
    let home = cache::scratch("scenario-home").context("cannot make a home directory")?;
    log.run(command.arg("--out").arg(pictures).env("HOME", &home))?;
    let left: Vec<_> = fs::read_dir(&home)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty(), "browsers left in the home directory: {left:?}");
    fs::remove_dir(home)?;
    Ok(log.count())
}

/// LiveKit's Go SDK under load, and two programs of its Python SDK.
pub(super) fn sdks(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    page::build()?;
    let media_node = media_node()?;
    let go = cast::go_program()?;
    let alone = || {
        let mut command = Command::new("node");
        command.current_dir(web()).arg("drive/alone.mjs").arg(&media_node);
        command
    };
    for load in LOADS {
        log.run(alone().arg(&go).args(["load", "--dev", "{dev}"]).args(load))?;
    }
    let python = cast::python_packages()?.join("bin/python");
    let exchange = cast::sdk_directory().join("python/exchange.py");
    log.run(alone().arg(python).arg(exchange).args(["--dev", "{dev}"]))?;
    Ok(log.count().plus(Count { passed: LOADS.len() as u64, failed: 0 }))
}

/// A room of 50 on a network of its own: every track arrives and next to nothing is lost.
pub(super) fn room(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let media_node = media_node()?;
    let load = images::load_generator().context("cannot build the load generator")?;
    let mut command = Command::new(load);
    command.args(["--bench", "--check", "--case", "room", "--warm-up", "5", "--duration", "5"]);
    log.run(command.arg("--media-node").arg(media_node))?;
    Ok(Count::ONE)
}

fn web() -> PathBuf {
    cache::checkout().join("e2e/web")
}

fn media_node() -> anyhow::Result<PathBuf> {
    Ok(images::binaries()?.join("media-node"))
}
