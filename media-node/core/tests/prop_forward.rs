//! Properties of the rewriters under any sequence of switches, losses, reorders and wrap-arounds.
//!
//! A model publisher sends three VP8 layers; a model network loses, delays and repeats; a model
//! subscriber changes its mind. Whatever happens, the outgoing numbers do not repeat, keep the
//! order of their source, and have no gap but for packets that did not come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use media_core::forward::audio::AudioForwarder;
use media_core::forward::h264;
use media_core::forward::red::RedPacket;
use media_core::forward::rtp_munger::SourceStamp;
use media_core::forward::video::{Forward, PacketView, VideoCodec, VideoForwarder};
use media_core::forward::vp8::{self, Descriptor};
use media_core::layers::Layer;
use proptest::prelude::*;

/// One packet as published.
#[derive(Debug, Clone)]
struct Sent {
    spatial: u8,
    sequence: u16,
    timestamp: u32,
    payload: Vec<u8>,
    at: Duration,
}

/// Starting points of a layer's counters, near the edges where they wrap.
#[derive(Debug, Clone, Copy)]
struct Start {
    sequence: u16,
    timestamp: u32,
    picture: u16,
    tl0: u8,
}

fn start() -> impl Strategy<Value = Start> {
    let near_edge = prop_oneof![Just(0_u32), Just(0xffff_fff0), any::<u32>()];
    (near_edge, any::<u8>()).prop_map(|(at, tl0)| Start {
        sequence: at as u16,
        timestamp: at.wrapping_mul(3),
        picture: at as u16 & 0x7fff,
        tl0,
    })
}

/// `frames` frames of all layers, two packets each, three temporal layers, a keyframe where the
/// bits of `keys` say so.
fn publish(starts: &[Start; 3], frames: u16, keys: u64) -> Vec<Sent> {
    let mut sent = Vec::new();
    for frame in 0..frames {
        for (spatial, start) in (0_u8..).zip(starts) {
            let key = frame.is_multiple_of(16)
                || keys >> ((frame + 7 * u16::from(spatial)) % 64) & 1 == 1;
            let temporal = if key { 0 } else { [0, 2, 1, 2][usize::from(frame % 4)] };
            for half in 0..2 {
                let [high, low] = (start.picture.wrapping_add(frame) | 0x8000).to_be_bytes();
                let first = if half == 0 { 0x90 } else { 0x80 };
                let tl0 = start.tl0.wrapping_add((frame / 4) as u8);
                let sync = u8::from(temporal == 1) << 5;
                let body = u8::from(!key);
                let payload = vec![first, 0xe0, high, low, tl0, temporal << 6 | sync, body];
                sent.push(Sent {
                    spatial,
                    sequence: start.sequence.wrapping_add(frame * 2 + half),
                    timestamp: start.timestamp.wrapping_add(u32::from(frame) * 3000),
                    payload,
                    at: Duration::from_millis(u64::from(frame) * 33),
                });
            }
        }
    }
    sent
}

/// What a subscriber does before the n-th packet.
fn wishes() -> impl Strategy<Value = BTreeMap<usize, Option<Layer>>> {
    let layer = proptest::option::weighted(0.85, (0_u8..3, 0_u8..4));
    let layer = layer.prop_map(|layer| layer.map(|(s, t)| Layer::new(s, t)));
    proptest::collection::btree_map(0_usize..1200, layer, 0..20)
}

struct Run {
    out: Vec<(Sent, Forward, u64)>,
    switches: u64,
}

fn forward(sent: &[Sent], wishes: &BTreeMap<usize, Option<Layer>>, captured: bool) -> Run {
    let origin = Instant::now();
    let mut forwarder = VideoForwarder::new(0x7ff0, u32::MAX - 50_000, 0x7ff0);
    forwarder.set_target(Some(Layer::new(2, 3)));
    let mut run = Run { out: Vec::new(), switches: 0 };
    for (at, packet) in sent.iter().enumerate() {
        if let Some(wish) = wishes.get(&at) {
            forwarder.set_target(*wish);
        }
        let stamp = SourceStamp {
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            arrival: origin + packet.at,
            captured: captured.then(|| Duration::from_secs(1 << 32) + packet.at),
        };
        let view = PacketView::new(VideoCodec::Vp8, packet.spatial, stamp, &packet.payload);
        if let Some(forward) = forwarder.on_packet(&view) {
            run.switches += u64::from(forward.numbers.switched);
            run.out.push((packet.clone(), forward, run.switches));
        }
    }
    run
}

/// Loses, repeats and delays packets by the given dice.
fn network(sent: &[Sent], dice: &[u8]) -> Vec<Sent> {
    let mut arriving: Vec<(usize, Sent)> = Vec::new();
    for (at, packet) in sent.iter().enumerate() {
        let die = dice[at % dice.len()];
        let delay = if die.is_multiple_of(5) { usize::from(die % 40) } else { 0 };
        match die {
            0..12 => {}
            12..20 => {
                arriving.push((at, packet.clone()));
                arriving.push((at + delay, packet.clone()));
            }
            _ => arriving.push((at + delay, packet.clone())),
        }
    }
    arriving.sort_by_key(|(at, _)| *at);
    arriving.into_iter().map(|(_, packet)| packet).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn without_loss_there_is_no_gap_at_all(
        starts in [start(), start(), start()],
        keys in any::<u64>(),
        wishes in wishes(),
        captured in any::<bool>(),
    ) {
        let run = forward(&publish(&starts, 200, keys), &wishes, captured);
        let mut before: Option<(Sent, Forward)> = None;
        for (packet, forward, _) in run.out {
            let vp8 = forward.vp8.unwrap();
            if let Some((last, told)) = before {
                prop_assert_eq!(forward.numbers.sequence, told.numbers.sequence + 1);
                let same = !forward.numbers.switched && packet.timestamp == last.timestamp;
                let ahead = forward.numbers.timestamp.wrapping_sub(told.numbers.timestamp);
                prop_assert_eq!(ahead == 0, same);
                prop_assert!(ahead < 1 << 30, "time went back: {}", ahead as i32);
                let told = told.vp8.unwrap();
                let pictures =
                    vp8.picture_id.unwrap().wrapping_sub(told.picture_id.unwrap()) & 0x7fff;
                prop_assert_eq!(pictures, u16::from(!same));
                let tl0 = vp8.tl0_index.unwrap().wrapping_sub(told.tl0_index.unwrap());
                prop_assert!(tl0 < 128);
            }
            let mut payload = packet.payload.clone();
            vp8.apply(&mut payload);
            let read = Descriptor::parse(&payload).unwrap();
            prop_assert_eq!(read.picture_id.unwrap().value, vp8.picture_id.unwrap());
            prop_assert_eq!(read.tl0_index, vp8.tl0_index);
            before = Some((packet, forward));
        }
    }

    #[test]
    fn with_loss_and_disorder_nothing_repeats_and_only_the_missing_is_missing(
        starts in [start(), start(), start()],
        keys in any::<u64>(),
        wishes in wishes(),
        dice in proptest::collection::vec(any::<u8>(), 64..256),
    ) {
        let sent = publish(&starts, 200, keys);
        let arriving = network(&sent, &dice);
        let run = forward(&arriving, &wishes, false);
        let mut numbers = BTreeSet::new();
        let mut sources = BTreeSet::new();
        let mut order: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
        for (packet, forward, nth) in &run.out {
            prop_assert!(numbers.insert(forward.numbers.sequence), "an outgoing number repeats");
            let start = starts[usize::from(packet.spatial)].sequence;
            let source = u64::from(packet.sequence.wrapping_sub(start));
            prop_assert!(sources.insert((*nth, source)), "a packet went out twice");
            order.entry(*nth).or_default().insert(source, forward.numbers.sequence);
        }
        let mut holes_allowed = 0;
        for run in order.values() {
            let out: Vec<_> = run.values().collect();
            prop_assert!(out.windows(2).all(|pair| pair[0] < pair[1]), "order is lost");
            let (first, last) = (run.keys().next().unwrap(), run.keys().last().unwrap());
            holes_allowed += last - first + 1 - run.len() as u64;
        }
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
            let holes = last - first + 1 - numbers.len() as u64;
            prop_assert!(holes <= holes_allowed, "{holes} holes, {holes_allowed} missing");
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        values in any::<(u16, u8, u8)>(),
    ) {
        if let Some(descriptor) = Descriptor::parse(&payload) {
            prop_assert!(descriptor.length <= payload.len());
            let mut rewritten = payload.clone();
            let (picture, tl0, key) = values;
            vp8::Rewrite {
                picture_id: Some(picture),
                tl0_index: Some(tl0),
                key_index: Some(key),
            }
            .apply(&mut rewritten);
            let read = Descriptor::parse(&rewritten);
            prop_assert_eq!(read.map(|read| read.length), Some(descriptor.length));
            prop_assert_eq!(&rewritten[descriptor.length..], &payload[descriptor.length..]);
        }
        let _size = vp8::keyframe_size(&payload);
        let _start = h264::is_keyframe_start(&payload);
        if let Some(red) = RedPacket::parse(&payload) {
            prop_assert!(payload.ends_with(red.primary.contents));
            prop_assert!(red.primary.contents.len() < payload.len());
        }
    }

    #[test]
    fn any_stream_of_stamps_is_survived(
        packets in proptest::collection::vec(any::<(u8, u16, u32, u32, bool, Vec<u8>)>(), 0..200),
    ) {
        let origin = Instant::now();
        let mut forwarder = VideoForwarder::new(1, 2, 3);
        forwarder.set_target(Some(Layer::new(2, 3)));
        let mut numbers = BTreeSet::new();
        for (spatial, sequence, timestamp, at, captured, payload) in packets {
            let at = Duration::from_millis(u64::from(at));
            let stamp = SourceStamp {
                sequence,
                timestamp,
                arrival: origin + at,
                captured: captured.then_some(at * 7),
            };
            let view = PacketView::new(VideoCodec::Vp8, spatial, stamp, &payload);
            if let Some(forward) = forwarder.on_packet(&view) {
                prop_assert!(numbers.insert(forward.numbers.sequence));
            }
        }
    }

    #[test]
    fn redundancy_fills_what_is_missing_in_order_and_once(
        sequence in prop_oneof![Just(65_500_u16), any::<u16>()],
        timestamp in prop_oneof![Just(u32::MAX - 5_000), any::<u32>()],
        repeats in 1_usize..5,
        pauses in proptest::collection::vec(0_u16..20, 64..128),
        dice in proptest::collection::vec(any::<u8>(), 64..256),
    ) {
        let sent = speak(sequence, timestamp, repeats, &pauses);
        let arriving = network(&sent, &dice);
        let mut audio = AudioForwarder::new(9, u32::MAX - 1_000);
        let origin = Instant::now();
        // Source number, outgoing number and time of each packet that went out, as it went.
        let mut out: Vec<(u64, u64, u32)> = Vec::new();
        let mut holds = BTreeSet::new();
        for packet in &arriving {
            let stamp = SourceStamp {
                sequence: packet.sequence,
                timestamp: packet.timestamp,
                arrival: origin + packet.at,
                captured: None,
            };
            let number = u64::from(packet.sequence.wrapping_sub(sequence));
            let red = RedPacket::parse(&packet.payload).unwrap();
            let began = !out.is_empty();
            for block in red.redundant() {
                let before = number - u64::from(block.packets_before);
                prop_assert_eq!(block.contents, &before.to_be_bytes()[..], "another packet's");
                let stamp = stamp.before(block.packets_before, u32::from(block.ticks_before));
                if let Some(numbers) = audio.recover(&stamp) {
                    prop_assert!(!numbers.switched);
                    out.push((before, numbers.sequence, numbers.timestamp));
                }
                if began {
                    holds.insert(before);
                }
            }
            holds.insert(number);
            if let Ok(numbers) = audio.forward(&stamp) {
                out.push((number, numbers.sequence, numbers.timestamp));
            }
        }
        let Some(first) = out.first().copied() else { return Ok(()) };
        let mut sorted = out.clone();
        sorted.sort_unstable();
        for (source, sequence, time) in &sorted {
            prop_assert_eq!(sequence - first.1, source - first.0, "a gap of our own");
            let at = |number: u64| sent[number as usize].timestamp;
            let ahead = at(*source).wrapping_sub(at(first.0));
            prop_assert_eq!(time.wrapping_sub(first.2), ahead, "out of time");
        }
        sorted.dedup();
        prop_assert_eq!(sorted.len(), out.len(), "a repeat");
        let got: Vec<_> = sorted.iter().map(|(source, ..)| *source).collect();
        let wanted: Vec<_> = holds.range(first.0..).copied().collect();
        prop_assert_eq!(got, wanted, "what the redundancy holds, all of it and no more");
    }
}

/// An audio source that repeats its last packets in each, and falls silent now and then.
fn speak(sequence: u16, timestamp: u32, repeats: usize, pauses: &[u16]) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    let mut now = timestamp;
    for (number, pause) in (0_u16..).zip(pauses) {
        let contents = u64::from(number).to_be_bytes();
        let mut headers = Vec::new();
        let mut blocks = Vec::new();
        for before in (1..=u16::try_from(repeats).expect("few").min(number)).rev() {
            let ticks = now.wrapping_sub(sent[usize::from(number - before)].timestamp);
            // Too long ago for the field: senders leave it out, and all that is older.
            if ticks < 1 << 14 {
                let word = (ticks << 10) | 8;
                headers.extend_from_slice(&[0x80 | 111]);
                headers.extend_from_slice(&word.to_be_bytes()[1..]);
                blocks.extend_from_slice(&u64::from(number - before).to_be_bytes());
            }
        }
        let payload = [&headers[..], &[111], &blocks, &contents].concat();
        sent.push(Sent {
            spatial: 0,
            sequence: sequence.wrapping_add(number),
            timestamp: now,
            payload,
            at: Duration::from_millis(u64::from(number) * 20),
        });
        let silence = if *pause == 0 { 9_600 } else { 0 };
        now = now.wrapping_add(960 + silence);
    }
    sent
}
