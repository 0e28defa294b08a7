//! Made-up media with a structure that a receiver can check: Opus with and without redundancy,
//! VP8 with descriptors, H264 in NAL units.

use std::collections::VecDeque;

/// Opus as a browser makes it up for RED: each packet repeats the two before it (RFC 2198).
#[derive(Debug, Clone, Default)]
pub struct Redundancy {
    before: VecDeque<(u32, Vec<u8>)>,
}

impl Redundancy {
    /// The RED payload of an Opus packet.
    pub fn pack(&mut self, primary: u8, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        for (at, block) in &self.before {
            let [ticks_high, ticks_low] = ((timestamp.wrapping_sub(*at) as u16) << 2
                | (block.len() >> 8) as u16)
                .to_be_bytes();
            packed.extend([0x80 | primary, ticks_high, ticks_low, block.len() as u8]);
        }
        packed.push(primary);
        self.before.iter().for_each(|(_, block)| packed.extend(block));
        packed.extend(payload);
        self.before.push_back((timestamp, payload.to_vec()));
        if self.before.len() > 2 {
            self.before.pop_front();
        }
        packed
    }
}

/// The codecs a publisher may film in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VideoCodec {
    #[default]
    Vp8,
    H264,
}

/// One encoding of a video source.
#[derive(Debug, Clone)]
pub struct VideoSource {
    pub codec: VideoCodec,
    pub sequence: u64,
    pub timestamp: u32,
    pub picture: u16,
    pub tl0: u8,
    pub packets_per_frame: usize,
    pub keyframe_due: bool,
    pub layer: u8,
    pub frames: u64,
}

impl VideoSource {
    pub fn new(codec: VideoCodec, layer: u8) -> Self {
        Self {
            codec,
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
            let marker = index + 1 == self.packets_per_frame;
            let mut payload = match self.codec {
                VideoCodec::Vp8 => self.vp8_head(key, index == 0),
                VideoCodec::H264 => h264_head(key, index == 0, marker),
            };
            payload.push(self.layer);
            payload.extend_from_slice(&self.frames.to_be_bytes());
            payload.resize(300 * (1 + usize::from(self.layer)), 0xaa);
            packets.push((self.sequence, self.timestamp, marker, payload));
            self.sequence += 1;
        }
        self.timestamp = self.timestamp.wrapping_add(3_000);
        self.picture = (self.picture + 1) & 0x7fff;
        self.tl0 = self.tl0.wrapping_add(1);
        self.frames += 1;
        packets
    }

    fn vp8_head(&self, key: bool, first: bool) -> Vec<u8> {
        let mut head = vec![0x80 | u8::from(first) << 4, 0xe0];
        head.extend((self.picture | 0x8000).to_be_bytes());
        head.extend([self.tl0, 0x00, u8::from(!key)]);
        head.extend([0, 0, 0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
        head
    }
}

/// SPS and PPS in a STAP-A before the fragments of an IDR picture, or the fragments of a delta
/// picture, padded to the length of a VP8 head.
fn h264_head(key: bool, first: bool, last: bool) -> Vec<u8> {
    let mut head = match (key, first) {
        (true, true) => vec![0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xce, 0, 4, 0x65, 0x88],
        (_, _) => {
            let unit = if key { 5 } else { 1 };
            vec![0x7c, u8::from(first) << 7 | u8::from(last) << 6 | unit]
        }
    };
    head.resize(HEAD_BYTES, 0);
    head
}

/// Where the layer and the frame number stand in every payload.
const HEAD_BYTES: usize = 16;

/// What a receiver reads of an H264 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H264Seen {
    pub keyframe: bool,
    pub start: bool,
    pub layer: u8,
    pub frame: u64,
}

pub fn read_h264(payload: &[u8]) -> H264Seen {
    let aggregate = payload[0] == 0x78;
    assert!(aggregate || payload[0] == 0x7c, "a STAP-A or a fragment");
    H264Seen {
        keyframe: aggregate,
        start: aggregate || payload[1] & 0x80 != 0,
        layer: payload[HEAD_BYTES],
        frame: u64::from_be_bytes(payload[HEAD_BYTES + 1..HEAD_BYTES + 9].try_into().unwrap()),
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
