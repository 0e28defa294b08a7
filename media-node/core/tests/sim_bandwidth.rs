//! Video in H264 over a bad network, and downlinks that become narrow and wide again: the layer
//! follows, audio goes on, and whoever allows it is told of pauses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::time::{Duration, Instant};

use livekit_protocol as proto;
use media_core::io::ClientParams;
use proto::{signal_request, signal_response};
use sim_support::client::Abilities;
use sim_support::media::{VideoCodec, read_h264};
use sim_support::world::{World, claims, client_params};
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;
const RIDS: [&str; 3] = ["q", "h", "f"];

/// One who films in three layers and speaks, one who watches.
struct Call {
    world: World,
    ada: usize,
    bob: usize,
    cam: String,
    mic: String,
}

fn call(seed: u64, allow_pause: bool) -> Call {
    call_able(seed, allow_pause, Abilities::default())
}

fn call_able(seed: u64, allow_pause: bool, able: Abilities) -> Call {
    let mut world = World::new(seed);
    let able = Abilities { video: VideoCodec::H264, ..able };
    let ada = world.join_able(claims("ada"), client_params(), able);
    let watching = ClientParams { subscriber_allow_pause: Some(allow_pause), ..client_params() };
    let bob = world.join_able(claims("bob"), watching, able);
    world.clients[ada].publish("mic", MediaKind::Audio, &[]);
    world.clients[ada].publish("cam", MediaKind::Video, &RIDS);
    world.until(SECONDS(5), "bob sees and hears", |w| {
        ["mic", "cam"].iter().all(|cid| w.seen(bob, &w.sid_of(ada, cid)) > 0)
    });
    let (cam, mic) = (world.sid_of(ada, "cam"), world.sid_of(ada, "mic"));
    Call { world, ada, bob, cam, mic }
}

impl Call {
    /// The layer of the newest packet; nothing when none came lately.
    fn layer(&self) -> Option<u8> {
        let newest = self.world.clients[self.bob].seen[&self.cam].last()?;
        let fresh = self.world.now - newest.at < Duration::from_millis(500);
        fresh.then(|| read_h264(&newest.payload).layer)
    }

    fn until_layer(&mut self, limit: Duration, layer: Option<u8>) {
        let end = self.world.now + limit;
        while self.layer() != layer {
            assert!(self.world.now < end, "layer {:?}, wanted {layer:?}", self.layer());
            self.world.run(Duration::from_millis(100));
        }
    }

    /// What bob's way down carries, in bits per second; 0 is no limit.
    fn narrow(&mut self, bits_per_second: u64) {
        let [_, subscriber] = self.world.clients[self.bob].addresses();
        self.world.network.downlinks.insert(subscriber, bits_per_second);
    }

    /// The longest time without audio since `from`.
    fn audio_gap(&self, from: Instant) -> Duration {
        let seen = self.world.clients[self.bob].seen[&self.mic].iter().map(|packet| packet.at);
        let times: Vec<_> = [from]
            .into_iter()
            .chain(seen.filter(|at| *at > from))
            .chain([self.world.now])
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }

    /// Whether bob was told that the camera is paused, in the order told.
    fn told(&self) -> Vec<bool> {
        let signals = self.world.clients[self.bob].signals.iter();
        let states = signals.flat_map(|signal| match signal {
            signal_response::Message::StreamStateUpdate(update) => update.stream_states.clone(),
            _ => Vec::new(),
        });
        let own = states.filter(|state| state.track_sid == self.cam);
        own.map(|state| state.state() == proto::StreamState::Paused).collect()
    }
}

/// Every change of layer begins with a keyframe; frames of a layer go forward. Packets that never
/// came excuse what would have been seen in them.
fn assert_decodable(call: &Call) -> Vec<u8> {
    let mut sorted = call.world.clients[call.bob].seen[&call.cam].clone();
    sorted.sort_by_key(|packet| packet.sequence);
    let mut layers = vec![read_h264(&sorted[0].payload).layer];
    for pair in sorted.windows(2) {
        let [before, after] = [&pair[0], &pair[1]].map(|packet| read_h264(&packet.payload));
        assert!(pair[1].sequence > pair[0].sequence, "a packet came twice");
        let whole = pair[1].sequence == pair[0].sequence + 1;
        let anew = after.keyframe && after.start;
        if after.layer != before.layer {
            layers.push(after.layer);
            assert!(anew || !whole, "layer {} begins in the middle", after.layer);
        } else {
            assert!(after.frame >= before.frame, "frames go back");
        }
        let ahead = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!(ahead < 1 << 31, "time goes back");
        // A pause, or a switch while the rest of a frame is lost, may cut a frame short.
        let cut = anew || !whole;
        assert!(cut || pair[0].marker == (ahead != 0), "a marker ends each frame");
    }
    layers
}

#[test]
fn h264_layers_switch_under_loss_and_disorder() {
    for seed in [11, 12] {
        let mut call = call(seed, false);
        call.world.run(SECONDS(2));
        call.world.network.conditions.loss = 0.05;
        call.world.network.conditions.jitter = Duration::from_millis(15);
        for quality in [0, 2, 1, 2, 0, 1] {
            let settings = proto::UpdateTrackSettings {
                track_sids: vec![call.cam.clone()],
                quality: i32::from(quality),
                ..Default::default()
            };
            let bob = call.bob;
            call.world.clients[bob].request(signal_request::Message::TrackSetting(settings));
            call.until_layer(SECONDS(6), Some(quality));
            call.world.run(SECONDS(2));
        }
        call.world.network.conditions.loss = 0.0;
        call.world.run(SECONDS(2));
        let layers = assert_decodable(&call);
        assert!(layers.len() >= 6, "seed {seed}: {layers:?}");
        let seen = &call.world.clients[call.bob].seen[&call.cam];
        let numbers = seen.iter().map(|packet| packet.sequence);
        let (first, last) = (numbers.clone().min().unwrap(), numbers.max().unwrap());
        let missing = last - first + 1 - seen.len() as u64;
        assert!(call.world.network.lost > 200);
        assert!(missing * 100 <= last - first, "seed {seed}: {missing} of {} lost", last - first);
        let _ = call.ada;
    }
}

#[test]
fn the_layer_follows_a_downlink_down_and_up_and_audio_goes_on() {
    for seed in [21, 22] {
        let mut call = call(seed, false);
        call.until_layer(SECONDS(10), Some(2));
        for (bits_per_second, layer) in [(600_000, 1), (220_000, 0), (600_000, 1), (3_000_000, 2)] {
            let from = call.world.now;
            call.narrow(bits_per_second);
            call.until_layer(SECONDS(40), Some(layer));
            call.world.run(SECONDS(10));
            assert_eq!(call.layer(), Some(layer), "seed {seed}, {bits_per_second} b/s");
            let gap = call.audio_gap(from);
            assert!(gap < Duration::from_millis(500), "seed {seed}: no audio for {gap:?}");
        }
        assert_decodable(&call);
        assert!(call.told().is_empty(), "nobody asked for pauses");
    }
}

#[test]
fn who_allows_pauses_is_told_of_them_and_of_their_end() {
    for seed in [31, 32] {
        let mut call = call(seed, true);
        call.until_layer(SECONDS(10), Some(2));
        let from = call.world.now;
        call.narrow(90_000);
        call.until_layer(SECONDS(40), None);
        assert_eq!(call.told().last(), Some(&true), "seed {seed}");
        call.world.run(SECONDS(10));
        let gap = call.audio_gap(from);
        assert!(gap < Duration::from_millis(500), "seed {seed}: no audio for {gap:?}");
        call.narrow(3_000_000);
        call.until_layer(SECONDS(60), Some(2));
        let told = call.told();
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "told twice: {told:?}");
        assert_eq!(told.last(), Some(&false), "seed {seed}");
        assert_decodable(&call);
    }
}

/// Nothing that a paused downlink carries to such a receiver tells what it could carry.
#[test]
fn a_pause_ends_also_where_voices_are_not_reported() {
    for seed in [41, 42] {
        let able = Abilities { voices_unreported: true, ..Abilities::default() };
        let mut call = call_able(seed, true, able);
        call.until_layer(SECONDS(10), Some(2));
        let from = call.world.now;
        call.narrow(90_000);
        call.until_layer(SECONDS(40), None);
        call.world.run(SECONDS(60));
        let gap = call.audio_gap(from);
        assert!(gap < Duration::from_millis(500), "seed {seed}: no audio for {gap:?}");
        call.narrow(3_000_000);
        call.until_layer(SECONDS(90), Some(2));
        assert_eq!(call.told().last(), Some(&false), "seed {seed}");
        assert_decodable(&call);
    }
}
