//! Bad input beside a running call: what is malformed costs its sender, and nobody else anything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::net::SocketAddr;
use std::time::Duration;

use livekit_protocol as proto;
use media_core::io::{CloseReason, Input, Transport};
use proto::{signal_request, signal_response};
use sim_support::client::Abilities;
use sim_support::hostile::{self, Noise};
use sim_support::network::Packet;
use sim_support::world::{SERVER, World, claims, client_params};
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

fn inject(world: &mut World, source: SocketAddr, contents: &[u8]) {
    let (transport, destination) = (Transport::Udp, SocketAddr::from(SERVER));
    let datagram = Input::Datagram { transport, source, destination, contents };
    world.shard.handle(world.now, datagram);
}

/// A third participant, and all that it has sent so far.
fn captured(world: &mut World, abilities: Abilities) -> (usize, Vec<Packet>) {
    let number = world.clients.len() as u8 + 1;
    world.network.capture_from =
        [5_000, 5_001].map(|port| SocketAddr::from(([198, 18, 1, number], port))).to_vec();
    let eve = world.join_able(claims("eve"), client_params(), abilities);
    world.clients[eve].open_data();
    world.clients[eve].publish("mic", MediaKind::Audio, &[]);
    world.clients[eve].publish("cam", MediaKind::Video, &[]);
    world.until(SECONDS(5), "connected", |w| w.clients[eve].connected);
    world.run(SECONDS(2));
    assert_eq!(world.clients[eve].addresses().to_vec(), world.network.capture_from);
    (eve, world.network.captured.clone())
}

/// The last attribute of a STUN message from a WebRTC client.
const FINGERPRINT_BYTES: usize = 8;

/// Addresses that nobody knows, one after another.
fn strangers() -> impl Iterator<Item = SocketAddr> {
    (0_u16..).map(|n| {
        let [high, low] = n.to_be_bytes();
        SocketAddr::from(([198, 19, high, low], 4_000))
    })
}

#[test]
fn spoofed_stun_for_a_known_user_gets_no_state_and_no_answer() {
    let (mut world, ada, bob) = call();
    let (_, packets) = captured(&mut world, Abilities::default());
    let requests: Vec<_> =
        packets.into_iter().filter(|packet| packet.contents[..2] == [0, 1]).collect();
    let genuine = requests.last().unwrap().contents.clone();
    let mut spoofed: Vec<Vec<u8>> = (1..genuine.len()).map(|end| genuine[..end].to_vec()).collect();
    // Whoever can make the integrity knows the password; the fingerprint after it proves nothing.
    for at in 0..genuine.len() - FINGERPRINT_BYTES {
        let mut flipped = genuine.clone();
        flipped[at] ^= 0x41;
        spoofed.push(flipped);
    }
    // Cut before the integrity attribute, under a length that says so.
    let integrity = genuine.len() - FINGERPRINT_BYTES - 24;
    let mut unsigned = genuine[..integrity].to_vec();
    unsigned[2..4].copy_from_slice(&(integrity as u16 - 20).to_be_bytes());
    spoofed.push(unsigned);
    spoofed.push([&genuine[..], &[0; 1_200]].concat());
    let before = world.shard.stats();
    for (source, contents) in strangers().zip(&spoofed) {
        inject(&mut world, source, contents);
    }
    let after = world.shard.stats();
    assert_eq!(after.packets_out, before.packets_out, "somebody got an answer");
    let count = |stats: media_core::ShardStats| stats.drops.unknown_ufrag + stats.drops.malformed;
    assert_eq!(count(after) - count(before), spoofed.len() as u64);
    // None of the senders is believed now.
    for (source, _) in strangers().zip(&spoofed) {
        inject(&mut world, source, &[22, 254, 253, 0, 0]);
    }
    let unvalidated = world.shard.stats().drops.unvalidated - before.drops.unvalidated;
    assert_eq!(unvalidated, spoofed.len() as u64);
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn dtls_and_media_from_an_address_that_ice_has_not_validated_are_ignored() {
    let (mut world, ada, bob) = call();
    let (_, packets) = captured(&mut world, Abilities::default());
    let mut others: Vec<_> = packets.into_iter().filter(|packet| packet.contents[0] > 1).collect();
    let kinds = [22, 23, 128, 129, 144]
        .map(|first| others.iter().filter(|packet| packet.contents[0] == first).count());
    assert!(kinds[0] > 2 && kinds[1] > 0 && kinds[2..].iter().sum::<usize>() > 50, "{kinds:?}");
    others.truncate(400);
    let before = world.shard.stats();
    for (source, packet) in strangers().zip(&others) {
        inject(&mut world, source, &packet.contents);
    }
    let after = world.shard.stats();
    assert_eq!(after.packets_out, before.packets_out);
    assert_eq!(after.drops.unvalidated - before.drops.unvalidated, others.len() as u64);
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn genuine_packets_cut_spoilt_and_out_of_order_cost_nobody_anything() {
    let (mut world, ada, bob) = call();
    let (eve, mut packets) = captured(&mut world, Abilities::default());
    let mic = world.sid_of(eve, "mic");
    packets.reverse();
    for (at, packet) in packets.iter().enumerate() {
        let mut contents = packet.contents.clone();
        match at % 4 {
            // As they are: every one of them came before.
            0 => {}
            1 => contents.truncate(contents.len() * (at % 7) / 7),
            2 => {
                let middle = contents.len() / 2;
                contents[middle] ^= 1 << (at % 8);
            }
            _ => contents.resize(1_400 + at % 600, 0x5a),
        }
        inject(&mut world, packet.source, &contents);
        if at % 16 == 0 {
            world.run(Duration::from_millis(1));
        }
    }
    let before = world.seen(bob, &mic);
    world.run(SECONDS(2));
    assert_eq!(world.shard.stats().rooms_panicked, 0);
    assert!(!world.clients[eve].closed, "whose packets somebody else spoilt stays");
    assert!(world.seen(bob, &mic) > before + 80);
    let seen = &world.clients[bob].seen[&mic];
    assert!(seen.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn noise_under_good_keys_hurts_its_own_call_at_most() {
    for noise in [Noise::Rtp, Noise::Rtcp, Noise::Sctp] {
        let (mut world, ada, bob) = call();
        let able = Abilities { hostile: true, redundancy: true, ..Abilities::default() };
        let (eve, _) = captured(&mut world, able);
        let before = hostile::packets();
        world.clients[eve].noise = Some(noise);
        for _ in 0..100 {
            // Something to spoil in every protocol.
            world.clients[eve].send_raw_data("_reliable", &[7; 300]);
            world.run(Duration::from_millis(50));
        }
        assert!(hostile::packets() > before + 20, "{noise:?}: nothing was sealed");
        assert_eq!(world.shard.stats().rooms_panicked, 0, "{noise:?}");
        if world.clients[eve].closed {
            let told = world.clients[eve].signals.iter();
            let leave = told.rev().find(|one| matches!(one, signal_response::Message::Leave(_)));
            assert!(leave.is_some(), "{noise:?}: thrown out without a reason");
        }
        assert_undisturbed(&mut world, ada, bob);
    }
}

/// An offer of one audio and one video section with these lines about formats.
fn offer(audio: &str, video: &str) -> String {
    let fingerprint = ["AB"; 32].join(":");
    let mut sdp = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
         a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=setup:actpass\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\n"
    );
    for (mid, kind, formats) in [("0", "audio", audio), ("1", "video", video)] {
        let (numbers, lines) = formats.split_once('\n').unwrap_or((formats, ""));
        sdp.push_str(&format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF {numbers}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n\
             a=rtcp-mux\r\n"
        ));
        lines.lines().for_each(|line| sdp.push_str(&format!("a={line}\r\n")));
    }
    sdp
}

#[test]
fn offers_that_contradict_themselves_hurt_their_sender_at_most() {
    let (mut world, ada, bob) = call();
    let opus = "111\nsendonly\nrtpmap:111 opus/48000/2";
    let vp8 = "96 97\nsendonly\nrtpmap:96 VP8/90000\nrtpmap:97 rtx/90000\nfmtp:97 apt=96";
    let both = "rtpmap:96 VP8/90000\nrtpmap:108 H264/90000\n\
        fmtp:108 packetization-mode=1;profile-level-id=42e01f";
    let mut offers = vec![
        offer(
            "111 111\nsendonly\nrtpmap:111 red/48000/2\nrtpmap:111 opus/48000/2\nfmtp:111 111/111",
            vp8,
        ),
        offer(&opus.replace("111", "96"), vp8),
        offer(opus, "96 96\nsendonly\nrtpmap:96 VP8/90000\nrtpmap:96 H264/90000"),
        offer(opus, "300\nsendonly\nrtpmap:300 VP8/90000"),
        offer(opus, "96\nsendonly\nrtpmap:96 VP8/0"),
        offer(
            opus,
            &format!("{vp8}\nextmap:255 urn:x\nextmap:3 urn:ietf:params:rtp-hdrext:sdes:mid"),
        ),
        offer(opus, &format!("{vp8}\nrid:q send\nrid:q send\nsimulcast:send q;q;nothing")),
        offer(opus, &format!("{vp8}\nssrc-group:FID 1 1\nssrc:1 cname:x\nssrc:1 cname:y")),
        offer(opus, vp8).replace("a=mid:1", "a=mid:0"),
        offer(opus, vp8).replace("a=mid:1\r\n", ""),
        offer(opus, vp8).replace("BUNDLE 0 1", "BUNDLE 7 8 9"),
        offer(opus, vp8).replace("a=setup:actpass", "a=setup:holdconn"),
        offer(opus, vp8).replace("sha-256", "md2"),
        offer(opus, vp8).replace("AB:", ""),
        offer(opus, vp8).replace("a=ice-ufrag:abcd\r\n", ""),
        offer(opus, vp8).replace("m=video 9", "m=video 0"),
        offer(opus, vp8).replace("RTP/SAVPF 96", "RTP/AVP 96"),
        format!("{}{}", offer(opus, vp8), &offer(opus, vp8)["v=0\r\n".len()..].repeat(40)),
    ];
    for direction in ["sendonly", "recvonly", "sendrecv"] {
        for line in
            ["fmtp:97 apt=96\nfmtp:97 apt=108", "fmtp:97 apt=97", "fmtp:97 apt=96\nfmtp:96 apt=97"]
        {
            let video = format!("96 97 108\n{direction}\n{both}\nrtpmap:97 rtx/90000\n{line}");
            offers.push(offer(opus, &video));
        }
        let red = format!(
            "111 63\n{direction}\nrtpmap:111 opus/48000/2\nrtpmap:63 red/48000/2\nfmtp:63 111/111"
        );
        let taken = format!("63\n{direction}\nrtpmap:63 VP8/90000");
        offers.push(offer(&red, &taken));
        offers.push(offer(&red, &taken.replace("63", "111")));
    }
    let sections = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:x\r\na=sendonly\r\n".repeat(3_000);
    offers.push(format!("{}{sections}", offer(opus, vp8)));
    for (at, sdp) in offers.iter().enumerate() {
        let eve = world.join("eve");
        world.clients[eve].answers = false;
        world.run(Duration::from_millis(20));
        for round in 0..2 {
            world.clients[eve].request(signal_request::Message::AddTrack(proto::AddTrackRequest {
                cid: format!("mic{round}"),
                ..Default::default()
            }));
            // Twice, so that what was agreed is gone over again.
            world.clients[eve].request(signal_request::Message::Offer(describe(sdp)));
            world.run(Duration::from_millis(20));
        }
        assert_eq!(world.shard.stats().rooms_panicked, 0, "offer {at}: {sdp:.2000}");
        let told = world.clients[eve].signals.iter().any(|signal| {
            use signal_response::Message::{Answer, Leave};
            matches!(signal, Answer(_) | Leave(_))
        });
        assert!(told, "offer {at} got no word");
    }
    assert_undisturbed(&mut world, ada, bob);
}

#[test]
fn signals_out_of_order_change_nothing() {
    use signal_request::Message as Request;
    let (mut world, ada, bob) = call();
    let eve = world.join("eve");
    world.run(SECONDS(1));
    let answer = world.clients[bob].described(true);
    let stale = |id| Request::Answer(proto::SessionDescription { id, ..describe(&answer) });
    for request in [stale(77), stale(0), stale(u32::MAX)] {
        world.clients[eve].request(request);
        world.run(Duration::from_millis(20));
    }
    let leave = Request::Leave(proto::LeaveRequest::default());
    let before = world.shard.stats().drops.signals_unknown;
    for request in [leave.clone(), leave, stale(1), Request::PingReq(proto::Ping::default())] {
        let connection = world.clients[eve].connection;
        let request = Box::new(request);
        world.command(media_core::io::Command::Signal { connection, request });
    }
    assert_eq!(world.shard.stats().drops.signals_unknown - before, 3, "after the leave: nobody");
    assert_undisturbed(&mut world, ada, bob);
}
