//! What goes into the placer and what comes out of it.

use crate::ids::{Epoch, Incarnation, MediaNodeName, RoomKey, Timestamp, Zone};
use crate::report::ReportError;

/// How rooms are packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `namespace/name`: whose rooms these are. Rooms of anybody else are not believed.
    pub tenant: String,
    /// People and programs that one media node carries.
    pub participants_per_node_max: u32,
    /// How full a media node is packed before the next one is used, 0 to 1.
    pub target_fill: f64,
}

/// Whether new rooms may be given to a media node, as the plan sees it: wanted `Serving` and on a
/// Kubernetes node in scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// They may.
    Admit,
    /// They may not.
    Deny,
}

/// A media node that the placer is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMediaNode {
    /// Its name.
    pub name: MediaNodeName,
    /// Its zone; empty when unknown.
    pub zone: Zone,
    /// Whether new rooms may be given to it.
    pub admission: Admission,
    /// Its process may have started before this leader's epoch, so that it may hold rooms that this
    /// leader has not heard of.
    pub may_hold_rooms: bool,
}

/// A grant to be sent. It quotes the report that it answers, so that it ends when it should however
/// late it arrives, and so that no later process under the same name can use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The process that wrote the report.
    pub incarnation: Incarnation,
    /// That process' own clock in the report: the grant is counted from there.
    pub uptime_ms: u64,
    /// How long it lasts from there.
    pub ttl_ms: u64,
    /// When it ends on our clock, at the earliest.
    pub(super) until: Timestamp,
}

/// Whether the caller of `route` may bring the room into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// It may.
    Allowed,
    /// It asks for a room that exists.
    Forbidden,
}

/// What the caller of `route` knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// Whether it may bring the room into being.
    pub create: Create,
    /// Its zone; empty when unknown.
    pub zone: Zone,
    /// How many are expected; 0 when unknown.
    pub participants_expected: u32,
    /// A media node on which it just failed to find the room.
    pub unreachable: Option<MediaNodeName>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            create: Create::Allowed,
            zone: Zone::default(),
            participants_expected: 0,
            unreachable: None,
        }
    }
}

/// What to do about a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The room lives there: answer.
    Existing {
        /// Where.
        media_node: MediaNodeName,
    },
    /// Claim it there, then report the outcome with [`super::Directory::claimed`]. Given to exactly
    /// one caller; the others wait.
    Claim {
        /// Where.
        media_node: MediaNodeName,
    },
    /// Ask again after a claim's outcome, a report or a short time.
    Wait {
        /// Why.
        reason: WaitReason,
    },
    /// Tell the caller no.
    Refuse {
        /// Why.
        reason: RefuseReason,
    },
}

/// Why a caller has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// Another caller's claim for this room is on its way.
    ClaimInFlight {
        /// Where to.
        media_node: MediaNodeName,
    },
    /// Media nodes that serve were heard a moment ago, and are out of sight or without a grant now.
    SightLost,
    /// This leader is still hearing media nodes.
    Rebuilding {
        /// How many it has not heard.
        unheard: u32,
    },
    /// The room's home is out of sight and may still admit people to it.
    HomeOutOfSight {
        /// Its home.
        media_node: MediaNodeName,
        /// Milliseconds until another home may be chosen.
        retry_in_ms: u64,
    },
}

/// Why a caller is told no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// The room does not exist and the caller may not make it.
    NotFound,
    /// Every media node is full.
    Full,
    /// No media node may take a new room: none is seen, granted and in scope.
    NoMediaNode,
    /// The room is somebody else's.
    WrongTenant,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The media node has the room.
    Held {
        /// The process that answered.
        incarnation: Incarnation,
    },
    /// It does not and will not.
    Refused(ClaimRefusal),
    /// Nobody knows: no answer came in time, or the connection broke.
    Unknown,
}

/// Why a media node refused a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// It is full.
    Full,
    /// It drains, stops, or holds no grant or no ticket.
    NotAdmitting,
    /// It has seen a higher epoch: this leader is not one any more.
    StaleEpoch,
}

/// A room that a media node is to give up, because it has a newer home elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// Who gives it up.
    pub media_node: MediaNodeName,
    /// Which room.
    pub room: RoomKey,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportOutcome {
    /// It was believed.
    Accepted,
    /// It was counted and ignored. The stream must be opened anew, so that the whole state comes.
    Ignored(ReportError),
    /// The media node has seen a higher epoch: stop leading.
    Fenced {
        /// That epoch.
        epoch: Epoch,
    },
}

/// Whether new rooms are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacerState {
    /// No epoch was begun.
    Idle,
    /// Media nodes are still being heard.
    Rebuilding {
        /// How many have neither answered nor run out of their grant.
        unheard: u32,
    },
    /// They are.
    Placing,
}
