//! When the link is probed, and how far.
//!
//! libwebrtc's `ProbeController`, for a sender that nearly always sends less than the link carries:
//! at the start, while more is wished for than the estimate allows, after a fall, and again at once
//! after a probe that found all that it tried. Sends nothing itself. Invariant: never beyond what
//! is wished for, never while the queue grows, and less and less often when nothing comes back.

use super::probe::Outcome;

/// First probes, as multiples of the first guess (libwebrtc).
const START: [f64; 2] = [3.0, 6.0];
/// The next are so many times the estimate (libwebrtc).
const FURTHER: f64 = 2.0;
/// A probe that found this share of what it tried has not found the end (libwebrtc).
const FOUND: f64 = 0.7;
/// Wishes are met when the estimate lacks no more than this.
const MET: f64 = 1.05;
/// From one probe to the next (libwebrtc, `alr_probing_interval`).
const INTERVAL_US: u64 = 5_000_000;
/// The longest interval when nothing comes back.
const INTERVAL_MAX_US: u64 = 60_000_000;
/// A raise after which the queue grows within this was more than there is: a probe between two
/// frames of somebody else on the link finds all of it.
const HOLDS_US: u64 = 3_000_000;
/// The longest interval for that: who asks much more seldom than others gets little beside them.
const DOUBT_MAX_US: u64 = 20_000_000;
/// New wishes are probed for this soon after the last probe.
const WISH_US: u64 = 1_000_000;
/// After the queue last grew: it has emptied, and the sender has adapted.
const QUIET_US: u64 = 2_000_000;
/// The same when all of the estimate is used: then its growth finds the end by itself, unless
/// there is none near.
const QUIET_USED_US: u64 = 4_000_000;
/// After a fall the link is first tried at this share of what was known before (libwebrtc,
/// `kProbeFractionAfterDrop`), for so long.
const RECOVERY: f64 = 0.85;
const RECOVERY_US: u64 = 15_000_000;
/// Less is no probe, whatever the estimate is: it would take as long as sending a layer.
const LEAST_BPS: f64 = 200e3;

/// What the plan depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) estimate_bps: f64,
    /// Less is sent than the estimate allows.
    pub(super) unused: bool,
}

/// A probe to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Due {
    pub(super) at_us: u64,
    pub(super) bps: f64,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Plan {
    desired_bps: f64,
    /// Something that can be probed with was sent.
    begun: bool,
    /// Probes of the start made so far.
    started: usize,
    last_us: Option<u64>,
    interval_us: u64,
    /// The same, longer with each raise that did not hold.
    doubt_us: u64,
    raised_us: Option<u64>,
    further: bool,
    wished: bool,
    grew_us: Option<u64>,
    /// The estimate before it fell, and when.
    before: Option<(f64, u64)>,
}

impl Plan {
    pub(super) fn new() -> Self {
        Self {
            desired_bps: 0.0,
            begun: false,
            started: 0,
            last_us: None,
            interval_us: INTERVAL_US,
            doubt_us: INTERVAL_US,
            raised_us: None,
            further: false,
            wished: false,
            grew_us: None,
            before: None,
        }
    }

    pub(super) fn desire(&mut self, bps: f64) {
        self.wished |= bps > self.desired_bps;
        self.desired_bps = bps;
    }

    pub(super) fn desired_bps(&self) -> f64 {
        self.desired_bps
    }

    /// Media left: there is something to probe with.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// The queue grows, or reports stay away; the estimate was this.
    pub(super) fn congested(&mut self, now_us: u64, estimate_bps: f64) {
        let over = |at: u64| now_us.saturating_sub(at) > RECOVERY_US;
        if self.before.is_none_or(|(before, at)| over(at) || before < estimate_bps) {
            self.before = Some((estimate_bps, now_us));
        }
        (self.grew_us, self.further) = (Some(now_us), false);
        if let Some(raised_us) = self.raised_us.take() {
            let held = now_us.saturating_sub(raised_us) > HOLDS_US;
            let doubt_us = if held { INTERVAL_US } else { self.doubt_us * 2 };
            self.doubt_us = doubt_us.min(DOUBT_MAX_US);
        }
    }

    /// A probe came to an end; `raised`: the estimate rose by it.
    pub(super) fn concluded(&mut self, now_us: u64, outcome: Outcome, raised: bool) {
        self.raised_us = if raised { Some(now_us) } else { self.raised_us };
        match outcome {
            Outcome::Measured { bps, tried_bps, .. } => {
                self.interval_us = INTERVAL_US;
                self.further = raised && bps >= tried_bps * FOUND;
            }
            Outcome::Unknown => {
                self.interval_us = (self.interval_us * 2).min(INTERVAL_MAX_US);
                self.further = false;
            }
        }
    }

    /// Reports come: what is probed will be answered.
    pub(super) fn answered(&mut self) {
        self.interval_us = INTERVAL_US;
    }

    /// The next probe, as things are.
    pub(super) fn due(&self, link: Link) -> Option<Due> {
        if !self.begun || self.desired_bps <= link.estimate_bps * MET {
            return None;
        }
        let scale = START.get(self.started).copied().unwrap_or(FURTHER);
        let recovery = self.before.filter(|(_, at)| {
            self.grew_us.is_some_and(|grew| grew.saturating_sub(*at) < RECOVERY_US)
        });
        let recovery = recovery.map_or(0.0, |(before, _)| before * RECOVERY);
        let bps = (link.estimate_bps * scale).max(LEAST_BPS).max(recovery);
        let wait_us = match (self.started < START.len() || self.further, self.wished) {
            (true, _) => 0,
            (_, true) => WISH_US.max(self.interval_us - INTERVAL_US),
            _ => self.interval_us.max(self.doubt_us),
        };
        let quiet_us = if link.unused { QUIET_US } else { QUIET_USED_US };
        let after = |at: Option<u64>, wait_us| at.map_or(0, |at| at.saturating_add(wait_us));
        let at_us = after(self.last_us, wait_us).max(after(self.grew_us, quiet_us));
        Some(Due { at_us, bps: bps.min(self.desired_bps) })
    }

    /// It is being made.
    pub(super) fn made(&mut self, now_us: u64, due: Due) {
        // Nothing more is wished for than the first probe at the start tries.
        let all = due.bps >= self.desired_bps;
        self.started = if all { START.len() } else { (self.started + 1).min(START.len()) };
        (self.last_us, self.further, self.wished) = (Some(now_us), false, false);
        if self.before.is_some_and(|(before, _)| due.bps >= before * RECOVERY) {
            self.before = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Link = Link { estimate_bps: 1e6, unused: true };
    const SECOND_US: u64 = 1_000_000;

    fn plan(desired_bps: f64) -> Plan {
        let mut plan = Plan::new();
        plan.desire(desired_bps);
        plan.begin();
        plan
    }

    fn made(plan: &mut Plan, link: Link) -> (u64, f64) {
        let due = plan.due(link).unwrap();
        plan.made(due.at_us, due);
        (due.at_us, due.bps)
    }

    const FOUND_ALL: Outcome = Outcome::Measured { bps: 1e6, tried_bps: 1e6, full: false };
    const FOUND_HALF: Outcome = Outcome::Measured { bps: 1e6, tried_bps: 2e6, full: true };

    #[test]
    fn it_starts_with_two_and_goes_on_while_all_is_found() {
        let mut plan = plan(50e6);
        assert_eq!(made(&mut plan, IDLE), (0, 3e6));
        assert_eq!(made(&mut plan, IDLE), (0, 6e6));
        plan.concluded(0, FOUND_ALL, true);
        assert_eq!(made(&mut plan, Link { estimate_bps: 6e6, ..IDLE }), (0, 12e6));
        plan.concluded(0, FOUND_HALF, true);
        let next = made(&mut plan, Link { estimate_bps: 6e6, ..IDLE });
        assert_eq!(next, (5 * SECOND_US, 12e6));
        plan.concluded(0, FOUND_ALL, false);
        let next = made(&mut plan, Link { estimate_bps: 6e6, ..IDLE });
        assert_eq!(next, (10 * SECOND_US, 12e6));
    }

    #[test]
    fn never_beyond_what_is_wished_for_and_not_without_media() {
        assert_eq!(Plan::new().due(IDLE), None);
        let mut wishes = plan(4e6);
        assert_eq!(made(&mut wishes, IDLE), (0, 3e6));
        assert_eq!(made(&mut wishes, IDLE), (0, 4e6));
        assert_eq!(wishes.due(Link { estimate_bps: 3.9e6, ..IDLE }), None);
        let mut little = plan(2e6);
        assert_eq!(made(&mut little, IDLE), (0, 2e6));
        assert_eq!(made(&mut little, IDLE), (5 * SECOND_US, 2e6));
        little.desire(0.0);
        assert_eq!(little.due(IDLE), None);
    }

    #[test]
    fn a_fall_is_waited_out_and_then_what_was_before_is_tried() {
        let mut plan = plan(10e6);
        made(&mut plan, IDLE);
        made(&mut plan, IDLE);
        plan.congested(20 * SECOND_US, 5e6);
        plan.congested(21 * SECOND_US, 3e6);
        assert_eq!(made(&mut plan, IDLE), (23 * SECOND_US, 5e6 * RECOVERY));
        assert_eq!(made(&mut plan, IDLE), (28 * SECOND_US, 2e6));
        plan.congested(40 * SECOND_US, 1e6);
        let used = Link { unused: false, ..IDLE };
        assert_eq!(made(&mut plan, used), (44 * SECOND_US, 2e6));
    }

    #[test]
    fn raises_that_do_not_hold_are_tried_less_and_less() {
        let mut plan = plan(50e6);
        made(&mut plan, IDLE);
        let (mut last, _) = made(&mut plan, IDLE);
        for seconds in [10, 20, 20] {
            plan.concluded(last + SECOND_US / 5, FOUND_HALF, true);
            plan.congested(last + SECOND_US, 3e6);
            let (now, _) = made(&mut plan, IDLE);
            assert_eq!(now - last, seconds * SECOND_US);
            last = now;
        }
        plan.concluded(last, FOUND_HALF, true);
        plan.congested(last + HOLDS_US + 1, 3e6);
        let (now, _) = made(&mut plan, IDLE);
        assert_eq!(now - last, HOLDS_US + 1 + QUIET_US, "it held, and what grew is waited out");
    }

    #[test]
    fn what_is_never_answered_is_asked_less_and_less_and_a_wish_soon() {
        let mut plan = plan(2e6);
        let (mut last, _) = made(&mut plan, IDLE);
        for seconds in [10, 20, 40, 60, 60] {
            plan.concluded(0, Outcome::Unknown, false);
            let (now, _) = made(&mut plan, IDLE);
            assert_eq!(now - last, seconds * SECOND_US);
            last = now;
        }
        plan.answered();
        plan.desire(3e6);
        assert_eq!(made(&mut plan, IDLE), (last + SECOND_US, 2e6));
        assert_eq!(made(&mut plan, IDLE).0, last + 6 * SECOND_US);
    }
}
