//! Made-up media with a structure that a receiver can check: Opus, and VP8 with descriptors.

/// One encoding of a VP8 source.
#[derive(Debug, Clone)]
pub struct Vp8Source {
    pub sequence: u64,
    pub timestamp: u32,
    pub picture: u16,
    pub tl0: u8,
    pub packets_per_frame: usize,
    pub keyframe_due: bool,
    pub layer: u8,
    pub frames: u64,
}

impl Vp8Source {
    pub fn new(layer: u8) -> Self {
        Self {
            sequence: 1_000 * (u64::from(layer) + 1),
            timestamp: 77_000 * u32::from(layer) + 5,
            picture: 100 * u16::from(layer) + 9,
            tl0: 40 + layer,
            packets_per_frame: 1 + usize::from(layer),
            keyframe_due: true,
            layer,
            frames: 0,
        }
    }

    /// The packets of the next frame: (sequence, timestamp, marker, payload).
    pub fn frame(&mut self) -> Vec<(u64, u32, bool, Vec<u8>)> {
        let key = std::mem::take(&mut self.keyframe_due);
        let mut packets = Vec::new();
        for index in 0..self.packets_per_frame {
            let start = if index == 0 { 0x10 } else { 0 };
            let mut payload = vec![0x80 | start, 0xe0];
            payload.push(0x80 | (self.picture >> 8) as u8);
            payload.push((self.picture & 0xff) as u8);
            payload.push(self.tl0);
            payload.push(0x00);
            payload.push(u8::from(!key));
            payload.extend_from_slice(&[0, 0, 0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
            payload.push(self.layer);
            payload.extend_from_slice(&self.frames.to_be_bytes());
            payload.resize(300 * (1 + usize::from(self.layer)), 0xaa);
            let marker = index + 1 == self.packets_per_frame;
            packets.push((self.sequence, self.timestamp, marker, payload));
            self.sequence += 1;
        }
        self.timestamp = self.timestamp.wrapping_add(3_000);
        self.picture = (self.picture + 1) & 0x7fff;
        self.tl0 = self.tl0.wrapping_add(1);
        self.frames += 1;
        packets
    }
}

/// What a receiver reads of a VP8 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8Seen {
    pub picture: u16,
    pub tl0: u8,
    pub keyframe: bool,
    pub start: bool,
    pub layer: u8,
    pub frame: u64,
}

pub fn read_vp8(payload: &[u8]) -> Vp8Seen {
    assert_eq!(payload[0] & 0x80, 0x80, "a descriptor with extensions");
    let picture = u16::from(payload[2] & 0x7f) << 8 | u16::from(payload[3]);
    let frame = u64::from_be_bytes(payload[17..25].try_into().unwrap());
    Vp8Seen {
        picture,
        tl0: payload[4],
        keyframe: payload[6] & 1 == 0 && payload[0] & 0x10 != 0,
        start: payload[0] & 0x10 != 0,
        layer: payload[16],
        frame,
    }
}
