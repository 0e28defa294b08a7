//! What several stages share: the programs of the cluster, the images, the running bed. Each is
//! made when the first stage asks for it; the bed is taken down at the end.

use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow};

use super::Log;
use crate::bed::{self, Bed, Layout, Minor};
use crate::demo::{self, Venue};
use crate::{cache, images, install};

/// Kubernetes nodes of the bed: enough to lose one and still move rooms between two.
const NODES: u8 = 3;

/// What was made so far.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    building: Option<JoinHandle<bed::Result<bed::Tools>>>,
    tools: Option<bed::Tools>,
    images: Option<Vec<PathBuf>>,
    bed: Option<Bed>,
    installed: bool,
    venue: Option<Venue>,
}

impl Surroundings {
    /// Begins to build the programs of the cluster beside the first stages.
    pub(super) fn begin_tools(&mut self) {
        let build = || bed::Tools::ensure(Minor::V1_37, &|text| println!("({text})"));
        self.building = Some(std::thread::spawn(build));
    }

    /// The programs of the cluster.
    pub(super) fn tools(&mut self) -> anyhow::Result<bed::Tools> {
        if let Some(building) = self.building.take() {
            let built = building.join().map_err(|_| anyhow!("building the programs crashed"))?;
            self.tools = Some(built.context("cannot build the programs of the cluster")?);
        }
        self.tools.clone().context("the programs of the cluster could not be built")
    }

    /// The product's images.
    pub(super) fn images(&mut self, log: &Log) -> anyhow::Result<Vec<PathBuf>> {
        if self.images.is_none() {
            let built = images::product(&|text| log.note(text));
            self.images = Some(built?);
        }
        self.images.clone().context("the images could not be built")
    }

    /// The bed: a bare cluster.
    pub(super) fn bed(&mut self, log: &Log) -> anyhow::Result<&Bed> {
        if self.bed.is_none() {
            let bed = Bed::new(Layout::from_environment(), self.tools()?);
            bed.up(NODES, &|text| log.note(text))?;
            self.bed = Some(bed);
        }
        self.bed.as_ref().context("the bed could not be started")
    }

    /// The bed with the product installed.
    pub(super) fn installed(&mut self, log: &Log) -> anyhow::Result<&Bed> {
        if !self.installed {
            let images = self.images(log)?;
            let bed = self.bed(log)?;
            demo::install_all(bed, &images, &|text| log.note(text))?;
            self.installed = true;
        }
        self.bed(log)
    }

    /// The bed with the sample meeting cluster on it.
    pub(super) fn venue(&mut self, log: &Log) -> anyhow::Result<(&Bed, &Venue)> {
        self.installed(log)?;
        if self.venue.is_none() {
            self.venue = Some(Venue::open(self.bed(log)?, &|text| log.note(text))?);
        }
        let both = self.bed.as_ref().zip(self.venue.as_ref());
        both.context("the sample meeting cluster could not be opened")
    }

    /// Removes the sample meeting cluster, whose media nodes hold the host ports.
    pub(super) fn close_venue(&mut self) -> anyhow::Result<()> {
        if let (Some(venue), Some(bed)) = (self.venue.take(), &self.bed) {
            venue.close(bed)?;
        }
        Ok(())
    }

    /// A fresh bed with one Kubernetes node and nothing but the operator on it. What earlier stages
    /// had goes.
    pub(super) fn operator_alone(&mut self, log: &Log) -> anyhow::Result<&Bed> {
        let images = self.images(log)?;
        let operator = images.iter().find(|archive| archive.ends_with("operator.tar"));
        let operator = operator.context("there is no image of the operator")?;
        self.take_down()?;
        let bed = Bed::new(Layout::from_environment(), self.tools()?);
        bed.up(1, &|text| log.note(text))?;
        let bed = &*self.bed.insert(bed);
        demo::load(bed, std::slice::from_ref(operator))?;
        install::charts(bed, &images, &|text| log.note(text))?;
        Ok(bed)
    }

    /// Takes the bed down, and with it what is on it; the next stage that wants one gets another.
    pub(super) fn take_down(&mut self) -> anyhow::Result<()> {
        (self.installed, self.venue) = (false, None);
        self.bed.take().map_or(Ok(()), |bed| bed.down()).context("cannot take the bed down")
    }
}

/// `cargo` with `line` for the whole workspace. Always for all of it with the same features, so
/// that no crate is compiled a second time with others.
pub(super) fn cargo_all(line: &str) -> Command {
    let mut command = cargo(line);
    command.args(["--workspace", "--features", "e2e/bed,e2e/placement"]);
    command
}

/// `cargo` in the checkout.
pub(super) fn cargo(line: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(line.split_whitespace())
        .current_dir(cache::checkout())
        // The line that failed is told by the message; the stack only buries it.
        .env("RUST_BACKTRACE", "0");
    command
}
