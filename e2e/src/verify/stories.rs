//! The stage of the live tests: their stories, told on several beds at once. One story at a time
//! has a bed for itself, and with it whatever it breaks there.
//!
//! Decides which bed tells what and when. Invariant: every story is told once, or the stage fails.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::beside::{Pile, share};
use super::stages::{bed_tests, run_in};
use super::surroundings::Surroundings;
use super::{Count, Log};
use crate::story;

/// A story: a test, and the program that it is in.
#[derive(Debug)]
struct Story {
    program: PathBuf,
    name: String,
}

/// All of them.
pub(super) fn all(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let mut stories = Vec::new();
    for program in bed_tests(log, "live_")? {
        stories.extend(stories_of(&program)?);
    }
    let count = stories.len() as u64;
    share(log, &mut surroundings.further(), stories, tell_on)?;
    let told = log.count();
    ensure!(told.passed + told.failed == count, "{told:?} are not the {count} stories there are");
    Ok(told)
}

/// Tells stories on one bed as long as there are untold ones, and takes it down.
fn tell_on(own: &mut Surroundings, log: &Log, untold: &Pile<Story>) -> anyhow::Result<()> {
    let told = tell_some(own, log, untold);
    own.take_down()?;
    told
}

fn tell_some(own: &mut Surroundings, log: &Log, untold: &Pile<Story>) -> anyhow::Result<()> {
    let bed = own.installed(log)?;
    let mut failed = Vec::new();
    while let Some(story) = untold.next() {
        if run_in(bed, log, &story.program, &["--exact", &story.name]).is_err() {
            failed.push(story.name);
        }
    }
    let cleared = story::nothing_left(bed);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    cleared
}

/// What a test program says that it holds, as in `people_meet: test`.
fn stories_of(program: &Path) -> anyhow::Result<Vec<Story>> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = said.lines().filter_map(|line| line.strip_suffix(": test"));
    let story = |name: &str| Story { program: program.to_owned(), name: name.to_owned() };
    let stories: Vec<_> = names.map(story).collect();
    ensure!(!stories.is_empty(), "{} holds no story: {said}", program.display());
    Ok(stories)
}
