//! VP8's payload descriptor (RFC 7741 §4.2): reading it, and rewriting its three counters.
//!
//! Decides the picture id, TL0PICIDX and KEYIDX under which frames go out. It sees descriptors
//! only, and the first bytes of a keyframe. Invariant: picture ids of forwarded frames are
//! contiguous where the source's frames were, across switches and dropped temporal layers; any
//! bytes at all parse to a descriptor or to nothing.

use super::offsets::OffsetMap;
use super::{SourceId, unwrap_number};

/// Frames whose mapping is remembered for late packets; at 30 frames a second, 4 s.
const FRAMES_REMEMBERED: u64 = 128;
/// Where extended picture ids start, so that going back never underflows.
const SOURCE_EPOCH: u64 = 1 << 32;

/// A picture id and how wide its field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureId {
    pub value: u16,
    /// 15 bits rather than 7.
    pub wide: bool,
}

impl PictureId {
    fn bits(self) -> u32 {
        if self.wide { 15 } else { 7 }
    }
}

/// The payload descriptor of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The packet starts partition `partition` (S bit).
    pub partition_start: bool,
    pub partition: u8,
    /// No later frame refers to this one (N bit).
    pub discardable: bool,
    pub picture_id: Option<PictureId>,
    pub tl0_index: Option<u8>,
    /// Temporal layer (TID) when the T bit is set.
    pub temporal: Option<u8>,
    /// This frame refers to the base layer only (Y bit): a receiver may start this temporal
    /// layer here.
    pub layer_sync: bool,
    pub key_index: Option<u8>,
    /// Bytes of the descriptor.
    pub length: usize,
    /// The packet begins a keyframe.
    pub keyframe_start: bool,
}

impl Descriptor {
    /// Reads the descriptor, or nothing when the payload is too short for what it announces.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut at = 0;
        let mut next = || {
            let byte = payload.get(at).copied();
            at += 1;
            byte
        };
        let required = next()?;
        let extensions = if required & 0x80 != 0 { next()? } else { 0 };
        let mut picture_id = None;
        if extensions & 0x80 != 0 {
            let high = next()?;
            let wide = high & 0x80 != 0;
            let mut value = u16::from(high & 0x7f);
            if wide {
                value = value << 8 | u16::from(next()?);
            }
            picture_id = Some(PictureId { value, wide });
        }
        let tl0_index = if extensions & 0x40 != 0 { Some(next()?) } else { None };
        let layers = if extensions & 0x30 != 0 { next()? } else { 0 };
        let partition_start = required & 0x10 != 0;
        let partition = required & 0x07;
        let length = at;
        let keyframe_start = partition_start
            && partition == 0
            && payload.get(length).is_some_and(|byte| byte & 1 == 0);
        Some(Self {
            partition_start,
            partition,
            discardable: required & 0x20 != 0,
            picture_id,
            tl0_index,
            temporal: (extensions & 0x20 != 0).then_some(layers >> 6),
            layer_sync: layers & 0x20 != 0,
            key_index: (extensions & 0x10 != 0).then_some(layers & 0x1f),
            length,
            keyframe_start,
        })
    }
}

/// Width and height of a keyframe in pixels (RFC 6386 §9.1).
#[must_use]
pub fn keyframe_size(payload: &[u8]) -> Option<(u16, u16)> {
    let descriptor = Descriptor::parse(payload)?;
    let frame = payload.get(descriptor.length..)?;
    let [_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = *frame else { return None };
    let side = |low, high| u16::from_le_bytes([low, high]) & 0x3fff;
    descriptor.keyframe_start.then(|| (side(w0, w1), side(h0, h1)))
}

/// New values of the descriptor's counters; a field is set exactly when the packet has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Fits the width of the packet's own field.
    pub picture_id: Option<u16>,
    pub tl0_index: Option<u8>,
    pub key_index: Option<u8>,
}

impl Rewrite {
    /// Writes the values into the payload that `descriptor` was read from. Does nothing to a
    /// payload of another shape.
    pub fn apply(&self, payload: &mut [u8]) {
        let Some(descriptor) = Descriptor::parse(payload) else { return };
        let mut at = 2;
        let mut put = |mask: u8, value: u8| {
            if let Some(byte) = payload.get_mut(at) {
                *byte = *byte & !mask | value & mask;
            }
            at += 1;
        };
        if let Some(id) = descriptor.picture_id {
            let value = self.picture_id.unwrap_or(id.value);
            if id.wide {
                put(0x7f, (value >> 8) as u8);
                put(0xff, (value & 0xff) as u8);
            } else {
                put(0x7f, (value & 0x7f) as u8);
            }
        }
        if let Some(index) = descriptor.tl0_index {
            put(0xff, self.tl0_index.unwrap_or(index));
        }
        if let Some(index) = descriptor.key_index {
            put(0x1f, self.key_index.unwrap_or(index));
        }
    }
}

#[derive(Debug, Clone)]
struct Source {
    id: SourceId,
    pictures: Option<Pictures>,
    tl0_shift: u8,
    key_shift: u8,
}

#[derive(Debug, Clone)]
struct Pictures {
    offsets: OffsetMap,
    /// Highest picture that was decided upon, forwarded or skipped.
    highest: u64,
    /// Highest picture that was forwarded.
    forwarded: u64,
}

/// The rewriter of one VP8 downlink track.
#[derive(Debug, Clone)]
pub struct Vp8Munger {
    source: Option<Source>,
    /// Highest outgoing picture id, extended; none before the first.
    picture_last: Option<u64>,
    picture_first: u64,
    tl0_last: u8,
    key_last: u8,
}

impl Vp8Munger {
    /// `picture_first` is the first outgoing picture id, of 15 bits.
    #[must_use]
    pub fn new(picture_first: u16) -> Self {
        let picture_first = u64::from(picture_first & 0x7fff);
        Self { source: None, picture_last: None, picture_first, tl0_last: 0, key_last: 0 }
    }

    /// The counters for a packet that goes out, or nothing when its frame was skipped before.
    pub fn forward(&mut self, id: SourceId, descriptor: &Descriptor) -> Option<Rewrite> {
        if self.source.as_ref().is_none_or(|source| source.id != id) {
            self.anchor(id, descriptor);
        }
        let picture_first = self.picture_last.map_or(self.picture_first, |last| last + 1);
        let source = self.source.as_mut()?;
        let mut newest = true;
        let mut picture_id = None;
        if let Some(field) = descriptor.picture_id {
            let pictures =
                source.pictures.get_or_insert_with(|| Pictures::new(field, picture_first));
            let number = pictures.number(field);
            let outgoing = pictures.offsets.get(number)?;
            pictures.highest = pictures.highest.max(number);
            pictures.forwarded = pictures.forwarded.max(number);
            pictures.prune();
            newest = self.picture_last.is_none_or(|last| outgoing >= last);
            if newest {
                self.picture_last = Some(outgoing);
            }
            picture_id = Some((outgoing & ((1 << field.bits()) - 1)) as u16);
        }
        let tl0_index = descriptor.tl0_index.map(|index| index.wrapping_add(source.tl0_shift));
        let key_index =
            descriptor.key_index.map(|index| index.wrapping_add(source.key_shift) & 0x1f);
        if newest {
            self.tl0_last = tl0_index.unwrap_or(self.tl0_last);
            self.key_last = key_index.unwrap_or(self.key_last);
        }
        Some(Rewrite { picture_id, tl0_index, key_index })
    }

    /// A packet of the current source that stays here on purpose. Its picture id closes up when
    /// no packet of its frame, nor of a later one, has gone out.
    pub fn skip(&mut self, id: SourceId, descriptor: &Descriptor) {
        let Some(source) = self.source.as_mut().filter(|source| source.id == id) else { return };
        let Some((pictures, field)) = source.pictures.as_mut().zip(descriptor.picture_id) else {
            return;
        };
        let number = pictures.number(field);
        if number > pictures.forwarded && number <= pictures.highest + FRAMES_REMEMBERED {
            pictures.offsets.remove(number);
            pictures.highest = pictures.highest.max(number);
            pictures.prune();
        }
    }

    /// Forgets the source, so that the next packet is a switch even when its id is the same.
    pub fn release(&mut self) {
        self.source = None;
    }

    fn anchor(&mut self, id: SourceId, descriptor: &Descriptor) {
        let tl0_next = self.tl0_last.wrapping_add(1);
        let key_next = self.key_last.wrapping_add(1);
        self.source = Some(Source {
            id,
            pictures: None,
            tl0_shift: tl0_next.wrapping_sub(descriptor.tl0_index.unwrap_or(0)),
            key_shift: key_next.wrapping_sub(descriptor.key_index.unwrap_or(0)),
        });
    }
}

impl Pictures {
    fn new(field: PictureId, outgoing: u64) -> Self {
        let number = SOURCE_EPOCH + u64::from(field.value);
        Self { offsets: OffsetMap::new(number, outgoing), highest: number, forwarded: number }
    }

    fn number(&self, field: PictureId) -> u64 {
        unwrap_number(self.highest, u64::from(field.value), field.bits())
    }

    fn prune(&mut self) {
        self.offsets.prune(self.highest.saturating_sub(FRAMES_REMEMBERED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(picture: u16, tl0: u8, temporal: u8, key: u8) -> Vec<u8> {
        let [high, low] = (picture | 0x8000).to_be_bytes();
        vec![0x90, 0xf0, high, low, tl0, temporal << 6 | key, 0x01, 0xff]
    }

    fn go(munger: &mut Vp8Munger, id: u64, payload: &[u8]) -> Option<(u16, u8, u8)> {
        let descriptor = Descriptor::parse(payload).unwrap();
        let rewrite = munger.forward(SourceId(id), &descriptor)?;
        let mut out = payload.to_vec();
        rewrite.apply(&mut out);
        let read = Descriptor::parse(&out).unwrap();
        assert_eq!(read.picture_id.map(|id| id.value), rewrite.picture_id);
        assert_eq!((read.temporal, read.length), (descriptor.temporal, descriptor.length));
        Some((rewrite.picture_id?, rewrite.tl0_index?, rewrite.key_index?))
    }

    #[test]
    fn reads_the_descriptor_of_rfc_7741() {
        let read = Descriptor::parse(&packet(0x1234, 9, 2, 5)).unwrap();
        assert_eq!(read.picture_id, Some(PictureId { value: 0x1234, wide: true }));
        assert_eq!((read.tl0_index, read.temporal, read.key_index), (Some(9), Some(2), Some(5)));
        assert!(!read.keyframe_start);
        let short = Descriptor::parse(&[0x10, 0x00]).unwrap();
        assert!(short.keyframe_start && short.picture_id.is_none() && short.length == 1);
        assert_eq!(Descriptor::parse(&[0x90, 0x80, 0x81]), None);
        let key = [0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];
        assert_eq!(keyframe_size(&key), Some((640, 360)));
    }

    #[test]
    fn a_switch_and_dropped_frames_leave_no_gap() {
        let mut munger = Vp8Munger::new(0x7fff);
        assert_eq!(go(&mut munger, 1, &packet(500, 7, 0, 1)), Some((0x7fff, 1, 1)));
        assert_eq!(go(&mut munger, 1, &packet(501, 7, 2, 1)), Some((0, 1, 1)));
        let skipped = Descriptor::parse(&packet(502, 7, 2, 1)).unwrap();
        munger.skip(SourceId(1), &skipped);
        munger.skip(SourceId(1), &skipped);
        assert_eq!(go(&mut munger, 1, &packet(502, 7, 2, 1)), None);
        assert_eq!(go(&mut munger, 1, &packet(503, 8, 0, 1)), Some((1, 2, 1)));
        assert_eq!(go(&mut munger, 2, &packet(3, 200, 0, 31)), Some((2, 3, 2)));
        assert_eq!(go(&mut munger, 2, &packet(4, 200, 1, 31)), Some((3, 3, 2)));
        assert_eq!(go(&mut munger, 2, &packet(3, 200, 0, 31)), Some((2, 3, 2)), "late packet");
    }
}
