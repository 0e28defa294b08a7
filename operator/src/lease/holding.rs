//! Holds the rule under which a leader that cannot renew its Lease goes on placing, and the promise
//! that another replica gives it. Pure but for the promise's clock, which is an argument's Instant.
//! Invariant: a replica that acknowledged an epoch does not try for the Lease while the promise
//! binds, so that at most one replica places new rooms.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// How long an acknowledgement binds the replica that gave it. The leader asks every second, so a
/// leader that goes silent frees the others after this time.
pub const PROMISE: Duration = Duration::from_millis(4_000);
/// How long an answer counts for the leader: shorter than [`PROMISE`], so that the leader stops
/// first.
pub const ANSWER_FRESH: Duration = Duration::from_millis(2_500);

/// How recent an answer of the API server must be for a replica to say that it is reached from
/// here: two looks at the Lease, each given up in time, would have brought one. Shorter than a
/// leader takes to notice that it cannot renew, so that its first question is not refused for
/// nothing.
pub const CONTACT_FRESH: Duration = Duration::from_millis(2_500);

/// The latest promise this replica gave, and its latest contact with the API server.
#[derive(Debug, Default)]
pub struct Acknowledged {
    promise: Mutex<Option<(u64, Instant)>>,
    contact: Mutex<Option<Instant>>,
}

impl Acknowledged {
    /// The API server answered this replica.
    pub fn api_server_answered(&self, now: Instant) {
        *self.contact.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(now);
    }

    fn api_server_reached(&self, now: Instant) -> bool {
        let contact = self.contact.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        contact.is_some_and(|at| now.duration_since(at) < CONTACT_FRESH)
    }

    /// Another replica asks to go on under `epoch`. Refused when a higher epoch is known here, and
    /// when the API server answers this replica: then the Lease decides, and the one who cannot
    /// renew it is to step back.
    pub fn acknowledge(&self, epoch: u64, highest_known: u64, now: Instant) -> bool {
        if self.api_server_reached(now) {
            return false;
        }
        let mut promise = self.promise.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bound = promise.filter(|(_, given)| now.duration_since(*given) < PROMISE);
        let higher = highest_known.max(bound.map_or(0, |(epoch, _)| epoch));
        if epoch < higher {
            return false;
        }
        *promise = Some((epoch, now));
        true
    }

    /// Whether a promise binds now.
    #[must_use]
    pub fn binds(&self) -> bool {
        self.binds_at(Instant::now())
    }

    fn binds_at(&self, now: Instant) -> bool {
        let promise = self.promise.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        promise.is_some_and(|(_, given)| now.duration_since(given) < PROMISE)
    }
}

/// Whether `fresh` acknowledgements of other replicas and our own vote are a majority of
/// `replicas`.
#[must_use]
pub fn majority(fresh: usize, replicas: u32) -> bool {
    let votes = u32::try_from(fresh).unwrap_or(u32::MAX).saturating_add(1);
    votes > replicas / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_counts_ourselves() {
        assert!(majority(0, 1));
        assert!(!majority(0, 2));
        assert!(!majority(0, 3));
        assert!(majority(1, 3));
        assert!(majority(1, 2));
        assert!(!majority(1, 4));
    }

    #[test]
    fn a_promise_binds_for_its_time_and_refuses_lower_epochs() {
        let acknowledged = Acknowledged::default();
        let start = Instant::now();
        assert!(acknowledged.acknowledge(5, 5, start));
        assert!(acknowledged.binds_at(start + Duration::from_secs(3)));
        assert!(!acknowledged.acknowledge(4, 0, start + Duration::from_secs(1)));
        assert!(!acknowledged.binds_at(start + PROMISE));
    }

    #[test]
    fn a_replica_that_reaches_the_api_server_lets_the_lease_decide() {
        let acknowledged = Acknowledged::default();
        let start = Instant::now();
        acknowledged.api_server_answered(start);
        assert!(!acknowledged.acknowledge(5, 5, start + Duration::from_secs(1)));
        assert!(acknowledged.acknowledge(5, 5, start + CONTACT_FRESH));
    }

    #[test]
    fn a_higher_epoch_known_here_is_an_objection() {
        let acknowledged = Acknowledged::default();
        assert!(!acknowledged.acknowledge(5, 6, Instant::now()));
        assert!(!acknowledged.binds());
    }
}
