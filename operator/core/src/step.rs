//! The acts that a plan may hold. Each is so exact that whoever carries it out has no choice left.
//!
//! An act that destroys carries its evidence: the UID and resourceVersion of what was seen, and why
//! it is believed to be empty.

use crate::{
    ids::{
        Incarnation, KubernetesNodeName, MediaNodeName, PodName, ResourceVersion, RoomKey,
        Timestamp, Uid,
    },
    world::{DesiredState, DrainCause},
};

/// What was decided, in the order in which it is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The acts.
    pub steps: Vec<Step>,
}

/// One act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create the `MediaNode` resource, wanted `Serving`. If it exists already nothing is done.
    CreateMediaNode {
        /// Its name; never used before in this meeting cluster.
        name: MediaNodeName,
    },
    /// Create the pod of a media node that never had one.
    CreatePod {
        /// The media node, whose name the pod bears.
        media_node: MediaNodeName,
        /// The media node's uid, for the owner reference.
        media_node_uid: Uid,
    },
    /// Write `spec.desiredState`, `desiredStateReason` and `desiredStateSince`.
    SetDesiredState {
        /// Which media node.
        name: MediaNodeName,
        /// Precondition.
        uid: Uid,
        /// Precondition.
        resource_version: ResourceVersion,
        /// The new state.
        state: DesiredState,
        /// Why; `None` when it goes back to `Serving`.
        cause: Option<DrainCause>,
        /// The time to write.
        since: Timestamp,
    },
    /// Send the people of a room home (`Release` on the media node) so that they meet elsewhere.
    SendHome {
        /// Where the room is.
        media_node: MediaNodeName,
        /// Which room.
        room: RoomKey,
    },
    /// Delete a pod of the gateway, which its Deployment makes anew where it may run.
    MoveGateway {
        /// Which pod.
        pod: PodName,
        /// Precondition.
        uid: Uid,
        /// Precondition.
        resource_version: ResourceVersion,
    },
    /// Delete the `MediaNode` resource and with it, by owner reference, its pod.
    DeleteMediaNode {
        /// Which media node.
        name: MediaNodeName,
        /// Precondition.
        uid: Uid,
        /// Precondition.
        resource_version: ResourceVersion,
        /// Why nobody is in it.
        evidence: Evidence,
    },
}

/// Why a media node is believed to hold no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It said so itself while it admitted none any more.
    ReportedEmpty {
        /// The pod whose process spoke.
        pod_uid: Uid,
        /// The start of that process.
        incarnation: Incarnation,
        /// Which report of its stream.
        sequence: u64,
        /// When it came.
        received: Timestamp,
    },
    /// The kubelet said that the pod's process is over for good.
    PodTerminated {
        /// The pod.
        pod_uid: Uid,
    },
    /// The pod is gone from the API server.
    PodGone,
    /// No pod was ever made.
    NeverCreated,
    /// The pod's process never started, or fails before it speaks and does not run now.
    NeverStarted {
        /// The pod.
        pod_uid: Uid,
    },
    /// The Kubernetes node under it does not exist any more.
    KubernetesNodeGone {
        /// The pod.
        pod_uid: Uid,
        /// Where it was bound to.
        kubernetes_node: KubernetesNodeName,
    },
}

impl Evidence {
    /// The evidence in words, for an Event.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::ReportedEmpty { sequence, .. } => {
                format!("it reported no room and no participant (report {sequence})")
            }
            Self::PodTerminated { .. } => "the kubelet reported its pod as terminated".into(),
            Self::PodGone => "its pod is gone".into(),
            Self::NeverCreated => "it never had a pod".into(),
            Self::NeverStarted { .. } => "its process does not run and never spoke".into(),
            Self::KubernetesNodeGone { kubernetes_node, .. } => {
                format!("Kubernetes node {kubernetes_node} does not exist any more")
            }
        }
    }
}
