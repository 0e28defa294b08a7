//! What stages share: the programs of the cluster, the images, a running bed. Each is made when the
//! first stage asks for it, programs and images once for the whole run; the bed is taken down at
//! the end.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, anyhow};

use super::Log;
use crate::bed::{self, Bed, Layout, Minor};
use crate::demo::{self, Venue};
use crate::{cache, images, install};

/// Kubernetes nodes of the bed: enough to lose one and still move rooms between two.
const NODES: u8 = 3;

/// Made once, or failed once: whoever asks meanwhile waits.
type Once<T> = OnceLock<Result<T, String>>;

/// What a run makes once for all of its lanes.
#[derive(Debug)]
struct Shared {
    minor: Minor,
    tools: Once<bed::Tools>,
    images: Once<Vec<PathBuf>>,
}

impl Shared {
    fn tools(&self) -> anyhow::Result<bed::Tools> {
        let build = || bed::Tools::ensure(self.minor, &|text| println!("({text})"));
        let built = self.tools.get_or_init(|| build().map_err(|error| error.to_string()));
        built.clone().map_err(|error| anyhow!("cannot build the programs of the cluster: {error}"))
    }

    fn images(&self, log: &Log) -> anyhow::Result<Vec<PathBuf>> {
        let build = || images::product(&|text| log.note(text));
        let built = self.images.get_or_init(|| build().map_err(|error| error.to_string()));
        built.clone().map_err(|error| anyhow!("cannot build the images: {error}"))
    }
}

/// What was made so far for the stages that run one after the other on one bed.
#[derive(Debug)]
pub(super) struct Surroundings {
    shared: Arc<Shared>,
    layout: Layout,
    bed: Option<Bed>,
    installed: bool,
    venue: Option<Venue>,
}

impl Surroundings {
    /// Those of a run whose beds have Kubernetes `minor`; nothing is made yet.
    pub(super) fn new(minor: Minor) -> Self {
        let shared = Shared { minor, tools: Once::new(), images: Once::new() };
        Self::of(Arc::new(shared), Layout::from_environment())
    }

    fn of(shared: Arc<Shared>, layout: Layout) -> Self {
        Self { shared, layout, bed: None, installed: false, venue: None }
    }

    /// Those of a lane of the run: what is made once is shared, the bed is its own to start.
    pub(super) fn same(&self) -> Self {
        Self::of(Arc::clone(&self.shared), self.layout.clone())
    }

    /// One for each further bed that the run may have at the same time.
    pub(super) fn further(&self) -> Vec<Self> {
        let layouts = self.layout.all_of_run().into_iter().skip(1);
        layouts.map(|layout| Self::of(Arc::clone(&self.shared), layout)).collect()
    }

    /// Begins to build the programs of the cluster beside the first stages.
    pub(super) fn begin_tools(&self) {
        let shared = Arc::clone(&self.shared);
        // Whoever asks for them hears how it ended.
        std::thread::spawn(move || shared.tools());
    }

    /// The programs of the cluster.
    pub(super) fn tools(&self) -> anyhow::Result<bed::Tools> {
        self.shared.tools()
    }

    /// The product's images.
    pub(super) fn images(&self, log: &Log) -> anyhow::Result<Vec<PathBuf>> {
        self.shared.images(log)
    }

    /// The bed: a bare cluster.
    pub(super) fn bed(&mut self, log: &Log) -> anyhow::Result<&Bed> {
        if self.bed.is_none() {
            let bed = Bed::new(self.layout.clone(), self.tools()?);
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

    /// A fresh bed with one Kubernetes node and nothing but the operator on it. What earlier stages
    /// had goes.
    pub(super) fn operator_alone(&mut self, log: &Log) -> anyhow::Result<&Bed> {
        let images = self.images(log)?;
        let operator = images.iter().find(|archive| archive.ends_with("operator.tar"));
        let operator = operator.context("there is no image of the operator")?;
        self.take_down()?;
        let bed = Bed::new(self.layout.clone(), self.tools()?);
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
