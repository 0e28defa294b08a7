//! The operator's absence in a story: no replica runs, until the value is dropped.

use anyhow::Result;

use super::Story;
use crate::install::{self, OPERATOR_NAMESPACE};

const OPERATOR: &str = "deployment/hemicycle-operator";

/// As the chart has it.
const REPLICAS: u8 = 3;

/// The operator's replicas are none; as before with the end of the value.
#[derive(Debug)]
pub struct OperatorAway<'a>(&'a Story);

impl<'a> OperatorAway<'a> {
    /// Sends all replicas away, and returns when none runs.
    ///
    /// # Errors
    /// If one does not go.
    pub fn send(story: &'a Story) -> Result<Self> {
        let away = Self(story);
        away.scale(0)?;
        let pods = ["-n", OPERATOR_NAMESPACE, "get", "pods", "-o", "name"];
        story.until("no operator runs", 40, || {
            install::kubectl(story.bed(), &pods).is_ok_and(|said| said.trim().is_empty())
        })?;
        Ok(away)
    }

    fn scale(&self, replicas: u8) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        install::kubectl(self.0.bed(), &["-n", OPERATOR_NAMESPACE, "scale", OPERATOR, &replicas])?;
        Ok(())
    }
}

impl Drop for OperatorAway<'_> {
    fn drop(&mut self) {
        // The next story waits for what it needs of it.
        let _ = self.scale(REPLICAS);
    }
}
