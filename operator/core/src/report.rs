//! What a media node says about itself, and whether it may be believed.
//!
//! A view of `hemicycle.media.v1.NodeReport` without its wire types. A report with a number that
//! cannot be (NaN, infinite, negative, a share far over one) is refused whole: half of a lie is
//! not knowledge. Nothing here decides what follows from a report.

use thiserror::Error;

use crate::capacity::Busy;
use crate::ids::{Epoch, Incarnation, RoomKey};

/// Rooms that one report may list; more is a defect of the sender and the report is refused.
/// A media node of 64 cores carries a few thousand rooms.
pub const REPORT_ROOMS_MAX: usize = 20_000;

/// Busy shares may exceed one by measuring error; beyond this the clock of the sender is broken.
pub const BUSY_RATIO_MAX: f64 = 1.5;

/// What a media node says that it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MediaNodeState {
    /// It admits new rooms while it holds a grant.
    Serving,
    /// It admits no new room; its rooms go on.
    Draining,
    /// It got SIGTERM and is sending its rooms home.
    Stopping,
}

/// One report of a media node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReportView {
    /// The start of the process that speaks.
    pub incarnation: Incarnation,
    /// The highest epoch that it has seen.
    pub epoch: Epoch,
    /// Number in its stream, from 1, without gaps.
    pub sequence: u64,
    /// When it was written, in milliseconds since that start on the process' own clock, which no
    /// correction of the time of day moves.
    pub uptime_ms: u64,
    /// What it is doing.
    pub state: MediaNodeState,
    /// Busy share of each shard over the last second, 0 to 1.
    pub busy_ratios: Vec<f64>,
    /// Share of the CPU time that it may use that the whole process used over the last seconds:
    /// packets, signalling, handshakes. Zero from a media node that does not say.
    pub cpu_ratio: f64,
    /// p99 of the time a packet spends inside, in seconds.
    pub forwarding_delay_p99_seconds: f64,
    /// People and programs in its rooms.
    pub participants: i64,
    /// Whether `rooms` is all of them, or only those that changed.
    pub whole: bool,
    /// Its rooms.
    pub rooms: Vec<RoomView>,
    /// Rooms that ended since the last report of the stream.
    pub ended: Vec<RoomKey>,
}

/// One room in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomView {
    /// Which room.
    pub room: RoomKey,
    /// Epoch of the claim that gave it its home there.
    pub claim_epoch: Epoch,
    /// Who is in it.
    pub participants: u32,
    /// How many of them publish.
    pub publishers: u32,
    /// When it came into being, on the media node's clock.
    pub created_unix_ms: u64,
}

/// Why a report is not believed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportError {
    /// A number is NaN or infinite.
    #[error("the report holds a number that is NaN or infinite")]
    NotANumber,
    /// A number is below zero.
    #[error("the report holds a negative number")]
    Negative,
    /// A busy share is far over one.
    #[error("the report holds a busy share over {BUSY_RATIO_MAX}")]
    OutOfRange,
    /// No shard reported a load.
    #[error("the report names no shard")]
    Empty,
    /// More rooms than [`REPORT_ROOMS_MAX`].
    #[error("the report lists more than {REPORT_ROOMS_MAX} rooms")]
    TooManyRooms,
    /// It carries an epoch below the one that was already seen.
    #[error("the report comes from a lower epoch")]
    EpochLower,
    /// It was written too long ago, or out of order.
    #[error("the report is late")]
    Late,
    /// Nobody knows this media node.
    #[error("the media node is not known")]
    UnknownMediaNode,
}

impl ReportError {
    /// Every value, for metric labels.
    pub const ALL: [Self; 8] = [
        Self::NotANumber,
        Self::Negative,
        Self::OutOfRange,
        Self::Empty,
        Self::TooManyRooms,
        Self::EpochLower,
        Self::Late,
        Self::UnknownMediaNode,
    ];

    /// A stable word for a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotANumber => "not_a_number",
            Self::Negative => "negative",
            Self::OutOfRange => "out_of_range",
            Self::Empty => "empty",
            Self::TooManyRooms => "too_many_rooms",
            Self::EpochLower => "epoch_lower",
            Self::Late => "late",
            Self::UnknownMediaNode => "unknown_media_node",
        }
    }
}

impl NodeReportView {
    /// Refuses numbers that cannot be.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn check(&self) -> Result<(), ReportError> {
        let shares = || self.busy_ratios.iter().chain([&self.cpu_ratio]);
        let numbers = || shares().chain([&self.forwarding_delay_p99_seconds]);
        if numbers().any(|number| !number.is_finite()) {
            return Err(ReportError::NotANumber);
        }
        if numbers().any(|number| *number < 0.0) || self.participants < 0 {
            return Err(ReportError::Negative);
        }
        if shares().any(|busy| *busy > BUSY_RATIO_MAX) {
            return Err(ReportError::OutOfRange);
        }
        if self.busy_ratios.is_empty() {
            return Err(ReportError::Empty);
        }
        if self.rooms.len() > REPORT_ROOMS_MAX || self.ended.len() > REPORT_ROOMS_MAX {
            return Err(ReportError::TooManyRooms);
        }
        Ok(())
    }

    /// How busy it is, by the mean of its shards and by its process. Call it on a checked report.
    #[must_use]
    pub fn busy(&self) -> Busy {
        let sum: f64 = self.busy_ratios.iter().sum();
        let shards = (sum / self.busy_ratios.len().max(1) as f64).min(1.0);
        Busy { shards, process: self.cpu_ratio.min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NodeReportView {
        NodeReportView {
            incarnation: "i".into(),
            epoch: Epoch(1),
            sequence: 1,
            uptime_ms: 0,
            state: MediaNodeState::Serving,
            busy_ratios: vec![0.2, 0.4],
            cpu_ratio: 0.5,
            forwarding_delay_p99_seconds: 0.001,
            participants: 3,
            whole: true,
            rooms: vec![],
            ended: vec![],
        }
    }

    #[test]
    fn a_report_that_cannot_be_is_refused_whole() {
        let refused = |change: fn(&mut NodeReportView)| {
            let mut report = good();
            change(&mut report);
            report.check().unwrap_err()
        };
        assert_eq!(good().check(), Ok(()));
        assert_eq!(refused(|r| r.busy_ratios[1] = f64::NAN), ReportError::NotANumber);
        assert_eq!(
            refused(|r| r.forwarding_delay_p99_seconds = f64::INFINITY),
            ReportError::NotANumber
        );
        assert_eq!(refused(|r| r.busy_ratios[0] = -0.1), ReportError::Negative);
        assert_eq!(refused(|r| r.participants = -1), ReportError::Negative);
        assert_eq!(refused(|r| r.busy_ratios[0] = 7.0), ReportError::OutOfRange);
        assert_eq!(refused(|r| r.cpu_ratio = f64::NAN), ReportError::NotANumber);
        assert_eq!(refused(|r| r.cpu_ratio = -0.1), ReportError::Negative);
        assert_eq!(refused(|r| r.cpu_ratio = 7.0), ReportError::OutOfRange);
        assert_eq!(refused(|r| r.busy_ratios.clear()), ReportError::Empty);
    }

    #[test]
    fn the_mean_is_over_all_shards() {
        assert!((good().busy().shards - 0.3).abs() < 1e-9);
        assert_eq!(NodeReportView { cpu_ratio: 1.2, ..good() }.busy().process, 1.0);
    }
}
