//! Targets of the media core's leaves: payload headers, and the rewriters under any sequence of
//! packets.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use media_core::egress::rtcp::{self, Compound, Feedback, Report};
use media_core::forward::audio::AudioForwarder;
use media_core::forward::h264;
use media_core::forward::red::{BLOCKS_MAX, RedPacket};
use media_core::forward::rtp_munger::SourceStamp;
use media_core::forward::source_clock::{PublisherClock, SourceClock};
use media_core::forward::video::{PacketView, VideoCodec, VideoForwarder};
use media_core::forward::vp8::{self, Descriptor, Rewrite};
use media_core::layers::{Layer, spatial_of_rid};

use crate::records::{Record, byte, records, word};

/// One payload, read as every codec.
pub fn payload(data: &[u8]) {
    let _ = h264::is_keyframe_start(data);
    let _ = vp8::keyframe_size(data);
    let _ = std::str::from_utf8(data).map(spatial_of_rid);
    if let Some(red) = RedPacket::parse(data) {
        assert!(!red.primary.contents.is_empty(), "nothing to send");
        assert!(data.ends_with(red.primary.contents), "the primary block is the last");
        let before: Vec<_> = red.redundant().map(|block| block.packets_before).collect();
        assert!(before.windows(2).all(|pair| pair[0] > pair[1]), "not from the oldest on");
        assert!(before.iter().all(|packets| (1..=BLOCKS_MAX as u16).contains(packets)));
    }
    let Some(read) = Descriptor::parse(data) else { return };
    assert!(read.length <= data.len(), "the descriptor is longer than its payload");
    let rewrite = Rewrite { picture_id: Some(0x7abc), tl0_index: Some(7), key_index: Some(9) };
    let mut changed = data.to_vec();
    rewrite.apply(&mut changed);
    let again = Descriptor::parse(&changed).expect("a rewrite keeps the shape");
    assert_eq!((again.length, again.temporal), (read.length, read.temporal));
    assert_eq!(again.picture_id.map(|id| id.wide), read.picture_id.map(|id| id.wide));
    assert_eq!(again.tl0_index, read.tl0_index.map(|_| 7));
    assert_eq!(again.key_index, read.key_index.map(|_| 9));
    assert_eq!(changed[read.length..], data[read.length..], "the codec's bytes changed");
}

/// One compound packet: what is told is bounded by its length. Then the same bytes as names of
/// sources that we report on.
pub fn rtcp(data: &[u8]) {
    let (mut told, mut missing) = (0, 0);
    let _ = rtcp::read(data, |feedback| {
        told += 1;
        match feedback {
            Feedback::Received(block) => {
                let _ = block.round_trip(block.ssrc);
            }
            Feedback::Missing(one) => missing += one.sequences().count(),
            Feedback::Keyframe { .. } => {}
            Feedback::Transport { contents } => assert!(contents.len() < data.len()),
        }
    });
    assert!(told * 8 <= data.len() && missing * 4 <= data.len() * 17, "more than was told");
    let mut compound = Compound::default();
    for (ssrc, name) in (1..).zip(data.split(|byte| *byte == b',')) {
        if compound.is_full() {
            break;
        }
        let report = Report { ssrc, ntp: 1 << 40, timestamp: 2, packets: 3, octets: 4 };
        compound.push(&report, &String::from_utf8_lossy(name));
    }
    let empty = compound.is_empty();
    let bytes = compound.finish(0);
    assert!(empty || rtcp::read(&bytes, |_| panic!("we report on nobody")).is_ok());
}

/// Packets, wishes, restarts and time for one video and one audio downlink: outgoing sequence
/// numbers never repeat.
pub fn numbers(data: &[u8]) {
    let start = Instant::now();
    let mut model = Model {
        now: start,
        video: VideoForwarder::new(65_000, u32::MAX - 10, 0x7ff0),
        audio: AudioForwarder::new(3, 9),
        source: SourceClock::new(90_000),
        publisher: PublisherClock::default(),
        video_out: BTreeSet::new(),
        audio_out: BTreeSet::new(),
    };
    model.video.set_target(Some(Layer::new(2, 3)));
    for record in records(data, 512) {
        model.step(&record);
    }
}

/// Packets with redundancy for a receiver without it: no outgoing number repeats, and what is
/// recovered stands before the packet it was found in.
pub fn red(data: &[u8]) {
    let mut audio = AudioForwarder::new(7, 11);
    let mut out = BTreeSet::new();
    let mut now = Instant::now();
    for record in records(data, 512) {
        let mut body = record.body;
        let (sequence, high, low) = (word(&mut body), word(&mut body), word(&mut body));
        let timestamp = u32::from(high) << 16 | u32::from(low);
        let stamp = SourceStamp { sequence, timestamp, arrival: now, captured: None };
        now += Duration::from_millis(u64::from(record.kind));
        let Some(packet) = RedPacket::parse(body) else { continue };
        let mut found = Vec::new();
        for block in packet.redundant() {
            let stamp = stamp.before(block.packets_before, u32::from(block.ticks_before));
            if let Some(numbers) = audio.recover(&stamp) {
                assert!(out.insert(numbers.sequence), "a recovered number repeats");
                assert!(!numbers.switched, "a recovered packet began a source");
                found.push(numbers.sequence);
            }
        }
        if let Ok(numbers) = audio.forward(&stamp) {
            assert!(out.insert(numbers.sequence), "a number repeats");
            let same = !numbers.switched;
            assert!(!same || found.iter().all(|one| *one < numbers.sequence), "out of order");
        }
    }
}

struct Model {
    now: Instant,
    video: VideoForwarder,
    audio: AudioForwarder,
    source: SourceClock,
    publisher: PublisherClock,
    video_out: BTreeSet<u64>,
    audio_out: BTreeSet<u64>,
}

impl Model {
    fn step(&mut self, record: &Record<'_>) {
        let mut body = record.body;
        match record.kind % 8 {
            0..=2 => self.film(record.kind % 3, &mut body),
            3 => self.speak(&mut body),
            4 => {
                let wanted = byte(&mut body);
                let layer = Layer::new(wanted >> 4 & 3, wanted & 3);
                self.video.set_target((wanted & 0x80 == 0).then_some(layer));
            }
            5 => match byte(&mut body) {
                0 => self.video.restart(),
                1 => self.audio.restart(),
                2 => self.audio.skip(word(&mut body)),
                spatial => self.video.layer_down(spatial & 3),
            },
            6 => self.now += Duration::from_millis(u64::from(word(&mut body))),
            _ => {
                let wall = Duration::from_millis(u64::from(word(&mut body)) << 24);
                let wall = wall + Duration::from_millis(u64::from(word(&mut body)));
                self.source.on_sender_report(wall, u32::from(word(&mut body)) << 16);
                self.publisher.on_sender_report(self.now, wall);
                let _ = self.publisher.local(wall);
            }
        }
    }

    fn stamp(&self, body: &mut &[u8]) -> SourceStamp {
        let (sequence, high, low) = (word(body), word(body), word(body));
        let timestamp = u32::from(high) << 16 | u32::from(low);
        let captured = self.source.captured(timestamp);
        SourceStamp { sequence, timestamp, arrival: self.now, captured }
    }

    fn film(&mut self, spatial: u8, body: &mut &[u8]) {
        let codec = if byte(body) & 1 == 0 { VideoCodec::Vp8 } else { VideoCodec::H264 };
        let stamp = self.stamp(body);
        let packet = PacketView::new(codec, spatial, stamp, body);
        let Some(forward) = self.video.on_packet(&packet) else { return };
        assert!(self.video_out.insert(forward.numbers.sequence), "a video number repeats");
        if let Some(rewrite) = forward.vp8 {
            rewrite.apply(&mut body.to_vec());
        }
    }

    fn speak(&mut self, body: &mut &[u8]) {
        let stamp = self.stamp(body);
        if let Ok(numbers) = self.audio.forward(&stamp) {
            assert!(self.audio_out.insert(numbers.sequence), "an audio number repeats");
        }
    }
}
