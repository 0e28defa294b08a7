//! A bound of the rate from how much is lost.
//!
//! draft-ietf-rmcat-gcc-02, §6: more than 10 % lost, the bound falls; less than 2 %, it rises;
//! between, it stays. Packets of probes do not count: they go beyond the link on purpose.
//! Invariant: no bound before anything was lost, and never one below what arrives.

/// Packets before loss is judged (libwebrtc, `kLimitNumPackets`, is 20: there, one packet in a
/// hundred lost by chance already moves the bound now and then).
const PACKETS: u32 = 50;
/// Or so long a time, when fewer are sent and there are [`PACKETS_LEAST`] of them.
const LONG_US: u64 = 1_000_000;
const PACKETS_LEAST: u32 = 20;
/// From one judgement to the next, beside the round trip (libwebrtc, `kBweDecreaseInterval`).
const INTERVAL_US: u64 = 300_000;
/// Weight of the newest judgement: chance evens out, a link that broke shows in two.
const WEIGHT: f64 = 0.6;
const HIGH: f64 = 0.10;
const LOW: f64 = 0.02;
/// Growth per second (libwebrtc: 8 % a second).
const GROWTH: f64 = 1.08;
/// A bound that grew to so many times what it fell to, without loss, is one of the past.
const RELEASE: f64 = 1.5;
/// Growth counts at most so long a time.
const GROWTH_MAX_US: u64 = 2_000_000;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Loss {
    received: u32,
    lost: u32,
    judged_us: u64,
    share: f64,
    bound_bps: Option<f64>,
    /// What it last fell to.
    fallen_bps: f64,
}

impl Loss {
    pub(super) fn received(&mut self) {
        self.received = self.received.saturating_add(1);
    }

    pub(super) fn lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// A packet that had been told as lost arrived.
    pub(super) fn recovered(&mut self) {
        self.lost = self.lost.saturating_sub(1);
        self.received();
    }

    /// A probe showed that more arrives.
    pub(super) fn proven(&mut self, bps: f64) {
        self.bound_bps = self.bound_bps.map(|bound| bound.max(bps));
    }

    /// The upper bound of the estimate; nothing when loss does not limit it.
    pub(super) fn bound_bps(&self) -> Option<f64> {
        self.bound_bps
    }

    /// Judges what was counted; whether the bound fell. `arriving_bps` is what the receiver gets.
    pub(super) fn judge(
        &mut self,
        now_us: u64,
        rtt_us: u64,
        estimate_bps: f64,
        arriving_bps: Option<f64>,
    ) -> bool {
        let packets = self.received.saturating_add(self.lost);
        let since_us = now_us.saturating_sub(self.judged_us);
        let enough = packets >= PACKETS || (since_us >= LONG_US && packets >= PACKETS_LEAST);
        if !enough || since_us < INTERVAL_US + rtt_us {
            return false;
        }
        let share = f64::from(self.lost) / f64::from(packets);
        self.share += (share - self.share) * WEIGHT;
        (self.received, self.lost, self.judged_us) = (0, 0, now_us);
        if self.share > HIGH && share > HIGH {
            let bound = estimate_bps * (1.0 - 0.5 * self.share);
            self.fallen_bps = bound.max(arriving_bps.unwrap_or(0.0)).min(estimate_bps);
            self.bound_bps = Some(self.fallen_bps);
            return true;
        }
        if self.share < LOW {
            let seconds = since_us.min(GROWTH_MAX_US) as f64 / 1e6;
            let grown = self.bound_bps.map(|bound| bound * GROWTH.powf(seconds));
            self.bound_bps = grown.filter(|bound| *bound < self.fallen_bps * RELEASE);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten judgements of 100 packets, half a second apart, of which every `nth` is lost.
    fn run(loss: &mut Loss, from_us: u64, nth: u32, arriving_bps: f64) -> Option<f64> {
        for at in 1..=10 {
            for packet in 1..=100 {
                if packet % nth == 0 { loss.lost() } else { loss.received() }
            }
            let estimate = loss.bound_bps().unwrap_or(2e6);
            loss.judge(from_us + at * 500_000, 50_000, estimate, Some(arriving_bps));
        }
        loss.bound_bps()
    }

    #[test]
    fn much_loss_lowers_some_holds_little_raises() {
        let mut loss = Loss::default();
        assert_eq!(run(&mut loss, 0, 20, 1e5), None, "5 %");
        let low = run(&mut loss, 5_000_000, 5, 1e5).unwrap();
        assert!((0.3e6..1e6).contains(&low), "20 %: {low}");
        assert_eq!(run(&mut loss, 10_000_000, 25, 1e5), Some(low), "4 %");
        let high = run(&mut loss, 15_000_000, 101, 1e5).unwrap();
        assert!((1.2..1.5).contains(&(high / low)), "none lost: {low} to {high}");
        assert_eq!(run(&mut loss, 20_000_000, 101, 1e5), None, "none lost for long");
    }

    #[test]
    fn the_bound_is_not_below_what_arrives_and_a_probe_lifts_it() {
        let mut loss = Loss::default();
        assert_eq!(run(&mut loss, 0, 3, 1.5e6), Some(1.5e6));
        loss.proven(1.8e6);
        assert_eq!(loss.bound_bps(), Some(1.8e6));
        loss.proven(1.0e6);
        assert_eq!(loss.bound_bps(), Some(1.8e6));
    }

    #[test]
    fn a_packet_that_came_late_was_not_lost() {
        let mut loss = Loss::default();
        for _ in 0..100 {
            loss.lost();
            loss.recovered();
        }
        loss.judge(1_000_000, 0, 2e6, None);
        assert_eq!(loss.bound_bps(), None);
    }

    #[test]
    fn few_packets_say_nothing() {
        let mut loss = Loss::default();
        for at in 1..10 {
            loss.lost();
            loss.received();
            loss.judge(at * 100_000, 0, 2e6, None);
        }
        assert_eq!(loss.bound_bps(), None);
    }
}
