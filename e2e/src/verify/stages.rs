//! The stages of `verify`, in their order: cheap ones first, so that a slip is seen early, and
//! those last that need the machine for themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::surroundings::{Surroundings, cargo, cargo_all};
use super::{Act, Count, Lane, Log, Stage, Tools};
use super::{alone, fuzz, stories};
use crate::bed::Bed;
use crate::cast::{self, Meeting, Program};
use crate::{cache, demo, page as meeting_page, story};

/// Version of the licence checker, pinned because its rules change with it.
const DENY_VERSION: &str = "0.20.2";

/// A header may name a private bound: it is written for who reads the file.
const DOC_FLAGS: &str = "-D warnings -A rustdoc::private_intra_doc_links";

/// All stages.
pub(super) static STAGES: [Stage; 22] = [
    stage("fmt", "formatting", Lane::First, fmt),
    stage("tidy", "house rules", Lane::First, tidy),
    stage("clippy", "lints, warnings are errors", Lane::First, clippy),
    stage("images", "static images, sizes", Lane::First, images),
    stage("test", "unit and property tests", Lane::First, test),
    stage("sim", "simulations, headless scenarios", Lane::First, sim),
    stage("cast", "page, SDK programs, live tests are built", Lane::First, cast_built),
    with_tools("killed", "a bed killed half-way leaves nothing", Lane::First, killed),
    stage("fuzz", "every parser of ours, for a bounded time", Lane::Computes, fuzz::all),
    stage("doc", "documentation builds", Lane::Computes, doc),
    stage("deny", "licences, bans, sources", Lane::Computes, deny),
    stage("page", "the meeting page: types, lints, tests", Lane::Computes, page),
    with_tools("charts", "charts render", Lane::Computes, charts),
    with_tools("admit", "schema rules on a real API server", Lane::Cluster, admit),
    with_tools("browsers", "Chromium, Firefox, Python in one room", Lane::Cluster, browsers),
    with_tools("sdk", "LiveKit's Go SDK and a Python program", Lane::Cluster, sdk),
    with_tools("live", "meetings and faults on a real cluster", Lane::Stories, stories::all),
    with_tools("rush", "1,000 rooms begin at once, none twice", Lane::Alone, rush),
    with_tools("scale", "1,000 Kubernetes nodes, 300 media nodes", Lane::Alone, scale),
    stage("scenario", "two people do all that a meeting offers", Lane::Alone, alone::scenario),
    stage("load", "LiveKit's SDKs under load", Lane::Alone, alone::sdks),
    stage("room", "a room of 50 loses nothing", Lane::Alone, alone::room),
];

const fn stage(name: &'static str, about: &'static str, lane: Lane, act: Act) -> Stage {
    Stage { name, about, lane, tools: Tools::Unused, act }
}

const fn with_tools(name: &'static str, about: &'static str, lane: Lane, act: Act) -> Stage {
    Stage { name, about, lane, tools: Tools::Wanted, act }
}

fn fmt(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(&mut cargo("fmt --all --check"))?;
    Ok(Count::ONE)
}

fn tidy(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(cargo_all("test -q").args(["--test", "tidy"]))?;
    Ok(log.count())
}

fn clippy(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(cargo_all("clippy").args(["--all-targets", "--", "-D", "warnings"]))?;
    Ok(Count::ONE)
}

fn test(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let mut units = cargo_all("test --no-fail-fast");
    units.args(["--lib", "--bins"]);
    for name in product_tests()? {
        units.args(["--test", &name]);
    }
    log.run(&mut units)?;
    log.run(cargo_all("test --no-fail-fast").arg("--doc"))?;
    Ok(log.count())
}

fn sim(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let mut scenarios = cargo_all("test --no-fail-fast");
    for name in test_targets("e2e", |name| name != "tidy" && !needs_bed(name))? {
        scenarios.args(["--test", &name]);
    }
    log.run(&mut scenarios)?;
    Ok(log.count())
}

fn doc(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    log.run(cargo_all("doc").arg("--no-deps").env("RUSTDOCFLAGS", DOC_FLAGS))?;
    Ok(Count::ONE)
}

/// Without advisories: their database is in no package registry, and a run reaches nothing else.
fn deny(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let root = cache::directory().join("cargo-deny");
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        // Unoptimised: it runs for seconds, and optimising it would take minutes.
        let install =
            format!("install --debug --locked cargo-deny --version {DENY_VERSION} --root");
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
    rendered_as_committed(&helm)?;
    Ok(count.plus(Count::ONE))
}

/// What the operator's chart renders to is committed, so that a change of it is seen in review.
fn rendered_as_committed(helm: &Path) -> anyhow::Result<()> {
    let chart = cache::checkout().join("charts/hemicycle");
    let verb = ["template", "hemicycle", "--namespace", "hemicycle-system"];
    let output = Command::new(helm).args(verb).arg(&chart).output().context("helm does not run")?;
    ensure!(output.status.success(), "helm template fails on {}", chart.display());
    let committed = fs::read(chart.join("rendered.yaml")).context("no rendered.yaml")?;
    ensure!(
        output.stdout == committed,
        "charts/hemicycle/rendered.yaml is not what the chart renders to; write it again with \
         helm {} charts/hemicycle > charts/hemicycle/rendered.yaml",
        verb.join(" ")
    );
    Ok(())
}

fn page(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    meeting_page::build()?;
    let web = cache::checkout().join("e2e/web");
    log.run(Command::new("npm").args(["run", "check"]).current_dir(web))?;
    Ok(Count::ONE)
}

fn images(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let images = surroundings.images(log)?;
    Ok(Count { passed: images.len() as u64, failed: 0 })
}

/// Each of them must see and hear both others.
fn browsers(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    meeting_page::build()?;
    cast::python_packages()?;
    let (bed, venue) = surroundings.venue(log)?;
    let directory = cache::directory().join("verify/browsers");
    let met = demo::meet(bed, venue, &directory, &|text| log.note(text))?;
    log.note(&met);
    Ok(Count { passed: 3, failed: 0 })
}

/// The Go program meets the Python one, and asks the room service who is there.
fn sdk(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    cast::python_packages()?;
    cast::go_program()?;
    let (bed, venue) = surroundings.venue(log)?;
    let directory = cache::directory().join("verify/sdk");
    fs::create_dir_all(&directory).context("cannot make the directory of reports")?;
    let meeting = Meeting { room: "sdk", expect: 1, ..venue.meeting(1) };
    // The Go program sends sound alone, so the Python one expects nobody whole and just stays.
    let alone = Meeting { expect: 0, seconds: 20, ..meeting };
    let python = Program::python(bed, alone, &directory)?;
    let go = Program::go(bed, meeting, &directory)?.end()?;
    let python = python.end()?;
    log.note(&format!("{go:#}\n{python:#}"));
    let heard = python.pointer("/received/gopher").is_some();
    ensure!(heard, "the Python program did not subscribe to the Go program");
    Ok(Count { passed: 2, failed: 0 })
}

/// All that meets on a bed: built before there is one, because compilers take from the people on a
/// bed the processor that they need in time.
fn cast_built(_: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    meeting_page::build()?;
    cast::python_packages()?;
    cast::go_program()?;
    compile_tests(log, &test_targets("e2e", needs_bed)?)?;
    Ok(Count { passed: 4, failed: 0 })
}

/// On beds of its own, beside which no other should be.
fn killed(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    surroundings.tools()?;
    for program in bed_tests(log, "bed_")? {
        log.run(Command::new(program).args(["--test-threads=1", "--nocapture"]))?;
    }
    Ok(log.count())
}

fn admit(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let programs = bed_tests(log, "admit_")?;
    run_and_clear(surroundings.bed(log)?, log, &programs)
}

/// Apart from other stories, because it leaves no processor to them.
fn rush(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let programs = bed_tests(log, "rush_")?;
    run_and_clear(surroundings.installed(log)?, log, &programs)
}

/// On a bed of its own with one real Kubernetes node; the other thousand are objects.
fn scale(surroundings: &mut Surroundings, log: &Log) -> anyhow::Result<Count> {
    let programs = bed_tests(log, "scale_")?;
    let result = run_all(surroundings.operator_alone(log)?, log, &programs);
    surroundings.take_down()?;
    result
}

/// Builds the tests whose names begin with `prefix`, outside the bed, which has no way to a
/// registry.
pub(super) fn bed_tests(log: &Log, prefix: &str) -> anyhow::Result<Vec<PathBuf>> {
    let names = test_targets("e2e", |name| name.starts_with(prefix))?;
    ensure!(!names.is_empty(), "there is no test called {prefix}*");
    compile_tests(log, &names)?;
    let programs = executables(log)?;
    ensure!(programs.len() == names.len(), "not every test was built: {programs:?}");
    Ok(programs)
}

fn compile_tests(log: &Log, names: &[String]) -> anyhow::Result<()> {
    let mut build = cargo_all("test --no-run");
    for name in names {
        build.args(["--test", name]);
    }
    log.run(&mut build)
}

/// All of them, of which nothing is left for the next stage on the bed.
fn run_and_clear(bed: &Bed, log: &Log, programs: &[PathBuf]) -> anyhow::Result<Count> {
    let count = run_all(bed, log, programs)?;
    story::nothing_left(bed)?;
    Ok(count)
}

fn run_all(bed: &Bed, log: &Log, programs: &[PathBuf]) -> anyhow::Result<Count> {
    let failed = programs.iter().filter(|program| run_in(bed, log, program, &[]).is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} test programs failed", programs.len());
    }
    Ok(log.count())
}

/// One test at a time of those that `chosen` names: each has the bed, and its faults, for itself.
pub(super) fn run_in(bed: &Bed, log: &Log, program: &Path, chosen: &[&str]) -> anyhow::Result<()> {
    let mut command = bed.enter(program);
    command.args(["--test-threads=1", "--nocapture"]).args(chosen).env("RUST_BACKTRACE", "0");
    log.run(command.current_dir(cache::checkout().join("e2e")))
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
    ["live_", "admit_", "bed_", "rush_", "scale_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The integration tests of every crate of the workspace but this one.
fn product_tests() -> anyhow::Result<Vec<String>> {
    let manifest = cache::checkout().join("Cargo.toml");
    let text = fs::read_to_string(&manifest).context("cannot read the workspace's manifest")?;
    let members = text.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let (members, _) = members.context("the workspace's manifest names no members")?;
    let mut names = Vec::new();
    for member in members.split('"').skip(1).step_by(2) {
        if member != "e2e" && cache::checkout().join(member).join("tests").is_dir() {
            names.extend(test_targets(member, |_| true)?);
        }
    }
    ensure!(!names.is_empty(), "found no integration test of the product");
    Ok(names)
}

/// Names of the files in `tests` of crate `member` that `wanted` holds for.
fn test_targets(member: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
    let directory = cache::checkout().join(member).join("tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).context("cannot list the tests")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").filter(|name| wanted(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
