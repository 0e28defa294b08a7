//! A call between two real WebRTC clients on a simulated network, and what a third sends into it:
//! datagrams from validated addresses, data messages, signals, time.
//!
//! What is encrypted is reached here. The two must still be in the call at the end: one
//! participant's bytes may cost that one only.

use std::time::Duration;

use livekit_contract::frame::{Encoding, decode_request};
use media_core::ids::ConnectionId;
use media_core::io::{Command, Event, Join};
use str0m::media::MediaKind;

use crate::records::{Record, records, word};
use crate::sim_support::network::Packet;
use crate::sim_support::world::{SERVER, World, claims, client_params, room};

/// What happens in one input at most.
const STEPS_MAX: usize = 24;
/// Connection of the one whose signals are made up.
const HOSTILE: ConnectionId = ConnectionId(99);

/// See the module's description.
pub fn call(data: &[u8]) {
    let mut world = World::new(5);
    for identity in ["ada", "bob", "mallory"] {
        let client = world.join(identity);
        world.clients[client].open_data();
    }
    world.clients[0].publish("cam", MediaKind::Video, &["q", "h"]);
    world.clients[0].publish("mic", MediaKind::Audio, &[]);
    let connected = |world: &World| world.clients.iter().all(|client| client.connected);
    world.until(Duration::from_secs(20), "connected", connected);
    let joining =
        Join { connection: HOSTILE, room: room(), claims: claims("eve"), client: client_params() };
    world.command(Command::Join(Box::new(joining)));
    for record in records(data, STEPS_MAX) {
        step(&mut world, &record);
        world.run(Duration::from_millis(5));
    }
    world.run(Duration::from_millis(200));
    let panicked = world.events.iter().any(|event| matches!(event, Event::RoomPanicked { .. }));
    assert!(!panicked, "a room panicked");
    assert!(!world.clients[0].closed && !world.clients[1].closed, "others were thrown out");
}

fn step(world: &mut World, record: &Record<'_>) {
    let mut body = record.body;
    match record.kind % 8 {
        0 | 1 => {
            let side = usize::from(record.kind >> 3 & 1);
            let source = world.clients[2].addresses()[side];
            let (destination, contents) = (SERVER.into(), body.to_vec());
            world.network.send(world.now, Packet { source, destination, contents });
        }
        2 | 3 => {
            world.clients[2].send_raw_data("_reliable", body);
        }
        4 => {
            world.clients[2].send_raw_data("_lossy", body);
        }
        5 | 6 => {
            let request = decode_request(Encoding::Binary, body).ok();
            if let Some(message) = request.and_then(|request| request.message) {
                let request = Box::new(message);
                world.command(Command::Signal { connection: HOSTILE, request });
            }
        }
        _ => world.run(Duration::from_millis(u64::from(word(&mut body) % 2_000))),
    }
}
