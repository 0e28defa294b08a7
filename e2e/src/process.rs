//! Running, waiting for and ending programs. No choice of which.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{Error, Result};
use crate::cache;

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| Error::Start { program, source })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complaint = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed {
        command: line(command),
        status: output.status.to_string(),
        output: tail(&complaint, 20),
    })
}

/// Runs `command` of the client `name`, which may need its package registry, with what it says in
/// a log of the cache.
///
/// # Errors
/// If it cannot be started, or fails: then in one line `what` could not be had, and what to do.
pub(crate) fn fetch(name: &str, what: &str, command: &mut Command) -> Result<()> {
    let log = cache::directory().join(format!("{name}.log"));
    let cannot = |source| Error::file("write", &log, source);
    fs::create_dir_all(cache::directory()).map_err(cannot)?;
    let out = fs::File::create(&log).map_err(cannot)?;
    let twin = out.try_clone().map_err(cannot)?;
    let status = command.stdin(Stdio::null()).stdout(out).stderr(twin).status();
    let status = status.map_err(|source| Error::Start { program: name.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Machine {
        what: format!("{name} cannot get or build {what} ({status}, see {})", log.display()),
        remedy: "look at the network and the registry's settings, then run this again",
    })
}

/// Runs a command line whose words hold no blanks.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_line(text: &str) -> Result<String> {
    let mut words = text.split_whitespace();
    run(Command::new(words.next().unwrap_or_default()).args(words))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.trim_end().lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// The process number that `file` holds.
pub(crate) fn read_pid(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The first child of `pid`.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    list.split_whitespace().next()?.parse().ok()
}

/// Kills `pid` and everything below it.
pub(crate) fn kill_tree(pid: u32) {
    let mut doomed = BTreeSet::new();
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        if doomed.insert(pid) {
            let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let list = list.unwrap_or_default();
            next.extend(list.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    kill_all(&doomed);
}

/// Whether `pid` runs; one that only waits to be reaped does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Kills all of `pids` at once; those already gone are no error.
pub(crate) fn kill_all(pids: &BTreeSet<u32>) {
    if pids.is_empty() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "kill -KILL \"$@\" 2>/dev/null", "sh"]);
    // The caller asks again who is left, so that a failure shows there.
    let _ = command.args(pids.iter().map(u32::to_string)).status();
}

/// A condition to be met within a time.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    what: &'a str,
    seconds: u64,
    log: Option<PathBuf>,
}

impl<'a> Wait<'a> {
    /// Waits for `what`, at most `seconds`.
    pub(crate) fn new(what: &'a str, seconds: u64) -> Self {
        Self { what, seconds, log: None }
    }

    /// Shows the end of `log` when the time is over.
    pub(crate) fn log(mut self, log: PathBuf) -> Self {
        self.log = Some(log);
        self
    }

    /// Asks `condition` ten times a second.
    ///
    /// # Errors
    /// [`Error::NotInTime`].
    pub(crate) fn until(self, mut condition: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while !condition() {
            if Instant::now() >= end {
                return Err(self.not_in_time());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn not_in_time(self) -> Error {
        let hint = self.log.map_or_else(String::new, |log| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            format!("; the end of {}:\n{}", log.display(), tail(&said, 15))
        });
        Error::NotInTime { what: self.what.to_owned(), seconds: self.seconds, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_fetched_is_told_in_one_line() {
        let failed = fetch("npx", "the page's packages", &mut Command::new("false"));
        let said = failed.expect_err("false fails").to_string();
        assert_eq!(said.lines().count(), 1, "{said}");
        let log = cache::directory().join("npx.log");
        let named = log.display().to_string();
        for part in ["npx cannot get or build the page's packages", &named, "look at the network"] {
            assert!(said.contains(part), "{said} lacks {part}");
        }
        fs::remove_file(log).expect("it was written");
    }
}
