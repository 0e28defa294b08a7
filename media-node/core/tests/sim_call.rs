//! Calls over a simulated network: what two and three participants see of one another.

mod sim_support;

use std::time::Duration;

use sim_support::world::World;
use str0m::media::MediaKind;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn two_participants_see_and_hear_each_other() {
    let mut world = World::new(1);
    let (ada, bob) = (world.join("ada"), world.join("bob"));
    for one in [ada, bob] {
        world.clients[one].publish("mic", MediaKind::Audio, &[]);
        world.clients[one].publish("cam", MediaKind::Video, &[]);
    }
    world.until(SECONDS(5), "both connected", |w| w.clients.iter().all(|c| c.connected));
    world.run(SECONDS(5));
    for (from, to) in [(ada, bob), (bob, ada)] {
        for (cid, per_second) in [("mic", 50), ("cam", 30)] {
            let track = world.sid_of(from, cid);
            let seen = &world.clients[to].seen[&track];
            assert!(seen.len() > per_second * 4, "{cid}: {} packets", seen.len());
            for pair in seen.windows(2) {
                assert_eq!(pair[1].sequence, pair[0].sequence + 1, "{cid} without gap");
                assert!(pair[1].timestamp > pair[0].timestamp, "{cid} in time");
            }
        }
    }
}
