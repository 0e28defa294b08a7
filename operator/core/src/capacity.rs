//! How full a media node is, and how much the fleet carries.
//!
//! One measure for placing and for scaling, so that the two never pull in opposite directions: the
//! greatest of the participants' share of the stated maximum and the busy shares that were
//! measured. Pure arithmetic; it chooses nothing.

use crate::policy::CapacityPolicy;

/// How busy a media node is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    /// Mean of its packet threads, 0 to 1.
    pub shards: f64,
    /// Of the CPU time that all of it may use, 0 to 1: signalling and handshakes too.
    pub process: f64,
}

impl Busy {
    /// The greater of the two.
    #[must_use]
    pub fn all(self) -> f64 {
        self.shards.max(self.process)
    }
}

/// How full a media node is, 0 to 1 and above, counting `reserved` participants that are expected.
///
/// Shards that have no time left fill it; a process that has none left only comes next to it. A
/// rush of joins leads rooms elsewhere and scales the fleet, but where all have it, people get in
/// slowly rather than not at all.
#[must_use]
pub fn fill(participants: u32, busy: Busy, reserved: f64, participants_max: u32) -> f64 {
    let max = f64::from(participants_max.max(1));
    let media = (f64::from(participants) / max).max(busy.shards) + reserved / max;
    media.max(busy.process.min(1.0))
}

/// How many media nodes carry `participants` and a summed busy share of `busy_sum`, each packed to
/// the target fill and with the stated headroom left over.
#[must_use]
pub fn nodes_needed(capacity: &CapacityPolicy, participants: u64, busy_sum: f64) -> u32 {
    let with_headroom = 1.0 + f64::from(capacity.headroom_percent) / 100.0;
    let per_node = f64::from(capacity.participants_per_node_max) * capacity.target_fill();
    let by_participants = participants as f64 * with_headroom / per_node;
    let by_busy = busy_sum.max(0.0) * with_headroom / capacity.target_fill();
    // Rounding up from a hair above a whole number would buy a media node for an error of 2^-52.
    let need = (by_participants.max(by_busy) - 1e-9).ceil();
    if need >= f64::from(u32::MAX) { u32::MAX } else { need.max(0.0) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: CapacityPolicy = CapacityPolicy {
        nodes_min: 1,
        nodes_max: 10,
        participants_per_node_max: 100,
        headroom_percent: 25,
        target_fill_percent: 80,
    };

    #[test]
    fn the_tighter_of_participants_and_busy_share_decides() {
        assert_eq!(nodes_needed(&CAPACITY, 0, 0.0), 0);
        assert_eq!(nodes_needed(&CAPACITY, 64, 0.0), 1);
        assert_eq!(nodes_needed(&CAPACITY, 65, 0.0), 2);
        assert_eq!(nodes_needed(&CAPACITY, 65, 1.5), 3);
        assert_eq!(nodes_needed(&CAPACITY, u64::MAX, 0.0), u32::MAX);
    }

    #[test]
    fn fill_counts_what_is_expected() {
        let shards = |shards| Busy { shards, process: 0.0 };
        assert!((fill(50, shards(0.1), 10.0, 100) - 0.6).abs() < 1e-9);
        assert!((fill(5, shards(0.7), 10.0, 100) - 0.8).abs() < 1e-9);
        assert!(fill(1, shards(0.0), 0.0, 0) >= 1.0);
    }

    #[test]
    fn signalling_alone_leads_elsewhere_and_never_closes_the_door() {
        let rush = Busy { shards: 0.1, process: 1.0 };
        assert_eq!(fill(5, rush, 10.0, 100), 1.0);
        assert!(fill(5, Busy { shards: 1.0, process: 1.0 }, 10.0, 100) > 1.0);
        assert_eq!(rush.all(), 1.0);
    }
}
