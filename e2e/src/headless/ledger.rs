//! What a headless participant has received, track by track.
//!
//! Weighs packets: loss, order, damage, delay, gaps, freezes. Receives nothing itself. Invariant:
//! a track is known by who publishes it and what it is, so that its account goes on when the
//! publisher or we come back under other ids; memory is bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::media::{Trailer, clock_ns};

/// A pause of this length is written down as a gap; frames come every 33 ms at the slowest.
const GAP_MIN: Duration = Duration::from_millis(200);
/// Gaps kept per track; more are only counted.
const GAPS_MAX: usize = 64;
/// Buckets of a histogram: each is 5 % above the one before, from 1 µs to over a minute.
const BUCKETS: usize = 384;
const BUCKET_GROWTH: f64 = 1.05;
/// A frame interval is a freeze when it is this much above the usual one (W3C webrtc-stats,
/// `freezeCount`): three times it, and at least 150 ms more.
const FREEZE_EXTRA: Duration = Duration::from_millis(150);

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackKind {
    Audio,
    Video,
}

/// A track as users know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackKey {
    /// Identity of the publisher.
    pub identity: String,
    pub kind: TrackKind,
    /// Track name as published.
    pub name: String,
}

/// A pause in a track.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// When the last packet before it came.
    pub from: Instant,
    pub length: Duration,
}

/// Counts of durations, for percentiles within 5 %.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, value: Duration) {
        let micros = value.as_secs_f64() * 1e6;
        let bucket = micros.max(1.0).log(BUCKET_GROWTH).ceil() as usize;
        if let Some(count) = self.counts.get_mut(bucket.min(BUCKETS - 1)) {
            *count += 1;
            self.total += 1;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value below which `percent` of all lie, rounded up by at most 5 %.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let rank = ((self.total as f64) * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        let micros = BUCKET_GROWTH.powi(i32::try_from(found?).ok()?);
        (self.total > 0).then(|| Duration::from_secs_f64(micros / 1e6))
    }
}

/// The account of one track.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// The server's id of the track, the latest.
    pub sid: String,
    pub packets: u64,
    pub bytes: u64,
    /// Sequence numbers that have not come (yet).
    pub lost: u64,
    /// Packets that came after one with a higher sequence number.
    pub late: u64,
    /// Packets whose place in the stream contradicts the publisher's numbering.
    pub disorder: u64,
    /// Packets whose trailer is not what was published.
    pub corrupt: u64,
    /// Frames with their last packet, for video.
    pub frames: u64,
    pub freezes: u64,
    pub layer_switches: u64,
    /// The layer received last.
    pub layer: u32,
    /// From sending to receiving, both within this process.
    pub delay: Histogram,
    pub gap_max: Duration,
    pub gaps: Vec<Gap>,
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    stream: Option<Stream>,
    frame_interval: Option<Duration>,
    frame_last: Option<Instant>,
}

/// One SSRC's numbering.
#[derive(Debug, Clone, Copy)]
struct Stream {
    ssrc: u32,
    sequence: u64,
    layer: u32,
    number: u64,
}

/// One packet as it came.
pub(super) struct Arrival {
    pub(super) now: Instant,
    pub(super) ssrc: u32,
    pub(super) sequence: u64,
    pub(super) bytes: usize,
    pub(super) marker: bool,
    pub(super) trailer: Option<Trailer>,
}

impl Received {
    /// An empty account of the same stream, so that a gap or loss across the reset still counts.
    pub(super) fn begun_anew(&self) -> Self {
        Self {
            sid: self.sid.clone(),
            last: self.last,
            stream: self.stream,
            layer: self.layer,
            frame_interval: self.frame_interval,
            frame_last: self.frame_last,
            ..Self::default()
        }
    }

    pub(super) fn on_packet(&mut self, arrival: &Arrival, kind: TrackKind) {
        self.packets += 1;
        self.bytes += arrival.bytes as u64;
        self.weigh_gap(arrival.now);
        self.first.get_or_insert(arrival.now);
        self.last = Some(arrival.now);
        let Some(trailer) = arrival.trailer else {
            self.corrupt += 1;
            return;
        };
        let sent = Duration::from_nanos(trailer.sent_ns);
        self.delay.add(Duration::from_nanos(clock_ns(arrival.now)).saturating_sub(sent));
        self.weigh_order(arrival, trailer);
        if kind == TrackKind::Video && arrival.marker {
            self.weigh_frame(arrival.now);
        }
    }

    fn weigh_gap(&mut self, now: Instant) {
        let Some(last) = self.last else { return };
        let length = now.saturating_duration_since(last);
        self.gap_max = self.gap_max.max(length);
        if length >= GAP_MIN && self.gaps.len() < GAPS_MAX {
            self.gaps.push(Gap { from: last, length });
        }
    }

    fn weigh_order(&mut self, arrival: &Arrival, trailer: Trailer) {
        let next = Stream {
            ssrc: arrival.ssrc,
            sequence: arrival.sequence,
            layer: trailer.layer,
            number: trailer.number,
        };
        let Some(stream) = self.stream.filter(|stream| stream.ssrc == arrival.ssrc) else {
            self.stream = Some(next);
            return;
        };
        if arrival.sequence <= stream.sequence {
            self.late += 1;
            self.lost = self.lost.saturating_sub(1);
            return;
        }
        self.lost += arrival.sequence - stream.sequence - 1;
        if stream.layer == trailer.layer {
            self.disorder += u64::from(trailer.number <= stream.number);
        } else {
            self.layer_switches += 1;
        }
        self.layer = trailer.layer;
        self.stream = Some(next);
    }

    fn weigh_frame(&mut self, now: Instant) {
        self.frames += 1;
        if let Some(last) = self.frame_last {
            let interval = now.saturating_duration_since(last);
            let usual = self.frame_interval.unwrap_or(interval);
            self.freezes += u64::from(interval > (usual * 3).max(usual + FREEZE_EXTRA));
            self.frame_interval = Some((usual * 15 + interval) / 16);
        }
        self.frame_last = Some(now);
    }
}

/// All tracks of one participant.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    pub(super) tracks: BTreeMap<TrackKey, Received>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(start: Instant, at_ms: u64, sequence: u64, number: u64) -> Arrival {
        let now = start + Duration::from_millis(at_ms);
        let sent_ns = clock_ns(now);
        let trailer = Some(Trailer { layer: 0, number, sent_ns });
        Arrival { now, ssrc: 1, sequence, bytes: 10, marker: true, trailer }
    }

    #[test]
    fn loss_lateness_and_gaps_are_told_apart() {
        let start = Instant::now();
        let mut track = Received::default();
        for (at, sequence, number) in [(0, 10, 1), (20, 11, 2), (40, 13, 4), (60, 12, 3)] {
            track.on_packet(&arrival(start, at, sequence, number), TrackKind::Audio);
        }
        assert_eq!((track.lost, track.late, track.disorder), (0, 1, 0));
        track.on_packet(&arrival(start, 500, 20, 3), TrackKind::Audio);
        assert_eq!((track.lost, track.disorder, track.gaps.len()), (6, 1, 1));
        assert_eq!(track.gap_max, Duration::from_millis(440));
    }

    #[test]
    fn percentiles_are_within_five_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        let p99 = histogram.percentile(99.0).unwrap().as_micros();
        assert!((985..=1050).contains(&p99), "{p99}");
        assert_eq!(Histogram::default().percentile(50.0), None);
    }
}
