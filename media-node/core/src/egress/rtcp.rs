//! RTCP as a sender of media needs it: reads what receivers report, writes sender reports.
//!
//! Reads any bytes at all and copies nothing; what it does not know it passes over. Decides
//! nothing. Invariant: what is read of a packet is bounded by its length, and nothing panics.

/// Packet types (RFC 3550 §12.1, RFC 4585 §6.1).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
/// Formats of transport feedback: generic NACK (RFC 4585 §6.2.1), transport-wide feedback
/// (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
const NACK: u8 = 1;
const TRANSPORT_WIDE: u8 = 15;
/// Formats of payload-specific feedback: PLI (RFC 4585 §6.3.1), FIR (RFC 5104 §4.3.1).
const PICTURE_LOSS: u8 = 1;
const FULL_INTRA: u8 = 4;
/// Sources that one SDES packet can describe: its count has five bits.
const CHUNKS_MAX: usize = 31;
/// The canonical name's item type.
const CNAME: u8 = 1;

/// One thing that a receiver told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback<'a> {
    /// A report block: how one of our streams arrives.
    Received(Block),
    /// Packets that are missing.
    Missing(Missing<'a>),
    /// The decoder of this stream needs a keyframe (PLI or FIR).
    Keyframe { ssrc: u32 },
    /// Transport-wide feedback: everything after the two SSRCs.
    Transport { contents: &'a [u8] },
}

/// What a report block says of one stream (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub ssrc: u32,
    /// The middle 32 bits of the sender report's time that it answers; 0 when none came.
    pub last_report: u32,
    /// Time since that report came, in units of 1/65,536 s.
    pub delay: u32,
}

impl Block {
    /// The round trip in units of 1/65,536 s; `now`: the middle 32 bits of the time.
    #[must_use]
    pub fn round_trip(&self, now: u32) -> Option<u32> {
        let trip = now.wrapping_sub(self.last_report).wrapping_sub(self.delay);
        // Beyond half of the range it lies in the future: clocks do not divide evenly.
        (self.last_report != 0 && trip < 1 << 31).then_some(trip)
    }
}

/// Sequence numbers that a receiver misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing<'a> {
    pub ssrc: u32,
    entries: &'a [u8],
}

impl Missing<'_> {
    /// The numbers, in the order told.
    pub fn sequences(&self) -> impl Iterator<Item = u16> {
        let (entries, _) = self.entries.as_chunks::<4>();
        entries.iter().flat_map(|[first, second, third, fourth]| {
            let first = u16::from_be_bytes([*first, *second]);
            let more = u16::from_be_bytes([*third, *fourth]);
            let follows = (0_u16..16).filter(move |bit| more & 1 << bit != 0);
            std::iter::once(first).chain(follows.map(move |bit| first.wrapping_add(bit + 1)))
        })
    }
}

/// The packet does not keep to its own lengths from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an RTCP packet contradicts its own length: drop the rest of the compound")]
pub struct Malformed;

/// Reads a compound packet and hands over what concerns a sender.
pub fn read<'a>(compound: &'a [u8], mut take: impl FnMut(Feedback<'a>)) -> Result<(), Malformed> {
    let mut rest = compound;
    while !rest.is_empty() {
        let (&[first, kind, high, low], _) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
        let bytes = 4 * (usize::from(u16::from_be_bytes([high, low])) + 1);
        let (packet, after) = rest.split_at_checked(bytes).ok_or(Malformed)?;
        rest = after;
        if first >> 6 != 2 {
            return Err(Malformed);
        }
        let body = unpadded(packet, first & 0x20 != 0)?;
        one(kind, first & 0x1f, body, &mut take)?;
    }
    Ok(())
}

/// What follows the first four bytes, without padding.
fn unpadded(packet: &[u8], padded: bool) -> Result<&[u8], Malformed> {
    let padding = match packet.last() {
        Some(bytes) if padded => usize::from(*bytes),
        _ => 0,
    };
    let end = packet.len().checked_sub(padding).ok_or(Malformed)?;
    packet.get(4..end).ok_or(Malformed)
}

fn one<'a>(
    kind: u8,
    count: u8,
    body: &'a [u8],
    take: &mut impl FnMut(Feedback<'a>),
) -> Result<(), Malformed> {
    match (kind, count) {
        (RECEIVER_REPORT, _) => blocks(body.get(4..).ok_or(Malformed)?, count, take),
        (SENDER_REPORT, _) => blocks(body.get(24..).ok_or(Malformed)?, count, take),
        (TRANSPORT_FEEDBACK, NACK) => {
            let (ssrc, entries) = about(body)?;
            take(Feedback::Missing(Missing { ssrc, entries }));
            Ok(())
        }
        (TRANSPORT_FEEDBACK, TRANSPORT_WIDE) => {
            take(Feedback::Transport { contents: about(body)?.1 });
            Ok(())
        }
        (PAYLOAD_FEEDBACK, PICTURE_LOSS) => {
            take(Feedback::Keyframe { ssrc: about(body)?.0 });
            Ok(())
        }
        (PAYLOAD_FEEDBACK, FULL_INTRA) => {
            let (entries, _) = about(body)?.1.as_chunks::<8>();
            for entry in entries {
                take(Feedback::Keyframe { ssrc: word(entry, 0).ok_or(Malformed)? });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn blocks<'a>(
    body: &'a [u8],
    count: u8,
    take: &mut impl FnMut(Feedback<'a>),
) -> Result<(), Malformed> {
    let (blocks, _) = body.as_chunks::<24>();
    for block in blocks.get(..usize::from(count)).ok_or(Malformed)? {
        let at = |at| word(block, at).ok_or(Malformed);
        let (ssrc, last_report, delay) = (at(0)?, at(16)?, at(20)?);
        take(Feedback::Received(Block { ssrc, last_report, delay }));
    }
    Ok(())
}

/// The media source that feedback is about, and what follows.
fn about(body: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let ssrc = word(body, 4).ok_or(Malformed)?;
    Ok((ssrc, body.get(8..).ok_or(Malformed)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// What a sender report says (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub ssrc: u32,
    /// Time as NTP has it: seconds since 1900 and their 2^32nd parts.
    pub ntp: u64,
    /// The stream's timestamp at that time.
    pub timestamp: u32,
    pub packets: u32,
    /// Bytes of payload.
    pub octets: u32,
}

/// A compound packet in the making: sender reports, then the sources' canonical names.
#[derive(Debug, Default)]
pub struct Compound {
    reports: Vec<u8>,
    chunks: Vec<u8>,
    sources: usize,
}

impl Compound {
    /// Bytes on the wire before sealing.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.reports.len() + 4 + self.chunks.len()
    }

    /// No further source fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.sources >= CHUNKS_MAX
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources == 0
    }

    /// Adds one source; `cname` is cut at 255 bytes, which is what its length can say.
    pub fn push(&mut self, report: &Report, cname: &str) {
        self.reports.extend_from_slice(&[0x80, SENDER_REPORT, 0, 6]);
        self.reports.extend_from_slice(&report.ssrc.to_be_bytes());
        self.reports.extend_from_slice(&report.ntp.to_be_bytes());
        for number in [report.timestamp, report.packets, report.octets] {
            self.reports.extend_from_slice(&number.to_be_bytes());
        }
        let name: Vec<u8> = cname.bytes().take(255).collect();
        self.chunks.extend_from_slice(&report.ssrc.to_be_bytes());
        self.chunks.extend_from_slice(&[CNAME, name.len() as u8]);
        self.chunks.extend_from_slice(&name);
        // At least one zero ends the list, and the next chunk begins at a multiple of four.
        let padded = (self.chunks.len() + 1).next_multiple_of(4);
        self.chunks.resize(padded, 0);
        self.sources += 1;
    }

    /// The packet, with room for `tail` bytes more.
    #[must_use]
    pub fn finish(self, tail: usize) -> Vec<u8> {
        let mut packet = Vec::with_capacity(self.bytes() + tail);
        packet.extend_from_slice(&self.reports);
        let words = (self.chunks.len() / 4) as u16;
        packet.extend_from_slice(&[0x80 | self.sources as u8, SOURCE_DESCRIPTION]);
        packet.extend_from_slice(&words.to_be_bytes());
        packet.extend_from_slice(&self.chunks);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, kind: u8, words: &[u32]) -> Vec<u8> {
        let mut packet = vec![first, kind];
        packet.extend_from_slice(&(words.len() as u16).to_be_bytes());
        packet.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        packet
    }

    fn told(compound: &[u8]) -> (Vec<String>, bool) {
        let mut told = Vec::new();
        let sound = read(compound, |feedback| {
            told.push(match feedback {
                Feedback::Missing(missing) => {
                    format!("{:?}", missing.sequences().collect::<Vec<_>>())
                }
                other => format!("{other:?}"),
            });
        });
        (told, sound.is_ok())
    }

    #[test]
    fn everything_that_concerns_a_sender_is_told_and_nothing_else() {
        let compound = [
            packet(0x81, 201, &[1, 9, 0x0100_0002, 77, 5, 0xabcd_0000, 0x8000]),
            packet(0x81, 205, &[1, 9, 0xfffe_8001, 0x0007_0000]),
            packet(0x84, 206, &[1, 0, 8, 0x0300_0000]),
            packet(0x8f, 206, &[1, 0, 0x5245_4d42, 0]),
            packet(0xaf, 205, &[1, 9, 0x0010_0003, 0x0000_0004]),
            packet(0x81, 203, &[1]),
        ];
        let (told, sound) = told(&compound.concat());
        let expected = [
            "Received(Block { ssrc: 9, last_report: 2882338816, delay: 32768 })",
            "[65534, 65535, 14, 7]",
            "Keyframe { ssrc: 8 }",
            "Transport { contents: [0, 16, 0, 3] }",
        ];
        assert_eq!((told, sound), (expected.map(str::to_owned).to_vec(), true));
    }

    #[test]
    fn a_packet_that_lies_about_its_length_ends_the_compound() {
        let whole = packet(0x81, 201, &[1, 9, 0, 0, 0, 0, 0]);
        for bytes in 1..whole.len() {
            assert_eq!(told(&whole[..bytes]), (Vec::new(), false), "{bytes}");
        }
        assert!(!told(&packet(0x82, 201, &[1, 9, 0, 0, 0, 0, 0])).1, "one block, not two");
        assert!(!told(&packet(0xa1, 203, &[200])).1, "more padding than packet");
    }

    #[test]
    fn round_trips_are_those_that_can_be() {
        let block = Block { ssrc: 1, last_report: 0xffff_0000, delay: 0x8000 };
        assert_eq!(block.round_trip(0x0000_1000), Some(0x9000));
        assert_eq!(block.round_trip(0xffff_0000), None, "it came before it left");
        assert_eq!(Block { last_report: 0, ..block }.round_trip(9), None, "no report came");
    }

    #[test]
    fn reports_and_names_are_whole_words() {
        for name in ["", "a", "ab", "abc", "abcd"] {
            let mut compound = Compound::default();
            for ssrc in 1..4 {
                let report = Report { ssrc, ntp: 5 << 32, timestamp: 6, packets: 7, octets: 8 };
                compound.push(&report, name);
            }
            let bytes = compound.finish(20);
            assert_eq!(told(&bytes), (Vec::new(), true), "{name}");
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(bytes[84..86], [0x83, SOURCE_DESCRIPTION]);
        }
    }
}
