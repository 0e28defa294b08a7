//! The estimate that the delay allows: it rises until the queue grows, then falls below what
//! arrives.
//!
//! draft-ietf-rmcat-gcc-02, §5.5, with libwebrtc's constants: a fall to 0.85 of what arrives; a
//! rise of 8 % a second, or of about one packet per response time near the rate at which the link
//! was last seen full; never to more than 1.5 times what arrives. One thing differs, because who
//! forwards chooses among a few layers and nearly always sends less than the link carries: then
//! what arrives says nothing of the link, and the estimate falls in steps, only while a queue
//! stands. Invariant: between [`MIN_BPS`] and [`MAX_BPS`].

use super::delay::Usage;

/// Below this not even a voice arrives.
pub(super) const MIN_BPS: f64 = 20e3;
/// Nobody watches more; arithmetic stays exact.
pub(super) const MAX_BPS: f64 = 1e9;
/// What remains of what arrives when the queue grows (§5.5, β).
const FALL: f64 = 0.85;
/// What remains of the estimate at least, when less is sent than it allows: a short stall of the
/// link must not cost what is known of it.
const FALL_UNUSED: f64 = 0.7;
/// Growth per second (§5.5, η).
const GROWTH: f64 = 1.08;
/// Of what arrives, and beside it (§5.5; libwebrtc): above, growth has no ground.
const GROUND: f64 = 1.5;
const GROUND_BPS: f64 = 10e3;
/// And of what is wished for: who wants more than that will say so.
const WISHED: f64 = 1.25;
/// Near the link's capacity: a packet of this many bits per response time (§5.5).
const PACKET_BITS: f64 = 9600.0;
/// And at least so much per second (libwebrtc, `kMinIncreaseRateBps`).
const ADDITIVE_MIN_BPS: f64 = 4000.0;
/// The receiver reports and we react within this, beside the round trip (§5.5).
const RESPONSE_US: u64 = 100_000;
/// A probe that filled the link says for so long that no more fits, until more arrives by so much.
const FULL_US: u64 = 15_000_000;
const FULL_GROUND: f64 = 1.15;
/// Growth counts at most so long a time: a pause proves nothing.
const STEP_US: u64 = 1_000_000;
/// A fall shows its effect after the round trip, in these bounds (libwebrtc,
/// `TimeToReduceFurther`).
const FALL_INTERVAL_US: (u64, u64) = (10_000, 200_000);
/// A queue that stands must have the time to drain.
const FALL_STANDING_US: u64 = 500_000;
/// Less than this share of the estimate arrives: less is sent than it allows.
const UNUSED: f64 = 0.7;
/// A queue so short is jitter.
const QUEUE_LEAST_US: f64 = 15_000.0;
/// A queue so long is one, whatever is sent.
const QUEUE_LONG_US: f64 = 50_000.0;

/// What is known of the link and the stream when a report was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) usage: Usage,
    pub(super) queue_us: f64,
    pub(super) rtt_us: u64,
    /// What arrives, over half a second and over the last quarter.
    pub(super) arriving_bps: Option<f64>,
    pub(super) busy_bps: Option<f64>,
    /// What is wished for; 0 when nothing is known of it.
    pub(super) desired_bps: f64,
    /// Media was lost lately.
    pub(super) losing: bool,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Rate {
    bps: f64,
    /// It is only what was guessed at the start.
    guess: bool,
    changed_us: u64,
    fell_us: Option<u64>,
    /// How long the queue was then; 0 when it has drained since.
    fell_queue_us: f64,
    /// The queue does not shrink back: growth may go on.
    rising: bool,
    capacity: Capacity,
    /// What arrived of a probe that filled the link, and when.
    full: Option<(f64, u64)>,
}

impl Rate {
    pub(super) fn new(now_us: u64, start_bps: f64) -> Self {
        let (bps, capacity) = (start_bps.clamp(MIN_BPS, MAX_BPS), Capacity::default());
        Self {
            bps,
            guess: true,
            changed_us: now_us,
            fell_us: None,
            fell_queue_us: 0.0,
            rising: true,
            capacity,
            full: None,
        }
    }

    pub(super) fn bps(&self) -> f64 {
        self.bps
    }

    /// More than this share of the estimate is not used.
    pub(super) fn unused(&self, arriving_bps: Option<f64>) -> bool {
        arriving_bps.is_none_or(|bps| bps < self.bps * UNUSED)
    }

    /// A report was read. Whether the estimate had to fall.
    pub(super) fn update(&mut self, now_us: u64, seen: Seen) -> bool {
        if seen.queue_us < QUEUE_LONG_US {
            self.fell_queue_us = 0.0;
        }
        match seen.usage {
            Usage::Over | Usage::Standing => return self.fall(now_us, seen),
            Usage::Under => self.rising = false,
            Usage::Normal if self.rising => self.rise(now_us, seen),
            Usage::Normal => {
                self.rising = true;
                self.changed_us = now_us;
            }
        }
        false
    }

    /// A probe showed that so much fits, and no more when the link was `full`. Whether the estimate
    /// is what it showed: when that is more, or all there was is a guess.
    pub(super) fn proven(&mut self, now_us: u64, bps: f64, full: bool) -> bool {
        self.full = full.then_some((bps, now_us));
        let guess = std::mem::take(&mut self.guess);
        let more = bps > self.bps || (guess && full);
        if more {
            self.bps = bps.clamp(MIN_BPS, MAX_BPS);
            self.changed_us = now_us;
            self.capacity.forget_below(self.bps);
        }
        more
    }

    /// Loss or silence says that no more than this fits.
    pub(super) fn lower(&mut self, now_us: u64, bps: f64) {
        self.bps = bps.min(self.bps).clamp(MIN_BPS, MAX_BPS);
        self.changed_us = now_us;
    }

    fn rise(&mut self, now_us: u64, seen: Seen) {
        let since_us = now_us.saturating_sub(self.changed_us).min(STEP_US);
        self.changed_us = now_us;
        let Some(arriving) = seen.arriving_bps else {
            return;
        };
        self.capacity.forget_below(arriving);
        let seconds = since_us as f64 / 1e6;
        let mut more = self.bps * (GROWTH.powf(seconds) - 1.0);
        if self.capacity.known() {
            let response = (seen.rtt_us + RESPONSE_US) as f64 / 1e6;
            more = more.min((PACKET_BITS / response).max(ADDITIVE_MIN_BPS) * seconds);
        }
        let mut ground = arriving * GROUND + GROUND_BPS;
        if seen.desired_bps > 0.0 {
            ground = ground.min(seen.desired_bps.max(arriving) * WISHED);
        }
        let lately = |at: u64| now_us.saturating_sub(at) < FULL_US;
        if let Some((bps, _)) = self.full.filter(|(_, at)| lately(*at)) {
            ground = ground.min(bps.max(arriving * FULL_GROUND));
        }
        if self.bps < ground {
            self.bps = (self.bps + more).min(ground).clamp(MIN_BPS, MAX_BPS);
        }
    }

    fn fall(&mut self, now_us: u64, seen: Seen) -> bool {
        let unused = self.unused(seen.arriving_bps);
        let least_us = if unused { QUEUE_LONG_US } else { QUEUE_LEAST_US };
        if seen.queue_us < least_us {
            return false;
        }
        self.rising = false;
        let (least, most) = FALL_INTERVAL_US;
        let interval_us = match seen.usage {
            Usage::Standing => FALL_STANDING_US,
            _ if unused => most,
            _ => seen.rtt_us.clamp(least, most),
        };
        if self.fell_us.is_some_and(|at| now_us.saturating_sub(at) < interval_us) {
            return true;
        }
        // A queue that came at once, grows no more and drops nothing is a stall, or a path that
        // became longer.
        let grown = seen.queue_us > self.fell_queue_us + QUEUE_LEAST_US;
        if unused && !seen.losing && (seen.usage == Usage::Standing || !grown) {
            return true;
        }
        let arriving = seen.busy_bps.or(seen.arriving_bps);
        let to = match arriving {
            Some(bps) if unused && !self.guess => (bps * FALL).max(self.bps * FALL_UNUSED),
            Some(bps) => {
                self.capacity.full_at(bps);
                bps * FALL
            }
            None => self.bps * FALL_UNUSED,
        };
        self.lower(now_us, to);
        (self.fell_us, self.fell_queue_us) = (Some(now_us), seen.queue_us);
        self.guess = false;
        true
    }
}

/// What arrived when the link was full (libwebrtc, `LinkCapacityEstimator`).
#[derive(Debug, Default)]
struct Capacity {
    kbps: Option<f64>,
    /// Of the mean, relative to it.
    variance: f64,
}

impl Capacity {
    /// Weight of the newest, and bounds of the variance.
    const WEIGHT: f64 = 0.05;
    const VARIANCE_FIRST: f64 = 0.4;
    const VARIANCE: (f64, f64) = (0.4, 2.5);

    fn known(&self) -> bool {
        self.kbps.is_some()
    }

    /// Three standard deviations.
    fn spread(&self, kbps: f64) -> f64 {
        3.0 * (self.variance * kbps).sqrt()
    }

    fn full_at(&mut self, bps: f64) {
        let now = bps / 1e3;
        let near = self.kbps.filter(|kbps| now > kbps - self.spread(*kbps));
        let Some(kbps) = near else {
            (self.kbps, self.variance) = (Some(now), Self::VARIANCE_FIRST);
            return;
        };
        let mean = kbps + (now - kbps) * Self::WEIGHT;
        let error = mean - now;
        let (least, most) = Self::VARIANCE;
        let variance =
            (1.0 - Self::WEIGHT) * self.variance + Self::WEIGHT * error * error / mean.max(1.0);
        (self.kbps, self.variance) = (Some(mean), variance.clamp(least, most));
    }

    /// More than what was known arrives.
    fn forget_below(&mut self, bps: f64) {
        self.kbps = self.kbps.filter(|kbps| bps / 1e3 <= kbps + self.spread(*kbps));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Seen = Seen {
        usage: Usage::Normal,
        queue_us: 0.0,
        rtt_us: 50_000,
        arriving_bps: Some(1e6),
        busy_bps: Some(1e6),
        desired_bps: 0.0,
        losing: false,
    };
    const FULL: Seen = Seen { usage: Usage::Over, queue_us: 90_000.0, ..NORMAL };

    /// Reports every 100 ms; the time after them.
    fn run(rate: &mut Rate, from_us: u64, reports: u64, seen: Seen) -> u64 {
        for at in 1..=reports {
            rate.update(from_us + at * 100_000, seen);
        }
        from_us + reports * 100_000
    }

    #[test]
    fn it_rises_by_8_percent_a_second_up_to_its_ground() {
        let mut rate = Rate::new(0, 1e6);
        let now = run(&mut rate, 0, 10, NORMAL);
        assert!((1.07e6..1.09e6).contains(&rate.bps()), "{}", rate.bps());
        let now = run(&mut rate, now, 10, Seen { desired_bps: 0.8e6, ..NORMAL });
        assert!((1.15e6..1.18e6).contains(&rate.bps()), "{}", rate.bps());
        let now = run(&mut rate, now, 100, Seen { desired_bps: 0.8e6, ..NORMAL });
        assert!((rate.bps() - 1.25e6).abs() < 1.0, "{}", rate.bps());
        run(&mut rate, now, 300, NORMAL);
        assert!((rate.bps() - 1.51e6).abs() < 1.0, "{}", rate.bps());
    }

    #[test]
    fn it_falls_below_what_arrives_and_then_rises_slowly_until_more_arrives() {
        let mut rate = Rate::new(0, 1.2e6);
        let now = run(&mut rate, 0, 1, FULL);
        assert!((rate.bps() - 0.85e6).abs() < 1.0);
        let now = run(&mut rate, now, 11, NORMAL);
        let slow = rate.bps();
        assert!((0.88e6..0.92e6).contains(&slow), "{slow}");
        let more = Seen { arriving_bps: Some(1.3e6), busy_bps: Some(1.3e6), ..NORMAL };
        run(&mut rate, now, 10, more);
        assert!(rate.bps() > slow * 1.07, "{slow} {}", rate.bps());
    }

    #[test]
    fn what_is_not_used_falls_in_steps_and_only_while_a_queue_stands() {
        let mut rate = Rate::new(0, 1e6);
        rate.proven(0, 5e6, false);
        let jitter = Seen { queue_us: 20_000.0, ..FULL };
        let now = run(&mut rate, 0, 50, jitter);
        assert_eq!(rate.bps(), 5e6);
        let now = run(&mut rate, now, 20, FULL);
        assert!((3.4e6..3.6e6).contains(&rate.bps()), "{}", rate.bps());
        for step in 1..20u32 {
            let grown = Seen { queue_us: 90_000.0 + f64::from(step) * 20_000.0, ..FULL };
            run(&mut rate, now + u64::from(step) * 200_000, 2, grown);
        }
        assert!((0.84e6..0.86e6).contains(&rate.bps()), "{}", rate.bps());
    }

    #[test]
    fn a_probe_raises_it_and_one_that_filled_the_link_ends_groundless_growth() {
        let mut rate = Rate::new(0, 1e6);
        assert!(rate.proven(0, 1.1e6, true));
        assert!(!rate.proven(0, 0.9e6, true));
        let now = run(&mut rate, 0, 100, NORMAL);
        assert!((rate.bps() - 1.15e6).abs() < 1.0, "{}", rate.bps());
        run(&mut rate, now, 200, NORMAL);
        assert!((rate.bps() - 1.51e6).abs() < 1.0, "{}", rate.bps());
    }

    #[test]
    fn a_guess_gives_way_at_once() {
        let mut rate = Rate::new(0, 3e6);
        assert!(rate.proven(0, 1.2e6, true));
        assert_eq!(rate.bps(), 1.2e6);
        let mut rate = Rate::new(0, 3e6);
        run(&mut rate, 0, 1, FULL);
        assert_eq!(rate.bps(), 0.85e6);
    }

    #[test]
    fn a_queue_that_stands_counts_when_all_is_used_or_something_is_lost() {
        let standing = Seen { usage: Usage::Standing, queue_us: 150_000.0, ..NORMAL };
        for (start_bps, losing, fallen_bps) in
            [(1.1e6, false, 0.85e6), (5e6, false, 5e6), (5e6, true, 3.5e6)]
        {
            let mut rate = Rate::new(0, start_bps);
            rate.proven(0, start_bps, false);
            run(&mut rate, 0, 4, Seen { losing, ..standing });
            assert!((rate.bps() - fallen_bps).abs() < 1.0, "{}", rate.bps());
        }
    }

    #[test]
    fn nothing_that_arrives_gives_no_ground() {
        let mut rate = Rate::new(0, 1e6);
        let silent = Seen { arriving_bps: None, busy_bps: None, ..NORMAL };
        run(&mut rate, 0, 100, silent);
        assert_eq!(rate.bps(), 1e6);
        assert!(rate.proven(0, f64::MAX, false));
        assert_eq!(rate.bps(), MAX_BPS);
        rate.lower(0, 0.0);
        assert_eq!(rate.bps(), MIN_BPS);
    }
}
