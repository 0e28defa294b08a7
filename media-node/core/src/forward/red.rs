//! Redundant audio (RFC 2198): the blocks of a payload, for receivers that take Opus alone.
//!
//! Reads block headers only and decides nothing about who gets what. Invariant: any bytes give
//! blocks that lie one after another and fill the payload, or nothing.

/// Redundant blocks a packet may have; browsers send one or two.
pub const BLOCKS_MAX: usize = 8;
/// Header of a redundant block: F and payload type, timestamp offset (14 bits), length (10 bits).
const REDUNDANT_HEADER_BYTES: usize = 4;

/// The newest block: what a sender without RED would have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Primary<'a> {
    /// Payload type of the block's codec.
    pub payload_type: u8,
    pub contents: &'a [u8],
}

/// A packet of the past that is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redundant<'a> {
    pub payload_type: u8,
    /// How many packets before the primary one: senders repeat the last ones without a hole.
    pub packets_before: u16,
    /// How much earlier it was captured, in ticks of the RTP clock.
    pub ticks_before: u16,
    pub contents: &'a [u8],
}

/// A RED payload that was read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedPacket<'a> {
    pub primary: Primary<'a>,
    redundant: [Option<Redundant<'a>>; BLOCKS_MAX],
}

impl<'a> RedPacket<'a> {
    /// Reads a payload; nothing when it is not RED or repeats more than [`BLOCKS_MAX`] packets.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (headers, payload_type, mut rest) = headers(payload)?;
        let mut redundant = [None; BLOCKS_MAX];
        let count = headers.iter().flatten().count();
        for (at, (slot, header)) in redundant.iter_mut().zip(headers.iter().flatten()).enumerate() {
            let (contents, behind) = rest.split_at_checked(header.length)?;
            rest = behind;
            *slot = Some(Redundant {
                payload_type: header.payload_type,
                packets_before: u16::try_from(count - at).ok()?,
                ticks_before: header.ticks_before,
                contents,
            });
        }
        let primary = Primary { payload_type, contents: rest };
        (!rest.is_empty()).then_some(Self { primary, redundant })
    }

    /// The packets that are repeated in the primary one's codec, oldest first.
    pub fn redundant(&self) -> impl Iterator<Item = &Redundant<'a>> {
        let codec = self.primary.payload_type;
        let blocks = self.redundant.iter().flatten();
        blocks.filter(move |block| block.payload_type == codec && !block.contents.is_empty())
    }
}

#[derive(Clone, Copy)]
struct Header {
    payload_type: u8,
    ticks_before: u16,
    length: usize,
}

/// The redundant blocks' headers, the primary block's payload type, and what follows.
type Headers<'a> = ([Option<Header>; BLOCKS_MAX], u8, &'a [u8]);

fn headers(payload: &[u8]) -> Option<Headers<'_>> {
    let mut headers = [None; BLOCKS_MAX];
    let mut rest = payload;
    let mut slots = headers.iter_mut();
    loop {
        let (first, behind) = rest.split_first()?;
        let payload_type = first & 0x7f;
        if first & 0x80 == 0 {
            return Some((headers, payload_type, behind));
        }
        let (&[_, high, middle, low], behind) =
            rest.split_first_chunk::<REDUNDANT_HEADER_BYTES>()?;
        rest = behind;
        *slots.next()? = Some(Header {
            payload_type,
            ticks_before: u16::from_be_bytes([high, middle]) >> 2,
            length: usize::from(u16::from_be_bytes([middle, low]) & 0x3ff),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart() {
        let alone = [111, 1, 2, 3];
        let read = RedPacket::parse(&alone).unwrap();
        assert_eq!(read.primary, Primary { payload_type: 111, contents: &[1, 2, 3] });
        assert_eq!(read.redundant().count(), 0);

        // 1920 and 960 ticks earlier, two bytes and one.
        let twice = [0x80 | 111, 0x1e, 0x00, 2, 0x80 | 111, 0x0f, 0x00, 1, 111, 8, 9, 7, 1, 2];
        let read = RedPacket::parse(&twice).unwrap();
        assert_eq!(read.primary.contents, &[1, 2]);
        let blocks: Vec<_> = read.redundant().copied().collect();
        let block = |packets_before, ticks_before, contents| Redundant {
            payload_type: 111,
            packets_before,
            ticks_before,
            contents,
        };
        assert_eq!(blocks, [block(2, 1920, &[8, 9]), block(1, 960, &[7])]);
    }

    #[test]
    fn blocks_of_another_codec_and_empty_ones_are_nothing_to_send() {
        let other = [0x80 | 9, 0x0f, 0x00, 1, 0x80 | 111, 0x0f, 0x00, 0, 111, 5, 1];
        let read = RedPacket::parse(&other).unwrap();
        assert_eq!((read.primary.contents, read.redundant().count()), (&[1][..], 0));
    }

    #[test]
    fn what_is_broken_gives_nothing() {
        assert_eq!(RedPacket::parse(&[]), None);
        assert_eq!(RedPacket::parse(&[111]), None, "an empty primary block");
        assert_eq!(RedPacket::parse(&[0xef, 0, 3]), None, "half a header");
        assert_eq!(RedPacket::parse(&[0xef, 0, 3, 0xff, 111, 1]), None, "a block beyond the end");
        assert_eq!(RedPacket::parse(&[0xef, 0, 0, 1, 111, 1]), None, "nothing after the blocks");
        assert_eq!(RedPacket::parse(&[0xef; 64]), None, "headers without end");
    }
}
