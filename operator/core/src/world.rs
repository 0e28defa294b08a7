//! What is seen: the meeting cluster's objects, Kubernetes nodes, scopes and reports, with ages.
//!
//! Missing knowledge is a value: an `Option` that is `None` means "not known", never "nothing".
//! The world holds no wish and decides nothing; ordered maps keep the plan the same for the same
//! input, byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    autoscale::ScaleMemory,
    capacity::Busy,
    evidence,
    ids::{
        Incarnation, KubernetesNodeName, MediaNodeName, PodName, ResourceVersion, RoomKey,
        ScopeName, Timestamp, Uid, Zone,
    },
    provider_id::Platform,
    report::MediaNodeState,
    violation::Violation,
};

/// All that one plan is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Every `MediaNode` resource of the meeting cluster, those being deleted included.
    pub media_nodes: BTreeMap<MediaNodeName, MediaNodeSeen>,
    /// Every Kubernetes node; `None` when they could not be listed.
    pub kubernetes_nodes: Option<BTreeMap<KubernetesNodeName, KubernetesNodeSeen>>,
    /// Every scope; `None` when they could not be listed.
    pub scopes: Option<BTreeMap<ScopeName, ScopeSeen>>,
    /// The highest ordinal ever given to a media node of this meeting cluster, from its status.
    /// The plan goes on from the higher of this and the names it sees.
    pub ordinal_high_water: u64,
    /// What rooms ask for beyond what media nodes report.
    pub demand: DemandSeen,
    /// What the last plan wished, so that shrinking can wait.
    pub scale_memory: ScaleMemory,
    /// The keys that tokens are verified with.
    pub credentials: CredentialsSeen,
    /// The public door; `None` when it could not be read.
    pub gateway: Option<GatewaySeen>,
    /// The placer in this process.
    pub placer: PlacerSeen,
    /// What the API server refused lately, in its own words (quota, admission); newest last.
    pub refusals: Vec<RefusalSeen>,
    /// Violations that were recorded before.
    pub violations: Vec<Violation>,
    /// What is wrong with the admission policies that keep media pods in their scope.
    pub admission_trouble: Option<String>,
}

/// One media node.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaNodeSeen {
    /// `metadata.uid` of the resource.
    pub uid: Uid,
    /// `metadata.resourceVersion` of the resource.
    pub resource_version: ResourceVersion,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: Deleting,
    /// `spec.desiredState`.
    pub desired: DesiredState,
    /// `spec.desiredStateReason`, when the state is not `Serving`.
    pub drain_cause: Option<DrainCause>,
    /// `spec.desiredStateSince`: the drain deadline counts from here.
    pub desired_since: Option<Timestamp>,
    /// Somebody asked by annotation that this media node be emptied.
    pub drain_requested: DrainRequested,
    /// Hash of the template that its pod was made from.
    pub template_hash: String,
    /// Its pod.
    pub pod: PodSeen,
    /// Its last believed report; `None` when it never spoke to this operator.
    pub report: Option<ReportSeen>,
}

/// Whether an object is on its way out already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleting {
    /// It stays.
    No,
    /// Its deletion was accepted.
    Yes,
}

/// Whether somebody asked for a drain by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainRequested {
    /// Nobody did.
    No,
    /// The annotation `hemicycle.dev/drain` is set on the `MediaNode`.
    Yes,
}

/// What a media node is wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DesiredState {
    /// Admit rooms.
    Serving,
    /// Admit no new room; reversible.
    Draining,
    /// Admit no new room ever again; not reversible.
    Retired,
}

/// Why a media node admits no new room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainCause {
    /// There are more media nodes than are needed. Taken back when they are needed again.
    ScaleDown,
    /// It was made from an older template.
    Rollout,
    /// Its Kubernetes node is cordoned, as `kubectl drain` does first.
    KubernetesNodeCordoned,
    /// Its Kubernetes node does not lie in the scope, or the scope ended.
    ScopeLost,
    /// Somebody asked for it by annotation.
    Requested,
}

impl DrainCause {
    /// Every cause.
    pub const ALL: [Self; 5] = [
        Self::ScaleDown,
        Self::Rollout,
        Self::KubernetesNodeCordoned,
        Self::ScopeLost,
        Self::Requested,
    ];

    /// The word in `spec.desiredStateReason` and in Events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScaleDown => "ScaleDown",
            Self::Rollout => "Rollout",
            Self::KubernetesNodeCordoned => "KubernetesNodeCordoned",
            Self::ScopeLost => "ScopeLost",
            Self::Requested => "Requested",
        }
    }

    /// The cause behind a word; `None` for a word that is not one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }
}

/// The pod of a media node.
#[derive(Clone, Debug, PartialEq)]
pub enum PodSeen {
    /// None was ever made: `status.podUid` is empty and no pod bears the name.
    NeverCreated,
    /// There was one and it is gone.
    Gone,
    /// It exists.
    Present(Pod),
}

/// A pod that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: ResourceVersion,
    /// `metadata.creationTimestamp`.
    pub created: Timestamp,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: Deleting,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// Its Ready condition is true.
    pub ready: Ready,
    /// Where it was bound to.
    pub kubernetes_node: Option<KubernetesNodeName>,
    /// What keeps it from running, in words (scheduler's message, image pull error).
    pub trouble: Option<String>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not bound, and the scheduler says that it cannot be since this moment.
    Unschedulable {
        /// When the scheduler said so first.
        since: Timestamp,
    },
    /// Its process never started (pulling, image error, waiting for the scheduler).
    Pending,
    /// Its process started at least once and is not known to be over.
    Running,
    /// `Succeeded` or `Failed`: the kubelet says that its process is over for good.
    Terminated {
        /// When, as far as known; else when it was seen.
        at: Timestamp,
    },
}

/// A readiness that the kubelet reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Not ready, or not known.
    No,
    /// Ready.
    Yes,
}

/// The last believed report of a media node.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportSeen {
    /// When it came, on the operator's clock.
    pub received: Timestamp,
    /// The start of the process that spoke.
    pub incarnation: Incarnation,
    /// The number of the report in its stream.
    pub sequence: u64,
    /// What it was doing.
    pub state: MediaNodeState,
    /// People and programs in its rooms.
    pub participants: u32,
    /// How busy it was.
    pub busy: Busy,
    /// When the ticket that it holds ends; 1970 when it holds none.
    pub ticket_expires: Timestamp,
    /// How far its clock was ahead of the operator's, in milliseconds; negative: behind.
    pub clock_skew_ms: i64,
    /// Its rooms with their participants.
    pub rooms: BTreeMap<RoomKey, u32>,
    /// Claims that are on their way to it.
    pub claims_in_flight: u32,
}

/// One Kubernetes node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesNodeSeen {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Its Ready condition is true.
    pub ready: bool,
    /// `spec.unschedulable`: somebody cordoned it.
    pub unschedulable: bool,
    /// Its zone label; empty when it has none.
    pub zone: Zone,
    /// `spec.providerID`; empty when it has none.
    pub provider_id: String,
    /// What others than the cluster say of it, by scope.
    pub statements: evidence::ByScope,
}

/// One scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeSeen {
    /// When its attestation ends.
    pub expires: Timestamp,
    /// What the authority says.
    pub state: QualificationState,
    /// Key of the label that a Kubernetes node in the scope carries.
    pub label_key: String,
    /// Value of that label.
    pub label_value: String,
    /// How its machines say where they are.
    pub platform: Platform,
    /// Regions that it covers.
    pub regions: BTreeSet<String>,
    /// Subregions that it covers; empty: all of its regions.
    pub subregions: BTreeSet<String>,
    /// Accounts that it covers; empty: any.
    pub accounts: BTreeSet<String>,
}

/// What the authority says of a qualification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QualificationState {
    /// It holds.
    #[default]
    Qualified,
    /// It is suspended.
    Suspended,
    /// It is withdrawn.
    Withdrawn,
}

/// What rooms ask for beyond what media nodes report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemandSeen {
    /// Participants that are expected in rooms just placed.
    pub participants_reserved: u32,
    /// New rooms refused for want of capacity in the last minute.
    pub rooms_refused: u32,
}

/// The keys that tokens are verified with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CredentialsSeen {
    /// They were not looked at.
    #[default]
    Unknown,
    /// At least one good key.
    Good,
    /// The Secret, or its `keys.yaml`, is not there or cannot be read.
    Missing {
        /// What is missing and where.
        what: String,
    },
    /// A key that anybody could guess.
    Weak {
        /// Which key and why; never the secret.
        what: String,
    },
}

/// The public door.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewaySeen {
    /// Replicas wanted.
    pub replicas_wanted: u32,
    /// Replicas ready.
    pub replicas_ready: u32,
    /// How far its pods are what was last wished for.
    pub rollout: GatewayRollout,
    /// The first of its pods that does not run.
    pub trouble: Option<PodTrouble>,
    /// Its pods, of whichever template.
    pub pods: BTreeMap<PodName, Pod>,
}

/// Whether the gateway's pods are what was last wished for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayRollout {
    /// Every one is, and no older one is left.
    #[default]
    Done,
    /// Older ones are left, or newer ones are not ready.
    Going {
        /// Replicas of the newest template.
        updated: u32,
    },
}

/// A pod that does not run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTrouble {
    /// Its name.
    pub pod: String,
    /// Scheduler's or kubelet's words.
    pub words: String,
}

/// The placer in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlacerSeen {
    /// It does not lead.
    #[default]
    NotLeading,
    /// It leads and is still hearing media nodes.
    Rebuilding {
        /// Media nodes that have neither answered nor run out of their grant.
        unheard: u32,
    },
    /// It places new rooms.
    Placing,
}

/// Something that the API server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalSeen {
    /// What was asked, such as `create pod demo-3`.
    pub act: String,
    /// The API server's words.
    pub message: String,
    /// When.
    pub at: Timestamp,
}
