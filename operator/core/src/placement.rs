//! The placer: which media node has which room.
//!
//! One pure state machine for each meeting cluster, [`Directory`]. Media nodes are the truth about
//! their rooms; the directory is memory, rebuilt by hearing them. It holds four promises, and
//! `audit` checks them from outside: one answer for concurrent first joins; no second home for a
//! room while its first may still admit it; a room that got two homes anyway is healed on contact,
//! the newer claim winning; nothing is placed on a media node that is not seen, granted and in
//! scope. It sends nothing: whoever holds it claims, releases and grants, and reports what came of
//! it.

mod changes;
mod choose;
mod directory;
mod ingest;
mod route;
mod types;

pub use changes::{DirectoryDelta, RoomHome};
pub use directory::{Counters, Directory};
pub use types::{
    Admission, ClaimOutcome, ClaimRefusal, Create, Decision, Grant, Hints, KnownMediaNode,
    PlacerState, RefuseReason, Release, ReportOutcome, Settings, WaitReason,
};

/// How long a grant lets a media node admit new rooms, on the media node's own clock, counted from
/// the report that the grant quotes. Reports and grants go twice a second, so five in a row must be
/// lost before a media node that is well refuses a room. Longer, and the people of a media node
/// that lost its power would not be back within 5 s: this and [`GRANT_SKEW_MS`] are most of that
/// budget.
pub const GRANT_TTL_MS: u64 = 2_500;

/// What two clocks that run at unequal speed may add to a grant's life: a tenth of it, a hundred
/// times what a machine's clock may drift. How long a grant is on its way adds nothing, since it
/// quotes a report that was written before it came.
pub const GRANT_SKEW_MS: u64 = 250;

/// A media node that has not reported for this long is out of sight: three reports are missing.
/// It gets no new room, and gateways look for themselves whether they still reach it.
pub const SIGHT_MS: u64 = 1_500;

/// A new room waits for a media node that serves and was heard within this time rather than being
/// refused: a machine that is busy for a moment delays reports.
pub const HEARD_LATELY_MS: u64 = 5_000;

/// People that a room is expected to grow to when nobody says: the mean of public figures on
/// meetings lies at 4.7.
pub const ROOM_PARTICIPANTS_EXPECTED: u32 = 5;

/// Room kept for the growth of a room just placed fades to nothing over this time; nine tenths of
/// all joins come within ten minutes.
pub const RESERVATION_MS: u64 = 600_000;

/// A claim unanswered for this long counts as lost; whoever sends it gives up earlier.
pub const CLAIM_TIMEOUT_MS: u64 = 5_000;

/// A report may have been written before a claim that was answered up to this long before the
/// report came; what it says of the claimed room's absence is not believed yet.
pub const CLAIM_SETTLE_MS: u64 = 3_000;

/// A media node that refused a claim is not asked for this long: its next report tells why.
pub const REFUSED_PAUSE_MS: u64 = 1_000;

/// A release is sent again after this long while the media node still reports the room.
pub const RELEASE_RETRY_MS: u64 = 1_000;

/// Rooms of one meeting cluster. At 300 bytes each this is 60 MB; a nation's peak is 200,000.
pub const ROOMS_MAX: usize = 200_000;

/// Releases that wait. More rooms with two homes than this means that something else is broken; the
/// media nodes' reports bring them up again.
pub const RELEASES_MAX: usize = 10_000;

/// Refusals are counted over this time.
pub const REFUSALS_WINDOW_MS: u64 = 60_000;

#[cfg(test)]
mod tests;
