//! One seed is one run: every packet of a call, its fate included, comes again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::time::Duration;

use livekit_protocol as proto;
use proto::signal_request;
use sim_support::client::Abilities;
use sim_support::network::Traced;
use sim_support::world::{World, claims, client_params};
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// A call with all that draws on chance: joins, loss, disorder, redundancy, layer switches, a
/// narrow downlink and its probing. What is left out of a trace stands at [`Traced`].
fn trace(seed: u64) -> Vec<Traced> {
    let mut world = World::new(seed);
    world.network.trace = Some(Vec::new());
    let redundant = Abilities { redundancy: true, ..Abilities::default() };
    let ada = world.join_able(claims("ada"), client_params(), redundant);
    let bob = world.join("bob");
    for one in [ada, bob] {
        world.clients[one].open_data();
        world.clients[one].publish("mic", MediaKind::Audio, &[]);
        world.clients[one].publish("cam", MediaKind::Video, &["q", "h", "f"]);
    }
    world.until(SECONDS(5), "connected", |w| w.clients.iter().all(|c| c.connected));
    world.run(SECONDS(1));
    world.network.conditions.loss = 0.05;
    world.network.conditions.jitter = Duration::from_millis(10);
    for quality in [0, 2, 1] {
        let settings = proto::UpdateTrackSettings {
            track_sids: vec![world.sid_of(ada, "cam")],
            quality,
            ..Default::default()
        };
        world.clients[bob].request(signal_request::Message::TrackSetting(settings));
        world.run(SECONDS(1));
    }
    let [_, subscriber] = world.clients[bob].addresses();
    world.network.downlinks.insert(subscriber, 400_000);
    world.run(SECONDS(3));
    world.network.downlinks.clear();
    world.run(SECONDS(2));
    world.network.trace.take().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let (first, second) = (trace(41), trace(41));
    let differs = first.iter().zip(&second).position(|(one, other)| one != other);
    if let Some(at) = differs {
        panic!("packet {at} of {}: {:?}\nthen {:?}", first.len(), first[at], second[at]);
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 7_000);
    assert!(first.iter().any(|packet| packet.arrives.is_none()), "nothing was lost");
    assert_ne!(first, trace(42), "another seed gives another run");
}
