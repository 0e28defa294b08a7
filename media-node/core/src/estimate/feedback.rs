//! Reads transport-wide feedback: which packets arrived at the receiver, and when.
//!
//! draft-holmer-rmcat-transport-wide-cc-extensions-01, §3.1. Only reads: what a report means is
//! decided elsewhere. Invariant: a report is read wholly or refused, the work is bounded by
//! [`STATUSES_MAX`], and no bytes make it panic.

use thiserror::Error;

/// Packets one report may tell of. Receivers report at least four times a second (libwebrtc,
/// `RemoteEstimatorProxy`), so this is more than 30,000 packets a second; a run of lost packets
/// costs its sender two bytes and us a walk.
const STATUSES_MAX: u16 = 8192;
/// Base sequence, count, reference time, count of reports.
const HEADER_BYTES: usize = 8;
/// A delta counts in such steps.
const TICK_US: i64 = 250;
/// The reference time counts in such steps.
const REFERENCE_US: i64 = 64_000;
/// The reference time has so many bits.
const REFERENCE_BITS: u32 = 24;

/// Why a report was not read. The connection goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum FeedbackError {
    #[error("a transport-wide feedback of {bytes} bytes ends within its header; drop it")]
    Header { bytes: usize },
    #[error(
        "a transport-wide feedback tells of {count} packets, more than {STATUSES_MAX}; drop it"
    )]
    TooMany { count: u16 },
    #[error("a transport-wide feedback ends within its packet chunks; drop it")]
    Chunks,
    #[error("a transport-wide feedback uses the reserved packet status; drop it")]
    Reserved,
    #[error("a transport-wide feedback ends within its receive deltas; drop it")]
    Deltas,
}

/// A report that is known to be whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feedback<'a> {
    base: u16,
    count: u16,
    reference: u32,
    number: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

/// What became of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) sequence: u16,
    /// Arrival by the receiver's clock, in microseconds after the report's reference time; nothing
    /// when it has not arrived.
    pub(super) arrival_us: Option<i64>,
}

impl<'a> Feedback<'a> {
    /// Reads the body of an RTPFB packet with FMT 15, from behind the two sources.
    pub(super) fn parse(fci: &'a [u8]) -> Result<Self, FeedbackError> {
        let header = FeedbackError::Header { bytes: fci.len() };
        let (head, body) = fci.split_first_chunk::<HEADER_BYTES>().ok_or(header)?;
        let [b0, b1, c0, c1, r0, r1, r2, number] = *head;
        let count = u16::from_be_bytes([c0, c1]);
        if count > STATUSES_MAX {
            return Err(FeedbackError::TooMany { count });
        }
        let mut symbols = Symbols::new(body, count);
        let mut delta_bytes = 0;
        for symbol in symbols.by_ref() {
            delta_bytes += match symbol {
                Symbol::Missing => 0,
                Symbol::Small => 1,
                Symbol::Large => 2,
                Symbol::Reserved => return Err(FeedbackError::Reserved),
            };
        }
        if symbols.remaining > 0 {
            return Err(FeedbackError::Chunks);
        }
        let deltas = symbols.chunks;
        if deltas.len() < delta_bytes {
            return Err(FeedbackError::Deltas);
        }
        let (base, reference) = (u16::from_be_bytes([b0, b1]), u32::from_be_bytes([0, r0, r1, r2]));
        Ok(Self { base, count, reference, number, chunks: body, deltas })
    }

    /// Counts the receiver's reports, so that one that got lost shows.
    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The reference time as it was written: 24 bits, in steps of 64 ms.
    pub(super) fn reference(&self) -> u32 {
        self.reference
    }

    /// What became of each packet, in order of sequence.
    pub(super) fn statuses(&self) -> impl Iterator<Item = Status> + 'a {
        let (base, mut deltas) = (self.base, self.deltas.iter().copied());
        let mut ticks = 0;
        (0..self.count).zip(Symbols::new(self.chunks, self.count)).map(move |(index, symbol)| {
            let delta = match symbol {
                Symbol::Missing | Symbol::Reserved => None,
                Symbol::Small => deltas.next().map(i64::from),
                Symbol::Large => {
                    let bytes = deltas.next().zip(deltas.next());
                    bytes.map(|(high, low)| i64::from(i16::from_be_bytes([high, low])))
                }
            };
            let arrival_us = delta.map(|delta| {
                ticks += delta;
                ticks * TICK_US
            });
            Status { sequence: base.wrapping_add(index), arrival_us }
        })
    }
}

/// What the report says of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Missing,
    Small,
    Large,
    Reserved,
}

impl Symbol {
    fn new(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::Missing,
            1 => Self::Small,
            2 => Self::Large,
            _ => Self::Reserved,
        }
    }
}

/// The symbols of the chunks; ends early when the chunks do. Afterwards `chunks` begins with the
/// deltas.
struct Symbols<'a> {
    chunks: &'a [u8],
    /// Symbols wanted.
    remaining: u16,
    chunk: u16,
    /// Symbols left in the chunk.
    left: u16,
}

impl<'a> Symbols<'a> {
    fn new(chunks: &'a [u8], count: u16) -> Self {
        Self { chunks, remaining: count, chunk: 0, left: 0 }
    }
}

impl Iterator for Symbols<'_> {
    type Item = Symbol;

    fn next(&mut self) -> Option<Symbol> {
        if self.remaining == 0 {
            return None;
        }
        while self.left == 0 {
            let (chunk, rest) = self.chunks.split_first_chunk::<2>()?;
            self.chunks = rest;
            self.chunk = u16::from_be_bytes(*chunk);
            self.left = match self.chunk >> 14 {
                0 | 1 => self.chunk & 0x1fff,
                2 => 14,
                _ => 7,
            };
        }
        self.left -= 1;
        self.remaining -= 1;
        Some(match self.chunk >> 14 {
            0 | 1 => Symbol::new(self.chunk >> 13),
            2 => Symbol::new((self.chunk >> self.left) & 1),
            _ => Symbol::new(self.chunk >> (self.left * 2)),
        })
    }
}

/// Carries the receiver's clock across the wrap of its 24 bits, which comes every 12 days.
#[derive(Debug, Default)]
pub(super) struct Reference {
    last: Option<i64>,
}

impl Reference {
    /// The reference time in microseconds, near that of the report before.
    pub(super) fn unwrap_us(&mut self, reference: u32) -> i64 {
        let last = self.last.unwrap_or_else(|| i64::from(reference));
        let shift = i64::BITS - REFERENCE_BITS;
        let ahead = (i64::from(reference).wrapping_sub(last) << shift) >> shift;
        let whole = last.saturating_add(ahead);
        self.last = Some(whole);
        whole.saturating_mul(REFERENCE_US)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes a report as a receiver does. `arrivals` in ticks of 250 µs after the reference.
    pub(in crate::estimate) fn encode(
        base: u16,
        reference: u32,
        arrivals: &[Option<i64>],
    ) -> Vec<u8> {
        let mut bytes = base.to_be_bytes().to_vec();
        bytes.extend((arrivals.len() as u16).to_be_bytes());
        bytes.extend(&reference.to_be_bytes()[1..]);
        bytes.push(0);
        let (mut symbols, mut deltas, mut before) = (Vec::new(), Vec::new(), 0);
        for arrival in arrivals {
            let Some(at) = arrival else {
                symbols.push(0u16);
                continue;
            };
            let delta = at - before;
            before = *at;
            if let Ok(small) = u8::try_from(delta) {
                symbols.push(1);
                deltas.push(small);
            } else {
                symbols.push(2);
                deltas.extend(i16::try_from(delta).unwrap().to_be_bytes());
            }
        }
        let mut rest = &symbols[..];
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|symbol| *symbol == first).count();
            let narrow = rest.iter().take(14).all(|symbol| *symbol < 2);
            let taken = if run > 14 || run == rest.len() {
                bytes.extend((first << 13 | run.min(0x1fff) as u16).to_be_bytes());
                run.min(0x1fff)
            } else {
                let (kind, width) = if narrow { (2u16, 14) } else { (3, 7) };
                let taken = rest.len().min(width);
                let bit = 14 / width;
                let packed = (0..width)
                    .fold(0, |packed: u16, at| packed << bit | rest.get(at).copied().unwrap_or(0));
                bytes.extend((kind << 14 | packed).to_be_bytes());
                taken
            };
            rest = &rest[taken..];
        }
        bytes.extend(deltas);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Vec<(u16, Option<i64>)> {
        let feedback = Feedback::parse(bytes).unwrap();
        feedback.statuses().map(|status| (status.sequence, status.arrival_us)).collect()
    }

    fn arrivals() -> impl Strategy<Value = Vec<Option<i64>>> {
        let runs = prop_oneof![Just(1usize), 1usize..20, Just(40), Just(9000)];
        let delta =
            prop_oneof![Just(None), (0i64..256).prop_map(Some), (-900i64..900).prop_map(Some)];
        prop::collection::vec((runs, delta), 0..12).prop_map(|runs| {
            let mut at = 0;
            let mut all = Vec::new();
            for (run, delta) in runs {
                for _ in 0..run {
                    all.push(delta.map(|delta| {
                        at += delta;
                        at
                    }));
                }
            }
            all.truncate(usize::from(STATUSES_MAX));
            all
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(base: u16, reference in 0u32..1 << 24, list in arrivals()) {
            let bytes = encode(base, reference, &list);
            prop_assert_eq!(Feedback::parse(&bytes).unwrap().reference(), reference);
            let wanted: Vec<_> = list
                .iter()
                .enumerate()
                .map(|(index, at)| (base.wrapping_add(index as u16), at.map(|at| at * TICK_US)))
                .collect();
            prop_assert_eq!(decode(&bytes), wanted);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(feedback) = Feedback::parse(&bytes) {
                prop_assert!(feedback.statuses().count() <= usize::from(STATUSES_MAX));
            }
        }

        #[test]
        fn a_report_cut_short_is_refused(list in arrivals(), keep in 0.0..1.0f64) {
            let bytes = encode(7, 9, &list);
            let whole = Feedback::parse(&bytes).unwrap();
            let small = whole.statuses().filter(|status| status.arrival_us.is_some()).count();
            let needed = bytes.len() - whole.deltas.len() + small;
            let cut = &bytes[..(needed as f64 * keep) as usize];
            prop_assert!(Feedback::parse(cut).is_err());
        }
    }

    #[test]
    fn the_examples_of_the_draft_are_read() {
        // A run of two small deltas, then bits, then pairs with a large negative delta.
        let bytes = [
            0xff,
            0xfe,
            0,
            23,
            0,
            0,
            1,
            0,
            0x20,
            0x02,
            0x80 | 0x20,
            0x01,
            0xc0 | 0x20,
            0x00, // chunks
            4,
            8,
            1,
            2,
            0xff,
            0xfc, // deltas
        ];
        let read = decode(&bytes);
        assert_eq!(read.len(), 23);
        assert_eq!(read[0], (0xfffe, Some(1000)));
        assert_eq!(read[1], (0xffff, Some(3000)));
        assert_eq!(read[2], (0, Some(3250)));
        assert_eq!(read[15], (13, Some(3750)));
        assert_eq!(read[16], (14, Some(2750)));
        assert_eq!(read[17..].iter().filter(|(_, at)| at.is_some()).count(), 0);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |bytes: &[u8]| Feedback::parse(bytes).err();
        assert_eq!(refused(&[0; 7]), Some(FeedbackError::Header { bytes: 7 }));
        let many = [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0x1f, 0xff];
        assert_eq!(refused(&many), Some(FeedbackError::TooMany { count: 0xffff }));
        assert_eq!(refused(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 8]), Some(FeedbackError::Chunks));
        assert_eq!(refused(&[0, 0, 0, 1, 0, 0, 0, 0, 0x60, 1]), Some(FeedbackError::Reserved));
        assert_eq!(refused(&[0, 0, 0, 2, 0, 0, 0, 0, 0x20, 2, 1]), Some(FeedbackError::Deltas));
    }

    #[test]
    fn the_clock_goes_on_across_its_wrap_and_back() {
        let mut clock = Reference::default();
        assert_eq!(clock.unwrap_us(0xff_fffe), 0xff_fffe * REFERENCE_US);
        assert_eq!(clock.unwrap_us(3), 0x100_0003 * REFERENCE_US);
        assert_eq!(clock.unwrap_us(0xff_ffff), 0xff_ffff * REFERENCE_US);
        assert_eq!(clock.unwrap_us(0x40_0000), 0x140_0000 * REFERENCE_US);
    }
}
