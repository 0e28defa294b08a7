//! Redundant audio (RFC 2198): finding the primary block for receivers without RED.
//!
//! Reads block headers only. Invariant: any bytes give a block inside the payload or nothing.

/// Redundant blocks that are looked at; browsers send one or two.
const BLOCKS_MAX: usize = 8;
const REDUNDANT_HEADER_BYTES: usize = 4;

/// One block of a RED payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// Payload type of the block's codec.
    pub payload_type: u8,
    pub contents: &'a [u8],
}

/// The newest block: what a sender without RED would have sent.
#[must_use]
pub fn primary(payload: &[u8]) -> Option<Block<'_>> {
    let mut at = 0;
    let mut redundant_bytes = 0_usize;
    for _ in 0..=BLOCKS_MAX {
        let header = *payload.get(at)?;
        let payload_type = header & 0x7f;
        if header & 0x80 == 0 {
            let contents = payload.get(at + 1 + redundant_bytes..)?;
            return (!contents.is_empty()).then_some(Block { payload_type, contents });
        }
        let [_, _, high, low] = *payload.get(at..at + REDUNDANT_HEADER_BYTES)? else { return None };
        redundant_bytes += usize::from(u16::from_be_bytes([high, low]) & 0x3ff);
        at += REDUNDANT_HEADER_BYTES;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_block_is_stripped_out() {
        let alone = [111, 1, 2, 3];
        assert_eq!(primary(&alone).unwrap().contents, &[1, 2, 3]);
        let redundant = [0x80 | 111, 0, 0, 2, 111, 8, 9, 1, 2, 3];
        let block = primary(&redundant).unwrap();
        assert_eq!((block.payload_type, block.contents), (111, [1_u8, 2, 3].as_slice()));
        assert_eq!(primary(&[0xef, 0, 3, 0xff, 111, 1]), None, "block longer than the payload");
        assert_eq!(primary(&[0xef; 64]), None, "headers without end");
        assert_eq!(primary(&[]), None);
    }
}
