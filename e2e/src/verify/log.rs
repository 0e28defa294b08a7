//! The log of one stage: where its commands write, and what is read back from it. Decides nothing.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Count;
use crate::{cache, process};

/// A command that takes longer hangs: the coldest build takes a third of it.
const COMMAND_MAX: Duration = Duration::from_secs(40 * 60);

/// Lines shown of the log of a stage that failed.
const TAIL_LINES: usize = 60;

/// Failures shown of it before that, and lines of each: a name and what was wrong.
const REASONS_MAX: usize = 5;
const REASON_LINES: usize = 8;

/// Log of one stage, emptied when it begins.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Whether its commands give way to those of other stages.
    gives_way: bool,
}

impl Log {
    pub(super) fn new(stage: &str, gives_way: bool) -> anyhow::Result<Self> {
        let directory = cache::directory().join("verify");
        fs::create_dir_all(&directory).context("cannot make the directory of logs")?;
        let path = directory.join(format!("{stage}.log"));
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, gives_way })
    }

    /// The log of part `n` of the stage, which runs beside its other parts.
    pub(super) fn part(&self, n: usize) -> anyhow::Result<Self> {
        let stage = self.path.file_stem().unwrap_or_default().to_string_lossy();
        Self::new(&format!("{stage}-{n}"), self.gives_way)
    }

    /// Adds what a part's log holds.
    pub(super) fn take_in(&self, part: &Self) {
        self.note(&fs::read_to_string(&part.path).unwrap_or_default());
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `command` with all that it says in the log.
    pub(super) fn run(&self, command: &mut Command) -> anyhow::Result<()> {
        let name = format!("{command:?}");
        let out = OpenOptions::new().append(true).open(&self.path)?;
        let twin = out.try_clone()?;
        let mut stepping_back = giving_way(command);
        let command = if self.gives_way { &mut stepping_back } else { command };
        let child = command.stdin(Stdio::null()).stdout(out).stderr(twin).spawn();
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let end = Instant::now() + COMMAND_MAX;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= end {
                process::kill_tree(child.id());
                bail!("{name} was still running after {} s", COMMAND_MAX.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if !status.success() {
            bail!("{name} ended with {status}");
        }
        Ok(())
    }

    /// Adds `text` to the log. The log is a convenience: a full disk shows elsewhere.
    pub(super) fn note(&self, text: &str) {
        use std::io::Write as _;
        let file = OpenOptions::new().append(true).open(&self.path);
        let _ = file.and_then(|mut file| writeln!(file, "{text}"));
    }

    /// Sum of what the test programs in the log reported.
    pub(super) fn count(&self) -> Count {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().filter_map(count_of).fold(Count::default(), Count::plus)
    }

    /// What it tells people even of a success: behind `figure: `.
    pub(super) fn figures(&self) -> Vec<String> {
        figures(&fs::read_to_string(&self.path).unwrap_or_default())
    }

    /// What the first failures in it say of themselves.
    pub(super) fn reasons(&self) -> Vec<String> {
        reasons(&fs::read_to_string(&self.path).unwrap_or_default())
    }

    /// Its end, indented.
    pub(super) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let tail = process::tail(&text, TAIL_LINES);
        tail.lines().map(|line| format!("  | {line}\n")).collect()
    }
}

/// The same command, run so that it gets what processor time nobody else wants: this program does
/// that under the bed's name.
fn giving_way(command: &Command) -> Command {
    let mut twin = Command::new("/proc/self/exe");
    twin.arg0("testbed").arg("_aside").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => twin.env(name, value),
            None => twin.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        twin.current_dir(directory);
    }
    twin
}

fn figures(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line.split_once("figure: ")?.1.to_owned())).collect()
}

/// Each failure from its first line to the next empty one.
fn reasons(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let begins = lines.iter().enumerate().filter(|(_, line)| tells_of_failure(line));
    let each = begins.take(REASONS_MAX).flat_map(|(at, _)| {
        let rest = lines.get(at..).unwrap_or_default().iter().take(REASON_LINES);
        rest.take_while(|line| !line.trim().is_empty())
    });
    each.map(|line| (*line).to_owned()).collect()
}

/// As test programs, compilers and the browser drivers begin a complaint.
fn tells_of_failure(line: &str) -> bool {
    let panic = line.starts_with("thread '") && line.contains(" panicked at ");
    panic || ["error:", "error[", "FAIL", "not ok"].iter().any(|word| line.starts_with(word))
}

/// Reads `test result: ok. 12 passed; 1 failed; ...`, and `12 passed, 1 failed` of the browser
/// drivers.
fn count_of(line: &str) -> Option<Count> {
    let line = line.trim();
    let rest = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None if line.ends_with(" failed") => line,
        None => return None,
    };
    let mut parts = rest.split([';', ',']);
    let passed = parts.next()?.trim().strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.trim().strip_suffix(" failed")?.parse().ok()?;
    Some(Count { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_before_the_account() {
        let text = "running 2 tests\ntest calm ... ok\n\nthread 'storm' (7) panicked at a.rs:1:2:\n\
                    storm: a wave came\n--- kubectl get all\n\na long account\n\
                    error[E0308]: mismatched types\n --> b.rs:1\n\nFAIL Ada hears nobody\n\n";
        let wanted = [
            "thread 'storm' (7) panicked at a.rs:1:2:",
            "storm: a wave came",
            "--- kubectl get all",
            "error[E0308]: mismatched types",
            " --> b.rs:1",
            "FAIL Ada hears nobody",
        ];
        assert_eq!(reasons(text), wanted);
        let many = "FAIL\n\n".repeat(REASONS_MAX + 1);
        assert_eq!(reasons(&many).len(), REASONS_MAX);
    }

    #[test]
    fn figures_are_told_and_the_rest_is_not() {
        let text = "running 1 test\ntest scale ... figure: 300 media nodes\na step\nok\n";
        assert_eq!(figures(text), ["300 media nodes"]);
    }

    #[test]
    fn counts_are_read_from_test_programs() {
        let line =
            "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(count_of(line), Some(Count { passed: 12, failed: 1 }));
        assert_eq!(count_of("3 passed, 0 failed"), Some(Count { passed: 3, failed: 0 }));
        assert_eq!(count_of("connection failed"), None);
        assert_eq!(count_of("running 12 tests"), None);
    }
}
