//! One outgoing sequence-number and timestamp space for one downlink track.
//!
//! Decides the numbers under which packets of changing sources go out. It does not decide which
//! packets go, nor does it see payloads. Invariant: outgoing sequence numbers never repeat; a
//! packet that is skipped on purpose leaves no gap, one that is merely missing leaves exactly its
//! own; a switch continues at the next number and at a later timestamp (RFC 3550 §5.1).

use std::time::{Duration, Instant};

use super::offsets::OffsetMap;
use super::window::{Place, SeenWindow};
use super::{SourceId, unwrap_number};

/// A jump ahead by more packets than this is a source that started over (RFC 3550 A.1,
/// `MAX_DROPOUT`).
pub const RESTART_JUMP_PACKETS: u64 = 3000;
/// The capture clock may differ from the time of arrival by this much before we stop believing
/// it: beyond it lies a publisher whose wall clock was set, not one whose network is slow.
pub const CAPTURE_DISAGREEMENT_MAX: Duration = Duration::from_secs(2);
/// Where extended numbers and timestamps start, high enough that going back never underflows.
const SOURCE_EPOCH: u64 = 1 << 32;

/// What the munger needs to know of a packet.
#[derive(Debug, Clone, Copy)]
pub struct SourceStamp {
    /// Sequence number as on the wire.
    pub sequence: u16,
    /// RTP timestamp as on the wire.
    pub timestamp: u32,
    /// When the packet reached us.
    pub arrival: Instant,
    /// The publisher's wall clock at capture, when a sender report has told it
    /// ([`super::source_clock::SourceClock`]).
    pub captured: Option<Duration>,
}

impl SourceStamp {
    /// Of a packet that was sent that much earlier and is repeated in this one.
    #[must_use]
    pub fn before(&self, packets: u16, ticks: u32) -> Self {
        Self {
            sequence: self.sequence.wrapping_sub(packets),
            timestamp: self.timestamp.wrapping_sub(ticks),
            ..*self
        }
    }
}

/// The numbers to send under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Extended sequence number; the low 16 bits go on the wire, the rest is SRTP's rollover
    /// counter.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// This packet is the first of a new source.
    pub switched: bool,
}

/// Why a packet got no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The same source number came before.
    #[error("packet is a duplicate")]
    Duplicate,
    /// Older than the window, or from before the switch to this source.
    #[error("packet is too old to be placed")]
    TooOld,
}

#[derive(Debug, Clone)]
struct Source {
    id: SourceId,
    offsets: OffsetMap,
    seen: SeenWindow,
    /// Highest source number that was forwarded.
    forwarded: u64,
    /// Outgoing minus source timestamp, wrapping.
    timestamp_shift: u32,
    /// The number that would prove that the source started over below the window.
    restart_probe: Option<u16>,
}

/// Capture time and extended outgoing timestamp that belong together.
#[derive(Debug, Clone, Copy)]
struct CaptureReference {
    captured: Duration,
    timestamp: u64,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    sequence: u64,
    timestamp: u64,
    arrival: Instant,
}

/// The rewriter of one downlink track.
#[derive(Debug, Clone)]
pub struct RtpMunger {
    clock_rate_hz: u32,
    first_sequence: u64,
    first_timestamp: u64,
    source: Option<Source>,
    last: Option<Last>,
    reference: Option<CaptureReference>,
}

impl RtpMunger {
    /// `first_sequence` is used below 32,768 only, so that the receiver's rollover counter starts
    /// at zero whatever is lost first (RFC 3711 §3.3.1).
    #[must_use]
    pub fn new(clock_rate_hz: u32, first_sequence: u16, first_timestamp: u32) -> Self {
        Self {
            clock_rate_hz,
            first_sequence: u64::from(first_sequence & 0x7fff),
            first_timestamp: SOURCE_EPOCH + u64::from(first_timestamp),
            source: None,
            last: None,
            reference: None,
        }
    }

    /// The source that holds the mapping now.
    #[must_use]
    pub fn source(&self) -> Option<SourceId> {
        self.source.as_ref().map(|source| source.id)
    }

    /// The numbers for a packet that goes out. Another `id` than before is a switch, with this
    /// packet as its first.
    pub fn forward(&mut self, id: SourceId, stamp: &SourceStamp) -> Result<Numbers, Refused> {
        let Some(source) = self.source.as_mut().filter(|source| source.id == id) else {
            return Ok(self.anchor(id, stamp));
        };
        let number = unwrap_number(source.seen.highest(), u64::from(stamp.sequence), 16);
        match source.seen.place(number) {
            Place::Newer(ahead) if ahead > RESTART_JUMP_PACKETS => Ok(self.anchor(id, stamp)),
            Place::TooOld => {
                if source.restart_probe == Some(stamp.sequence) {
                    return Ok(self.anchor(id, stamp));
                }
                source.restart_probe = Some(stamp.sequence.wrapping_add(1));
                Err(Refused::TooOld)
            }
            Place::Seen => Err(Refused::Duplicate),
            Place::Newer(_) | Place::Late => self.place(number, stamp),
        }
    }

    /// The numbers for a packet that was found inside a later one. Only a packet of the current
    /// source that is missing gets some, and only at a time that its place allows.
    pub fn recover(&mut self, id: SourceId, stamp: &SourceStamp) -> Option<Numbers> {
        let source = self.source.as_ref().filter(|source| source.id == id)?;
        let last = self.last?;
        let number = unwrap_number(source.seen.highest(), u64::from(stamp.sequence), 16);
        let timestamp = stamp.timestamp.wrapping_add(source.timestamp_shift);
        let extended = unwrap_number(last.timestamp, u64::from(timestamp), 32);
        let fits = match source.seen.place(number) {
            Place::Newer(ahead) => ahead <= RESTART_JUMP_PACKETS && extended > last.timestamp,
            Place::Late => extended < last.timestamp,
            Place::Seen | Place::TooOld => false,
        };
        if fits { self.place(number, stamp).ok() } else { None }
    }

    /// A packet of the current source that stays here on purpose: closes its gap where nothing
    /// above it has gone out. Returns the outgoing number that stays empty where something has.
    pub fn skip(&mut self, id: SourceId, sequence: u16) -> Option<u64> {
        let source = self.source.as_mut().filter(|source| source.id == id)?;
        let number = unwrap_number(source.seen.highest(), u64::from(sequence), 16);
        match source.seen.place(number) {
            Place::Newer(ahead) if ahead > RESTART_JUMP_PACKETS => {
                self.source = None;
                return None;
            }
            Place::Seen | Place::TooOld => return None,
            Place::Newer(_) | Place::Late => source.seen.mark(number),
        }
        source.offsets.prune(source.seen.base());
        if number > source.forwarded {
            source.offsets.remove(number);
            None
        } else {
            source.offsets.get(number)
        }
    }

    /// Forgets the source, so that the next packet is a switch even when its id is the same.
    pub fn release(&mut self) {
        self.source = None;
    }

    fn place(&mut self, number: u64, stamp: &SourceStamp) -> Result<Numbers, Refused> {
        let source = self.source.as_mut().ok_or(Refused::TooOld)?;
        let sequence = source.offsets.get(number).ok_or(Refused::TooOld)?;
        source.seen.mark(number);
        source.restart_probe = None;
        source.forwarded = source.forwarded.max(number);
        source.offsets.prune(source.seen.base());
        let timestamp = stamp.timestamp.wrapping_add(source.timestamp_shift);
        let last = self.last.get_or_insert(Last {
            sequence,
            timestamp: SOURCE_EPOCH + u64::from(timestamp),
            arrival: stamp.arrival,
        });
        if sequence >= last.sequence {
            let extended = unwrap_number(last.timestamp, u64::from(timestamp), 32);
            *last =
                Last { sequence, timestamp: extended.max(last.timestamp), arrival: stamp.arrival };
        }
        Ok(Numbers { sequence, timestamp, switched: false })
    }

    fn anchor(&mut self, id: SourceId, stamp: &SourceStamp) -> Numbers {
        let sequence = self.last.map_or(self.first_sequence, |last| last.sequence + 1);
        let extended = self.timestamp_at_switch(stamp);
        let timestamp = extended as u32;
        let number = SOURCE_EPOCH + u64::from(stamp.sequence);
        self.source = Some(Source {
            id,
            offsets: OffsetMap::new(number, sequence),
            seen: SeenWindow::new(number),
            forwarded: number,
            timestamp_shift: timestamp.wrapping_sub(stamp.timestamp),
            restart_probe: None,
        });
        self.last = Some(Last { sequence, timestamp: extended, arrival: stamp.arrival });
        Numbers { sequence, timestamp, switched: true }
    }

    /// Continues the time line: by capture time where both sides of the switch have it and it is
    /// credible, else by the time that has passed; always later than anything sent.
    fn timestamp_at_switch(&mut self, stamp: &SourceStamp) -> u64 {
        let Some(last) = self.last else {
            self.set_reference(stamp, self.first_timestamp);
            return self.first_timestamp;
        };
        let elapsed = stamp.arrival.saturating_duration_since(last.arrival);
        let by_arrival = last.timestamp + self.ticks(elapsed);
        let disagreement_max = self.ticks(CAPTURE_DISAGREEMENT_MAX);
        let by_capture = self
            .reference
            .zip(stamp.captured)
            .map(|(reference, captured)| self.by_capture(reference, captured))
            .filter(|timestamp| timestamp.abs_diff(by_arrival) <= disagreement_max);
        let timestamp = by_capture.unwrap_or(by_arrival).max(last.timestamp + 1);
        if by_capture.is_none() {
            self.set_reference(stamp, timestamp);
        }
        timestamp
    }

    fn by_capture(&self, reference: CaptureReference, captured: Duration) -> u64 {
        if captured >= reference.captured {
            reference.timestamp + self.ticks(captured - reference.captured)
        } else {
            reference.timestamp.saturating_sub(self.ticks(reference.captured - captured))
        }
    }

    fn set_reference(&mut self, stamp: &SourceStamp, timestamp: u64) {
        self.reference = stamp.captured.map(|captured| CaptureReference { captured, timestamp });
    }

    fn ticks(&self, duration: Duration) -> u64 {
        let ticks = duration.as_nanos() * u128::from(self.clock_rate_hz) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(start: Instant, sequence: u16, timestamp: u32, at_ms: u64) -> SourceStamp {
        let arrival = start + Duration::from_millis(at_ms);
        SourceStamp { sequence, timestamp, arrival, captured: None }
    }

    const LOW: SourceId = SourceId(1);
    const HIGH: SourceId = SourceId(2);

    #[test]
    fn a_switch_continues_numbers_and_time() {
        let start = Instant::now();
        let mut munger = RtpMunger::new(90_000, 100, 5000);
        let first = munger.forward(LOW, &stamp(start, 65_535, 10, 0)).unwrap();
        assert_eq!((first.sequence, first.timestamp), (100, 5000));
        let next = munger.forward(LOW, &stamp(start, 0, 3010, 33)).unwrap();
        assert_eq!((next.sequence, next.timestamp), (101, 8000));
        let switched = munger.forward(HIGH, &stamp(start, 4000, 777, 133)).unwrap();
        assert_eq!((switched.sequence, switched.timestamp), (102, 8000 + 9000));
        assert!(switched.switched);
    }

    #[test]
    fn skipped_packets_close_up_and_lost_ones_come_back_once() {
        let start = Instant::now();
        let mut munger = RtpMunger::new(90_000, 0, 0);
        let mut go = |n: u16| munger.forward(LOW, &stamp(start, n, 0, 0)).map(|out| out.sequence);
        assert_eq!(go(10), Ok(0));
        assert_eq!(go(13), Ok(3));
        assert_eq!(go(11), Ok(1));
        assert_eq!(go(11), Err(Refused::Duplicate));
        assert_eq!(go(9), Err(Refused::TooOld));
        assert_eq!(munger.skip(LOW, 14), None);
        assert_eq!(munger.skip(LOW, 15), None);
        let mut go = |n: u16| munger.forward(LOW, &stamp(start, n, 0, 0)).map(|out| out.sequence);
        assert_eq!(go(16), Ok(4));
        assert_eq!(go(14), Err(Refused::Duplicate));
        assert_eq!(munger.skip(LOW, 12), Some(2), "its number is taken, so a hole stays");
    }

    #[test]
    fn only_what_is_missing_is_recovered_and_only_once() {
        let start = Instant::now();
        let mut munger = RtpMunger::new(48_000, 0, 0);
        let at = |n: u16| stamp(start, n, u32::from(n) * 960, u64::from(n) * 20);
        assert_eq!(munger.recover(LOW, &at(9)), None, "nothing to continue yet");
        munger.forward(LOW, &at(10)).unwrap();
        assert_eq!(munger.recover(LOW, &at(9)), None, "before the first");
        assert_eq!(munger.recover(HIGH, &at(11)), None, "another source");
        assert_eq!(munger.recover(LOW, &at(12)).unwrap().sequence, 2);
        assert_eq!(munger.forward(LOW, &at(13)).unwrap().sequence, 3);
        assert_eq!(munger.recover(LOW, &at(12)), None);
        assert_eq!(munger.forward(LOW, &at(12)), Err(Refused::Duplicate), "it comes after all");
        let later = SourceStamp { timestamp: 13 * 960, ..at(11) };
        assert_eq!(munger.recover(LOW, &later), None, "not at the time of what came after it");
        assert_eq!(munger.recover(LOW, &at(11)).unwrap().timestamp, 960);
    }

    #[test]
    fn a_source_that_starts_over_is_followed() {
        let start = Instant::now();
        let mut munger = RtpMunger::new(90_000, 0, 0);
        let mut go = |n: u16| munger.forward(LOW, &stamp(start, n, 0, 0)).map(|out| out.sequence);
        assert_eq!(go(20_000), Ok(0));
        assert_eq!(go(30_000), Ok(1), "a jump ahead");
        assert_eq!(go(10), Err(Refused::TooOld), "one stray packet proves nothing");
        assert_eq!(go(11), Ok(2));
    }

    #[test]
    fn a_publisher_whose_clock_runs_backwards_cannot_break_the_next_switch() {
        let start = Instant::now();
        let mut munger = RtpMunger::new(48_000, 3, 9);
        munger.forward(LOW, &stamp(start, 1, 1_000, 0)).unwrap();
        munger.forward(LOW, &stamp(start, 2, 0, 20)).unwrap();
        let switched = munger.forward(HIGH, &stamp(start, 7, 5, 40)).unwrap();
        assert_eq!(switched.timestamp, 9 + 960);
    }

    #[test]
    fn capture_time_beats_arrival_time_unless_it_is_absurd() {
        let start = Instant::now();
        let mut munger = RtpMunger::new(90_000, 0, 0);
        let captured = |stamp: SourceStamp, ms: u64| SourceStamp {
            captured: Some(Duration::from_millis(ms)),
            ..stamp
        };
        munger.forward(LOW, &captured(stamp(start, 1, 0, 0), 1_000_000)).unwrap();
        let packet = captured(stamp(start, 1, 0, 150), 1_000_100);
        assert_eq!(munger.forward(HIGH, &packet).unwrap().timestamp, 9000);
        let packet = captured(stamp(start, 1, 0, 250), 9_000_000);
        assert_eq!(munger.forward(LOW, &packet).unwrap().timestamp, 18_000);
        let packet = captured(stamp(start, 1, 0, 350), 9_000_110);
        assert_eq!(munger.forward(HIGH, &packet).unwrap().timestamp, 18_000 + 9900);
    }
}
