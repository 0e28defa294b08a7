//! That people meet through the gateway on media nodes of a real cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use e2e::story::{Gathering, Manner, MeetingClusterBuilder, Scene, tell};
use serde_json::json;

#[test]
fn a_pair_meets_on_one_media_node() {
    tell("pair", |story| {
        let builder = MeetingClusterBuilder::new("visio").media_nodes(2);
        let Scene { meetings, people, media_node, .. } = builder.meet(story)?;
        ensure!(meetings.home()? == media_node, "another media node than {media_node} reports it");
        let path = "{.status.participants}";
        story.until("the meeting cluster counts two participants", 15, || {
            story.value(&meetings.object(), path) == "2"
        })?;
        people.end();
        story.until("the room ends after everyone left", 60, || {
            story.value(&meetings.object(), path) == "0"
        })?;
        Ok(())
    });
}

/// Rooms of the story of load, of two people each.
const ROOMS: usize = 20;

/// People that each media node of that story carries.
const PARTICIPANTS_MAX: usize = 45;

/// What a new room counts for until it is known better, as the placer does
/// (`ROOM_PARTICIPANTS_EXPECTED`).
const EXPECTED: usize = 5;

/// Best fit packs a media node to four fifths (`spec.capacity.targetFillPercent`), a new room
/// counted with the people who are still expected; as long as another has room below that, none
/// gets more. So 20 rooms are more than two media nodes' share, and no media node gets an eighth.
const ROOMS_PER_MEDIA_NODE_MAX: usize = PARTICIPANTS_MAX * 4 / 5 / EXPECTED;

#[test]
fn rooms_spread_over_media_nodes_by_load_and_each_stays_on_one() {
    tell("spread", |story| {
        let capacity = json!({"minNodes": 3, "maxNodes": 3, "headroomPercent": 0,
            "participantsPerNodeMax": PARTICIPANTS_MAX});
        let meetings =
            MeetingClusterBuilder::new("visio").with("capacity", capacity).serve(story)?;
        let rooms: Vec<_> = (1..=ROOMS)
            .map(|n| Gathering::join(story, &meetings, &format!("room-{n}"), 2, Manner::Sound))
            .collect::<Result<_>>()?;
        for room in &rooms {
            room.flow(20)?;
        }
        story.say(&format!("{ROOMS} pairs talk"));

        let shares = shares(&rooms)?;
        rooms.into_iter().for_each(Gathering::end);
        for (address, rooms) in &shares {
            let here = meetings.media_node_at(address.ip())?;
            story.say(&format!("{rooms} rooms' media goes to {address} ({here})"));
            ensure!(
                *rooms <= ROOMS_PER_MEDIA_NODE_MAX,
                "{address} has {rooms} rooms, although others were below their target fill"
            );
        }
        ensure!(shares.len() == 3, "rooms are on {} media nodes of 3", shares.len());
        Ok(())
    });
}

/// How many rooms each address has, asked of the participants' own transports.
fn shares(rooms: &[Gathering<'_>]) -> Result<BTreeMap<SocketAddr, usize>> {
    let mut shares = BTreeMap::new();
    for room in rooms {
        *shares.entry(room.media_address()?).or_default() += 1;
    }
    Ok(shares)
}
