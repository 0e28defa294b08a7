//! When a downlink that is paused as a whole gets its lowest layer although the budget forbids it.
//!
//! The estimate lives on reports of what was sent. Receivers that report on video alone (Firefox,
//! some SDKs) report on nothing while they are paused, and would stay so on a link that has long
//! recovered. Invariant: a trial ends by itself, and each one soon after another comes later.

use std::time::{Duration, Instant};

/// A budget that has not moved for so long is without news; reports move it within one second.
const WAIT_MIN: Duration = Duration::from_secs(5);
/// Waits double up to this, so that a link that stays narrow loses 5 % of its time to trials.
/// After as long a time without a pause, the next one is waited for from the beginning.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A keyframe is asked for and comes (about 1 s on a slow link), then the estimator probes.
const LASTS: Duration = Duration::from_secs(3);

/// See the module's description.
#[derive(Debug, Clone)]
pub(super) struct Trials {
    /// The budget, and since when it has not moved.
    budget: Option<(u64, Instant)>,
    wait: Duration,
    ends: Option<Instant>,
    paused_last: Option<Instant>,
}

impl Trials {
    pub(super) fn new() -> Self {
        Self { budget: None, wait: WAIT_MIN, ends: None, paused_last: None }
    }

    /// The budget suffices for something.
    pub(super) fn served(&mut self) {
        self.budget = None;
        self.ends = None;
    }

    /// The budget suffices for nothing: whether to send all the same.
    pub(super) fn paused(&mut self, now: Instant, budget_bps: u64) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.paused_last.replace(now).is_none_or(|last| since(last) >= WAIT_MAX) {
            self.wait = WAIT_MIN;
        }
        match (self.ends, self.budget) {
            (Some(ends), _) if now < ends => return true,
            (None, Some((before, silent))) if before == budget_bps => {
                if since(silent) < self.wait {
                    return false;
                }
                self.ends = Some(now + LASTS);
                self.wait = (self.wait * 2).min(WAIT_MAX);
                return true;
            }
            _ => {}
        }
        self.ends = None;
        self.budget = Some((budget_bps, now));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds at which trials begin in `seconds` of a pause whose budget is as given.
    fn begun(
        trials: &mut Trials,
        start: Instant,
        seconds: u64,
        budget: fn(u64) -> u64,
    ) -> Vec<u64> {
        let mut trying = false;
        let mut begun = Vec::new();
        for second in 0..seconds {
            let tried = trials.paused(start + Duration::from_secs(second), budget(second));
            if tried && !trying {
                begun.push(second);
            }
            trying = tried;
        }
        begun
    }

    #[test]
    fn a_silent_pause_is_tried_less_and_less_often_and_a_later_one_as_at_first() {
        let (mut trials, start) = (Trials::new(), Instant::now());
        let first = begun(&mut trials, start, 300, |_| 50_000);
        assert_eq!(first, [5, 18, 41, 84, 147, 210, 273]);
        trials.served();
        let soon = start + Duration::from_secs(310);
        assert!(begun(&mut trials, soon, 59, |_| 50_000).is_empty(), "too soon after another");
        trials.served();
        let late = soon + Duration::from_secs(59) + WAIT_MAX;
        assert_eq!(begun(&mut trials, late, 10, |_| 50_000), [5]);
    }

    #[test]
    fn an_estimate_that_moves_needs_no_trial() {
        let (mut trials, start) = (Trials::new(), Instant::now());
        assert!(begun(&mut trials, start, 300, |second| 50_000 + second / 4).is_empty());
    }

    #[test]
    fn a_trial_that_succeeds_is_over() {
        let (mut trials, start) = (Trials::new(), Instant::now());
        assert_eq!(begun(&mut trials, start, 6, |_| 50_000), [5]);
        trials.served();
        assert!(!trials.paused(start + Duration::from_secs(6), 50_000));
    }
}
