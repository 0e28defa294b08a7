//! When packets of video may leave: in bursts that form runs, but not faster than some multiple of
//! the estimate.
//!
//! What leaves is a debt that is paid off with time. Up to one burst of debt, packets leave at
//! once; beyond, they wait until enough is paid for several. Decides no order and drops nothing.
//! Invariant: what may leave now never waits for a timer; an idle time gives no credit.

/// The rate is so many times the estimate (libwebrtc, `kDefaultPaceMultiplier`): a frame leaves
/// well within its own time.
const FACTOR: f64 = 2.5;
/// A burst is what leaves in this time at the full rate; libwebrtc allows 40 ms.
const BURST_US: f64 = 20_000.0;
/// But at least so much, so that the head of a frame leaves in one run: 8 packets of 1,200 bytes.
const BURST_MIN_BYTES: f64 = 9_600.0;
/// Unless the link needs longer than this for it: then the voices behind it wait.
const BURST_LINK_US: f64 = 200_000.0;
/// But two packets always, so that there is a burst at all.
const BURST_LEAST_BYTES: f64 = 2_400.0;
/// Who waits, waits until this much time of the rate is paid off, so that timers are few and what
/// follows is a run again.
const PAUSE_US: f64 = 5_000.0;
/// Bits in a byte, microseconds in a second.
const BYTES_US_PER_BPS: f64 = 8e6;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Pacer {
    debt_bytes: f64,
    paid_us: u64,
    /// Bytes per microsecond.
    rate: f64,
    burst_bytes: f64,
    waits: bool,
}

impl Pacer {
    pub(super) fn new(now_us: u64, estimate_bps: f64) -> Self {
        let mut pacer =
            Self { debt_bytes: 0.0, paid_us: now_us, rate: 0.0, burst_bytes: 0.0, waits: false };
        pacer.set_rate(now_us, estimate_bps, 0.0);
        pacer
    }

    /// The estimate changed, or a probe needs at least `probe_bps`.
    pub(super) fn set_rate(&mut self, now_us: u64, estimate_bps: f64, probe_bps: f64) {
        self.pay(now_us);
        self.rate = (estimate_bps * FACTOR).max(probe_bps) / BYTES_US_PER_BPS;
        let link_bytes = estimate_bps / BYTES_US_PER_BPS * BURST_LINK_US;
        let least = BURST_MIN_BYTES.min(link_bytes).max(BURST_LEAST_BYTES);
        self.burst_bytes = (self.rate * BURST_US).max(least);
    }

    fn pay(&mut self, now_us: u64) {
        let since_us = now_us.saturating_sub(self.paid_us);
        if since_us > 0 {
            self.debt_bytes = (self.debt_bytes - since_us as f64 * self.rate).max(0.0);
            self.paid_us = now_us;
        }
    }

    /// Whether one more may leave.
    pub(super) fn may_send(&mut self, now_us: u64) -> bool {
        self.pay(now_us);
        if self.waits {
            self.waits = self.debt_bytes > self.resumes_bytes();
        } else {
            self.waits = self.debt_bytes >= self.burst_bytes;
        }
        !self.waits
    }

    /// It left.
    pub(super) fn sent(&mut self, now_us: u64, bytes: u16) {
        self.pay(now_us);
        self.debt_bytes += f64::from(bytes);
    }

    /// The debt at which who waited goes on.
    fn resumes_bytes(&self) -> f64 {
        (self.burst_bytes - self.rate * PAUSE_US).min(self.burst_bytes - BURST_LEAST_BYTES)
    }

    /// When the next may leave.
    pub(super) fn ready_us(&self) -> u64 {
        let waits = self.waits || self.debt_bytes >= self.burst_bytes;
        let over = self.debt_bytes - self.resumes_bytes();
        if !waits || over <= 0.0 || self.rate <= 0.0 {
            return self.paid_us;
        }
        self.paid_us.saturating_add((over / self.rate).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as much as may leave in the time, waking only when told: times and lengths of runs.
    fn drain(pacer: &mut Pacer, from_us: u64, for_us: u64) -> Vec<(u64, u32)> {
        let (mut now, mut runs) = (from_us, Vec::new());
        while now < from_us + for_us {
            let mut run = 0;
            while pacer.may_send(now) {
                pacer.sent(now, 1200);
                run += 1;
            }
            assert!(run > 0, "woken for nothing at {now}");
            runs.push((now, run));
            assert!(pacer.ready_us() > now);
            now = pacer.ready_us();
        }
        runs
    }

    #[test]
    fn the_head_of_a_frame_leaves_at_once_and_the_rest_at_the_rate_in_runs() {
        let mut pacer = Pacer::new(0, 2e6);
        let runs = drain(&mut pacer, 0, 1_000_000);
        assert!(runs[0].1 >= 8, "{runs:?}");
        assert!(runs[1..].iter().all(|(_, run)| *run >= 2), "{runs:?}");
        let packets: u32 = runs.iter().map(|(_, run)| run).sum();
        let bits = f64::from(packets) * 9600.0;
        assert!((5.0e6..5.3e6).contains(&bits), "{bits}");
    }

    #[test]
    fn idle_time_gives_no_credit_and_a_narrow_link_no_long_run() {
        let mut pacer = Pacer::new(0, 2e6);
        let first = drain(&mut pacer, 0, 1)[0].1;
        assert_eq!(drain(&mut pacer, 60_000_000, 1)[0].1, first);
        pacer.set_rate(120_000_000, 90_000.0, 0.0);
        assert_eq!(drain(&mut pacer, 180_000_000, 1)[0].1, 2);
    }

    #[test]
    fn a_clock_that_goes_back_is_no_time() {
        let mut pacer = Pacer::new(10_000_000, 2e6);
        drain(&mut pacer, 10_000_000, 1);
        assert!(!pacer.may_send(5_000_000));
        assert!(pacer.may_send(pacer.ready_us()));
    }
}
