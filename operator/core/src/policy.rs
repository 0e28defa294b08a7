//! What is wanted: the validated wishes of one meeting cluster.
//!
//! Numbers here were checked at the border, so nothing behind it checks them again. It holds no
//! observation and no decision.

use thiserror::Error;

use crate::{
    evidence::Level,
    ids::{ScopeName, Timestamp},
};

/// The validated wishes of one meeting cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Name of the meeting cluster; media nodes are called `<name>-<ordinal>`.
    pub name: String,
    /// `namespace/name`: whose rooms these are.
    pub tenant: String,
    /// How many media nodes, and how full.
    pub capacity: CapacityPolicy,
    /// Where media may run.
    pub sovereignty: SovereigntyPolicy,
    /// How long a drain may take before the rooms that are left are sent home, in milliseconds.
    pub drain_deadline_ms: u64,
    /// Hash of everything that makes a media pod; a media node with another one is outdated.
    pub template_hash: String,
    /// Nothing is changed while it is set; rooms go on and new rooms are still placed.
    pub paused: Paused,
}

/// Whether the owner has stopped changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// The plan is carried out.
    No,
    /// The plan is empty and says so.
    Yes,
}

/// How many media nodes, and how full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CapacityPolicy {
    /// Media nodes that are kept when nobody meets.
    pub nodes_min: u32,
    /// Media nodes that are never exceeded, save for one surge during a roll-out.
    pub nodes_max: u32,
    /// People and programs that one media node carries.
    pub participants_per_node_max: u32,
    /// Spare capacity kept for growth, in percent of the demand.
    pub headroom_percent: u32,
    /// How full a media node is packed before the next one is used, in percent.
    pub target_fill_percent: u32,
}

/// Where media may run, and what happens when that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SovereigntyPolicy {
    /// The scopes of which every Kubernetes node under a media node must lie in one.
    pub scopes: Vec<ScopeName>,
    /// The weakest evidence that is taken for it.
    pub minimum_evidence: Level,
    /// What happens to rooms on a Kubernetes node that left the scope.
    pub on_loss: OnLoss,
    /// Violations that somebody answers for.
    pub acknowledgements: Vec<Acknowledgement>,
}

/// Who answers for a violation, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Which.
    pub violation: String,
    /// Who.
    pub by: String,
    /// Until when.
    pub until: Timestamp,
}

/// What happens to rooms whose Kubernetes node left the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// They end by themselves or at the drain deadline.
    Drain,
    /// They are sent home at once.
    Terminate,
}

/// Why a set of wishes cannot be a policy.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// The bounds contradict each other.
    #[error(
        "spec.capacity.minNodes is {min} but spec.capacity.maxNodes is {max}: raise maxNodes or \
         lower minNodes"
    )]
    Bounds {
        /// `minNodes`.
        min: u32,
        /// `maxNodes`.
        max: u32,
    },
    /// A number is outside what makes sense.
    #[error("spec.capacity.{field} is {value}, allowed is {allowed}")]
    Range {
        /// The field's name in the resource.
        field: &'static str,
        /// What it says.
        value: u32,
        /// What it may say.
        allowed: &'static str,
    },
}

impl CapacityPolicy {
    /// Checks the numbers, which an API server without our rules may have let through.
    ///
    /// # Errors
    /// The first field that is outside its range, with the range.
    pub fn check(&self) -> Result<(), PolicyError> {
        let range = |field, value, allowed| Err(PolicyError::Range { field, value, allowed });
        if self.nodes_max == 0 {
            return range("maxNodes", self.nodes_max, "1 or more");
        }
        if self.nodes_min > self.nodes_max {
            return Err(PolicyError::Bounds { min: self.nodes_min, max: self.nodes_max });
        }
        if self.participants_per_node_max == 0 {
            let value = self.participants_per_node_max;
            return range("participantsPerNodeMax", value, "1 or more");
        }
        if self.headroom_percent > 500 {
            return range("headroomPercent", self.headroom_percent, "0 to 500");
        }
        if !(10..=100).contains(&self.target_fill_percent) {
            return range("targetFillPercent", self.target_fill_percent, "10 to 100");
        }
        Ok(())
    }

    /// How full a media node is packed, 0 to 1.
    #[must_use]
    pub fn target_fill(&self) -> f64 {
        f64::from(self.target_fill_percent) / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_contradict_are_refused_with_the_field_and_what_to_do() {
        let good = CapacityPolicy {
            nodes_min: 1,
            nodes_max: 3,
            participants_per_node_max: 200,
            headroom_percent: 20,
            target_fill_percent: 80,
        };
        assert_eq!(good.check(), Ok(()));
        let bounds = CapacityPolicy { nodes_min: 4, ..good }.check().unwrap_err();
        assert!(bounds.to_string().contains("raise maxNodes"), "{bounds}");
        for (bad, field) in [
            (CapacityPolicy { nodes_min: 0, nodes_max: 0, ..good }, "maxNodes"),
            (CapacityPolicy { participants_per_node_max: 0, ..good }, "participantsPerNodeMax"),
            (CapacityPolicy { headroom_percent: 501, ..good }, "headroomPercent"),
            (CapacityPolicy { target_fill_percent: 9, ..good }, "targetFillPercent"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
