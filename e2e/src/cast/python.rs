//! A participant that uses the Python package `livekit`, unchanged, from its registry.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::bed::Bed;
use crate::cache;
use crate::process::run;

/// A program in the room.
#[derive(Debug)]
pub struct Python {
    child: Child,
    report: PathBuf,
}

/// Makes the virtual environment with the pinned packages, once; needs the network, so before the bed.
///
/// # Errors
/// If Python or a package cannot be had.
pub fn python_packages() -> anyhow::Result<PathBuf> {
    let _held = cache::lock("python")?;
    let wanted = cache::checkout().join("e2e/sdk/python/requirements.txt");
    let environment = cache::directory().join("python");
    let mark = environment.join("requirements.txt");
    let text = std::fs::read(&wanted).context("cannot read the Python requirements")?;
    if std::fs::read(&mark).is_ok_and(|made| made == text) {
        return Ok(environment);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))
        .context("cannot make a virtual environment (Debian: apt-get install python3-venv)")?;
    let pip = environment.join("bin/pip");
    run(Command::new(pip).args(["install", "--quiet", "--requirement"]).arg(&wanted))
        .context("cannot install the Python packages")?;
    std::fs::write(&mark, text).context("cannot mark the virtual environment")?;
    Ok(environment)
}

impl Python {
    /// Lets it join at `url` with `token` inside `bed`; it ends by itself when it has met `expect`
    /// others, or after `seconds`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn join(
        bed: &Bed,
        url: &str,
        token: &str,
        expect: u32,
        seconds: u32,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let report = directory.join("python.json");
        let log = std::fs::File::create(directory.join("python.log"))?;
        let child = bed
            .enter(python_packages()?.join("bin/python"))
            .arg(cache::checkout().join("e2e/sdk/python/participant.py"))
            .args(["--url", url, "--token", token])
            .args(["--expect", &expect.to_string(), "--seconds", &seconds.to_string()])
            .arg("--json")
            .arg(&report)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the Python participant")?;
        Ok(Self { child, report })
    }

    /// Waits for its end; what it reports, as JSON.
    ///
    /// # Errors
    /// If it met fewer than it expected, or broke.
    pub fn end(mut self) -> anyhow::Result<String> {
        let status = self.child.wait()?;
        let log = self.report.with_extension("log");
        let said = std::fs::read_to_string(&self.report).unwrap_or_default();
        anyhow::ensure!(
            status.success(),
            "the Python participant failed: {}\n{said}",
            log.display()
        );
        Ok(said)
    }
}
