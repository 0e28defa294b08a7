//! Decides who leads, from what was seen of the Lease and a monotonic clock given as argument.
//! Does no I/O and reads no clock. Another replica's clock is never believed: a Lease has expired
//! when
//! *we* have not seen it change for its whole duration.
//! Invariant: an epoch is used by one process only, and a replica never leads on a term it could
//! have lost, by its own clock, `MARGIN` before anybody else may take it.

use std::time::Duration;

/// Time kept between the moment a leader stops writing and the moment another may take the Lease:
/// covers a paused process that has one write in flight and clocks that run at unequal speed.
pub const MARGIN: Duration = Duration::from_millis(1_000);

/// What a Lease said when it was read, reduced to what the decision needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when released.
    pub holder: String,
    /// Its transition count, which is the epoch.
    pub transitions: u64,
    /// The holder's time stamp in microseconds: compared for change only.
    pub renewed_at_us: i64,
    /// How long the holder asked to be left alone.
    pub duration: Duration,
}

/// What to do about the Lease next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another replica holds it: look again later.
    Watch,
    /// Write it with us as the holder of this epoch.
    Take {
        /// The epoch to write.
        epoch: u64,
    },
    /// Write it again with the epoch we already hold.
    Renew {
        /// The epoch to keep.
        epoch: u64,
    },
}

/// Whether this replica leads, as far as it can know at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Somebody else leads, or nobody does.
    Following,
    /// This replica holds the Lease for certain: it writes and places.
    Leading {
        /// Its fencing number.
        epoch: u64,
    },
    /// The Lease could not be renewed for too long and nobody is known to have taken it: nothing is
    /// written any more; rooms are placed only under the rule in [`super::holding`].
    Holding {
        /// Its fencing number.
        epoch: u64,
    },
}

#[derive(Clone, Debug)]
struct Term {
    epoch: u64,
    renewed: Duration,
}

/// One replica's view of the contest.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    duration: Duration,
    seen: Option<(Record, Duration)>,
    term: Option<Term>,
    epoch_floor: u64,
}

impl Election {
    /// A contestant that has seen nothing yet. `identity` must be unique to the process.
    #[must_use]
    pub fn new(identity: impl Into<String>, duration: Duration) -> Self {
        Self { identity: identity.into(), duration, seen: None, term: None, epoch_floor: 0 }
    }

    /// Somebody showed this epoch: our next term must lie above it.
    pub fn saw_epoch(&mut self, epoch: u64) {
        self.epoch_floor = self.epoch_floor.max(epoch);
    }

    /// The Lease was read (`None`: there is none). Says what to write, if anything.
    pub fn observe(&mut self, now: Duration, record: Option<Record>) -> Step {
        let Some(record) = record else {
            self.seen = None;
            self.term = None;
            return Step::Take { epoch: self.epoch_floor.saturating_add(1) };
        };
        self.epoch_floor = self.epoch_floor.max(record.transitions);
        let unchanged = self.seen.as_ref().is_some_and(|(seen, _)| *seen == record);
        if !unchanged {
            self.seen = Some((record.clone(), now));
        }
        if record.holder == self.identity {
            return self.own(record.transitions);
        }
        self.term = None;
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let released = record.holder.is_empty();
        if released || now.saturating_sub(since) >= record.duration {
            return Step::Take { epoch: self.epoch_floor.saturating_add(1) };
        }
        Step::Watch
    }

    /// The Lease names us: renew it, or begin a new term when somebody showed a higher epoch.
    fn own(&self, transitions: u64) -> Step {
        if self.epoch_floor > transitions {
            return Step::Take { epoch: self.epoch_floor.saturating_add(1) };
        }
        Step::Renew { epoch: transitions }
    }

    /// A write that was begun at `begun` succeeded and gave us `record`.
    pub fn wrote(&mut self, begun: Duration, record: Record) {
        self.term = Some(Term { epoch: record.transitions, renewed: begun });
        self.epoch_floor = self.epoch_floor.max(record.transitions);
        self.seen = Some((record, begun));
    }

    /// Somebody else changed the Lease while we wrote: what we believed about it is void.
    pub fn conflicted(&mut self) {
        self.seen = None;
    }

    /// The Lease is somebody else's, or we gave it up.
    pub fn resign(&mut self) {
        self.term = None;
    }

    /// Whether we lead at `now`.
    #[must_use]
    pub fn standing(&self, now: Duration) -> Standing {
        let Some(term) = &self.term else {
            return Standing::Following;
        };
        let epoch = term.epoch;
        if self.epoch_floor > epoch {
            return Standing::Following;
        }
        if now < self.writes_end(term) {
            Standing::Leading { epoch }
        } else {
            Standing::Holding { epoch }
        }
    }

    /// How long the Lease that somebody else holds must still be left alone, if it must.
    #[must_use]
    pub fn expires_in(&self, now: Duration) -> Option<Duration> {
        let (record, since) = self.seen.as_ref()?;
        let left = since.saturating_add(record.duration).saturating_sub(now);
        (record.holder != self.identity && !left.is_zero()).then_some(left)
    }

    /// When leading ends unless the Lease is renewed before.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.term.as_ref().map(|term| self.writes_end(term))
    }

    fn writes_end(&self, term: &Term) -> Duration {
        term.renewed.saturating_add(self.duration.saturating_sub(MARGIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(7);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: &str, transitions: u64, stamp: i64) -> Record {
        Record { holder: holder.to_owned(), transitions, renewed_at_us: stamp, duration: LEASE }
    }

    fn leader_since(begun: Duration, epoch: u64) -> Election {
        let mut election = Election::new("a", LEASE);
        election.wrote(begun, record("a", epoch, 1));
        election
    }

    #[test]
    fn the_first_replica_creates_the_lease() {
        let mut election = Election::new("a", LEASE);
        assert_eq!(election.observe(at(0), None), Step::Take { epoch: 1 });
        assert_eq!(election.standing(at(0)), Standing::Following, "asking is not having");
        election.wrote(at(0), record("a", 1, 5));
        assert_eq!(election.standing(at(1)), Standing::Leading { epoch: 1 });
    }

    #[test]
    fn a_lease_that_changes_is_never_taken_whatever_its_clock_says() {
        let mut election = Election::new("b", LEASE);
        for second in 0..100 {
            // The holder's clock is years behind; only that the stamp changes counts.
            let step = election.observe(at(second * 3), Some(record("a", 4, second as i64)));
            assert_eq!(step, Step::Watch, "at {second}");
        }
    }

    #[test]
    fn an_unchanged_lease_is_taken_after_its_duration_by_our_clock_only() {
        let mut election = Election::new("b", LEASE);
        // The holder's clock is years ahead; that does not prolong its term.
        let seen = record("a", 4, i64::MAX);
        assert_eq!(election.observe(at(0), Some(seen.clone())), Step::Watch);
        assert_eq!(election.observe(at(6), Some(seen.clone())), Step::Watch);
        assert_eq!(election.expires_in(at(6)), Some(at(1)), "worth another look then");
        assert_eq!(election.observe(at(7), Some(seen)), Step::Take { epoch: 5 });
        assert_eq!(election.expires_in(at(7)), None);
    }

    #[test]
    fn a_released_lease_is_taken_at_once_with_the_next_epoch() {
        let mut election = Election::new("b", LEASE);
        assert_eq!(election.observe(at(0), Some(record("", 4, 9))), Step::Take { epoch: 5 });
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_anyone_may_take_over() {
        let election = leader_since(at(10), 3);
        assert_eq!(election.standing(at(15)), Standing::Leading { epoch: 3 });
        assert_eq!(election.standing(at(16)), Standing::Holding { epoch: 3 });
        // Another replica that saw the same renewal, at the earliest when it was begun:
        let mut other = Election::new("b", LEASE);
        other.observe(at(10), Some(record("a", 3, 1)));
        assert_eq!(other.observe(at(16), Some(record("a", 3, 1))), Step::Watch);
    }

    #[test]
    fn contact_with_a_lease_still_ours_resumes_the_term() {
        let mut election = leader_since(at(0), 3);
        assert_eq!(election.standing(at(600)), Standing::Holding { epoch: 3 });
        assert_eq!(election.observe(at(600), Some(record("a", 3, 1))), Step::Renew { epoch: 3 });
        election.wrote(at(600), record("a", 3, 2));
        assert_eq!(election.standing(at(601)), Standing::Leading { epoch: 3 });
    }

    #[test]
    fn contact_with_a_lease_taken_by_another_ends_the_term() {
        let mut election = leader_since(at(0), 3);
        assert_eq!(election.observe(at(20), Some(record("b", 4, 2))), Step::Watch);
        assert_eq!(election.standing(at(20)), Standing::Following);
    }

    #[test]
    fn a_higher_epoch_shown_by_a_media_node_ends_the_term_and_the_next_lies_above_it() {
        let mut election = leader_since(at(0), 3);
        election.saw_epoch(9);
        assert_eq!(election.standing(at(1)), Standing::Following);
        assert_eq!(election.observe(at(2), Some(record("a", 3, 1))), Step::Take { epoch: 10 });
        election.wrote(at(2), record("a", 10, 2));
        assert_eq!(election.standing(at(3)), Standing::Leading { epoch: 10 });
    }

    #[test]
    fn a_lost_answer_is_no_second_term() {
        let mut election = Election::new("a", LEASE);
        assert_eq!(election.observe(at(0), Some(record("", 4, 9))), Step::Take { epoch: 5 });
        // The write reached the server, its answer did not reach us; the next read shows ours.
        election.conflicted();
        assert_eq!(election.observe(at(1), Some(record("a", 5, 10))), Step::Renew { epoch: 5 });
    }

    #[test]
    fn a_deleted_lease_never_lowers_the_epoch() {
        let mut election = leader_since(at(0), 8);
        assert_eq!(election.observe(at(1), None), Step::Take { epoch: 9 });
        assert_eq!(election.standing(at(1)), Standing::Following);
    }
}
