//! The sheet that the stages of a plan write on, one after the other.
//!
//! Holds what every stage may see (world, policy, time, gate, standings) and what the stages before
//! it decided, so that no two stages act on one media node. It decides nothing itself.

use std::collections::BTreeMap;

use crate::{
    fleet::Standing,
    ids::{MediaNodeName, RoomKey, Timestamp},
    plan::{Held, Stage, StageReport, WaitingOn},
    policy::Policy,
    sovereignty::ScopeGate,
    step::{Evidence, Plan, Step},
    world::{DesiredState, DrainCause, MediaNodeSeen, Pod, PodSeen, World},
};

/// What every stage may see.
pub(crate) struct View<'a> {
    pub(crate) world: &'a World,
    pub(crate) policy: &'a Policy,
    pub(crate) now: Timestamp,
    pub(crate) gate: &'a ScopeGate,
    pub(crate) standings: &'a BTreeMap<MediaNodeName, Standing>,
}

impl<'a> View<'a> {
    /// Every media node with its standing, by name.
    pub(crate) fn fleet(
        &self,
    ) -> impl Iterator<Item = (&'a MediaNodeName, &'a MediaNodeSeen, &'a Standing)> + use<'a> {
        let standings = self.standings;
        self.world
            .media_nodes
            .iter()
            .filter_map(move |(name, seen)| Some((name, seen, standings.get(name)?)))
    }

    /// Whether it was made from an older template. Without a pod it has none yet.
    pub(crate) fn is_outdated(&self, media_node: &MediaNodeSeen) -> bool {
        pod(media_node).is_some() && media_node.template_hash != self.policy.template_hash
    }
}

/// The pod, if there is one.
pub(crate) fn pod(media_node: &MediaNodeSeen) -> Option<&Pod> {
    match &media_node.pod {
        PodSeen::Present(pod) => Some(pod),
        PodSeen::NeverCreated | PodSeen::Gone => None,
    }
}

/// What was decided so far.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) plan: Plan,
    pub(crate) stages: Vec<StageReport>,
    touched: BTreeMap<MediaNodeName, Touch>,
}

/// What an earlier stage did with a media node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    Desired(DesiredState),
    Deleted,
}

impl Draft {
    /// The report of a stage; the last one opened is the one written to.
    pub(crate) fn open(&mut self, stage: Stage) {
        self.stages.push(StageReport { stage, done: vec![], held: vec![] });
    }

    /// Whether an earlier stage acted on it.
    pub(crate) fn is_touched(&self, name: &MediaNodeName) -> bool {
        self.touched.contains_key(name)
    }

    /// Whether it serves or will, after what was decided so far.
    pub(crate) fn counts(&self, name: &MediaNodeName, standing: &Standing) -> bool {
        match self.touched.get(name) {
            Some(Touch::Desired(desired)) => *desired == DesiredState::Serving,
            Some(Touch::Deleted) => false,
            None => standing.counts(),
        }
    }

    /// Notes a step that is not taken.
    pub(crate) fn hold(&mut self, step: impl Into<String>, on: WaitingOn) {
        if let Some(stage) = self.stages.last_mut() {
            stage.held.push(Held { step: step.into(), on });
        }
    }

    /// Takes a step.
    pub(crate) fn act(&mut self, step: Step, said: impl Into<String>) {
        match &step {
            Step::SetDesiredState { name, state, .. } => {
                self.touched.insert(name.clone(), Touch::Desired(*state));
            }
            Step::DeleteMediaNode { name, .. } => {
                self.touched.insert(name.clone(), Touch::Deleted);
            }
            Step::CreateMediaNode { .. }
            | Step::CreatePod { .. }
            | Step::SendHome { .. }
            | Step::MoveGateway { .. } => {}
        }
        self.plan.steps.push(step);
        if let Some(stage) = self.stages.last_mut() {
            stage.done.push(said.into());
        }
    }

    /// Takes the step that lets a media node admit no new room.
    pub(crate) fn drain(&mut self, view: &View<'_>, name: &MediaNodeName, cause: DrainCause) {
        let state = match cause {
            DrainCause::Rollout => DesiredState::Retired,
            _ => DesiredState::Draining,
        };
        self.desire(view, name, state, Some(cause));
    }

    /// Takes the step that lets a media node admit rooms again.
    pub(crate) fn undrain(&mut self, view: &View<'_>, name: &MediaNodeName) {
        self.desire(view, name, DesiredState::Serving, None);
    }

    fn desire(
        &mut self,
        view: &View<'_>,
        name: &MediaNodeName,
        state: DesiredState,
        cause: Option<DrainCause>,
    ) {
        let Some(seen) = view.world.media_nodes.get(name) else { return };
        let said = match cause {
            Some(cause) => format!("media node {name} gets no new room ({})", cause.as_str()),
            None => format!("media node {name} gets new rooms again"),
        };
        let step = Step::SetDesiredState {
            name: name.clone(),
            uid: seen.uid.clone(),
            resource_version: seen.resource_version.clone(),
            state,
            cause,
            since: view.now,
        };
        self.act(step, said);
    }

    /// Takes the step that removes a media node, with the evidence that nobody is in it.
    pub(crate) fn delete(&mut self, view: &View<'_>, name: &MediaNodeName, evidence: Evidence) {
        let Some(seen) = view.world.media_nodes.get(name) else { return };
        let said = format!("media node {name} is removed: {}", evidence.describe());
        let step = Step::DeleteMediaNode {
            name: name.clone(),
            uid: seen.uid.clone(),
            resource_version: seen.resource_version.clone(),
            evidence,
        };
        self.act(step, said);
    }

    /// Takes the step that sends a room's people home.
    pub(crate) fn send_home(&mut self, media_node: &MediaNodeName, room: &RoomKey) {
        let step = Step::SendHome { media_node: media_node.clone(), room: room.clone() };
        self.act(step, format!("room {room} on media node {media_node} is sent home"));
    }
}
