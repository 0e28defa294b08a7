//! Rewriting of forwarded media: what one subscriber gets of one published track.
//!
//! Decides which packets of which layer go to a subscriber and under which numbers. Reads packet
//! headers and payload descriptors, never touches a socket, a clock or a codec's payload.
//! Invariant: however sources switch, lose, reorder and wrap, a subscriber sees one stream whose
//! numbers do not repeat and whose only gaps are packets that may still come.

pub mod audio;
pub mod h264;
pub mod offsets;
pub mod red;
pub mod rtp_munger;
pub mod source_clock;
pub mod video;
pub mod vp8;
pub mod window;

/// One run of packets that share a numbering: a layer of a publisher, between two pauses.
/// A new value makes the rewriters start a new mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

/// The full number near `reference` whose low `bits` bits are `value`.
///
/// Works across wrap-around as long as the true distance is below half of the range.
#[must_use]
pub fn unwrap_number(reference: u64, value: u64, bits: u32) -> u64 {
    let span = 1_u64 << bits;
    let mask = span - 1;
    let ahead = value.wrapping_sub(reference) & mask;
    if ahead < span / 2 {
        reference.wrapping_add(ahead)
    } else {
        reference.wrapping_add(ahead).wrapping_sub(span)
    }
}

#[cfg(test)]
mod tests {
    use super::unwrap_number;

    #[test]
    fn numbers_unwrap_forwards_and_backwards_across_the_edge() {
        let base = (7_u64 << 16) | 0xfff0;
        assert_eq!(unwrap_number(base, 0xfff1, 16), base + 1);
        assert_eq!(unwrap_number(base, 0x0002, 16), base + 18);
        assert_eq!(unwrap_number(base, 0xffe0, 16), base - 16);
        assert_eq!(unwrap_number((8 << 16) | 2, 0xffff, 16), (8 << 16) - 1);
    }
}
