//! Data messages over a simulated network: who gets them, and who is said to have sent them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sim_support;

use std::time::Duration;

use livekit_protocol as proto;
use prost::Message as _;
use proto::data_packet::Value;
use sim_support::world::World;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn three() -> World {
    let mut world = World::new(21);
    for identity in ["ada", "bob", "eve"] {
        let one = world.join(identity);
        world.clients[one].open_data();
    }
    world.until(SECONDS(5), "connected", |w| w.clients.iter().all(|c| c.connected));
    world.run(SECONDS(2));
    world
}

#[expect(deprecated, reason = "the fields that older SDKs read are checked too")]
fn user(payload: &[u8], to: &[&str]) -> proto::DataPacket {
    proto::DataPacket {
        participant_identity: "somebody else".to_owned(),
        destination_identities: to.iter().map(|one| (*one).to_owned()).collect(),
        value: Some(Value::User(proto::UserPacket {
            participant_identity: "somebody else".to_owned(),
            payload: payload.to_vec(),
            topic: Some("lk.chat".to_owned()),
            ..Default::default()
        })),
        ..Default::default()
    }
}

#[test]
#[expect(deprecated, reason = "the fields that older SDKs read are checked too")]
fn everyone_else_gets_it_with_its_true_sender() {
    let mut world = three();
    for label in ["_reliable", "_lossy"] {
        assert!(world.clients[0].send_data(label, &user(b"hello", &[])));
        world.run(SECONDS(1));
        assert!(world.clients[0].data.is_empty(), "not to its sender");
        for to in [1, 2] {
            let (channel, bytes) = world.clients[to].data.pop().expect("a message");
            assert_eq!(channel, label);
            let packet = proto::DataPacket::decode(bytes.as_slice()).unwrap();
            assert_eq!(packet.participant_identity, "ada");
            assert_eq!(packet.participant_sid, world.clients[0].sid);
            let Some(Value::User(user)) = packet.value else { panic!("a user packet") };
            assert_eq!(
                (user.payload.as_slice(), user.participant_identity.as_str()),
                (b"hello".as_slice(), "ada")
            );
        }
    }
}

#[test]
fn only_those_named_get_it() {
    let mut world = three();
    assert!(world.clients[0].send_data("_reliable", &user(b"psst", &["eve"])));
    world.run(SECONDS(1));
    assert!(world.clients[1].data.is_empty());
    assert_eq!(world.clients[2].data.len(), 1);
}

#[test]
fn kinds_newer_than_the_server_pass_whole() {
    let mut world = three();
    // Field 3000, length-delimited: no kind that this server knows.
    let mut bytes = Vec::new();
    prost::encoding::string::encode(3_000, &"from the future".to_owned(), &mut bytes);
    assert!(world.clients[0].send_raw_data("_reliable", &bytes));
    world.run(SECONDS(1));
    let (_, got) = world.clients[1].data.pop().expect("a message");
    assert!(got.starts_with(&bytes));
    let packet = proto::DataPacket::decode(got.as_slice()).unwrap();
    assert_eq!(packet.participant_identity, "ada");
}

#[test]
fn noise_costs_nobody_anything() {
    let mut world = three();
    assert!(world.clients[0].send_raw_data("_reliable", &[0xff; 100]));
    world.run(SECONDS(1));
    assert!(world.clients[1].data.is_empty());
    assert_eq!(world.shard.stats().drops.data_refused, 1);
    assert!(world.clients[0].send_data("_reliable", &user(b"still here", &[])));
    world.run(SECONDS(1));
    assert_eq!(world.clients[1].data.len(), 1);
}

#[test]
fn who_comes_back_gets_the_reliable_messages_it_missed() {
    use media_core::io::Command;
    use proto::signal_request::Message as Request;
    use sim_support::world::{claims, room};
    let mut world = three();
    let send = |world: &mut World, sequence: u32| {
        let packet = proto::DataPacket { sequence, ..user(&sequence.to_be_bytes(), &[]) };
        assert!(world.clients[0].send_data("_reliable", &packet));
        world.run(Duration::from_millis(100));
    };
    send(&mut world, 1);
    let connection = world.clients[1].connection;
    world.command(Command::SignalClosed { connection });
    // What is on the way while the client is away is lost with its old transport.
    world.clients[1].data.clear();
    send(&mut world, 2);
    send(&mut world, 3);
    world.clients[1].data.clear();
    let next = media_core::ids::ConnectionId(99);
    world.clients[1].connection = next;
    let participant_sid = world.clients[1].sid.clone();
    let claims = Box::new(claims("bob"));
    world.command(Command::Resume { connection: next, room: room(), participant_sid, claims });
    let state = proto::SyncState {
        datachannel_receive_states: vec![proto::DataChannelReceiveState {
            publisher_sid: world.clients[0].sid.clone(),
            last_seq: 1,
        }],
        ..Default::default()
    };
    world.clients[1].request(Request::SyncState(state));
    world.run(SECONDS(1));
    let got: Vec<_> = world.clients[1]
        .data
        .iter()
        .map(|(_, bytes)| proto::DataPacket::decode(bytes.as_slice()).unwrap().sequence)
        .collect();
    assert_eq!(got, [2, 3]);
}
