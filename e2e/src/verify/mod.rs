//! `verify`: everything that must hold, stage by stage, each runnable alone. Decides the order, the
//! counting and what a person sees; what a stage does is in `stages`.
//!
//! Invariant: a stage that cannot run has failed; nothing is skipped in silence.

mod alone;
mod fuzz;
mod log;
mod memory;
mod stages;
mod surroundings;

use std::time::Instant;

use log::Log;
use memory::Peak;
use stages::STAGES;
use surroundings::Surroundings;

/// What a run may take, so that a machine of 24 GiB carries it beside other work.
const MEMORY_MIB_MAX: u64 = 12 * 1024;

/// How many checks held and how many did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Checks that held.
    pub passed: u64,
    /// Checks that did not, or could not be made.
    pub failed: u64,
}

impl Count {
    const ONE: Self = Self { passed: 1, failed: 0 };

    fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// One stage.
struct Stage {
    /// What a person types to run it alone.
    name: &'static str,
    /// What holds when it passes.
    about: &'static str,
    /// Whether it wants the programs of the cluster, which are built beside the first stages.
    tools: Tools,
    /// Does it.
    act: Act,
}

/// What a stage does: its count, or why it could not go on.
type Act = fn(&mut Surroundings, &Log) -> anyhow::Result<Count>;

/// Whether a stage wants the programs of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tools {
    Wanted,
    Unused,
}

/// Runs the stages called `names` (all, if none is named), prints a line for each and the sum.
///
/// # Errors
/// If a name is unknown or the cache cannot be written.
pub fn run(names: &[String]) -> anyhow::Result<Count> {
    let chosen = choose(names)?;
    let peak = Peak::watch();
    let mut surroundings = Surroundings::default();
    if chosen.iter().any(|stage| stage.tools == Tools::Wanted) {
        surroundings.begin_tools();
    }
    let begin = Instant::now();
    let mut sum = Count::default();
    for stage in chosen {
        sum = sum.plus(run_stage(stage, &mut surroundings)?);
    }
    surroundings.take_down()?;
    println!("{} s in all, {} MiB of memory at most", begin.elapsed().as_secs(), peak.mib());
    if peak.mib() > MEMORY_MIB_MAX {
        println!("that is more memory than the {MEMORY_MIB_MAX} MiB that a run may take");
        sum = sum.plus(Count { passed: 0, failed: 1 });
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    Ok(sum)
}

/// The stages and what they are about, for a person who asks.
#[must_use]
pub fn list() -> String {
    STAGES.iter().map(|stage| format!("{:<10} {}\n", stage.name, stage.about)).collect()
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Stage>> {
    let known = |name: &String| STAGES.iter().any(|stage| stage.name == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        anyhow::bail!("stage {name} is unknown; known:\n{}", list());
    }
    let chosen = STAGES
        .iter()
        .filter(|stage| names.is_empty() || names.iter().any(|name| name == stage.name));
    Ok(chosen.collect())
}

fn run_stage(stage: &Stage, surroundings: &mut Surroundings) -> anyhow::Result<Count> {
    let log = Log::new(stage.name)?;
    let begin = Instant::now();
    let result = (stage.act)(surroundings, &log);
    let seconds = begin.elapsed().as_secs_f64();
    let count = match &result {
        // A stage that ran no check proved nothing.
        Ok(count) if *count == Count::default() => Count { passed: 0, failed: 1 },
        Ok(count) => *count,
        Err(_) => log.count().plus(Count { passed: 0, failed: u64::from(log.count().failed == 0) }),
    };
    let word = if count.failed == 0 { "ok" } else { "FAILED" };
    println!("{:<10} {word:<6} {:>5} {seconds:>7.1} s  {}", stage.name, count.passed, stage.about);
    for figure in log.figures() {
        println!("  {figure}");
    }
    if count.failed > 0 {
        for line in log.reasons() {
            println!("  {line}");
        }
        if let Err(error) = result {
            println!("  {error:#}");
        }
        print!("{}", log.tail());
        println!("  whole log: {}", log.path().display());
    }
    Ok(count)
}
