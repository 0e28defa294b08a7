//! What headless participants publish: Opus and VP8 packets with a trailer that can be weighed.
//!
//! Generates payloads and reads trailers. Sends nothing. Invariant: every payload ends in a
//! trailer that names its layer, its number and its time of sending on this process's clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Marks a payload as ours; anything else in its place is corruption.
const MAGIC: u32 = 0x4865_6d69;
const TRAILER_BYTES: usize = 24;
/// Time between audio packets.
pub(super) const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// Time between video frames: 30 a second.
pub(super) const VIDEO_INTERVAL: Duration = Duration::from_nanos(33_333_333);
/// An Opus packet of a speaking voice, in bytes.
const AUDIO_PAYLOAD_BYTES: usize = 120;
/// Largest video payload, in bytes, as libwebrtc splits frames.
const VIDEO_PAYLOAD_BYTES: usize = 1150;
/// Delta frames of the layers, in bytes: 150, 500 and 1,700 kbit/s (LiveKit's h180, h360, h720).
const FRAME_BYTES: [usize; 3] = [625, 2083, 7083];
/// A keyframe is this much larger than a delta frame.
const KEYFRAME_FACTOR: usize = 4;
/// Sizes of the layers in pixels.
pub(super) const DIMENSIONS: [(u16, u16); 3] = [(320, 180), (640, 360), (1280, 720)];
/// The temporal pattern of L1T3.
const TEMPORAL: [u8; 4] = [0, 2, 1, 2];

/// Nanoseconds on the clock that all participants of this process share.
pub(super) fn clock_ns(now: Instant) -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    u64::try_from(now.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// What the trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) layer: u32,
    /// Counts the packets of one layer.
    pub(super) number: u64,
    pub(super) sent_ns: u64,
}

fn append(payload: &mut Vec<u8>, trailer: Trailer) {
    payload.extend_from_slice(&MAGIC.to_be_bytes());
    payload.extend_from_slice(&trailer.layer.to_be_bytes());
    payload.extend_from_slice(&trailer.number.to_be_bytes());
    payload.extend_from_slice(&trailer.sent_ns.to_be_bytes());
}

/// Reads the trailer of a received payload; nothing when it is not one of ours, or damaged.
pub(super) fn read(payload: &[u8]) -> Option<Trailer> {
    let (_, tail) = payload.split_last_chunk::<TRAILER_BYTES>()?;
    let (magic, rest) = tail.split_first_chunk::<4>()?;
    let (layer, rest) = rest.split_first_chunk::<4>()?;
    let (number, sent) = rest.split_first_chunk::<8>()?;
    (u32::from_be_bytes(*magic) == MAGIC).then_some(Trailer {
        layer: u32::from_be_bytes(*layer),
        number: u64::from_be_bytes(*number),
        sent_ns: u64::from_be_bytes(*sent.first_chunk::<8>()?),
    })
}

/// One packet to write.
pub(super) struct Packet {
    pub(super) sequence: u64,
    pub(super) timestamp: u32,
    pub(super) marker: bool,
    pub(super) payload: Vec<u8>,
}

/// A voice.
#[derive(Debug, Default)]
pub(super) struct AudioSource {
    number: u64,
    base: u64,
}

impl AudioSource {
    /// Numbers packets from the beginning again, for a new transport.
    pub(super) fn rebase(&mut self) {
        self.base = self.number;
    }

    pub(super) fn next(&mut self, now: Instant) -> Packet {
        self.number += 1;
        let mut payload = vec![0xff; AUDIO_PAYLOAD_BYTES - TRAILER_BYTES];
        if let Some(toc) = payload.first_mut() {
            // 20 ms of mono CELT (RFC 6716 §3.1).
            *toc = 0xf8;
        }
        let sent_ns = clock_ns(now);
        append(&mut payload, Trailer { layer: 0, number: self.number, sent_ns });
        Packet {
            sequence: self.number - self.base,
            timestamp: (self.number * 960) as u32,
            marker: self.number == self.base + 1,
            payload,
        }
    }
}

/// One simulcast layer of a camera.
#[derive(Debug)]
pub(super) struct VideoLayer {
    layer: usize,
    number: u64,
    base: u64,
    frame: u64,
    tl0: u8,
    /// The next frame must be a keyframe.
    pub(super) keyframe_due: bool,
}

impl VideoLayer {
    pub(super) fn new(layer: usize) -> Self {
        Self { layer, number: 0, base: 0, frame: 0, tl0: 0, keyframe_due: true }
    }

    /// Numbers packets from the beginning again, for a new transport, and starts with a keyframe.
    pub(super) fn rebase(&mut self) {
        self.base = self.number;
        self.keyframe_due = true;
    }

    /// The packets of the next frame.
    pub(super) fn next(&mut self, now: Instant) -> Vec<Packet> {
        let keyframe = std::mem::take(&mut self.keyframe_due);
        self.frame += 1;
        let step = (self.frame % 4) as usize;
        let temporal = if keyframe { 0 } else { TEMPORAL.get(step).copied().unwrap_or(0) };
        self.tl0 = self.tl0.wrapping_add(u8::from(temporal == 0));
        let bytes = FRAME_BYTES.get(self.layer).copied().unwrap_or(625);
        let bytes = if keyframe { bytes * KEYFRAME_FACTOR } else { bytes };
        let packets = bytes.div_ceil(VIDEO_PAYLOAD_BYTES);
        (0..packets)
            .map(|at| {
                self.number += 1;
                let mut payload = self.descriptor(at == 0, temporal);
                if at == 0 {
                    payload.extend_from_slice(&self.frame_header(keyframe));
                }
                payload.resize(payload.len().max(bytes / packets - TRAILER_BYTES), 0xaa);
                let sent_ns = clock_ns(now);
                let layer = self.layer as u32;
                append(&mut payload, Trailer { layer, number: self.number, sent_ns });
                Packet {
                    sequence: self.number - self.base,
                    timestamp: (self.frame * 3000) as u32,
                    marker: at + 1 == packets,
                    payload,
                }
            })
            .collect()
    }

    /// RFC 7741 §4.2 with picture id, TL0PICIDX, TID and Y.
    fn descriptor(&self, start: bool, temporal: u8) -> Vec<u8> {
        let [high, low] = (self.frame as u16 | 0x8000).to_be_bytes();
        let sync = u8::from(temporal == 1 || (temporal == 2 && self.frame % 4 == 1)) << 5;
        let first = 0x80 | u8::from(start) << 4;
        vec![first, 0xe0, high, low, self.tl0, temporal << 6 | sync]
    }

    /// RFC 6386 §9.1: the size only in a keyframe.
    fn frame_header(&self, keyframe: bool) -> Vec<u8> {
        if !keyframe {
            return vec![0x11, 0, 0];
        }
        let (width, height) = DIMENSIONS.get(self.layer).copied().unwrap_or((320, 180));
        let mut header = vec![0x10, 0, 0, 0x9d, 0x01, 0x2a];
        header.extend_from_slice(&width.to_le_bytes());
        header.extend_from_slice(&height.to_le_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_can_be_read_back() {
        let now = Instant::now();
        let mut layer = VideoLayer::new(2);
        let keyframe = layer.next(now);
        assert!(keyframe.len() > 20 && keyframe.last().unwrap().marker);
        assert_eq!(keyframe[0].payload[6] & 1, 0, "a keyframe");
        let delta = layer.next(now);
        assert_eq!(delta[0].payload[6] & 1, 1);
        assert_eq!(delta[0].sequence, keyframe.last().unwrap().sequence + 1);
        let trailer = read(&delta[0].payload).unwrap();
        assert_eq!((trailer.layer, trailer.number), (2, delta[0].sequence));
        assert!(delta.iter().all(|packet| packet.payload.len() <= 1200));
        assert_eq!(read(&[0; 40]), None);
        assert_eq!(read(&[0; 3]), None);
    }
}
