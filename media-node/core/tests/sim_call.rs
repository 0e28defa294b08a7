//! Calls over a simulated network: what participants see of one another.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::net::SocketAddr;
use std::time::Duration;

use livekit_protocol as proto;
use media_core::io::{AdminCall, AdminReply, ClientParams, CloseReason, Command};
use media_core::speakers;
use proto::{signal_request, signal_response};
use sim_support::media::read_vp8;
use sim_support::world::{World, claims, client_params, room};
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Two connected participants who both publish audio and video.
fn call(seed: u64, rids: &[&'static str]) -> (World, usize, usize) {
    call_as(seed, rids, client_params())
}

fn call_as(seed: u64, rids: &[&'static str], second: ClientParams) -> (World, usize, usize) {
    let mut world = World::new(seed);
    let (ada, bob) = (world.join("ada"), world.join_as(claims("bob"), second));
    for one in [ada, bob] {
        world.clients[one].publish("mic", MediaKind::Audio, &[]);
        world.clients[one].publish("cam", MediaKind::Video, rids);
    }
    world.until(SECONDS(5), "both connected", |w| w.clients.iter().all(|c| c.connected));
    world.until(SECONDS(5), "both see video", |w| {
        let tracks = [(ada, bob), (bob, ada)].map(|(from, to)| (to, w.sid_of(from, "cam")));
        tracks.iter().all(|(to, track)| w.seen(*to, track) > 0)
    });
    (world, ada, bob)
}

#[test]
fn whoever_may_only_publish_is_told_to_offer_at_once() {
    let mut world = World::new(5);
    let mut deaf = claims("deaf");
    deaf.video.as_mut().unwrap().can_subscribe = Some(false);
    let clients = [world.join("ada"), world.join_as(deaf, client_params())];
    world.run(Duration::from_millis(100));
    let told = clients.map(|client| {
        let join = world.clients[client].signals.iter().find_map(|signal| match signal {
            signal_response::Message::Join(join) => Some(join),
            _ => None,
        });
        join.map(|join| (join.subscriber_primary, join.fast_publish))
    });
    assert_eq!(told, [Some((true, false)), Some((false, true))]);
}

fn assert_continuous(world: &World, to: usize, track: &str) {
    let seen = &world.clients[to].seen[track];
    let mut sorted = seen.clone();
    sorted.sort_by_key(|packet| packet.sequence);
    for pair in sorted.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1, "no gap and no repeat");
        assert!(pair[1].timestamp >= pair[0].timestamp, "time does not go back");
    }
}

/// Picture ids go up by one frame by frame, and every switch begins with a keyframe.
fn assert_decodable(world: &World, to: usize, track: &str) -> Vec<u8> {
    let mut sorted = world.clients[to].seen[track].clone();
    sorted.sort_by_key(|packet| packet.sequence);
    let mut layers = Vec::new();
    let mut before = None;
    for packet in &sorted {
        let seen = read_vp8(&packet.payload);
        let frame_before: Option<(sim_support::media::Vp8Seen, u32)> = before;
        if let Some((last, timestamp)) = frame_before {
            if packet.timestamp == timestamp {
                assert_eq!(seen.picture, last.picture, "one picture a frame");
            } else {
                assert_eq!(seen.picture, (last.picture + 1) & 0x7fff, "no picture is missing");
                assert_eq!(seen.tl0, last.tl0.wrapping_add(1));
            }
            if seen.layer != last.layer {
                assert!(seen.keyframe, "a switch begins with a keyframe");
            }
        } else {
            assert!(seen.keyframe, "the first packet begins a keyframe");
        }
        if layers.last() != Some(&seen.layer) {
            layers.push(seen.layer);
        }
        before = Some((seen, packet.timestamp));
    }
    layers
}

#[test]
fn a_newcomer_is_told_who_is_speaking() {
    let (mut world, ada, _) = call(7, &[]);
    world.run(SECONDS(5));
    let eve = world.join("eve");
    let ada = world.clients[ada].sid.clone();
    // A steady voice causes no change that would tell it later.
    world.until(SECONDS(5), "the newcomer knows who speaks", |w| {
        w.clients[eve].signals.iter().any(|signal| {
            matches!(signal, signal_response::Message::SpeakersChanged(s)
                if s.speakers.iter().any(|s| s.active && s.sid == ada))
        })
    });
}

#[test]
fn who_mutes_falls_silent_at_the_next_window() {
    let (mut world, ada, bob) = call(8, &[]);
    world.run(SECONDS(3));
    let mic = world.sid_of(ada, "mic");
    world.clients[bob].signals.clear();
    world.clients[ada].outgoing[0].sending = false;
    let mute = proto::MuteTrackRequest { sid: mic, muted: true };
    world.clients[ada].request(signal_request::Message::Mute(mute));
    let ada = world.clients[ada].sid.clone();
    // A voice that merely ceases is told after two windows.
    world.until(speakers::WINDOW + Duration::from_millis(150), "silence is told", |w| {
        w.clients[bob].signals.iter().any(|signal| {
            matches!(signal, signal_response::Message::SpeakersChanged(s)
                if s.speakers.iter().any(|s| !s.active && s.sid == ada))
        })
    });
}

#[test]
fn two_participants_see_and_hear_each_other() {
    let (mut world, ada, bob) = call(1, &[]);
    world.run(SECONDS(5));
    for (from, to) in [(ada, bob), (bob, ada)] {
        for (cid, per_second) in [("mic", 50), ("cam", 30)] {
            let track = world.sid_of(from, cid);
            assert!(world.seen(to, &track) > per_second * 4, "{cid}");
            assert_continuous(&world, to, &track);
        }
        assert_decodable(&world, to, &world.sid_of(from, "cam"));
        assert!(world.info(to, &world.clients[from].identity).is_some_and(|info| {
            info.tracks.len() == 2 && info.state() == proto::participant_info::State::Active
        }));
    }
    let speakers = world.clients[bob].signals.iter().any(|signal| {
        matches!(signal, signal_response::Message::SpeakersChanged(s)
            if s.speakers.iter().any(|s| s.active && s.sid == world.clients[ada].sid))
    });
    assert!(speakers, "the speaker is told");
    let stats = world.shard.stats();
    assert_eq!((stats.participants, stats.tracks, stats.downlinks, stats.publishers), (2, 4, 4, 2));
    assert_eq!(stats.drops.malformed, 0);
    let suites: Vec<_> = world
        .events
        .iter()
        .filter_map(|event| match event {
            media_core::io::Event::TransportConnected { gcm } => Some(*gcm),
            _ => None,
        })
        .collect();
    assert_eq!(suites, [true; 4], "every transport ends on AES-GCM");
}

#[test]
fn a_layer_switch_is_seamless() {
    let (mut world, ada, bob) = call(2, &["q", "h", "f"]);
    let track = world.sid_of(ada, "cam");
    for quality in [0, 2, 1, 2, 0, 1] {
        let settings = proto::UpdateTrackSettings {
            track_sids: vec![track.clone()],
            quality,
            ..Default::default()
        };
        world.clients[bob].request(signal_request::Message::TrackSetting(settings));
        world.run(SECONDS(3));
        let last = world.clients[bob].seen[&track].last().unwrap().clone();
        assert_eq!(i32::from(read_vp8(&last.payload).layer), quality, "the asked layer arrives");
    }
    assert_continuous(&world, bob, &track);
    let layers = assert_decodable(&world, bob, &track);
    assert!(layers.len() >= 6, "{layers:?}");
}

#[test]
fn a_disabled_track_stops_and_comes_back_with_a_keyframe() {
    let (mut world, ada, bob) = call(3, &["q", "h", "f"]);
    let track = world.sid_of(ada, "cam");
    let settings = |disabled| {
        signal_request::Message::TrackSetting(proto::UpdateTrackSettings {
            track_sids: vec![track.clone()],
            disabled,
            quality: 2,
            ..Default::default()
        })
    };
    world.clients[bob].request(settings(true));
    world.run(SECONDS(1));
    let before = world.seen(bob, &track);
    world.run(SECONDS(2));
    assert_eq!(world.seen(bob, &track), before, "nothing comes while disabled");
    world.clients[bob].request(settings(false));
    world.run(SECONDS(3));
    assert!(world.seen(bob, &track) > before + 30);
    assert_continuous(&world, bob, &track);
    assert_decodable(&world, bob, &track);
}

#[test]
fn loss_is_repaired_by_retransmission() {
    let (mut world, ada, bob) = call(4, &[]);
    world.run(SECONDS(1));
    world.network.conditions.loss = 0.1;
    world.network.conditions.jitter = Duration::from_millis(8);
    world.run(SECONDS(10));
    world.network.conditions.loss = 0.0;
    world.run(SECONDS(2));
    let track = world.sid_of(ada, "cam");
    let seen = &world.clients[bob].seen[&track];
    let mut numbers: Vec<_> = seen.iter().map(|packet| packet.sequence).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), seen.len(), "no packet is delivered twice");
    let span = (numbers[numbers.len() - 1] - numbers[0] + 1) as usize;
    let missing = span - numbers.len();
    assert!(world.network.lost > 100);
    assert!(missing * 200 <= span, "{missing} of {span} packets stayed lost");
    assert!(span > 30 * 9);
}

#[test]
fn mute_and_leave_are_told() {
    let (mut world, ada, bob) = call(5, &[]);
    let mic = world.sid_of(ada, "mic");
    let mute = proto::MuteTrackRequest { sid: mic.clone(), muted: true };
    world.clients[ada].request(signal_request::Message::Mute(mute));
    world.run(Duration::from_millis(100));
    let info = world.info(bob, "ada").unwrap();
    assert!(info.tracks.iter().any(|track| track.sid == mic && track.muted));
    world.clients[ada].request(signal_request::Message::Leave(proto::LeaveRequest::default()));
    world.run(Duration::from_millis(200));
    let info = world.info(bob, "ada").unwrap();
    assert_eq!(info.state(), proto::participant_info::State::Disconnected);
    assert_eq!(info.disconnect_reason(), proto::DisconnectReason::ClientInitiated);
    assert!(world.closes.contains(&(1, CloseReason::Left)));
    assert_eq!(world.shard.stats().participants, 1);
    assert_eq!(world.shard.stats().downlinks, 0);
    world.clients[bob].request(signal_request::Message::Leave(proto::LeaveRequest::default()));
    world.run(SECONDS(25));
    assert_eq!(world.shard.stats().rooms, 0, "an abandoned room ends");
}

#[test]
fn the_same_identity_takes_the_place_of_the_former() {
    let (mut world, _, bob) = call(6, &[]);
    let again = world.join("ada");
    world.until(SECONDS(5), "connected", |w| w.clients[again].connected);
    assert!(world.clients[0].closed && !world.clients[again].closed);
    let told = world.clients[0].signals.iter().any(|signal| {
        matches!(signal, signal_response::Message::Leave(leave)
            if leave.reason() == proto::DisconnectReason::DuplicateIdentity)
    });
    assert!(told);
    world.run(SECONDS(1));
    let info = world.info(bob, "ada").unwrap();
    assert_eq!(info.sid, world.clients[again].sid);
    assert_eq!(world.shard.stats().participants, 2);
    let cam = world.sid_of(bob, "cam");
    assert!(world.seen(again, &cam) > 0, "the newcomer sees who is there");
}

#[test]
fn sections_are_used_again() {
    // Others keep some empty ones for lip sync.
    let firefox = ClientParams { browser: "Firefox".to_owned(), ..client_params() };
    let (mut world, ada, bob) = call_as(7, &[], firefox);
    for round in 0..5 {
        let cid = format!("screen{round}");
        world.clients[ada].publish(&cid, MediaKind::Video, &[]);
        world.run(SECONDS(2));
        let track = world.sid_of(ada, &cid);
        assert!(world.seen(bob, &track) > 20, "round {round}: {}", world.seen(bob, &track));
        assert_decodable(&world, bob, &track);
        world.clients[ada].unpublish(&cid);
        world.run(SECONDS(1));
    }
    assert_eq!(world.clients[bob].sections(), 3, "mic, camera and one for all screens");
}

#[test]
fn a_lost_websocket_costs_no_media() {
    let (mut world, ada, bob) = call(8, &[]);
    let connection = world.clients[bob].connection;
    world.command(Command::SignalClosed { connection });
    world.run(SECONDS(3));
    let next = media_core::ids::ConnectionId(99);
    world.clients[bob].connection = next;
    let participant_sid = world.clients[bob].sid.clone();
    let claims = Box::new(claims("bob"));
    world.command(Command::Resume { connection: next, room: room(), participant_sid, claims });
    let first = world.clients[bob]
        .signals
        .iter()
        .rev()
        .find(|signal| matches!(signal, signal_response::Message::Reconnect(_)));
    assert!(first.is_some());
    world.clients[bob].restart_ice();
    world.run(SECONDS(5));
    assert!(!world.clients[bob].closed);
    for (from, to) in [(ada, bob), (bob, ada)] {
        let track = world.sid_of(from, "cam");
        let seen = &world.clients[to].seen[&track];
        let gap = seen.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap();
        assert!(gap <= Duration::from_millis(200), "a gap of {gap:?}");
        assert!(world.now - seen.last().unwrap().at < Duration::from_millis(100));
        assert_continuous(&world, to, &track);
    }
}

#[test]
fn whoever_is_unknown_or_away_too_long_joins_anew() {
    let (mut world, _, bob) = call(9, &[]);
    let connection = world.clients[bob].connection;
    world.command(Command::SignalClosed { connection });
    world.run(SECONDS(35));
    assert_eq!(world.shard.stats().participants, 1);
    let next = media_core::ids::ConnectionId(99);
    world.clients[bob].connection = next;
    let participant_sid = world.clients[bob].sid.clone();
    let claims = Box::new(claims("bob"));
    world.command(Command::Resume { connection: next, room: room(), participant_sid, claims });
    let Some(signal_response::Message::Leave(leave)) = world.clients[bob].signals.last() else {
        panic!("a leave is the answer");
    };
    assert_eq!(leave.reason(), proto::DisconnectReason::StateMismatch);
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
}

#[test]
fn a_late_comer_sees_who_publishes_and_choices_are_kept() {
    let (mut world, ada, _) = call(10, &["q", "h", "f"]);
    let mut params = client_params();
    params.auto_subscribe = false;
    let eve = world.join_as(claims("eve"), params);
    world.until(SECONDS(5), "connected", |w| w.clients[eve].connected);
    world.run(SECONDS(1));
    assert!(world.clients[eve].seen.is_empty(), "nothing without a choice");
    let track = world.sid_of(ada, "cam");
    let subscribe = |subscribe| {
        signal_request::Message::Subscription(proto::UpdateSubscription {
            track_sids: vec![track.clone()],
            subscribe,
            ..Default::default()
        })
    };
    world.clients[eve].request(subscribe(true));
    world.run(SECONDS(2));
    let seen = world.seen(eve, &track);
    assert!(seen > 30, "{seen}");
    world.clients[eve].request(subscribe(false));
    world.run(SECONDS(1));
    let seen = world.seen(eve, &track);
    world.run(SECONDS(1));
    assert_eq!(world.seen(eve, &track), seen);
}

#[test]
fn an_administrator_sees_mutes_and_removes() {
    let (mut world, ada, bob) = call(11, &[]);
    let AdminReply::Participants(all) = world.admin(AdminCall::ListParticipants) else {
        panic!("a list is the answer");
    };
    assert_eq!(all.len(), 2);
    let mute = proto::MuteRoomTrackRequest {
        identity: "ada".to_owned(),
        track_sid: world.sid_of(ada, "mic"),
        muted: true,
        ..Default::default()
    };
    assert!(matches!(
        world.admin(AdminCall::MutePublishedTrack(mute)),
        AdminReply::Track(track) if track.muted
    ));
    let missing = AdminCall::GetParticipant { identity: "nobody".to_owned() };
    let AdminReply::Refused(error) = world.admin(missing) else {
        panic!("who is not there is not found");
    };
    assert_eq!(error.code, livekit_contract::twirp::Code::NotFound);
    let remove = AdminCall::RemoveParticipant { identity: "ada".to_owned() };
    assert!(matches!(world.admin(remove), AdminReply::Done));
    assert!(world.clients[ada].closed && !world.clients[bob].closed);
    assert!(matches!(world.admin(AdminCall::DeleteRoom), AdminReply::Done));
    assert!(world.clients[bob].closed);
    assert_eq!(world.shard.stats().rooms, 0);
}

/// The library nominates the pair of addresses; what the egress sends must go there as well.
#[test]
fn media_follows_a_client_to_another_address() {
    let (mut world, ada, bob) = call(31, &[]);
    world.run(SECONDS(2));
    let cam = world.sid_of(ada, "cam");
    for port in [7_001, 7_002] {
        let [_, subscriber] = world.clients[bob].addresses();
        world.network.rebound.insert(subscriber, SocketAddr::from(([198, 18, 9, 9], port)));
        world.run(SECONDS(1));
        let before = world.seen(bob, &cam);
        world.until(SECONDS(40), "media arrives at the new address", |w| {
            w.seen(bob, &cam) > before + 30
        });
    }
}
