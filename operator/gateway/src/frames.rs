//! Where WebSocket frames begin and end in a stream that is passed on unread (RFC 6455 §5.2).
//!
//! Decides only whether a frame of our own may be put in at this point. Pure, constant memory.
//! Invariant: payloads are skipped, never looked at, so that compression passes through.

/// Follows one direction of a WebSocket.
#[derive(Clone, Debug, Default)]
pub struct FrameBoundary {
    header: [u8; 14],
    have: usize,
    payload_left: u64,
    saw_close: bool,
}

/// Opcode of a Close frame.
const CLOSE: u8 = 0x8;
/// Longest reason that fits a control frame beside the code, in bytes.
const REASON_BYTES_MAX: usize = 123;

impl FrameBoundary {
    /// Takes note of bytes that passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if self.payload_left > 0 {
                let skip = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
                let skip = skip.min(bytes.len());
                self.payload_left -= skip as u64;
                bytes = bytes.get(skip..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = first;
            }
            self.have += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            if self.have >= 2 && self.have == self.header_length() {
                self.payload_left = self.payload_length();
                self.saw_close |= self.header[0] & 0x0f == CLOSE;
                self.have = 0;
            }
        }
    }

    /// Between two frames: a control frame may go here, even inside a fragmented message.
    #[must_use]
    pub const fn is_between_frames(&self) -> bool {
        self.have == 0 && self.payload_left == 0
    }

    /// The other side has closed already; nothing may follow.
    #[must_use]
    pub const fn saw_close(&self) -> bool {
        self.saw_close
    }

    fn header_length(&self) -> usize {
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn payload_length(&self) -> u64 {
        let [_, length, a, b, c, d, e, f, g, h, ..] = self.header;
        match length & 0x7f {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        }
    }
}

/// A Close frame as a server sends it. Code 1012, "service restart", makes SDKs come back; 1000
/// would make them stop.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = reason.as_bytes();
    let reason = reason.get(..reason.len().min(REASON_BYTES_MAX)).unwrap_or_default();
    // At most 125 fits a u8: two bytes of code and the bounded reason.
    let length = u8::try_from(2 + reason.len()).unwrap_or(125);
    let mut frame = vec![0x80 | CLOSE, length];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..126 => bytes.push(mask | u8::try_from(length).expect("short")),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(length).expect("medium").to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.extend(std::iter::repeat_n(0xa5, length));
        bytes
    }

    proptest! {
        /// However the stream is cut into pieces, the boundary is seen exactly between frames.
        #[test]
        fn boundaries_are_seen_exactly(
            frames in prop::collection::vec(
                (prop_oneof![0_usize..4, 120_usize..130, 65_530_usize..65_540], any::<bool>()),
                1..5,
            ),
            cut in 1_usize..5000,
        ) {
            let frames: Vec<Vec<u8>> =
                frames.iter().map(|(length, masked)| frame(2, *length, *masked)).collect();
            let mut ends = std::collections::BTreeSet::from([0]);
            let mut at = 0;
            for frame in &frames {
                at += frame.len();
                ends.insert(at);
            }
            let bytes = frames.concat();
            let mut boundary = FrameBoundary::default();
            let mut passed = 0;
            for piece in bytes.chunks(cut) {
                boundary.pass(piece);
                passed += piece.len();
                prop_assert_eq!(boundary.is_between_frames(), ends.contains(&passed));
            }
            prop_assert!(!boundary.saw_close());
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            FrameBoundary::default().pass(&bytes);
        }
    }

    #[test]
    fn a_close_frame_is_recognised() {
        let mut boundary = FrameBoundary::default();
        boundary.pass(&close_frame(1012, "gateway restarts"));
        assert!(boundary.saw_close() && boundary.is_between_frames());
        assert_eq!(close_frame(1012, &"x".repeat(500)).len(), 127);
    }
}
