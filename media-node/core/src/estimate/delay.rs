//! Whether the queue in front of the receiver grows, and how long it is.
//!
//! draft-ietf-rmcat-gcc-02, §5, with libwebrtc's constants: packets sent within 5 ms are one
//! group; the differences of delay between groups add up; a line through the last 20 sums is
//! compared with a threshold that adapts to the link's jitter. Beside it the standing queue is
//! measured: how much longer the quickest packets of groups take than they took at best. Decides
//! no rate. Invariant: a jump of either clock costs what was measured and is no sign of a queue.

use std::collections::VecDeque;

/// Packets sent within so long belong together (libwebrtc, `kSendTimeGroupLength`).
const GROUP_US: u64 = 5_000;
/// Packets that catch up with the one before, and arrive this soon after it, were held up together
/// (libwebrtc, `kBurstDeltaThreshold`).
const BURST_US: i64 = 5_000;
/// But not for longer than this (libwebrtc, `kMaxBurstDuration`).
const BURST_MAX_US: i64 = 100_000;
/// A change of delay between two groups that no queue explains: a clock jumped (libwebrtc,
/// `kArrivalTimeOffsetThreshold`).
const JUMP_US: i64 = 3_000_000;
/// Sums that the line goes through (libwebrtc, `kDefaultTrendlineWindowSize`).
const WINDOW: usize = 20;
/// Weight of the past in the smoothed sum (libwebrtc, `kDefaultTrendlineSmoothingCoeff`).
const SMOOTHING: f64 = 0.9;
/// (libwebrtc, `kDefaultTrendlineThresholdGain`.)
const GAIN: f64 = 4.0;
/// The slope counts in full once so many differences are known (libwebrtc, `kMinNumDeltas`).
const DELTAS: u32 = 60;
/// Threshold in milliseconds: at first, and its bounds (libwebrtc, `TrendlineEstimator`).
const THRESHOLD_MS: f64 = 12.5;
const THRESHOLD_MIN_MS: f64 = 6.0;
const THRESHOLD_MAX_MS: f64 = 600.0;
/// The threshold follows the slope up and down so fast, per millisecond (§5.4, `K_u` and `K_d`).
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
/// A slope so far above the threshold is congestion, not jitter, and moves it not.
const THRESHOLD_SPIKE_MS: f64 = 15.0;
/// One step of the threshold takes at most so long a time into account.
const THRESHOLD_STEP_MS: f64 = 100.0;
/// The slope is above the threshold for so long before it is told (§5.4).
const OVERUSE_MS: f64 = 10.0;
/// The best delay is that of this long a time, at least, so that a new path is learned.
const BASE_US: u64 = 10_000_000;
/// A queue so long that does not change is full.
const STANDING_US: f64 = 100_000.0;
/// What looks like a queue at least so long, and does not change and drops nothing for such a time,
/// is a longer path.
const FLAT_US: f64 = 25_000.0;
const FLAT_MAX_US: u64 = 3_000_000;
/// After such a time without anything the queue is another one.
const PAUSE_US: u64 = 2_000_000;
/// Weight of one group in the jitter.
const JITTER_WEIGHT: f64 = 0.05;
/// Jitter makes ways so much longer than the shortest: three times the mean difference of two of
/// them is all of it, when all delays are as likely, and half of that the mean.
const JITTERS: f64 = 1.5;
/// Weight of one group in the measured queue.
const QUEUE_WEIGHT: f64 = 0.25;

/// What the queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Usage {
    #[default]
    Normal,
    /// It grows.
    Over,
    /// It shrinks.
    Under,
    /// It neither grows nor shrinks, but is long: it is full, and drops.
    Standing,
}

/// Packets sent together.
#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent_us: u64,
    last_sent_us: u64,
    first_arrival_us: i64,
    last_arrival_us: i64,
    /// The shortest way of its packets, by two clocks.
    way_us: i64,
}

impl Group {
    fn new(sent_us: u64, arrival_us: i64) -> Self {
        Self {
            first_sent_us: sent_us,
            last_sent_us: sent_us,
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
            way_us: way_us(sent_us, arrival_us),
        }
    }

    fn holds(&self, sent_us: u64, arrival_us: i64) -> bool {
        if sent_us <= self.first_sent_us.saturating_add(GROUP_US) {
            return true;
        }
        let after_us = arrival_us.saturating_sub(self.last_arrival_us);
        let catches_up = after_us < sent_us.saturating_sub(self.last_sent_us) as i64;
        let since_first_us = arrival_us.saturating_sub(self.first_arrival_us);
        catches_up && (0..=BURST_US).contains(&after_us) && since_first_us < BURST_MAX_US
    }

    fn add(&mut self, sent_us: u64, arrival_us: i64) {
        self.last_sent_us = self.last_sent_us.max(sent_us);
        self.last_arrival_us = self.last_arrival_us.max(arrival_us);
        self.way_us = self.way_us.min(way_us(sent_us, arrival_us));
    }
}

fn way_us(sent_us: u64, arrival_us: i64) -> i64 {
    arrival_us.saturating_sub(i64::try_from(sent_us).unwrap_or(i64::MAX))
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Delay {
    current: Option<Group>,
    previous: Option<Group>,
    trend: Trend,
    base: Base,
    queue_us: f64,
    jitter_us: f64,
    /// Since when the queue neither grows nor shrinks.
    flat_us: Option<u64>,
}

impl Delay {
    /// A packet arrived, perhaps disturbed by a probe: how much longer its way was than the
    /// shortest, in microseconds.
    pub(super) fn passed(&mut self, sent_us: u64, arrival_us: i64) -> i64 {
        self.base.above_us(sent_us, way_us(sent_us, arrival_us))
    }

    /// An undisturbed packet arrived; told in order of departure. Whether something new is known.
    pub(super) fn arrived(&mut self, sent_us: u64, arrival_us: i64) -> bool {
        let Some(current) = &mut self.current else {
            self.current = Some(Group::new(sent_us, arrival_us));
            return false;
        };
        if sent_us < current.first_sent_us {
            return false;
        }
        if current.holds(sent_us, arrival_us) {
            current.add(sent_us, arrival_us);
            return false;
        }
        let paused = sent_us.saturating_sub(current.last_sent_us) > PAUSE_US;
        let whole = *current;
        self.current = Some(Group::new(sent_us, arrival_us));
        let before = self.previous.replace(whole);
        if paused {
            let (base, jitter_us) = (std::mem::take(&mut self.base), self.jitter_us);
            *self = Self { current: self.current, base, jitter_us, ..Self::default() };
            return false;
        }
        before.is_some_and(|before| self.observe(before, whole))
    }

    /// Two groups are whole.
    fn observe(&mut self, before: Group, whole: Group) -> bool {
        let sent_us = whole.last_sent_us.saturating_sub(before.last_sent_us) as i64;
        let arrived_us = whole.last_arrival_us.saturating_sub(before.last_arrival_us);
        let later_us = arrived_us.saturating_sub(sent_us);
        if later_us.unsigned_abs() > JUMP_US.unsigned_abs() {
            *self = Self { current: self.current, ..Self::default() };
            return false;
        }
        let queue_us = self.base.above_us(whole.first_sent_us, whole.way_us) as f64;
        self.queue_us += (queue_us - self.queue_us) * QUEUE_WEIGHT;
        // The first of a group tells it: the last also waits for the others.
        let differs_us = whole.way_us.saturating_sub(before.way_us).unsigned_abs() as f64;
        self.jitter_us += (differs_us - self.jitter_us) * JITTER_WEIGHT;
        self.trend.add(sent_us as f64 / 1e3, later_us as f64 / 1e3, whole.last_arrival_us);
        self.learn_path(whole.last_sent_us, whole.way_us);
        true
    }

    /// Notices a queue that does not change, and a path that became longer.
    fn learn_path(&mut self, now_us: u64, way_us: i64) {
        if self.queue_us < FLAT_US || self.trend.usage != Usage::Normal {
            self.flat_us = None;
            return;
        }
        let since_us = *self.flat_us.get_or_insert(now_us);
        if now_us.saturating_sub(since_us) > FLAT_MAX_US {
            self.base = Base::default();
            self.base.above_us(now_us, way_us);
            (self.flat_us, self.queue_us) = (None, 0.0);
        }
    }

    /// A packet of the media was lost: a queue that does not change is a full one, not a path.
    pub(super) fn lost(&mut self) {
        self.flat_us = None;
    }

    /// What the queue does.
    pub(super) fn usage(&self) -> Usage {
        match self.trend.usage {
            Usage::Normal if self.queue_us() >= STANDING_US => Usage::Standing,
            usage => usage,
        }
    }

    /// How much the way differs from one group to the next, in microseconds.
    pub(super) fn jitter_us(&self) -> f64 {
        self.jitter_us
    }

    /// Bytes of memory beside the structure itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.trend.points.capacity() * size_of::<(f64, f64)>()
    }

    /// How long the queue is, in microseconds, without what jitter adds to the way.
    pub(super) fn queue_us(&self) -> f64 {
        (self.queue_us - self.jitter_us * JITTERS).max(0.0)
    }
}

/// The shortest way lately: the least of two spans of [`BASE_US`], this one and the one before.
#[derive(Debug, Default)]
struct Base {
    since_us: u64,
    least: Option<i64>,
    least_before: Option<i64>,
}

impl Base {
    /// Learns of a way and says how much longer it is than the shortest.
    fn above_us(&mut self, now_us: u64, way_us: i64) -> i64 {
        if now_us.saturating_sub(self.since_us) > BASE_US {
            (self.since_us, self.least_before, self.least) = (now_us, self.least, None);
        }
        let least = self.least.map_or(way_us, |least| least.min(way_us));
        self.least = Some(least);
        let least = self.least_before.map_or(least, |before| before.min(least));
        way_us.saturating_sub(least)
    }
}

/// The line through the last sums of delay, and what it says.
#[derive(Debug)]
struct Trend {
    /// Arrival and smoothed sum of delay, in milliseconds.
    points: VecDeque<(f64, f64)>,
    first_us: Option<i64>,
    deltas: u32,
    sum_ms: f64,
    smoothed_ms: f64,
    threshold_ms: f64,
    threshold_at_ms: Option<f64>,
    slope: f64,
    over_ms: f64,
    over_count: u32,
    usage: Usage,
}

impl Default for Trend {
    fn default() -> Self {
        Self {
            points: VecDeque::new(),
            first_us: None,
            deltas: 0,
            sum_ms: 0.0,
            smoothed_ms: 0.0,
            threshold_ms: THRESHOLD_MS,
            threshold_at_ms: None,
            slope: 0.0,
            over_ms: 0.0,
            over_count: 0,
            usage: Usage::Normal,
        }
    }
}

impl Trend {
    /// A group arrived `later_ms` later after the one before than it was sent after it.
    fn add(&mut self, sent_ms: f64, later_ms: f64, arrival_us: i64) {
        let first_us = *self.first_us.get_or_insert(arrival_us);
        let at_ms = arrival_us.saturating_sub(first_us) as f64 / 1e3;
        self.deltas = self.deltas.saturating_add(1).min(DELTAS);
        self.sum_ms += later_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.sum_ms;
        if self.points.len() == WINDOW {
            self.points.pop_front();
        }
        self.points.push_back((at_ms, self.smoothed_ms));
        let slope = if self.points.len() == WINDOW { self.fit() } else { None };
        self.judge(slope.unwrap_or(self.slope), sent_ms, at_ms);
    }

    /// Least squares.
    fn fit(&self) -> Option<f64> {
        let count = self.points.len() as f64;
        let (x, y) = self.points.iter().fold((0.0, 0.0), |sum, at| (sum.0 + at.0, sum.1 + at.1));
        let (x, y) = (x / count, y / count);
        let (over, under) = self.points.iter().fold((0.0, 0.0), |sum, at| {
            let ahead = at.0 - x;
            (sum.0 + ahead * (at.1 - y), sum.1 + ahead * ahead)
        });
        (under > 0.0).then(|| over / under)
    }

    fn judge(&mut self, slope: f64, sent_ms: f64, at_ms: f64) {
        let scaled = f64::from(self.deltas) * slope * GAIN;
        if scaled > self.threshold_ms {
            // It began somewhere between the group before and this one.
            self.over_ms += if self.over_count == 0 { sent_ms / 2.0 } else { sent_ms };
            self.over_count = self.over_count.saturating_add(1);
            if self.over_ms > OVERUSE_MS && self.over_count > 1 && slope >= self.slope {
                (self.over_ms, self.over_count) = (0.0, 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over_ms, self.over_count) = (0.0, 0);
            self.usage = if scaled < -self.threshold_ms { Usage::Under } else { Usage::Normal };
        }
        self.slope = slope;
        self.adapt(scaled.abs(), at_ms);
    }

    fn adapt(&mut self, scaled: f64, at_ms: f64) {
        let since_ms = at_ms - self.threshold_at_ms.replace(at_ms).unwrap_or(at_ms);
        let ahead = scaled - self.threshold_ms;
        if ahead > THRESHOLD_SPIKE_MS {
            return;
        }
        let gain = if ahead < 0.0 { THRESHOLD_DOWN } else { THRESHOLD_UP };
        let threshold_ms =
            self.threshold_ms + gain * ahead * since_ms.clamp(0.0, THRESHOLD_STEP_MS);
        self.threshold_ms = threshold_ms.clamp(THRESHOLD_MIN_MS, THRESHOLD_MAX_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of four packets every 10 ms, whose way takes `way_us` of the group's number.
    fn run(delay: &mut Delay, groups: std::ops::Range<u64>, way_us: impl Fn(u64) -> i64) -> bool {
        let mut over = false;
        for group in groups {
            for packet in 0..4 {
                let sent_us = group * 10_000 + packet * 500;
                let arrival_us = 77_000_000i64.saturating_add(sent_us as i64 + way_us(group));
                delay.passed(sent_us, arrival_us);
                delay.arrived(sent_us, arrival_us);
            }
            over |= delay.usage() == Usage::Over;
        }
        over
    }

    #[test]
    fn a_growing_queue_is_overuse_and_a_shrinking_one_underuse() {
        let mut delay = Delay::default();
        assert!(!run(&mut delay, 0..100, |_| 20_000));
        assert!(delay.queue_us() < 1.0);
        assert!(run(&mut delay, 100..130, |at| 20_000 + (at as i64 - 100) * 2000));
        assert!(delay.queue_us() > 40_000.0, "{}", delay.queue_us());
        run(&mut delay, 130..150, |at| 80_000 - (at as i64 - 130) * 3000);
        assert_eq!(delay.usage(), Usage::Under);
        assert!(!run(&mut delay, 150..300, |_| 20_000));
        assert_eq!(delay.usage(), Usage::Normal);
        assert!(delay.queue_us() < 100.0);
    }

    #[test]
    fn jitter_is_no_queue() {
        let mut delay = Delay::default();
        let mut random = fastrand::Rng::with_seed(3);
        let ways: Vec<_> = (0..3000).map(|_| random.i64(0..10_000)).collect();
        run(&mut delay, 0..300, |at| ways[at as usize]);
        let mut over = 0;
        for at in 300..3000 {
            over += u32::from(run(&mut delay, at..at + 1, |at| ways[at as usize]));
        }
        assert!(over < 30, "{over} of 2700");
        assert!(delay.queue_us() < 10_000.0);
    }

    #[test]
    fn a_clock_that_jumps_is_no_queue() {
        for jump_us in [-9_000_000, 9_000_000, i64::MAX / 2] {
            let mut delay = Delay::default();
            run(&mut delay, 0..100, |_| 20_000);
            assert!(!run(&mut delay, 100..200, |_| jump_us));
            assert!(delay.queue_us() < 1.0);
        }
    }

    #[test]
    fn a_new_path_is_learned() {
        for (longer_us, groups) in [(70_000, 2100), (150_000, 400)] {
            let mut delay = Delay::default();
            run(&mut delay, 0..500, |_| 20_000);
            run(&mut delay, 500..600, |_| 20_000 + longer_us);
            assert!(delay.queue_us() > 60_000.0);
            run(&mut delay, 600..600 + groups, |_| 20_000 + longer_us);
            assert!(delay.queue_us() < 1.0, "{longer_us}");
            assert_eq!(delay.usage(), Usage::Normal);
        }
    }

    #[test]
    fn a_full_queue_stands_until_it_shrinks_also_when_only_probes_saw_it_empty() {
        let mut delay = Delay::default();
        delay.passed(0, 77_020_000);
        run(&mut delay, 10..150, |_| 300_000);
        assert_eq!(delay.usage(), Usage::Standing);
        run(&mut delay, 150..170, |at| 300_000 - (at as i64 - 150) * 4000);
        assert_eq!(delay.usage(), Usage::Under);
    }

    #[test]
    fn packets_that_were_held_up_together_are_one_group() {
        let mut delay = Delay::default();
        run(&mut delay, 0..100, |_| 20_000);
        let sent_us = |index: u64| 1_000_000 + index * 10_000;
        for index in 0..8 {
            delay.arrived(sent_us(index), 78_100_000 + index as i64 * 300);
        }
        assert_eq!(delay.current.map(|group| group.first_sent_us), Some(sent_us(0)));
        assert_eq!(delay.usage(), Usage::Normal);
    }
}
