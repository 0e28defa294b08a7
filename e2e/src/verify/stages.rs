//! The stages of `verify`, in their order: cheap ones first, so that a slip is seen early.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::surroundings::{Surroundings, cargo};
use super::{Count, Log, Stage, Tools};
use crate::bed::Bed;
use crate::cache;

/// Version of the licence checker, pinned because its rules change with it.
const DENY_VERSION: &str = "0.20.2";

/// All stages.
pub(super) static STAGES: [Stage; 10] = [
    Stage { name: "fmt", about: "formatting", tools: Tools::Unused, act: fmt },
    Stage { name: "tidy", about: "house rules", tools: Tools::Unused, act: tidy },
    Stage {
        name: "clippy",
        about: "lints, warnings are errors",
        tools: Tools::Unused,
        act: clippy,
    },
    Stage { name: "test", about: "unit and property tests", tools: Tools::Unused, act: test },
    Stage { name: "sim", about: "simulations, headless scenarios", tools: Tools::Unused, act: sim },
    Stage { name: "doc", about: "documentation builds", tools: Tools::Unused, act: doc },
    Stage { name: "deny", about: "licences, bans, sources", tools: Tools::Unused, act: deny },
    Stage {
        name: "charts",
        about: "charts render; CRDs are as generated",
        tools: Tools::Wanted,
        act: charts,
    },
    Stage {
        name: "admit",
        about: "schema rules on a real API server",
        tools: Tools::Wanted,
        act: admit,
    },
    Stage { name: "live", about: "meetings on a real cluster", tools: Tools::Wanted, act: live },
];

fn fmt(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(&mut cargo("fmt --all --check"))?;
    Ok(Count::ONE)
}

fn tidy(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(&mut cargo("test -q -p e2e --test tidy"))?;
    Ok(log.count())
}

fn clippy(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(&mut cargo("clippy --workspace --all-targets --features e2e/bed -- -D warnings"))?;
    Ok(Count::ONE)
}

fn test(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(&mut cargo("test --workspace --exclude e2e --no-fail-fast"))?;
    Ok(log.count())
}

fn sim(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let mut line = "test -p e2e --no-fail-fast --lib".to_owned();
    for name in test_targets(|name| name != "tidy" && !needs_bed(name))? {
        line.push_str(&format!(" --test {name}"));
    }
    log.run(&mut cargo(&line))?;
    Ok(log.count())
}

fn doc(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(cargo("doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Count::ONE)
}

/// Advisories would need a database from outside the package registries, which no run may reach;
/// where one lies in the cache as `advisory-db`, it is used.
fn deny(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let root = cache::directory().join("cargo-deny");
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        let install = format!("install --locked cargo-deny --version {DENY_VERSION} --root");
        log.run(cargo(&install).arg(&root))?;
    }
    let check = ["check", "licenses", "bans", "sources"];
    log.run(Command::new(program).args(check).current_dir(cache::checkout()))?;
    Ok(Count::ONE)
}

fn charts(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let helm = surroundings.tools()?.path("helm");
    let mut count = Count::default();
    for chart in ["hemicycle-crds", "hemicycle"] {
        let chart = cache::checkout().join("charts").join(chart);
        for verb in [&["lint", "--strict"][..], &["template", "test"][..]] {
            log.run(Command::new(&helm).args(verb).arg(&chart))?;
            count = count.plus(Count::ONE);
        }
    }
    Ok(count)
}

fn admit(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    in_bed(surroundings, log, "admit_")
}

fn live(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    in_bed(surroundings, log, "live_")
}

/// Builds the tests whose names begin with `prefix` outside the bed, which has no way to a
/// registry, and runs them inside.
fn in_bed(surroundings: &mut Surroundings, log: &Log, prefix: &str) -> anyhow::Result<Count> {
    let names = test_targets(|name| name.starts_with(prefix))?;
    ensure!(!names.is_empty(), "there is no test called {prefix}*");
    let mut line = "test -p e2e --features bed --no-run".to_owned();
    for name in &names {
        line.push_str(&format!(" --test {name}"));
    }
    log.run(&mut cargo(&line))?;
    let programs = executables(log)?;
    ensure!(programs.len() == names.len(), "not every test was built: {programs:?}");
    let bed = surroundings.bed(log)?;
    let failed = programs.iter().filter(|program| run_in(bed, log, program).is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} test programs failed", programs.len());
    }
    Ok(log.count())
}

/// One test at a time: each has the machine, and faults, for itself.
fn run_in(bed: &Bed, log: &Log, program: &PathBuf) -> anyhow::Result<()> {
    log.run(bed.enter(program).arg("--test-threads=1").current_dir(cache::checkout().join("e2e")))
}

/// The test programs that cargo says it built, as in `Executable tests/x.rs
/// (target/debug/deps/x-1)`.
fn executables(log: &Log) -> anyhow::Result<Vec<PathBuf>> {
    let text = fs::read_to_string(log.path()).context("cannot read the log")?;
    let lines = text.lines().filter(|line| line.trim_start().starts_with("Executable "));
    let paths = lines.filter_map(|line| line.rsplit_once('(')?.1.strip_suffix(')'));
    Ok(paths.map(|path| cache::checkout().join(path)).collect())
}

fn needs_bed(name: &str) -> bool {
    name.starts_with("live_") || name.starts_with("admit_")
}

/// Names of the files in `e2e/tests` that `wanted` holds for.
fn test_targets(wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
    let directory = cache::checkout().join("e2e/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).context("cannot list the tests")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").filter(|name| wanted(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
