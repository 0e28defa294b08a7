//! How much per second arrives at the receiver, by the receiver's clock.
//!
//! Sums what arrived in short spans. Decides nothing. Invariant: bounded; a clock that jumps costs
//! what was summed, nothing else.

/// What arrived is summed over spans of this length.
const SPAN_US: i64 = 25_000;
/// Spans kept: half a second (draft-ietf-rmcat-gcc-02, §5.5: between 0.5 and 1 s).
const SPANS: usize = 20;
/// Spans that tell the rate of a link whose queue is not empty: it sends without pause.
const SPANS_BUSY: usize = 10;
/// Fewer spans than this say nothing about a rate.
const SPANS_LEAST: usize = 6;
/// After so many spans without anything, summing begins anew: a pause is no rate.
const SPANS_PAUSE: i64 = 10;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    spans: [u32; SPANS],
    /// Number of the newest span; spans are counted from the receiver's zero.
    newest: i64,
    /// Spans since summing began, the newest included; 0 before anything arrived.
    known: usize,
}

impl Acknowledged {
    /// A packet arrived.
    pub(super) fn arrived(&mut self, arrival_us: i64, bytes: u16) {
        let span = arrival_us.div_euclid(SPAN_US);
        let ahead = span.saturating_sub(self.newest);
        if self.known == 0 || ahead > SPANS_PAUSE || ahead < -(SPANS as i64) {
            (self.spans, self.newest, self.known) = ([0; SPANS], span, 1);
        }
        while self.newest < span {
            self.newest += 1;
            self.known = (self.known + 1).min(SPANS + 1);
            self.change(self.newest, |_| 0);
        }
        if self.newest.saturating_sub(span) < SPANS as i64 {
            self.change(span, |sum| sum.saturating_add(u32::from(bytes)));
        }
    }

    fn change(&mut self, span: i64, change: impl FnOnce(u32) -> u32) {
        let index = span.rem_euclid(SPANS as i64) as usize;
        if let Some(sum) = self.spans.get_mut(index) {
            *sum = change(*sum);
        }
    }

    /// Bits per second over half a second; nothing when too little is known.
    pub(super) fn rate_bps(&self) -> Option<f64> {
        self.over(SPANS - 1)
    }

    /// The same over the last quarter of a second, which follows a change sooner.
    pub(super) fn busy_bps(&self) -> Option<f64> {
        self.over(SPANS_BUSY)
    }

    /// Over the newest whole spans, at most `most`. The newest is not over, so it is left out.
    fn over(&self, most: usize) -> Option<f64> {
        let whole = self.known.saturating_sub(1).min(most);
        if whole < SPANS_LEAST {
            return None;
        }
        let bytes: u64 = (1..=whole as i64)
            .filter_map(|behind| {
                let index = (self.newest - behind).rem_euclid(SPANS as i64) as usize;
                self.spans.get(index).copied().map(u64::from)
            })
            .sum();
        Some(bytes as f64 * 8e6 / (whole as i64 * SPAN_US) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(acknowledged: &mut Acknowledged, from_ms: i64, to_ms: i64, bits_per_second: f64) {
        for at in from_ms..to_ms {
            acknowledged.arrived(at * 1000, (bits_per_second / 8000.0) as u16);
        }
    }

    fn near(rate: Option<f64>, wanted: f64) -> bool {
        rate.is_some_and(|rate| (rate / wanted - 1.0).abs() < 0.02)
    }

    #[test]
    fn the_rate_is_what_arrives_and_a_change_shows_sooner_in_the_short_one() {
        let mut acknowledged = Acknowledged::default();
        feed(&mut acknowledged, 0, 100, 2e6);
        assert_eq!(acknowledged.rate_bps(), None);
        feed(&mut acknowledged, 100, 3000, 2e6);
        assert!(near(acknowledged.rate_bps(), 2e6), "{:?}", acknowledged.rate_bps());
        feed(&mut acknowledged, 3000, 3280, 1e6);
        assert!(near(acknowledged.busy_bps(), 1e6), "{:?}", acknowledged.busy_bps());
        assert!(acknowledged.rate_bps().unwrap() > 1.3e6);
    }

    #[test]
    fn a_pause_is_no_rate_and_a_jump_costs_only_the_sum() {
        let mut acknowledged = Acknowledged::default();
        feed(&mut acknowledged, 0, 1000, 2e6);
        feed(&mut acknowledged, 1500, 1600, 2e6);
        assert_eq!(acknowledged.rate_bps(), None);
        feed(&mut acknowledged, 1600, 2000, 2e6);
        assert!(near(acknowledged.rate_bps(), 2e6));
        for jump in [-50_000_000, 50_000_000, i64::MAX / 4000, i64::MIN / 4000, 7] {
            feed(&mut acknowledged, jump, jump + 600, 1e6);
            assert!(near(acknowledged.rate_bps(), 1e6), "{jump}: {:?}", acknowledged.rate_bps());
        }
    }

    #[test]
    fn disorder_is_summed_where_it_belongs() {
        let mut acknowledged = Acknowledged::default();
        for at in 0..1000i64 {
            acknowledged.arrived(at * 1000 + (at * 7919 % 31) * 1000, 250);
        }
        assert!(near(acknowledged.busy_bps(), 2e6), "{:?}", acknowledged.busy_bps());
    }
}
