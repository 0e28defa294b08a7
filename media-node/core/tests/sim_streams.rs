//! Lip sync: which tracks reach whom in one media stream, as the offers say it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::time::Duration;

use livekit_protocol as proto;
use media_core::io::{ClientParams, Command, RoomOptions};
use proto::TrackSource;
use sim_support::world::{World, claims, client_params, room};
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Stream and track id of every section that carries something, in order.
fn msids(sdp: &str) -> Vec<(String, String)> {
    let sections = sdp.split("\nm=").skip(1).filter(|section| !section.contains("a=inactive"));
    let lines = sections
        .filter_map(|section| section.lines().find_map(|line| line.strip_prefix("a=msid:")));
    lines
        .map(|line| line.trim().split_once(' ').unwrap())
        .map(|(stream, track)| (stream.to_owned(), track.to_owned()))
        .collect()
}

fn publish(world: &mut World, who: usize, cid: &str, source: TrackSource, stream: &str) -> String {
    let kind = match source {
        TrackSource::Camera | TrackSource::ScreenShare => MediaKind::Video,
        _ => MediaKind::Audio,
    };
    world.clients[who].publish_with(cid, kind, &[], |request| {
        request.source = source as i32;
        request.stream = stream.to_owned();
    });
    world.run(Duration::from_millis(200));
    world.sid_of(who, cid)
}

fn browser(name: &str, protocol: u32) -> ClientParams {
    ClientParams { browser: name.to_owned(), protocol, ..client_params() }
}

#[test]
fn what_is_captured_together_shares_a_stream_where_tracks_can_be_told_apart() {
    let mut world = World::new(1);
    let ada = world.join("ada");
    let chrome = world.join_as(claims("chrome"), browser("Chrome", 16));
    let firefox = world.join_as(claims("firefox"), browser("Firefox", 16));
    let old = world.join_as(claims("old"), browser("Chrome", 9));
    world.run(SECONDS(1));
    let all = [
        ("mic", TrackSource::Microphone),
        ("cam", TrackSource::Camera),
        ("screen", TrackSource::ScreenShare),
        ("sound", TrackSource::ScreenShareAudio),
        ("other", TrackSource::Unknown),
    ];
    let sids = all.map(|(cid, source)| publish(&mut world, ada, cid, source, ""));
    let ada = world.clients[ada].sid.clone();
    let shared = ["camera", "camera", "screen", "screen", &sids[4]];
    for (who, streams) in [
        (chrome, shared),
        (firefox, sids.each_ref().map(String::as_str)),
        (old, sids.each_ref().map(String::as_str)),
    ] {
        let wanted: Vec<_> = streams
            .iter()
            .zip(&sids)
            .map(|(stream, sid)| (format!("{ada}|{stream}"), sid.clone()))
            .collect();
        assert_eq!(msids(&world.clients[who].described(true)), wanted);
    }
    let told = world.info(chrome, "ada").unwrap().tracks;
    let told: Vec<_> = told.iter().map(|track| track.stream.as_str()).collect();
    assert_eq!(told, ["camera", "camera", "screen", "screen", ""]);
}

#[test]
fn a_room_may_do_without() {
    let mut world = World::new(2);
    let options = RoomOptions { sync_streams: false, ..RoomOptions::default() };
    world.command(Command::OpenRoom { room: room(), options });
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    world.run(SECONDS(1));
    let mic = publish(&mut world, ada, "mic", TrackSource::Microphone, "");
    let ada = world.clients[ada].sid.clone();
    assert_eq!(msids(&world.clients[bob].described(true)), [(format!("{ada}|{mic}"), mic)]);
}

#[test]
fn names_of_streams_are_tokens_or_not_taken() {
    let mut world = World::new(3);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    world.run(SECONDS(1));
    let long = "x".repeat(41);
    let names = ["desk-2", "a b", "x\r\na=inactive", "TR_other", &long, "caf\u{e9}", "a|b"];
    let taken = ["desk-2", "camera", "camera", "camera", "camera", "camera", "camera"];
    for (at, name) in names.iter().enumerate() {
        publish(&mut world, ada, &format!("cam{at}"), TrackSource::Camera, name);
    }
    let ada = world.clients[ada].sid.clone();
    let streams = msids(&world.clients[bob].described(true)).into_iter().map(|(stream, _)| stream);
    assert_eq!(streams.collect::<Vec<_>>(), taken.map(|name| format!("{ada}|{name}")));
}

#[test]
fn a_bounded_number_of_empty_sections_is_kept_for_it() {
    let mut world = World::new(4);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    let safari = world.join_as(claims("safari"), browser("Safari", 16));
    world.run(SECONDS(1));
    let mut streams = Vec::new();
    for round in 0..20 {
        let cid = format!("screen{round}");
        let sid = publish(&mut world, ada, &cid, TrackSource::ScreenShare, "");
        let [(stream, track)] = msids(&world.clients[bob].described(true)).try_into().unwrap();
        assert_eq!(track, sid);
        streams.push(stream.split_once('|').unwrap().1.to_owned());
        world.clients[ada].unpublish(&cid);
        world.run(Duration::from_millis(200));
    }
    assert_eq!(world.clients[bob].sections(), 17);
    assert!(streams[..17].iter().all(|stream| stream == "screen"), "{streams:?}");
    // A section's track id is the first one's for ever, so later ones are named by their stream.
    assert!(streams[17..].iter().all(|stream| stream.starts_with("TR_")), "{streams:?}");
    assert_eq!(world.clients[safari].sections(), 20, "Safari cannot use one again");
}
