//! What sender reports say about time (RFC 3550 §6.4.1), so that audio and video stay together.
//!
//! [`SourceClock`] ties one source's RTP timestamps to its publisher's wall clock;
//! [`PublisherClock`] ties that wall clock to ours. Both only map, and do not read a clock.
//! Invariant: all tracks of a publisher go through one [`PublisherClock`], so what was captured
//! together gets the same time here whatever the network did to each packet.

use std::time::{Duration, Instant};

use super::unwrap_number;

/// How long the smallest delay seen counts; two such spans are kept.
const DELAY_SPAN: Duration = Duration::from_secs(30);
/// A report later than the smallest delay by this much, several times in a row, means that the
/// publisher's clock was set.
const STEP_DELAY: Duration = Duration::from_secs(1);
/// Reports in a row that prove a step.
const STEP_REPORTS: u32 = 3;

/// The time map of one RTP source.
#[derive(Debug, Clone)]
pub struct SourceClock {
    clock_rate_hz: u32,
    report: Option<(Duration, u32)>,
}

impl SourceClock {
    #[must_use]
    pub fn new(clock_rate_hz: u32) -> Self {
        Self { clock_rate_hz: clock_rate_hz.max(1), report: None }
    }

    /// A sender report: `wall` is the publisher's wall clock since any fixed epoch at which
    /// `timestamp` is sampled.
    pub fn on_sender_report(&mut self, wall: Duration, timestamp: u32) {
        self.report = Some((wall, timestamp));
    }

    /// The publisher's wall clock when `timestamp` was sampled.
    #[must_use]
    pub fn captured(&self, timestamp: u32) -> Option<Duration> {
        let (wall, reported) = self.report?;
        let reference = 1_u64 << 40 | u64::from(reported);
        let number = unwrap_number(reference, u64::from(timestamp), 32);
        let duration = |ticks: u64| {
            let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(self.clock_rate_hz);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        if number >= reference {
            wall.checked_add(duration(number - reference))
        } else {
            wall.checked_sub(duration(reference - number))
        }
    }
}

/// The map from one publisher's wall clock to ours.
#[derive(Debug, Clone, Default)]
pub struct PublisherClock {
    span: Option<Span>,
    late_in_row: u32,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    origin: Instant,
    started: Instant,
    /// Smallest (ours since `origin`) − (theirs), in nanoseconds, in this span and the one before.
    delay_now: i128,
    delay_before: i128,
}

impl PublisherClock {
    /// A sender report of any source of this publisher arrived.
    pub fn on_sender_report(&mut self, now: Instant, wall: Duration) {
        let Some(span) = self.span.as_mut() else {
            self.span = Some(Span::new(now, now, wall));
            return;
        };
        let sample = Span::sample(span.origin, now, wall);
        let late = sample - span.delay() > STEP_DELAY.as_nanos() as i128;
        self.late_in_row = if late { self.late_in_row + 1 } else { 0 };
        if self.late_in_row >= STEP_REPORTS {
            *span = Span::new(span.origin, now, wall);
            self.late_in_row = 0;
        } else if now.saturating_duration_since(span.started) > DELAY_SPAN {
            span.delay_before = span.delay_now;
            span.delay_now = sample;
            span.started = now;
        } else {
            span.delay_now = span.delay_now.min(sample);
        }
    }

    /// Our time for a moment of the publisher's wall clock.
    #[must_use]
    pub fn local(&self, wall: Duration) -> Option<Instant> {
        let span = self.span.as_ref()?;
        let nanos = wall.as_nanos() as i128 + span.delay();
        let magnitude = Duration::from_nanos(u64::try_from(nanos.unsigned_abs()).ok()?);
        if nanos >= 0 {
            span.origin.checked_add(magnitude)
        } else {
            span.origin.checked_sub(magnitude)
        }
    }
}

impl Span {
    fn new(origin: Instant, now: Instant, wall: Duration) -> Self {
        let delay = Self::sample(origin, now, wall);
        Self { origin, started: now, delay_now: delay, delay_before: delay }
    }

    fn sample(origin: Instant, now: Instant, wall: Duration) -> i128 {
        now.saturating_duration_since(origin).as_nanos() as i128 - wall.as_nanos() as i128
    }

    fn delay(&self) -> i128 {
        self.delay_now.min(self.delay_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_and_video_captured_together_get_one_time() {
        let start = Instant::now();
        let (mut audio, mut video) = (SourceClock::new(48_000), SourceClock::new(90_000));
        let mut publisher = PublisherClock::default();
        let wall = Duration::from_secs(3_900_000_000);
        audio.on_sender_report(wall, u32::MAX - 100);
        publisher.on_sender_report(start + Duration::from_millis(40), wall);
        video.on_sender_report(wall + Duration::from_millis(500), 7);
        let delayed = start + Duration::from_millis(700);
        publisher.on_sender_report(delayed, wall + Duration::from_millis(500));
        let ours = |wall: Option<Duration>| publisher.local(wall.unwrap()).unwrap();
        let one_second = (u32::MAX - 100).wrapping_add(48_000);
        assert_eq!(ours(audio.captured(one_second)), ours(video.captured(7 + 45_000)));
        assert_eq!(ours(video.captured(7)), start + Duration::from_millis(540));
    }

    #[test]
    fn a_clock_that_was_set_is_followed() {
        let start = Instant::now();
        let mut publisher = PublisherClock::default();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        publisher.on_sender_report(at(0), Duration::from_secs(1000));
        for seconds in 1..4 {
            publisher.on_sender_report(at(seconds), Duration::from_secs(500 + seconds));
        }
        assert_eq!(publisher.local(Duration::from_secs(510)).unwrap(), at(10));
    }
}
