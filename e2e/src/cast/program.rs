//! Participants that use LiveKit's own packages, unchanged, from their registries: the Python
//! package `livekit` and the Go SDK. Each prints a report in JSON and ends by itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::cache;
use crate::cast::{Credentials, join_token};
use crate::process::{fetch, run};

/// A meeting as a program sees it.
#[derive(Debug, Clone, Copy)]
pub struct Meeting<'a> {
    /// Where to connect to, as in `ws://localhost:7880`.
    pub url: &'a str,
    /// The API key of the tenant.
    pub key: &'a Credentials,
    /// The room.
    pub room: &'a str,
    /// How many others are to be seen and heard.
    pub expect: u32,
    /// When to give up.
    pub seconds: u32,
}

/// A program in the room.
#[derive(Debug)]
pub struct Program {
    child: Child,
    report: PathBuf,
}

/// Where the programs on LiveKit's SDKs lie.
#[must_use]
pub fn sdk_directory() -> PathBuf {
    cache::checkout().join("e2e/sdk")
}

/// Makes the virtual environment with the pinned packages, once; needs the network, so before the
/// bed.
///
/// # Errors
/// If Python or a package cannot be had.
pub fn python_packages() -> Result<PathBuf> {
    let _held = cache::lock("python")?;
    let wanted = sdk_directory().join("python/requirements.txt");
    let environment = cache::directory().join("python");
    let mark = environment.join("requirements.txt");
    let text = fs::read(&wanted).context("cannot read the Python requirements")?;
    // A virtual environment breaks when the machine's Python goes.
    let whole = environment.join("bin/python").exists();
    if whole && fs::read(&mark).is_ok_and(|made| made == text) {
        return Ok(environment);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))
        .context("cannot make a virtual environment (Debian: apt-get install python3-venv)")?;
    let pip = environment.join("bin/pip");
    let line = ["install", "--only-binary", ":all:", "--requirement"];
    fetch("pip", "LiveKit's Python SDK", Command::new(pip).args(line).arg(&wanted))?;
    fs::write(&mark, text).context("cannot mark the virtual environment")?;
    Ok(environment)
}

/// Builds the program on the Go SDK; needs the network the first time, so before the bed.
///
/// # Errors
/// If a module cannot be had or does not build.
pub fn go_program() -> Result<PathBuf> {
    let program = cache::directory().join("sdk");
    let mut command = Command::new("go");
    command.current_dir(sdk_directory().join("go")).env("CGO_ENABLED", "0");
    command.args(["build", "-mod=readonly", "-trimpath", "-o"]).arg(&program).arg(".");
    fetch("go", "the program on LiveKit's Go SDK", &mut command)?;
    Ok(program)
}

impl Program {
    /// Lets a program with the Python package join.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn python(bed: &Bed, meeting: Meeting<'_>, directory: &Path) -> Result<Self> {
        let mut command = bed.enter(python_packages()?.join("bin/python"));
        command.arg(sdk_directory().join("python/participant.py"));
        command.args(["--media-only", "--token"]);
        command.arg(join_token(meeting.key, meeting.room, "Python")?);
        Self::join(command, meeting, directory, "python")
    }

    /// Lets a program with the Go SDK join.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn go(bed: &Bed, meeting: Meeting<'_>, directory: &Path) -> Result<Self> {
        let mut command = bed.enter(go_program()?);
        command.args(["meet", "--room", meeting.room]).env("LIVEKIT_API_KEY", &meeting.key.id);
        command.env("LIVEKIT_API_SECRET", meeting.key.secret.expose());
        Self::join(command, meeting, directory, "go")
    }

    fn join(
        mut command: Command,
        meeting: Meeting<'_>,
        directory: &Path,
        name: &str,
    ) -> Result<Self> {
        let report = directory.join(format!("{name}.json"));
        let child = command
            .args(["--url", meeting.url])
            .args(["--expect", &meeting.expect.to_string()])
            .args(["--seconds", &meeting.seconds.to_string()])
            // Closed when we no longer need its company.
            .stdin(Stdio::piped())
            .stdout(File::create(&report)?)
            .stderr(File::create(report.with_extension("log"))?)
            .spawn()
            .with_context(|| format!("cannot start the {name} participant"))?;
        Ok(Self { child, report })
    }

    /// Sends it home and waits for its end; what it reports.
    ///
    /// # Errors
    /// If it met fewer than it expected, or broke.
    pub fn end(mut self) -> Result<Value> {
        // `wait` closes its standard input.
        let status = self.child.wait()?;
        let log = self.report.with_extension("log");
        let said = fs::read_to_string(&self.report).unwrap_or_default();
        ensure!(status.success(), "a participant failed, see {}\n{said}", log.display());
        serde_json::from_str(&said).with_context(|| format!("no JSON reported: {said}"))
    }
}
