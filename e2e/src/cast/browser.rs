//! People in headless browsers with fake cameras and microphones, on the product's own meeting
//! page, driven by `e2e/web/drive/meet.mjs`: one driver for all, so that nobody leaves before the
//! last has met everyone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bed::Bed;
use crate::cache;

/// Which browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Debian's chromium.
    Chromium,
    /// Debian's firefox-esr.
    Firefox,
}

impl Engine {
    /// As the driver calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Firefox => "firefox",
        }
    }
}

/// Someone who opens the page.
#[derive(Debug, Clone)]
pub struct Person {
    /// With which browser.
    pub engine: Engine,
    /// Their name.
    pub name: String,
    /// What lets them in.
    pub token: String,
}

/// Where and how long they meet.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// The page, as in `http://localhost:8080/meet/`.
    pub page: &'a str,
    /// The server, as in `ws://localhost:8080`.
    pub url: &'a str,
    /// How many others each is to see and hear.
    pub expect: u32,
    /// When to give up.
    pub seconds: u32,
    /// How long to stay after the last has met everyone, in seconds.
    pub hold: u32,
}

/// People in browsers.
#[derive(Debug)]
pub struct Browsers {
    child: Child,
    people: Vec<Person>,
    directory: PathBuf,
}

impl Browsers {
    /// Lets `people` join from inside the bed. Reports, screenshots and log go to `directory`.
    ///
    /// # Errors
    /// If the driver cannot be started.
    pub fn open(
        bed: &Bed,
        people: Vec<Person>,
        visit: Visit<'_>,
        directory: &Path,
    ) -> Result<Self> {
        let log = File::create(directory.join("browsers.log"))?;
        let mut command = bed.enter("node");
        command.arg(cache::checkout().join("e2e/web/drive/meet.mjs"));
        command.args(["--page", visit.page, "--out"]).arg(directory);
        command.args(["--expect", &visit.expect.to_string()]);
        command.args(["--seconds", &visit.seconds.to_string()]);
        command.args(["--hold", &visit.hold.to_string()]);
        for Person { engine, name, token } in &people {
            let (engine, url) = (engine.name(), visit.url);
            let join = format!("browser={engine},url={url},token={token},name={name}");
            command.args(["--join", &join]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the browsers' driver")?;
        Ok(Self { child, people, directory: directory.to_owned() })
    }

    /// Waits for their end: each one's name, report and screenshot.
    ///
    /// # Errors
    /// If someone did not see and hear everyone; the error holds the whole account.
    pub fn end(mut self) -> Result<Vec<(String, Value, PathBuf)>> {
        let status = self.child.wait()?;
        let file = |name: &str, ending: &str| self.directory.join(format!("{name}.{ending}"));
        let mut reports = Vec::new();
        for Person { name, .. } in &self.people {
            let said = fs::read_to_string(file(name, "json")).unwrap_or_default();
            let report = serde_json::from_str(&said).unwrap_or(Value::String(said));
            reports.push((name.clone(), report, file(name, "png")));
        }
        if !status.success() {
            let log = fs::read_to_string(self.directory.join("browsers.log")).unwrap_or_default();
            let shown = self.directory.display();
            anyhow::bail!("not everyone met everyone; reports and screenshots: {shown}\n{log}");
        }
        Ok(reports)
    }
}
