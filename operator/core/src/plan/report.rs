//! Why a plan is what it is: for each stage what was done, what was held back and on what it waits.
//!
//! Plain data, made while planning; conditions and Events are read from it and from nothing else.

use crate::{
    autoscale::{ScaleMemory, ScaleReport},
    ids::{KubernetesNodeName, MediaNodeName, Timestamp},
    sovereignty::ScopeGate,
    violation::Violation,
};

/// The stages of a plan, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Where media may run.
    Sovereignty,
    /// Media nodes whose process is over.
    Repair,
    /// Emptying and removing media nodes.
    Drain,
    /// Replacing those of an older template.
    Rollout,
    /// How many there are.
    Scale,
    /// Pods of media nodes that have none.
    Pods,
}

impl Stage {
    /// The stage's word in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sovereignty => "sovereignty",
            Self::Repair => "repair",
            Self::Drain => "drain",
            Self::Rollout => "rollout",
            Self::Scale => "scale",
            Self::Pods => "pods",
        }
    }
}

/// What one stage did and did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageReport {
    /// Which stage.
    pub stage: Stage,
    /// What it put into the plan, in sentences for Events.
    pub done: Vec<String>,
    /// What it would have put there, and what it waits for.
    pub held: Vec<Held>,
}

/// A step that was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The step, in words.
    pub step: String,
    /// What it waits for.
    pub on: WaitingOn,
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// The owner paused the meeting cluster.
    Pause,
    /// The scope is missing, expired or withdrawn, or nobody could look.
    Scope(String),
    /// The Secret with the keys is missing, unreadable or weak.
    Credentials(String),
    /// A media node's report is missing or too old.
    FreshReport(MediaNodeName),
    /// A media node still has rooms.
    Rooms {
        /// Where.
        media_node: MediaNodeName,
        /// How many.
        rooms: u32,
        /// Milliseconds until they are sent home; zero when that has begun.
        deadline_in_ms: u64,
    },
    /// A claim is on its way to the media node.
    ClaimInFlight(MediaNodeName),
    /// A media node that was made is not ready yet.
    MediaNodeReady(MediaNodeName),
    /// No other gateway is ready to take over.
    GatewayReady,
    /// No Kubernetes node of the scope has room for another media pod.
    KubernetesNode(String),
    /// The pod's process may still run, but its Kubernetes node does not answer.
    PodTermination(MediaNodeName),
    /// The Kubernetes node's fate is not known.
    KubernetesNodeKnown(KubernetesNodeName),
    /// Another media node is being drained.
    OtherDrain(MediaNodeName),
    /// The need must have been lower for the whole window.
    Stabilisation {
        /// Milliseconds left.
        remaining_ms: u64,
    },
    /// `spec.capacity.maxNodes` is reached.
    NodesMax(u32),
    /// The last one died young; the next is made after a pause.
    Backoff {
        /// The media node that died.
        media_node: MediaNodeName,
        /// Milliseconds left.
        remaining_ms: u64,
    },
}

impl WaitingOn {
    /// What is waited for, in words for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Pause => "spec.paused is true".into(),
            Self::Scope(why) | Self::Credentials(why) | Self::KubernetesNode(why) => why.clone(),
            Self::FreshReport(name) => format!("a fresh report of media node {name}"),
            Self::Rooms { media_node, rooms, deadline_in_ms } => format!(
                "{rooms} rooms on media node {media_node} to end, or to be sent home in {} s",
                deadline_in_ms.div_ceil(1000)
            ),
            Self::ClaimInFlight(name) => format!("a claim on its way to media node {name}"),
            Self::MediaNodeReady(name) => format!("media node {name} to become ready"),
            Self::GatewayReady => "another gateway to become ready".into(),
            Self::PodTermination(name) => {
                format!("proof that the pod of media node {name} has ended")
            }
            Self::KubernetesNodeKnown(name) => format!("news of Kubernetes node {name}"),
            Self::OtherDrain(name) => format!("the drain of media node {name}"),
            Self::Stabilisation { remaining_ms } => {
                format!("{} s more of lower need", remaining_ms.div_ceil(1000))
            }
            Self::NodesMax(max) => format!("spec.capacity.maxNodes ({max}) to be raised"),
            Self::Backoff { media_node, remaining_ms } => format!(
                "{} s after media node {media_node} ended young",
                remaining_ms.div_ceil(1000)
            ),
        }
    }
}

/// Why a plan is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanReport {
    /// One entry for each stage, in order.
    pub stages: Vec<StageReport>,
    /// Where media may run.
    pub gate: ScopeGate,
    /// The record of media that run where no scope reaches.
    pub violations: Vec<Violation>,
    /// When the plan was made.
    pub at: Timestamp,
    /// How many media nodes are needed, and why.
    pub scale: ScaleReport,
    /// What to hand to the next plan.
    pub scale_memory: ScaleMemory,
    /// The highest ordinal given to a media node; to be kept in the meeting cluster's status.
    pub ordinal_high_water: u64,
}

impl PlanReport {
    /// Everything that was held back, with its stage.
    pub fn held(&self) -> impl Iterator<Item = (Stage, &Held)> {
        self.stages.iter().flat_map(|report| report.held.iter().map(|held| (report.stage, held)))
    }

    /// Everything that was put into the plan, with its stage.
    pub fn done(&self) -> impl Iterator<Item = (Stage, &str)> {
        self.stages
            .iter()
            .flat_map(|report| report.done.iter().map(|done| (report.stage, done.as_str())))
    }

    /// The violations that go on and for which nobody answers.
    pub fn violations_open(&self) -> impl Iterator<Item = &Violation> {
        self.violations.iter().filter(|it| it.is_open(self.at))
    }
}
