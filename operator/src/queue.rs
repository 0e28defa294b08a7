//! Counts the meeting clusters whose next look is due, for the metric that says how far behind the
//! operator is. Decides nothing and wakes nobody: kube's controller keeps the queue itself and
//! does not show it. Invariant: what is being looked at does not wait, and a term that is over
//! leaves nothing behind.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// When each meeting cluster is to be looked at next. One entry for each that the leader has looked
/// at.
#[derive(Debug, Default)]
pub struct Queue(Mutex<Looks>);

#[derive(Debug, Default)]
struct Looks {
    due: BTreeMap<String, Instant>,
    in_flight: usize,
}

/// How far the operator is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Meeting clusters in reconcile now.
    pub in_flight: usize,
    /// Meeting clusters that are due and wait.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub oldest: Duration,
}

/// Ends a look, or a term, when it is dropped: also when it is cut short.
#[derive(Debug)]
pub struct Guard<'a>(&'a Queue, fn(&mut Looks));

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        (self.1)(&mut self.0.looks());
    }
}

impl Queue {
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A term of leadership begins and lasts as long as the guard.
    pub fn term(&self) -> Guard<'_> {
        Guard(self, |looks| *looks = Looks::default())
    }

    /// A look at `tenant` begins and lasts as long as the guard.
    pub fn begin(&self, tenant: &str) -> Guard<'_> {
        let mut looks = self.looks();
        looks.due.remove(tenant);
        looks.in_flight += 1;
        Guard(self, |looks| looks.in_flight = looks.in_flight.saturating_sub(1))
    }

    /// The next look at `tenant` is due at `at`.
    pub fn again(&self, tenant: &str, at: Instant) {
        self.looks().due.insert(tenant.to_owned(), at);
    }

    /// `tenant` is gone: nobody looks at it again.
    pub fn forget(&self, tenant: &str) {
        self.looks().due.remove(tenant);
    }

    /// How far the operator is behind at `now`.
    #[must_use]
    pub fn depth(&self, now: Instant) -> Depth {
        let looks = self.looks();
        let late = || looks.due.values().filter_map(|at| now.checked_duration_since(*at));
        Depth {
            in_flight: looks.in_flight,
            waiting: late().count(),
            oldest: late().max().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_waits_until_it_is_looked_at() {
        let (queue, now) = (Queue::default(), Instant::now());
        let second = Duration::from_secs(1);
        queue.again("ministry/a", now + second);
        queue.again("ministry/b", now + 3 * second);
        assert_eq!(queue.depth(now), Depth::default());
        let expected = Depth { in_flight: 0, waiting: 1, oldest: second };
        assert_eq!(queue.depth(now + 2 * second), expected);
        let look = queue.begin("ministry/a");
        let expected = Depth { in_flight: 1, ..Depth::default() };
        assert_eq!(queue.depth(now + 2 * second), expected);
        drop(look);
        assert_eq!(queue.depth(now + 2 * second), Depth::default());
    }

    #[test]
    fn a_term_that_is_over_leaves_nothing() {
        let (queue, now) = (Queue::default(), Instant::now());
        let term = queue.term();
        queue.again("ministry/a", now);
        drop(term);
        assert_eq!(queue.depth(now + Duration::from_secs(9)), Depth::default());
    }
}
