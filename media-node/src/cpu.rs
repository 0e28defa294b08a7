//! How much of the CPU time that it may use the whole process has used lately.
//!
//! Shards tell what packets cost them; signalling, TLS and handshakes are the rest of it, and a
//! limit may be lower than what the machine has. Pure arithmetic over two clocks. Invariant: what
//! it says moves by whole spans, and no second of full work alone brings it near full.

use std::time::{Duration, Instant};

/// What a reading is taken over: shards count by the second too.
const SPAN: Duration = Duration::from_secs(1);
/// How fast old readings fade. A room of a hundred that fills is a second of handshakes, for which
/// nobody shall start a media node; a rush that lasts longer than this is one to answer.
const MEMORY: Duration = Duration::from_secs(5);

/// The share, from readings that come when they come.
#[derive(Debug)]
pub struct CpuMeter {
    /// CPU seconds that the process may use in a second.
    cores: f64,
    since: Instant,
    used: Duration,
    ratio: f64,
}

impl CpuMeter {
    /// A process that may use `millicores` and has used `used` by `now`.
    pub fn new(millicores: u64, now: Instant, used: Duration) -> Self {
        Self { cores: millicores.max(1) as f64 / 1_000.0, since: now, used, ratio: 0.0 }
    }

    /// The share, 0 to 1, of the last seconds; `used` is all that was used by `now`.
    pub fn ratio(&mut self, now: Instant, used: Duration) -> f64 {
        let span = now.saturating_duration_since(self.since);
        if span >= SPAN {
            let spent = used.saturating_sub(self.used);
            let lately = (spent.as_secs_f64() / span.as_secs_f64() / self.cores).min(1.0);
            let fresh = 1.0 - (-span.as_secs_f64() / MEMORY.as_secs_f64()).exp();
            self.ratio += (lately - self.ratio) * fresh;
            (self.since, self.used) = (now, used);
        }
        self.ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 7_000;

    /// What a meter of half a core says after each of `seconds`, given in CPU milliseconds.
    fn told(seconds: &[u64]) -> Vec<f64> {
        let start = Instant::now();
        let mut used = Duration::from_millis(START_MS);
        let mut meter = CpuMeter::new(500, start, used);
        let second = |(at, spent): (usize, &u64)| {
            used += Duration::from_millis(*spent);
            meter.ratio(start + Duration::from_secs(at as u64 + 1), used)
        };
        seconds.iter().enumerate().map(second).collect()
    }

    #[test]
    fn a_share_is_of_what_may_be_used() {
        let half = told(&[250; 60]);
        assert!((half.last().unwrap() - 0.5).abs() < 1e-3, "{half:?}");
        let more_than_all = told(&[900; 60]);
        assert!((more_than_all.last().unwrap() - 1.0).abs() < 1e-3, "{more_than_all:?}");
    }

    #[test]
    fn one_second_is_not_a_rush_and_ten_are() {
        assert!(told(&[500])[0] < 0.2);
        assert!(told(&[500; 10])[9] > 0.8);
        let over = told(&[500, 500, 500, 500, 500, 500, 500, 500, 500, 500, 0, 0, 0, 0, 0, 0]);
        assert!(over.last().unwrap() < &0.3, "{over:?}");
    }

    #[test]
    fn readings_between_spans_and_clocks_that_go_back_change_nothing() {
        let start = Instant::now();
        let mut meter = CpuMeter::new(1_000, start, Duration::ZERO);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(meter.ratio(at(999), Duration::from_secs(1)), 0.0);
        let told = meter.ratio(at(1_000), Duration::from_secs(1));
        assert!(told > 0.0);
        assert_eq!(meter.ratio(at(1_900), Duration::from_secs(9)), told);
        assert_eq!(meter.ratio(at(0), Duration::ZERO), told);
    }
}
