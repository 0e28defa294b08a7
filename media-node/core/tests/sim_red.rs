//! Redundant audio (RED, RFC 2198) over a simulated network: who took it gets it as it came, who
//! did not gets the primary blocks and, out of the redundant ones, what was lost on the way here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::collections::BTreeSet;
use std::time::Duration;

use livekit_protocol as proto;
use media_core::forward::red::RedPacket;
use media_core::io::ClientParams;
use proto::signal_request;
use sim_support::client::{Abilities, Seen};
use sim_support::world::{World, claims, client_params};
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;
const OPUS: u8 = 111;
const RED: u8 = 63;

/// One who speaks with redundancy, one who takes it, one who does not.
struct Call {
    world: World,
    ada: usize,
    bob: usize,
    eve: usize,
    mic: String,
}

fn call(seed: u64) -> Call {
    let mut world = World::new(seed);
    let redundant = Abilities { redundancy: true, ..Abilities::default() };
    let ada = world.join_able(claims("ada"), client_params(), redundant);
    let bob = world.join_able(claims("bob"), client_params(), redundant);
    let eve = world.join("eve");
    world.clients[ada].publish("mic", MediaKind::Audio, &[]);
    world.until(SECONDS(5), "both hear", |w| {
        let mic = w.sid_of(ada, "mic");
        w.seen(bob, &mic) > 10 && w.seen(eve, &mic) > 10
    });
    let mic = world.sid_of(ada, "mic");
    for client in &mut world.clients {
        client.seen.clear();
    }
    Call { world, ada, bob, eve, mic }
}

/// The number that the speaker wrote into a packet of Opus.
fn source_number(opus: &[u8]) -> u64 {
    assert_eq!(opus.len(), 60, "one whole packet");
    u64::from_be_bytes(opus[..8].try_into().unwrap())
}

/// What a receiver of RED can play: the primary blocks and all that they repeat.
fn playable(seen: &[Seen]) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    for packet in seen {
        let red = RedPacket::parse(&packet.payload).unwrap();
        numbers.insert(source_number(red.primary.contents));
        numbers.extend(red.redundant().map(|block| source_number(block.contents)));
    }
    numbers
}

/// Numbers and time of a stripped stream follow the source's: what is missing leaves its gap, what
/// is there comes once.
fn assert_follows_source(seen: &[Seen]) {
    let mut sorted = seen.to_vec();
    sorted.sort_by_key(|packet| packet.sequence);
    let first = &sorted[0];
    let first_source = source_number(&first.payload);
    let mut before = None;
    for packet in &sorted {
        assert_eq!(packet.payload_type, OPUS);
        let ahead = source_number(&packet.payload) - first_source;
        assert_eq!(packet.sequence - first.sequence, ahead, "a gap that the source has not");
        let ticks = packet.timestamp.wrapping_sub(first.timestamp);
        assert_eq!(u64::from(ticks), ahead * 960, "out of time");
        assert_ne!(before.replace(packet.sequence), Some(packet.sequence), "a repeat");
    }
}

#[test]
fn who_took_it_gets_it_whole_and_who_did_not_the_primary_block() {
    let Call { mut world, bob, eve, mic, .. } = call(1);
    world.run(SECONDS(3));
    let whole = &world.clients[bob].seen[&mic];
    assert!(whole.len() > 140);
    for packet in whole {
        assert_eq!(packet.payload_type, RED);
        let red = RedPacket::parse(&packet.payload).unwrap();
        assert_eq!(red.redundant().count(), 2);
    }
    assert!(whole.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
    let stripped = &world.clients[eve].seen[&mic];
    assert_follows_source(stripped);
    assert!(stripped.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
    let stats = world.shard.stats();
    assert_eq!((stats.red_recovered, stats.drops.red_malformed), (0, 0));
}

#[test]
fn what_the_way_here_lost_is_found_in_what_follows() {
    for seed in [2, 3] {
        let Call { mut world, ada, bob, eve, mic } = call(seed);
        let [uplink, _] = world.clients[ada].addresses();
        world.network.losses_from.insert(uplink, 0.2);
        world.run(SECONDS(20));
        world.network.losses_from.clear();
        world.run(SECONDS(1));
        let stripped = &world.clients[eve].seen[&mic];
        assert_follows_source(stripped);
        assert!(
            stripped.windows(2).all(|pair| pair[1].sequence > pair[0].sequence),
            "in order, as nothing overtakes on this network"
        );
        let got: BTreeSet<_> = stripped.iter().map(|one| source_number(&one.payload)).collect();
        let playable: BTreeSet<_> = playable(&world.clients[bob].seen[&mic])
            .range(got.first().unwrap()..)
            .copied()
            .collect();
        assert_eq!(got, playable, "both can play the same");
        let span = got.last().unwrap() - got.first().unwrap() + 1;
        let missing = span - got.len() as u64;
        // Three in a row are beyond two repeats: 0.8 % of a fifth lost.
        assert!(missing * 50 < span, "seed {seed}: {missing} of {span}");
        let recovered = world.shard.stats().red_recovered;
        assert!(recovered * 10 > span, "seed {seed}: {recovered} of {span}");
    }
}

#[test]
fn loss_and_disorder_everywhere_repeat_nothing() {
    for seed in [5, 6] {
        let Call { mut world, eve, mic, .. } = call(seed);
        world.network.conditions.loss = 0.1;
        world.network.conditions.jitter = Duration::from_millis(70);
        world.run(SECONDS(15));
        assert_follows_source(&world.clients[eve].seen[&mic]);
        assert!(world.shard.stats().red_recovered > 20);
    }
}

#[test]
fn what_is_not_red_is_dropped_and_counted() {
    let Call { mut world, ada, bob, eve, mic } = call(8);
    for garbage in [&[0xef, 0, 0][..], &[0xff; 40], &[0x80 | OPUS, 0, 3, 0xff, OPUS, 1], &[9, 1, 2]]
    {
        world.clients[ada].garbage = Some(garbage.to_vec());
        world.run(Duration::from_millis(200));
    }
    let stats = world.shard.stats();
    assert_eq!(stats.drops.red_malformed, 4);
    assert_eq!(stats.red_recovered, 4, "what stood in their place is repeated by the next");
    assert_follows_source(&world.clients[eve].seen[&mic]);
    assert!(playable(&world.clients[bob].seen[&mic]).len() > 30);
    assert!(!world.clients[ada].closed);
}

#[test]
fn what_was_said_while_muted_is_not_repeated_afterwards() {
    let Call { mut world, ada, bob, eve, mic } = call(9);
    let mute =
        |muted| signal_request::Message::Mute(proto::MuteTrackRequest { sid: mic.clone(), muted });
    // The client goes on sending, as after a mute by an administrator.
    world.clients[ada].request(mute(true));
    world.run(SECONDS(2));
    // But for the packet that is on its way now.
    let secret = world.clients[ada].outgoing[0].audio_sequence - 1;
    for client in &mut world.clients {
        client.seen.clear();
    }
    world.clients[ada].request(mute(false));
    world.run(SECONDS(1));
    for one in [bob, eve] {
        let seen = &world.clients[one].seen[&mic];
        assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
        for packet in seen {
            let oldest = match packet.payload_type {
                RED => *playable(std::slice::from_ref(packet)).first().unwrap(),
                _ => source_number(&packet.payload),
            };
            assert!(oldest >= secret, "{oldest} was said before {secret}");
        }
    }
    let whole = world.clients[bob].seen[&mic].last().unwrap();
    assert_eq!(whole.payload_type, RED, "redundancy is back");
}

#[test]
fn it_is_negotiated_for_those_who_can_and_for_tracks_that_may() {
    let mut world = World::new(10);
    let redundant = Abilities { redundancy: true, ..Abilities::default() };
    let ada = world.join_able(claims("ada"), client_params(), redundant);
    let firefox = ClientParams { browser: "Firefox".to_owned(), ..client_params() };
    let fox = world.join_able(claims("fox"), firefox, redundant);
    let bob = world.join_able(claims("bob"), client_params(), redundant);
    world.clients[ada].publish("mic", MediaKind::Audio, &[]);
    world.run(SECONDS(1));
    // Browsers send RED only where it comes before its codec.
    assert!(world.clients[ada].described(false).contains("SAVPF 63 111\r\n"));
    assert!(world.clients[bob].described(true).contains("a=rtpmap:63 red/48000/2\r\n"));
    assert!(!world.clients[fox].described(true).contains("red/48000"));

    for (cid, source) in [("music", "disable_red"), ("secret", "encryption")] {
        world.clients[ada].publish_with(cid, MediaKind::Audio, &[], |request| match source {
            "disable_red" => request.disable_red = true,
            _ => request.encryption = proto::encryption::Type::Gcm as i32,
        });
        world.run(SECONDS(1));
    }
    let answer = world.clients[ada].described(false);
    assert_eq!(answer.matches("red/48000").count(), 1, "{answer}");
    assert_eq!(answer.matches("SAVPF 111\r\n").count(), 2, "{answer}");
    let info = world.info(bob, "ada").unwrap();
    let disabled: Vec<_> = info.tracks.iter().map(|track| track.disable_red).collect();
    assert_eq!(disabled, [false, true, true]);
}
