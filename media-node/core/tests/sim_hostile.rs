//! Bad input beside a running call: what is malformed costs its sender, and nobody else anything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::net::SocketAddr;
use std::time::Duration;

use livekit_protocol as proto;
use media_core::io::{CloseReason, Input, Transport};
use proto::{signal_request, signal_response};
use sim_support::world::{SERVER, World};
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn call() -> (World, usize, usize) {
    let mut world = World::new(31);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    for one in [ada, bob] {
        world.clients[one].publish("mic", MediaKind::Audio, &[]);
        world.clients[one].publish("cam", MediaKind::Video, &[]);
    }
    world.until(SECONDS(5), "connected", |w| w.clients.iter().all(|c| c.connected));
    world.run(SECONDS(1));
    (world, ada, bob)
}

fn assert_undisturbed(world: &mut World, from: usize, to: usize) {
    let track = world.sid_of(from, "cam");
    let before = world.seen(to, &track);
    world.run(SECONDS(2));
    assert!(world.seen(to, &track) > before + 50, "the call goes on");
    let seen = &world.clients[to].seen[&track];
    for pair in seen.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
    }
    assert!(!world.clients[from].closed && !world.clients[to].closed);
}

fn describe(sdp: &str) -> proto::SessionDescription {
    proto::SessionDescription { sdp: sdp.to_owned(), ..Default::default() }
}

#[test]
fn bad_descriptions_end_their_sender_with_a_reason() {
    let (mut world, ada, bob) = call();
    let half = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111";
    for sdp in ["", "\u{0}\u{ff}", "v=0", half, &"a=".repeat(50_000)] {
        let eve = world.join("eve");
        world.run(Duration::from_millis(50));
        world.clients[eve].request(signal_request::Message::Offer(describe(sdp)));
        world.run(Duration::from_millis(50));
        assert!(world.clients[eve].closed, "an offer of {} bytes", sdp.len());
        assert!(
            world.clients[eve]
                .signals
                .iter()
                .any(|signal| { matches!(signal, signal_response::Message::Leave(_)) })
        );
        assert!(matches!(world.closes.last(), Some((_, CloseReason::ProtocolError(_)))));
    }
    assert_eq!(world.shard.stats().protocol_errors, 5);
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn a_bad_answer_ends_its_sender_with_a_reason() {
    let (mut world, ada, bob) = call();
    let eve = world.join("eve");
    world.run(SECONDS(1));
    world.clients[eve].answers = false;
    world.clients[ada].publish("screen", MediaKind::Video, &[]);
    world.run(SECONDS(1));
    world.clients[eve].request(signal_request::Message::Answer(describe("v=0\r\nnoise")));
    world.run(Duration::from_millis(50));
    assert!(world.clients[eve].closed);
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn signals_about_nothing_change_nothing() {
    let (mut world, ada, bob) = call();
    let eve = world.join("eve");
    world.run(SECONDS(1));
    let sid = "TR_nothing".to_owned();
    use signal_request::Message as Request;
    let requests = [
        Request::Mute(proto::MuteTrackRequest { sid: sid.clone(), muted: true }),
        Request::Mute(proto::MuteTrackRequest { sid: world.sid_of(ada, "cam"), muted: true }),
        Request::TrackSetting(proto::UpdateTrackSettings {
            track_sids: vec![sid; 10_000],
            quality: 99,
            width: u32::MAX,
            height: u32::MAX,
            ..Default::default()
        }),
        Request::Subscription(proto::UpdateSubscription::default()),
        Request::SyncState(proto::SyncState::default()),
        Request::SubscriptionPermission(proto::SubscriptionPermission::default()),
        Request::UpdateMetadata(proto::UpdateParticipantMetadata {
            metadata: "x".repeat(100_000),
            ..Default::default()
        }),
        Request::Trickle(proto::TrickleRequest {
            candidate_init: "{".to_owned(),
            ..Default::default()
        }),
        Request::AddTrack(proto::AddTrackRequest { r#type: 77, source: -5, ..Default::default() }),
    ];
    for request in requests {
        world.clients[eve].request(request);
        world.run(Duration::from_millis(20));
    }
    assert!(world.info(bob, "ada").unwrap().tracks.iter().all(|track| !track.muted));
    assert_undisturbed(&mut world, ada, bob);
    assert_eq!(world.shard.stats().rooms_panicked, 0);
}

/// Bytes that begin like each of the protocols that share the port, and continue as noise.
fn noise(round: u64) -> Vec<u8> {
    let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let length = (next() % 1_400) as usize;
    let mut bytes: Vec<u8> = (0..length).map(|_| next() as u8).collect();
    if let Some(first) = bytes.first_mut() {
        *first = [0, 1, 20, 22, 23, 63, 128, 144, 191, 255][(round % 10) as usize];
    }
    if round.is_multiple_of(3) && bytes.len() > 8 {
        bytes[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        let length = (bytes.len() - 20.min(bytes.len())) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

#[test]
fn packets_of_noise_make_no_state_and_get_no_answer() {
    let (mut world, ada, bob) = call();
    let destination = SocketAddr::from(SERVER);
    let before = world.shard.stats().packets_out;
    for round in 0..5_000 {
        let source = SocketAddr::from(([198, 19, (round >> 8) as u8, round as u8], 1_234));
        let contents = noise(round);
        let contents = contents.as_slice();
        let transport = Transport::Udp;
        let datagram = Input::Datagram { transport, source, destination, contents };
        world.shard.handle(world.now, datagram);
    }
    let stats = world.shard.stats();
    assert_eq!(stats.packets_out, before);
    let drops = stats.drops;
    assert_eq!(drops.malformed + drops.unvalidated + drops.unknown_ufrag, 5_000);
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn noise_from_a_validated_address_hurts_its_own_call_at_most() {
    let (mut world, ada, bob) = call();
    let eve = world.join("eve");
    world.clients[eve].publish("mic", MediaKind::Audio, &[]);
    world.until(SECONDS(5), "connected", |w| w.clients[eve].connected);
    world.run(SECONDS(1));
    let destination = SocketAddr::from(SERVER);
    for source in world.clients[eve].addresses() {
        for round in 0..2_000 {
            let contents = noise(round);
            let contents = contents.as_slice();
            let transport = Transport::Udp;
            let datagram = Input::Datagram { transport, source, destination, contents };
            world.shard.handle(world.now, datagram);
        }
    }
    assert_eq!(world.shard.stats().rooms_panicked, 0);
    assert_undisturbed(&mut world, ada, bob);
}
