//! `verify`: everything that must hold, stage by stage, each runnable alone. Decides the order,
//! what runs beside what, the counting and what a person sees; what a stage does is in `stages`.
//!
//! Invariant: a stage that cannot run has failed; nothing is skipped in silence. What a figure of
//! time was taken beside is told with it.

mod alone;
mod beside;
mod fuzz;
mod log;
mod memory;
mod stages;
mod stories;
mod surroundings;

use std::time::Instant;

use log::Log;
use memory::Peak;
use stages::STAGES;
use surroundings::Surroundings;

use crate::bed::command::Release;

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
    /// Beside what it may run.
    lane: Lane,
    /// Whether it wants the programs of the cluster, which are built beside the first stages.
    tools: Tools,
    /// Does it.
    act: Act,
}

/// What a stage does: its count, or why it could not go on.
type Act = fn(&mut Surroundings, &Log) -> anyhow::Result<Count>;

/// Beside what a stage may run. The stages of one lane run one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Before all others: cheap, made for them, or with sockets and limits of time of its own.
    First,
    /// Only computes: beside the next two, whenever these leave the processor to it.
    Computes,
    /// Mostly waits for a cluster on the run's first bed, beside its neighbours.
    Cluster,
    /// Mostly waits for clusters on the run's further beds, beside its neighbours.
    Stories,
    /// Must not be late: after all others, beside nothing.
    Alone,
}

impl Lane {
    /// Those that run at the same time.
    const BESIDE: [Self; 3] = [Self::Computes, Self::Cluster, Self::Stories];
}

/// Whether a stage wants the programs of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tools {
    Wanted,
    Unused,
}

/// How a stage ended.
struct Outcome {
    count: Count,
    /// Its line: in the order of ending first, in the order of the stages in the end.
    line: String,
}

/// Runs the stages called `names` (all, if none is named), those with a cluster on Kubernetes
/// `release`; prints a line for each and the sum.
///
/// # Errors
/// If a name or the release is unknown, or the cache cannot be written.
pub fn run(names: &[String], release: &Release) -> anyhow::Result<Count> {
    let chosen = choose(names)?;
    let surroundings = Surroundings::new(release.minor()?);
    let peak = Peak::watch();
    let begin = Instant::now();
    if chosen.iter().any(|stage| stage.tools == Tools::Wanted) {
        surroundings.begin_tools();
    }
    let outcomes = run_lanes(&chosen, &surroundings)?;
    if chosen.len() > 1 {
        println!("in their order:");
        outcomes.iter().for_each(|outcome| println!("{}", outcome.line));
    }
    let mut sum = outcomes.iter().map(|outcome| outcome.count).fold(Count::default(), Count::plus);
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

/// Runs `chosen` and returns how each ended, in their own order.
fn run_lanes(
    chosen: &[&'static Stage],
    surroundings: &Surroundings,
) -> anyhow::Result<Vec<Outcome>> {
    let mut ended = run_lane(Lane::First, chosen, surroundings)?;
    let beside: anyhow::Result<Vec<_>> = std::thread::scope(|scope| {
        let lanes = Lane::BESIDE
            .map(|lane| (lane, scope.spawn(move || run_lane(lane, chosen, surroundings))));
        let joined = lanes.into_iter().map(|(lane, running)| {
            running.join().unwrap_or_else(|_| anyhow::bail!("the lane {lane:?} crashed"))
        });
        // All of them, before the first error ends the run.
        joined.collect::<Vec<_>>().into_iter().collect()
    });
    ended.extend(beside?.into_iter().flatten());
    ended.extend(run_lane(Lane::Alone, chosen, surroundings)?);
    ended.sort_by_key(|(place, _)| *place);
    Ok(ended.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Runs those of `chosen` that belong to `lane`: how each ended, with its place among all.
fn run_lane(
    lane: Lane,
    chosen: &[&'static Stage],
    surroundings: &Surroundings,
) -> anyhow::Result<Vec<(usize, Outcome)>> {
    let mut own = surroundings.same();
    let beside = |stage: &&Stage| stage.lane != lane && Lane::BESIDE.contains(&stage.lane);
    let accompanied = Lane::BESIDE.contains(&lane) && chosen.iter().copied().any(|it| beside(&it));
    let mine = chosen.iter().enumerate().filter(|(_, stage)| stage.lane == lane);
    let ended =
        mine.map(|(place, stage)| Ok((place, run_stage(stage, &mut own, accompanied)?))).collect();
    own.take_down()?;
    ended
}

fn run_stage(
    stage: &Stage,
    surroundings: &mut Surroundings,
    accompanied: bool,
) -> anyhow::Result<Outcome> {
    let log = Log::new(stage.name, stage.lane == Lane::Computes)?;
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
    let line = format!(
        "{:<10} {word:<6} {:>5} {seconds:>7.1} s  {}",
        stage.name, count.passed, stage.about
    );
    let mut told = vec![line.clone()];
    let figures = log.figures();
    if accompanied && !figures.is_empty() {
        told.push("  taken beside other stages, which delay what is of time:".to_owned());
    }
    told.extend(figures.into_iter().map(|figure| format!("  {figure}")));
    if count.failed > 0 {
        told.extend(log.reasons().into_iter().map(|reason| format!("  {reason}")));
        told.extend(result.err().map(|error| format!("  {error:#}")));
        told.push(format!("{}  whole log: {}", log.tail(), log.path().display()));
    }
    // At once, so that a neighbour's line does not come between.
    println!("{}", told.join("\n"));
    Ok(Outcome { count, line })
}
