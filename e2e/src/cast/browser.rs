//! A person in a headless browser with a fake camera and microphone, on the product's own meeting
//! page, driven by `e2e/web/drive/meet.mjs`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
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

/// A person in a browser.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    engine: Engine,
    directory: PathBuf,
}

impl Browser {
    /// Opens `url` in the bed; the driver ends by itself when it has met `expect` others, or after
    /// `seconds`. Report, screenshot and log go to `directory`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn open(
        bed: &Bed,
        engine: Engine,
        url: &str,
        expect: u32,
        seconds: u32,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let name = engine.name();
        let log = File::create(directory.join(format!("{name}.log")))?;
        let child = bed
            .enter("node")
            .arg(cache::checkout().join("e2e/web/drive/meet.mjs"))
            .args(["--browser", name, "--url", url])
            .args(["--expect", &expect.to_string(), "--seconds", &seconds.to_string()])
            .arg("--json")
            .arg(directory.join(format!("{name}.json")))
            .arg("--screenshot")
            .arg(directory.join(format!("{name}.png")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, engine, directory: directory.to_owned() })
    }

    /// Where the picture of the page is, once it ended.
    #[must_use]
    pub fn screenshot(&self) -> PathBuf {
        self.directory.join(format!("{}.png", self.engine.name()))
    }

    /// Waits for its end; what it reports.
    ///
    /// # Errors
    /// If it did not meet whom it expected, or broke.
    pub fn end(mut self) -> anyhow::Result<Value> {
        let status = self.child.wait()?;
        let name = self.engine.name();
        let path = |ending: &str| self.directory.join(format!("{name}.{ending}"));
        let said = std::fs::read_to_string(path("json")).unwrap_or_default();
        ensure!(status.success(), "{name} failed, see {}\n{said}", path("log").display());
        serde_json::from_str(&said).with_context(|| format!("{name} reported no JSON: {said}"))
    }
}
